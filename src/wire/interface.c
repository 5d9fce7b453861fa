/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include "wire/interface.h"

#include <string.h>

const char *interface_description(const char *name)
{
    for (size_t i = 0; i < n_interfaces; i++) {
        if (strcmp(interfaces[i].name, name) == 0)
            return interfaces[i].description;
    }
    return NULL;
}
