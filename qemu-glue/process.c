/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Between fork() and execvp() the child of a threaded program may only make async-signal-safe
 * calls: run_child() does nothing else, and reports what failed as two ints through a pipe that a
 * successful exec closes.
 */
#include "qemu-glue/process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <glib.h>

#include "qemu-glue/words.h"

#define TAIL_BYTES 1024
#define TAIL_LINES 3

struct qemu_process {
	pid_t pid;
	int pidfd;
	bool ended;
	siginfo_t how;
	char *log_path;
	off_t log_from; /* the log's size at the start */
};

enum stage { STAGE_DEATHSIG, STAGE_STDIO, STAGE_FDS, STAGE_EXEC };

static const char *const stage_names[] = {
        [STAGE_DEATHSIG] = "binding it to the parent's life",
        [STAGE_STDIO] = "setting up its standard files",
        [STAGE_FDS] = "handing descriptors over",
        [STAGE_EXEC] = "executing it",
};

struct failure {
	int stage;
	int error;
};

/* write() takes these few bytes whole or the pipe is gone: then the parent is, too. */
static void fail_child(int report, enum stage stage)
{
	struct failure failure = {.stage = stage, .error = errno};
	ssize_t n = write(report, &failure, sizeof(failure));

	_exit(n == sizeof(failure) ? 127 : 126);
}

static void run_child(const struct qemu_spawn *spawn, pid_t parent, int null_fd, int log_fd,
                      int report)
{
	sigset_t none;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		fail_child(report, STAGE_DEATHSIG);
	if (getppid() != parent) /* it died before the prctl */
		_exit(126);
	setsid();
	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(null_fd, STDIN_FILENO) < 0 || dup2(log_fd, STDOUT_FILENO) < 0 ||
	    dup2(log_fd, STDERR_FILENO) < 0)
		fail_child(report, STAGE_STDIO);
	if (syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		fail_child(report, STAGE_FDS);
	for (size_t i = 0; i < spawn->n_fds; i++) {
		if (fcntl(spawn->fds[i], F_SETFD, 0) < 0)
			fail_child(report, STAGE_FDS);
	}
	execvp(spawn->argv[0], spawn->argv);
	fail_child(report, STAGE_EXEC);
}

int qemu_listen(const char *path, int *ret_fd, char *err, size_t errlen)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int ret = 0;
	int fd;

	if (strlen(path) >= sizeof(addr.sun_path))
		return words(-ENAMETOOLONG, err, errlen,
		             "socket path %s is longer than %zu bytes; use a shorter run directory",
		             path, sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	if (unlink(path) < 0 && errno != ENOENT)
		return words(-errno, err, errlen, "cannot replace %s: %s", path, strerror(errno));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return words(-errno, err, errlen, "socket: %s", strerror(errno));
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || chmod(path, 0600) < 0 ||
	    listen(fd, 4) < 0)
		ret = words(-errno, err, errlen, "cannot listen on %s: %s", path, strerror(errno));
	if (ret)
		close(fd);
	else
		*ret_fd = fd;
	return ret;
}

static int open_log(struct qemu_process *p, const char *path, int *ret_fd, char *err, size_t errlen)
{
	struct stat st;
	int fd = open(path ? path : "/dev/null", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0)
		return words(-errno, err, errlen, "cannot open %s: %s", path ? path : "/dev/null",
		             strerror(errno));
	if (path) {
		p->log_path = g_strdup(path);
		p->log_from = fstat(fd, &st) == 0 ? st.st_size : 0;
	}
	*ret_fd = fd;
	return 0;
}

/* Waits for the child's report: nothing means that it was executed. */
static int read_report(struct qemu_process *p, int report, const char *program, char *err,
                       size_t errlen)
{
	struct failure failure;
	ssize_t n;

	do {
		n = read(report, &failure, sizeof(failure));
	} while (n < 0 && errno == EINTR);
	if (n == 0)
		return 0;
	if (n != sizeof(failure))
		return words(-EIO, err, errlen, "cannot start %s: no report from it", program);
	qemu_process_wait(p, 10000);
	return words(-failure.error, err, errlen, "cannot start %s: %s: %s", program,
	             stage_names[failure.stage], strerror(failure.error));
}

