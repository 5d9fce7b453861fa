# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Turns .varlink files into the C tables that src/wire/interface.h declares:
#     awk -f embed.awk FILE... >interface-text.c
# The texts come out byte for byte. Fails where a file names no interface.

function finish_file() {
    if (!open)
        return
    if (name == "") {
        printf "embed.awk: %s names no interface\n", file | "cat >&2"
        failed = 1
    }
    printf ",\n        .name = \"%s\",\n    },\n", name
    open = 0
}

BEGIN {
    print "/* SPDX-License-Identifier: LGPL-2.1-or-later */"
    print "/* Made by build-aux/embed.awk: change the .varlink files instead. */"
    print "#include \"wire/interface.h\"\n"
    print "const struct interface interfaces[] = {"
}

FNR == 1 {
    finish_file()
    open = 1
    file = FILENAME
    name = ""
    printf "    {\n        .description ="
}

{
    if (name == "" && $1 == "interface")
        name = $2
    gsub(/\\/, "&&")
    gsub(/"/, "\\\"")
    printf "\n            \"%s\\n\"", $0
}

END {
    finish_file()
    print "};\n"
    print "const size_t n_interfaces = sizeof(interfaces) / sizeof(interfaces[0]);"
    exit failed
}
