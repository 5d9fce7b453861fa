/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* evlinkd as another user, and what is asked of it. */
#include "rig.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

pid_t start_evlinkd(void)
{
    const struct rlimit limit = { .rlim_cur = EVLINKD_FDS, .rlim_max = EVLINKD_FDS };
    const char *program = getenv("EVLINKD");
    pid_t pid;

    need(program && mkdir(FOLDER, 0755) == 0 && chown(FOLDER, NOBODY, NOBODY) == 0, FOLDER);
    pid = fork();
    need(pid >= 0, "fork");
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (setrlimit(RLIMIT_NOFILE, &limit) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 &&
            setresuid(NOBODY, NOBODY, NOBODY) == 0)
            (void)execl(program, program, "--supervise", "--watchdog=60", "--socket", SOCKET, (char *)NULL);
        _exit(127);
    }
    return pid;
}

pid_t evlinkd_pid(pid_t supervisor)
{
    char path[64];
    int pid = 0;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)supervisor, (int)supervisor);
    file = fopen(path, "re");
    if (file && fscanf(file, "%d", &pid) != 1)
        pid = 0;
    if (file)
        fclose(file);
    return pid;
}

static void wait_gone(pid_t pid)
{
    char path[64], state = '?';
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    /* A stopped supervisor does not reap it. */
    for (int i = 0; i < 1000 && state != 'Z'; i++) {
        file = fopen(path, "re");
        if (!file)
            return;
        if (fscanf(file, "%*d %*s %c", &state) != 1)
            state = '?';
        fclose(file);
        (void)usleep(10000);
    }
}

void kill_evlinkd(pid_t supervisor)
{
    pid_t pid = evlinkd_pid(supervisor);

    need(pid > 0 && kill(supervisor, SIGSTOP) == 0 && kill(pid, SIGKILL) == 0, "evlinkd's death");
    wait_gone(pid);
}

void revive_evlinkd(pid_t supervisor)
{
    need(kill(supervisor, SIGCONT) == 0, "evlinkd's supervisor");
}

void end_supervisor(pid_t supervisor)
{
    need(kill(supervisor, SIGKILL) == 0 && waitpid(supervisor, NULL, 0) == supervisor,
        "the end of evlinkd's supervisor");
}

struct evlink_client *open_client(void)
{
    struct evlink_client *client = NULL;
    int r = -ENOENT;

    for (int i = 0; i < 200 && r != 0; i++) {
        r = evlink_client_open(SOCKET, &client);
        if (r != 0)
            (void)usleep(20000);
    }
    errno = -r;
    need(r == 0, "evlinkd listens");
    return client;
}

int link_up(struct evlink_client *client, const char *name, const char *producer, const char *consumer)
{
    const char *const producers[] = { producer, NULL }, *const consumers[] = { consumer, NULL };
    const struct evlink_link_spec spec = { .name = name, .producers = producers, .consumers = consumers };
    int r = evlink_connect(client, &spec, NULL);

    if (r != 0)
        printf("# %s: %s\n", name, evlink_client_message(client));
    return r;
}

__attribute__((format(printf, 3, 4))) int call(
    struct evlink_client *client, const char *method, const char *format, ...)
{
    char name[64], parameters[256];
    va_list arguments;
    int r;

    va_start(arguments, format);
    (void)vsnprintf(parameters, sizeof(parameters), format, arguments);
    va_end(arguments);
    (void)snprintf(name, sizeof(name), "io.evlink.Broker.%s", method);
    r = evlink_call(client, name, parameters, NULL, 0, false, NULL, NULL);
    if (r != 0)
        printf("# %s %s: %s\n", method, parameters, evlink_client_message(client));
    return r;
}

static int keep_state(void *userdata, const struct evlink_link_info *info)
{
    (void)snprintf(userdata, 32, "%s", info->state);
    return 0;
}

const char *state_of(struct evlink_client *client, const char *name)
{
    static char state[32];

    state[0] = '\0';
    (void)evlink_list_links(client, name, NULL, keep_state, state);
    return state;
}

bool comes_to(struct evlink_client *client, const char *name, const char *state)
{
    for (int i = 0; i < 200; i++) {
        if (strcmp(state_of(client, name), state) == 0)
            return true;
        (void)usleep(10000);
    }
    return false;
}

int count_eventfds(void)
{
    DIR *folder = opendir("/proc/self/fd");
    struct dirent *entry;
    int n = 0;

    while (folder && (entry = readdir(folder))) {
        char target[32] = "";

        (void)!readlinkat(dirfd(folder), entry->d_name, target, sizeof(target) - 1);
        n += strcmp(target, "anon_inode:[eventfd]") == 0;
    }
    if (folder)
        closedir(folder);
    return n;
}

struct evlink_agent *make_agent(const char *name, struct guest *guest)
{
    struct evlink_agent *agent = NULL;
    int r;

    r = evlink_agent_new(name, 0, &agent);
    if (r == 0)
        r = evlink_agent_add_kvm(agent, name, guest_vm_fd(guest), NULL, NULL);
    errno = -r;
    need(r == 0, "an agent");
    return agent;
}