static int fork_child(struct qemu_process *p, const struct qemu_spawn *spawn, int null_fd,
                      int log_fd, char *err, size_t errlen)
{
	pid_t parent = getpid();
	int report[2];
	int ret;

	if (pipe2(report, O_CLOEXEC) < 0)
		return words(-errno, err, errlen, "pipe: %s", strerror(errno));
	p->pid = fork();
	if (p->pid == 0)
		run_child(spawn, parent, null_fd, log_fd, report[1]);
	close(report[1]);
	if (p->pid < 0) {
		ret = words(-errno, err, errlen, "fork: %s", strerror(errno));
		close(report[0]);
		p->ended = true;
		return ret;
	}
	p->pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0); /* close-on-exec by definition */
	if (p->pidfd < 0) {
		ret = words(-errno, err, errlen, "pidfd_open: %s", strerror(errno));
		kill(p->pid, SIGKILL); /* our unreaped child: the pid is still its own */
		waitpid(p->pid, NULL, 0);
		p->ended = true;
	} else {
		ret = read_report(p, report[0], spawn->argv[0], err, errlen);
	}
	close(report[0]);
	return ret;
}

int qemu_process_spawn(const struct qemu_spawn *spawn, struct qemu_process **ret_process, char *err,
                       size_t errlen)
{
	struct qemu_process *p;
	int null_fd;
	int log_fd = -1;
	int ret;

	for (size_t i = 0; i < spawn->n_fds; i++) {
		if (spawn->fds[i] < 3)
			return words(-EINVAL, err, errlen, "descriptor %d cannot be inherited",
			             spawn->fds[i]);
	}
	null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (null_fd < 0)
		return words(-errno, err, errlen, "/dev/null: %s", strerror(errno));
	p = g_new0(struct qemu_process, 1);
	p->pidfd = -1;
	p->ended = true; /* until there is a child */
	ret = open_log(p, spawn->log_path, &log_fd, err, errlen);
	if (!ret) {
		p->ended = false;
		ret = fork_child(p, spawn, null_fd, log_fd, err, errlen);
		close(log_fd);
	}
	close(null_fd);
	if (ret) {
		qemu_process_free(p);
		return ret;
	}
	*ret_process = p;
	return 0;
}

pid_t qemu_process_pid(const struct qemu_process *process)
{
	return process->pid;
}

int qemu_process_pidfd(const struct qemu_process *process)
{
	return process->pidfd;
}

bool qemu_process_running(struct qemu_process *process)
{
	return qemu_process_wait(process, 0) != 0;
}

int qemu_process_wait(struct qemu_process *process, uint64_t timeout_ms)
{
	gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;

	while (!process->ended) {
		struct pollfd pfd = {.fd = process->pidfd, .events = POLLIN};
		gint64 left = deadline - g_get_monotonic_time();

		if (poll(&pfd, 1, left > 0 ? (int)((left + 999) / 1000) : 0) == 1) {
			if (waitid(P_PIDFD, (id_t)process->pidfd, &process->how, WEXITED) == 0 ||
			    errno == ECHILD)
				process->ended = true;
		} else if (left <= 0) {
			return -ETIMEDOUT;
		}
	}
	return 0;
}

int qemu_process_signal(struct qemu_process *process, int signum)
{
	if (process->ended)
		return -ESRCH;
	if (syscall(SYS_pidfd_send_signal, process->pidfd, signum, NULL, 0) < 0)
		return -errno;
	return 0;
}

int qemu_process_kill(struct qemu_process *process)
{
	int ret = qemu_process_signal(process, SIGKILL);

	if (ret && ret != -ESRCH)
		return ret;
	return qemu_process_wait(process, 60000);
}

void qemu_process_free(struct qemu_process *process)
{
	if (!process)
		return;
	qemu_process_kill(process);
	if (process->pidfd >= 0)
		close(process->pidfd);
	g_free(process->log_path);
	g_free(process);
}

