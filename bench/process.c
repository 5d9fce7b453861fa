/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Brokers and other children: see bench.h. */
#include "bench.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Users of brokers: each its own, since what is under way in sockets is counted by user. */
#define UID_FIRST 64100

/* How long a broker may take to start, in milliseconds. */
#define PATIENCE 10000

static uid_t next_uid = UID_FIRST;

void die(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fprintf(stderr, "bench: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    exit(1);
}

void must(int r, const char *what, struct evlink_client *client)
{
    if (r != 0)
        die("%s: %s: %s", what, evlink_code_name(r), client ? evlink_client_message(client) : "");
}

double now(void)
{
    struct timespec time;

    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

double cpu_of(pid_t pid)
{
    struct timespec time;
    clockid_t clock;

    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) < 0)
        die("cannot read the CPU time of process %d", (int)pid);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

double proc_number(pid_t pid, const char *name_of_file, const char *name)
{
    char path[64], line[256];
    double sum = 0;
    bool seen = false;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name_of_file);
    file = fopen(path, "re");
    if (!file)
        die("cannot open %s: %m", path);
    while (fgets(line, sizeof(line), file))
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':') {
            sum += strtod(line + strlen(name) + 1, NULL);
            seen = true;
        }
    (void)fclose(file);
    if (!seen)
        die("there is no %s in %s", name, path);
    return sum;
}

pid_t child_start(void (*work)(void *userdata), void *userdata)
{
    pid_t pid = fork();

    if (pid < 0)
        die("cannot fork: %m");
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        work(userdata);
        _exit(0);
    }
    return pid;
}

void child_stop(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
}

/* The first child of a process; 0: it has none. */
static pid_t child_of(pid_t parent)
{
    char path[64];
    int pid = 0;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)parent, (int)parent);
    file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%d", &pid) != 1)
        pid = 0;
    (void)fclose(file);
    return pid;
}

int connect_to(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || strlen(path) >= sizeof(address.sun_path))
        die("cannot make a socket for %s: %m", path);
    strcpy(address.sun_path, path);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    close(fd);
    return -1;
}

static void become_broker(const struct broker *broker, uid_t uid)
{
    const char *program = getenv("EVLINKD");
    int log;

    if (!program)
        program = "./evlinkd";
    if (uid && (setgroups(0, NULL) < 0 || setresgid(uid, uid, uid) < 0 || setresuid(uid, uid, uid) < 0))
        _exit(126);
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    log = open("/dev/null", O_WRONLY);
    if (log >= 0 && !getenv("BENCH_LOG"))
        (void)dup2(log, STDERR_FILENO);
    (void)unsetenv("NOTIFY_SOCKET");
    (void)unsetenv("JOURNAL_STREAM");
    execl(program, program, "--supervise", "--watchdog=0", "--config=/dev/null", "--socket", broker->path,
        (char *)NULL);
    _exit(127);
}

/* Waits until there is a broker and it answers. */
static void get_ready(struct broker *broker, pid_t old)
{
    struct evlink_status status;
    int i, fd;

    for (i = 0; i < PATIENCE; i++) {
        fd = connect_to(broker->path);
        if (fd >= 0 && evlink_client_open_fd(fd, &broker->client) == 0)
            break;
        if (waitpid(broker->parent, NULL, WNOHANG) != 0)
            break;
        (void)usleep(1000);
    }
    if (!broker->client)
        die("evlinkd did not start; see what it says with BENCH_LOG=1");
    must(evlink_status(broker->client, &status), "Status", broker->client);
    if (!status.durable)
        die("evlinkd says that it is not durable");
    do
        broker->pid = child_of(broker->parent);
    while (broker->pid == old || broker->pid == 0);
}

/* Those that are stopped where something fails; by whom. */
static struct broker *running[8];
static pid_t owner;

static void stop_all(void)
{
    for (size_t i = 0; i < sizeof(running) / sizeof(running[0]) && owner == getpid(); i++)
        if (running[i])
            broker_stop(running[i]);
}

void broker_start(struct broker *broker)
{
    uid_t uid = geteuid() == 0 ? next_uid++ : 0;
    size_t i = 0;

    *broker = (struct broker){ .pid = 0 };
    if (owner == 0 && atexit(stop_all) == 0)
        owner = getpid();
    while (running[i])
        i++;
    running[i] = broker;
    strcpy(broker->folder, "/tmp/evlinkd-bench-XXXXXX");
    if (!mkdtemp(broker->folder))
        die("cannot make a folder: %m");
    (void)snprintf(broker->path, sizeof(broker->path), "%s/socket", broker->folder);
    if (uid && chown(broker->folder, uid, uid) < 0)
        die("cannot give %s away: %m", broker->folder);
    broker->parent = fork();
    if (broker->parent < 0)
        die("cannot fork: %m");
    if (broker->parent == 0)
        become_broker(broker, uid);
    get_ready(broker, 0);
}

void broker_kill(struct broker *broker)
{
    broker->client = evlink_client_free(broker->client);
    if (kill(broker->pid, SIGKILL) < 0)
        die("cannot kill evlinkd: %m");
    get_ready(broker, broker->pid);
}

void broker_stop(struct broker *broker)
{
    char path[112];

    for (size_t i = 0; i < sizeof(running) / sizeof(running[0]); i++)
        if (running[i] == broker)
            running[i] = NULL;
    if (broker->parent <= 0)
        return;
    broker->client = evlink_client_free(broker->client);
    (void)kill(broker->parent, SIGTERM);
    (void)waitpid(broker->parent, NULL, 0);
    (void)unlink(broker->path);
    (void)snprintf(path, sizeof(path), "%s.lock", broker->path);
    (void)unlink(path);
    (void)rmdir(broker->folder);
}
