# SPDX-License-Identifier: LGPL-2.1-or-later

# EVL_CC_FLAGS(VARIABLE, FLAG...)
# Appends each flag that the compiler takes without a word. Clang only warns about those that it does not know,
# and gcc says nothing about an unknown -Wno-x: both are asked with -Werror, and with the flag's positive form.
AC_DEFUN([EVL_CC_FLAGS], [
    evl_save_CFLAGS=$CFLAGS
    m4_foreach_w([evl_flag], [$2], [
        AC_MSG_CHECKING([whether $CC takes evl_flag])
        CFLAGS="$evl_save_CFLAGS -Werror m4_bpatsubst(evl_flag, [^-Wno-], [-W])"
        AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])],
            [AC_MSG_RESULT([yes])
             $1="$$1 evl_flag"],
            [AC_MSG_RESULT([no])])
    ])
    CFLAGS=$evl_save_CFLAGS
])

# EVL_LD_FLAGS(VARIABLE, FLAG...)
# The same for the linker.
AC_DEFUN([EVL_LD_FLAGS], [
    evl_save_LDFLAGS=$LDFLAGS
    m4_foreach_w([evl_flag], [$2], [
        AC_MSG_CHECKING([whether the linker takes evl_flag])
        LDFLAGS="$evl_save_LDFLAGS m4_quote(evl_flag)"
        AC_LINK_IFELSE([AC_LANG_PROGRAM([], [])],
            [AC_MSG_RESULT([yes])
             $1="$$1 m4_quote(evl_flag)"],
            [AC_MSG_RESULT([no])])
    ])
    LDFLAGS=$evl_save_LDFLAGS
])

# EVL_REQUIRE(PREFIX, MODULE AND VERSION, DEBIAN PACKAGE)
# A pkg-config module. What is missing is collected, and EVL_REQUIRED tells all of it at once.
AC_DEFUN([EVL_REQUIRE], [
    PKG_CHECK_MODULES([$1], [$2], [],
        [AC_MSG_RESULT([no])
         evl_missing="$evl_missing
    $2 (Debian: $3)"
         evl_packages="$evl_packages $3"])
])

AC_DEFUN([EVL_REQUIRED], [
    AS_IF([test -n "$evl_missing"], [AC_MSG_ERROR([pkg-config does not find what evlinkd is built on:$evl_missing
On Debian and Ubuntu:  apt-get install$evl_packages
Where it is installed in a place of its own, name that in PKG_CONFIG_PATH.])])
])
