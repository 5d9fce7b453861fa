// SPDX-License-Identifier: LGPL-2.1-or-later
// evlink.h is usable from C++: it compiles, and what it declares links as C.
#include "lib/evlink.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

static int plug(void *, const struct evlink_plug *)
{
    return 0;
}

int main()
{
    struct evlink_client *client = nullptr;
    struct evlink_agent *agent = nullptr;
    struct evlink_agent_ops ops = {};
    int failed = 0;

    ops.plug = plug;
    ops.unplug = plug;
    failed += evlink_client_open("/nonexistent/socket", &client) != -ENOENT;
    failed += evlink_agent_new("vmm", EVLINK_AGENT_KEEP | EVLINK_AGENT_TAKEOVER, &agent) != 0;
    failed += evlink_agent_add_kvm(agent, "vm1", -1, &ops, nullptr) != 0;
    failed += evlink_agent_add_vfio(agent, "nic", -1, &ops, nullptr) != 0;
    failed += evlink_agent_add_vhost(agent, "net", -1, nullptr, nullptr) != -EBADF;
    failed += evlink_agent_dispatch(agent) != -ENOTCONN;
    failed += evlink_agent_free(agent) != nullptr;
    failed += std::strcmp(evlink_code_name(EVLINK_E_PLUG_FAILED), "PlugFailed") != 0;
    std::printf("libevlink %s from C++: %d failures\n", evlink_version(), failed);
    return failed != 0;
}
