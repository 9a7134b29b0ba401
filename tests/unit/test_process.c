/* SPDX-License-Identifier: GPL-2.0-or-later */
/* QEMU as a child, with a shell in QEMU's place; and the TCG flush counter's file. */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "qemu-glue/process.h"
#include "qemu-glue/tcg_flush.h"

#define TIMEOUT_MS 120000

struct fixture {
	char *dir;
	char *log;
	char *socket;
};

static void set_up(struct fixture *f, gconstpointer unused)
{
	f->dir = g_dir_make_tmp("test-process-XXXXXX", NULL);
	f->log = g_build_filename(f->dir, "log", NULL);
	f->socket = g_build_filename(f->dir, "qmp", NULL);
}

static void tear_down(struct fixture *f, gconstpointer unused)
{
	g_unlink(f->log);
	g_unlink(f->socket);
	g_assert_cmpint(g_rmdir(f->dir), ==, 0);
	g_free(f->dir);
	g_free(f->log);
	g_free(f->socket);
}

static struct qemu_process *shell(struct fixture *f, const char *script, const int *fds, size_t n)
{
	char *const argv[] = {(char *)"/bin/sh", (char *)"-c", (char *)script, NULL};
	struct qemu_spawn spawn = {.argv = argv, .fds = fds, .n_fds = n, .log_path = f->log};
	struct qemu_process *p = NULL;
	char err[256] = "";
	int ret = qemu_process_spawn(&spawn, &p, err, sizeof(err));

	g_assert_cmpstr(err, ==, "");
	g_assert_cmpint(ret, ==, 0);
	return p;
}

static void test_exit(struct fixture *f, gconstpointer unused)
{
	struct qemu_process *p;
	char what[512];

	g_file_set_contents(f->log, "of an earlier run\n", -1, NULL);
	p = shell(f, "echo one; echo two; echo three; echo four >&2; exit 3", NULL, 0);
	g_assert_cmpint(qemu_process_wait(p, TIMEOUT_MS), ==, 0);
	g_assert_false(qemu_process_running(p));
	qemu_process_describe(p, what, sizeof(what));
	g_assert_cmpstr(what, ==, "ended with exit status 3: two three four");
	g_assert_cmpint(qemu_process_signal(p, SIGTERM), ==, -ESRCH);
	g_assert_cmpint(qemu_process_kill(p), ==, 0);
	qemu_process_free(p);

	p = shell(f, "exit 1", NULL, 0);
	g_assert_cmpint(qemu_process_wait(p, TIMEOUT_MS), ==, 0);
	qemu_process_describe(p, what, sizeof(what));
	g_assert_cmpstr(what, ==, "ended with exit status 1"); /* not the earlier run's words */
	qemu_process_free(p);
}

static void test_kill(struct fixture *f, gconstpointer unused)
{
	struct qemu_process *p = shell(f, "exec sleep 1000", NULL, 0);
	struct pollfd pfd = {.fd = qemu_process_pidfd(p), .events = POLLIN};
	char what[512];

	g_assert_true(qemu_process_running(p));
	g_assert_cmpint(qemu_process_wait(p, 1), ==, -ETIMEDOUT);
	qemu_process_describe(p, what, sizeof(what));
	g_assert_true(g_str_has_prefix(what, "runs (pid "));
	g_assert_cmpint(qemu_process_signal(p, SIGABRT), ==, 0);
	g_assert_cmpint(poll(&pfd, 1, TIMEOUT_MS), ==, 1);
	g_assert_cmpint(qemu_process_wait(p, TIMEOUT_MS), ==, 0);
	qemu_process_describe(p, what, sizeof(what));
	g_assert_cmpstr(what, ==, "was killed by signal 6 (Aborted)");
	qemu_process_free(p);
	qemu_process_free(NULL);
}

