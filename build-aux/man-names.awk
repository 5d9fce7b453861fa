# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Prints the names that an mdoc page's NAME section lists (its .Nm lines), one a line: what the page is to be
# found under.
/^\.Sh / {
    if (inside)
        exit
    inside = ($2 == "NAME")
}
inside && $1 == ".Nm" { print $2 }