/* The log's last lines, in one line; what was there before this child is not looked at. */
static char *log_tail(const struct qemu_process *p)
{
	char buf[TAIL_BYTES + 1];
	off_t size;
	ssize_t n = 0;
	int fd = p->log_path ? open(p->log_path, O_RDONLY | O_CLOEXEC) : -1;

	if (fd >= 0) {
		size = lseek(fd, 0, SEEK_END);
		n = pread(fd, buf, TAIL_BYTES,
		          size - p->log_from > TAIL_BYTES ? size - TAIL_BYTES : p->log_from);
		close(fd);
	}
	buf[n > 0 ? n : 0] = '\0';
	g_strchomp(buf);
	for (int lines = 0, i = (int)strlen(buf) - 1; i >= 0; i--) {
		if (buf[i] != '\n')
			continue;
		if (++lines == TAIL_LINES)
			return g_strdelimit(g_strdup(buf + i + 1), "\n\r", ' ');
	}
	return g_strdelimit(g_strdup(buf), "\n\r", ' ');
}

void qemu_process_describe(struct qemu_process *process, char *buf, size_t size)
{
	g_autofree char *tail = NULL;
	const char *colon;

	if (qemu_process_running(process)) {
		snprintf(buf, size, "runs (pid %d)", (int)process->pid);
		return;
	}
	tail = log_tail(process);
	colon = *tail ? ": " : "";
	if (process->how.si_code == CLD_EXITED)
		snprintf(buf, size, "ended with exit status %d%s%s", process->how.si_status, colon,
		         tail);
	else
		snprintf(buf, size, "was killed by signal %d (%s)%s%s", process->how.si_status,
		         strsignal(process->how.si_status), colon, tail);
}

static int connect_unix(const char *path, int *ret_fd, char *err, size_t errlen)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int ret;

	if (fd < 0)
		return words(-errno, err, errlen, "socket: %s", strerror(errno));
	if (g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path)) >= sizeof(addr.sun_path))
		ret = words(-ENAMETOOLONG, err, errlen, "socket path %s is too long", path);
	else if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		ret = words(-errno, err, errlen, "connect to %s: %s", path, strerror(errno));
	else
		ret = 0;
	if (ret)
		close(fd);
	else
		*ret_fd = fd;
	return ret;
}

/* Waits for the first byte of the greeting, the child's end or the deadline. */
static int wait_greeting(struct qemu_process *p, int fd, uint64_t timeout_ms, char *err,
                         size_t errlen)
{
	struct pollfd pfds[2] = {{.fd = fd, .events = POLLIN}, {.fd = p->pidfd, .events = POLLIN}};
	gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
	char what[512];
	int n;

	do {
		gint64 left = (deadline - g_get_monotonic_time() + 999) / 1000;

		n = poll(pfds, 2, left > 0 ? (int)left : 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return words(-errno, err, errlen, "poll: %s", strerror(errno));
	if (n == 0)
		return words(-ETIMEDOUT, err, errlen, "QEMU gave no greeting within %llu ms",
		             (unsigned long long)timeout_ms);
	if (pfds[1].revents) {
		qemu_process_describe(p, what, sizeof(what));
		return words(-ECHILD, err, errlen, "QEMU %s", what);
	}
	return 0;
}

int qemu_process_qmp(struct qemu_process *process, const char *path, uint64_t timeout_ms,
                     struct qmp **ret_q, char *err, size_t errlen)
{
	char what[512];
	int fd = -1;
	int ret;

	if (process->ended) {
		qemu_process_describe(process, what, sizeof(what));
		return words(-ECHILD, err, errlen, "QEMU %s", what);
	}
	ret = connect_unix(path, &fd, err, errlen);
	if (!ret) {
		ret = wait_greeting(process, fd, timeout_ms, err, errlen);
		if (!ret)
			ret = qmp_open(fd, timeout_ms, ret_q, err, errlen);
		if (ret)
			close(fd);
	}
	/* A QEMU that is ending closes its socket first: say why it ends. */
	if ((ret == -ECONNREFUSED || ret == -ECONNRESET || ret == -EPIPE) &&
	    qemu_process_wait(process, 2000) == 0) {
		qemu_process_describe(process, what, sizeof(what));
		return words(-ECHILD, err, errlen, "QEMU %s", what);
	}
	return ret;
}