static void test_no_program(struct fixture *f, gconstpointer unused)
{
	char *const argv[] = {(char *)"/no/such/qemu", NULL};
	const int bad_fd = 1;
	struct qemu_spawn spawn = {.argv = argv, .log_path = f->log};
	struct qemu_process *p = NULL;
	char err[256] = "";

	g_assert_cmpint(qemu_process_spawn(&spawn, &p, err, sizeof(err)), ==, -ENOENT);
	g_assert_cmpstr(err, ==,
	                "cannot start /no/such/qemu: executing it: No such file or directory");
	spawn.fds = &bad_fd;
	spawn.n_fds = 1;
	g_assert_cmpint(qemu_process_spawn(&spawn, &p, err, sizeof(err)), ==, -EINVAL);
	spawn.n_fds = 0;
	spawn.log_path = "/no/such/dir/log";
	g_assert_cmpint(qemu_process_spawn(&spawn, &p, err, sizeof(err)), ==, -ENOENT);
	g_assert_null(p);
}

/* Only the descriptors that were listed arrive, also if others were not close-on-exec. */
static void test_descriptors(struct fixture *f, gconstpointer unused)
{
	int leak = open("/dev/zero", O_RDONLY);
	int given = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	g_autofree char *script = NULL;
	g_autofree char *want = g_strdup_printf("0 1 2 %d", given);
	g_autofree char *text = NULL;
	struct qemu_process *p;

	/* The shell's own listing opens the directory: leave that one out. No pipeline: it would
	 * open more. */
	script = g_strdup("for f in /proc/$$/fd/*; do "
	                  "[ -e \"$f\" ] && printf '%s ' \"${f##*/}\"; done; true");
	g_assert_cmpint(leak, >, 2);
	p = shell(f, script, &given, 1);
	g_assert_cmpint(qemu_process_wait(p, TIMEOUT_MS), ==, 0);
	g_file_get_contents(f->log, &text, NULL, NULL);
	g_assert_cmpstr(g_strchomp(text), ==, want);
	qemu_process_free(p);
	close(leak);
	close(given);
}

/* The child dies with its parent: here the parent is a process of its own that is killed. */
static void test_dies_with_parent(struct fixture *f, gconstpointer unused)
{
	int alive[2]; /* the grandchild holds the write end: end of file when it is gone */
	struct pollfd pfd = {.events = POLLIN};
	pid_t parent;
	char c;

	g_assert_cmpint(pipe(alive), ==, 0);
	parent = fork();
	if (parent == 0) {
		struct qemu_process *p = shell(f, "exec sleep 1000", &alive[1], 1);

		_exit(p && write(alive[1], "r", 1) == 1 && pause() ? 0 : 1);
	}
	close(alive[1]);
	pfd.fd = alive[0];
	g_assert_cmpint(poll(&pfd, 1, TIMEOUT_MS), ==, 1);
	g_assert_cmpint(read(alive[0], &c, 1), ==, 1);
	g_assert_cmpint(poll(&pfd, 1, 0), ==, 0); /* both live */
	g_assert_cmpint(kill(parent, SIGKILL), ==, 0);
	g_assert_cmpint(waitpid(parent, NULL, 0), ==, parent);
	g_assert_cmpint(poll(&pfd, 1, TIMEOUT_MS), ==, 1);
	g_assert_cmpint(read(alive[0], &c, 1), ==, 0);
	close(alive[0]);
}

/* A QEMU that ends before it greets: the reason is what it said. */
static void test_qmp_of_the_dead(struct fixture *f, gconstpointer unused)
{
	struct qemu_process *p;
	struct qmp *q = NULL;
	char err[512] = "";
	int fd = -1;

	g_assert_cmpint(qemu_listen(f->socket, &fd, err, sizeof(err)), ==, 0);
	p = shell(f, "echo 'qemu: no such machine' >&2; exit 1", &fd, 1);
	close(fd);
	g_assert_cmpint(qemu_process_qmp(p, f->socket, TIMEOUT_MS, &q, err, sizeof(err)), ==,
	                -ECHILD);
	g_assert_cmpstr(err, ==, "QEMU ended with exit status 1: qemu: no such machine");
	g_assert_null(q);
	g_assert_cmpint(qemu_process_qmp(p, f->socket, TIMEOUT_MS, &q, err, sizeof(err)), ==,
	                -ECHILD);
	qemu_process_free(p);
}

static void test_qmp_silent(struct fixture *f, gconstpointer unused)
{
	struct qemu_process *p;
	struct qmp *q = NULL;
	char err[512] = "";
	int fd = -1;

	g_assert_cmpint(qemu_listen(f->socket, &fd, err, sizeof(err)), ==, 0);
	p = shell(f, "exec sleep 1000", &fd, 1);
	close(fd);
	g_assert_cmpint(qemu_process_qmp(p, f->socket, 20, &q, err, sizeof(err)), ==, -ETIMEDOUT);
	g_assert_true(qemu_process_running(p));
	qemu_process_free(p);
}

static void test_listen(struct fixture *f, gconstpointer unused)
{
	g_autofree char *far = g_strnfill(200, 'x');
	char err[512] = "";
	int fd = -1;
	int again = -1;

	g_assert_cmpint(qemu_listen(far, &fd, err, sizeof(err)), ==, -ENAMETOOLONG);
	g_assert_cmpint(qemu_listen("/no/such/dir/s", &fd, err, sizeof(err)), ==, -ENOENT);
	g_assert_cmpint(fd, ==, -1);
	g_assert_cmpint(qemu_listen(f->socket, &fd, err, sizeof(err)), ==, 0);
	g_assert_cmpint(qemu_listen(f->socket, &again, err, sizeof(err)), ==, 0);
	close(fd);
	close(again);
}

static void test_flush_counter(struct fixture *f, gconstpointer unused)
{
	struct tcg_flush *flush = NULL;
	g_autofree char *bytes = NULL;
	char err[256] = "";
	gsize len = 0;
	guint64 requested;

	g_file_set_contents(f->log, "an old file", -1, NULL);
	g_assert_cmpint(tcg_flush_create(f->log, &flush, err, sizeof(err)), ==, 0);
	g_assert_cmpuint(tcg_flush_bump(flush), ==, 1);
	g_assert_cmpuint(tcg_flush_bump(flush), ==, 2);
	g_assert_cmpuint(tcg_flush_done(flush), ==, 0);
	g_assert_cmpuint(tcg_flush_count(flush), ==, 0);
	g_assert_false(tcg_flush_loaded(flush));
	g_assert_true(g_file_get_contents(f->log, &bytes, &len, NULL));
	g_assert_cmpuint(len, ==, TCG_FLUSH_SIZE);
	g_assert_cmpmem(bytes, 8, TCG_FLUSH_MAGIC, 8);
	memcpy(&requested, bytes + 8, sizeof(requested));
	g_assert_cmpuint(requested, ==, 2);
	tcg_flush_free(flush);
	g_assert_false(g_file_test(f->log, G_FILE_TEST_EXISTS));
	tcg_flush_free(NULL);
	g_assert_cmpint(tcg_flush_create("/no/such/dir/f", &flush, err, sizeof(err)), ==, -ENOENT);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
#define ADD(path, fn) g_test_add(path, struct fixture, NULL, set_up, fn, tear_down)
	ADD("/process/exit", test_exit);
	ADD("/process/kill", test_kill);
	ADD("/process/no-program", test_no_program);
	ADD("/process/descriptors", test_descriptors);
	ADD("/process/dies-with-parent", test_dies_with_parent);
	ADD("/process/qmp-of-the-dead", test_qmp_of_the_dead);
	ADD("/process/qmp-silent", test_qmp_silent);
	ADD("/process/listen", test_listen);
	ADD("/tcg-flush/counter", test_flush_counter);
	return g_test_run();
}
