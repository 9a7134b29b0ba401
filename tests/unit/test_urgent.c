/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The threads that a pause waits for, with a child in QEMU's place that names its threads alike. */
#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "qemu-glue/urgent.h"

enum { MAIN, MIGRATION, VCPU, OTHER, VCPU_2, THREADS };

static const char *const names[THREADS] = {"qemu", "mig/src/main", "CPU 0/TCG", "call_rcu",
                                           "CPU 1/KVM"};

struct fixture {
	pid_t child;
	int sock, listening;
	pid_t tid[THREADS];
	struct urgent urgent;
};

/* ---- the child ---- */

static int to_parent;

static void *named(void *arg)
{
	int which = GPOINTER_TO_INT(arg);
	pid_t tid = gettid();

	prctl(PR_SET_NAME, names[which]);
	if (write(to_parent, &which, sizeof(which)) < 0 || write(to_parent, &tid, sizeof(tid)) < 0)
		_exit(1);
	for (;;)
		pause();
	return NULL;
}

static void run_child(const struct sockaddr_un *address)
{
	const struct sched_param none = {0};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	pthread_t thread;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sched_setscheduler(0, SCHED_BATCH, &none);
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
		_exit(1);
	to_parent = fd;
	for (int i = MIGRATION; i < THREADS; i++) {
		if (pthread_create(&thread, NULL, named, GINT_TO_POINTER(i)))
			_exit(1);
		/* One after the other: what they write is not mixed up. */
		if (read(fd, &(char){0}, 1) != 1)
			_exit(1);
	}
	named(GINT_TO_POINTER(MAIN));
}

/* ---- the parent ---- */

static void set_up(struct fixture *f, gconstpointer unused)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "test-urgent-%d", getpid());
	f->listening = socket(AF_UNIX, SOCK_STREAM, 0);
	g_assert_cmpint(bind(f->listening, (struct sockaddr *)&address, sizeof(address)), ==, 0);
	g_assert_cmpint(listen(f->listening, 1), ==, 0);
	f->child = fork();
	g_assert_cmpint(f->child, >=, 0);
	if (f->child == 0)
		run_child(&address);
	f->sock = accept(f->listening, NULL, NULL);
	for (int i = 0; i < THREADS; i++) {
		int which = -1;
		pid_t tid;

		g_assert_cmpint(read(f->sock, &which, sizeof(which)), ==, sizeof(which));
		g_assert_cmpint(which, >=, 0);
		g_assert_cmpint(which, <, THREADS);
		g_assert_cmpint(read(f->sock, &tid, sizeof(tid)), ==, sizeof(tid));
		f->tid[which] = tid;
		if (which != MAIN)
			g_assert_cmpint(write(f->sock, "", 1), ==, 1);
	}
	g_assert_cmpint(urgent_find(&f->urgent, f->sock), ==, 0);
}

static void tear_down(struct fixture *f, gconstpointer unused)
{
	const struct sched_param none = {0};

	kill(f->child, SIGKILL);
	waitpid(f->child, NULL, 0);
	close(f->sock);
	close(f->listening);
	sched_setscheduler(0, SCHED_OTHER, &none);
}

static bool raised(pid_t tid)
{
	return sched_getscheduler(tid) == (SCHED_RR | SCHED_RESET_ON_FORK);
}

static int priority(pid_t tid)
{
	struct sched_param param = {0};

	g_assert_cmpint(sched_getparam(tid, &param), ==, 0);
	return param.sched_priority;
}

/* Raises; false and a skipped test when this machine does not allow it. */
static bool begin(struct fixture *f)
{
	int r = urgent_begin(&f->urgent);

	if (r == -EPERM) {
		g_test_skip("may not use a real-time class");
		return false;
	}
	g_assert_cmpint(r, ==, 0);
	return true;
}

static void test_who(struct fixture *f, gconstpointer unused)
{
	const struct sched_param none = {0};

	if (!begin(f))
		return;
	g_assert_true(raised(0));
	for (int i = 0; i < THREADS; i++)
		g_assert_cmpint(raised(f->tid[i]), ==, i != OTHER);
	/* Who waits for the vCPUs is in front of them. */
	g_assert_cmpint(priority(f->tid[MIGRATION]), >, priority(f->tid[VCPU]));
	g_assert_cmpint(priority(f->tid[MAIN]), >, priority(f->tid[VCPU_2]));
	g_assert_cmpint(priority(0), >, priority(f->tid[VCPU_2]));
	urgent_spare_vcpus(&f->urgent);
	g_assert_cmpint(sched_getscheduler(f->tid[VCPU]), ==, SCHED_BATCH);
	g_assert_cmpint(sched_getscheduler(f->tid[VCPU_2]), ==, SCHED_BATCH);
	g_assert_true(raised(f->tid[MIGRATION]) && raised(f->tid[MAIN]) && raised(0));
	urgent_end(&f->urgent);
	g_assert_cmpint(sched_getscheduler(0), ==, SCHED_OTHER);
	for (int i = 0; i < THREADS; i++)
		g_assert_cmpint(sched_getscheduler(f->tid[i]), ==, SCHED_BATCH);
	/* A second end has nothing to put back. */
	g_assert_cmpint(sched_setscheduler(0, SCHED_IDLE, &none), ==, 0);
	urgent_end(&f->urgent);
	g_assert_cmpint(sched_getscheduler(0), ==, SCHED_IDLE);
}

/* It is somebody's choice, and stays. */
static void test_real_time_already(struct fixture *f, gconstpointer unused)
{
	struct sched_param param = {.sched_priority = 5};

	if (sched_setscheduler(f->tid[MIGRATION], SCHED_FIFO, &param) < 0) {
		g_test_skip("may not use a real-time class");
		return;
	}
	g_assert_cmpint(urgent_find(&f->urgent, f->sock), ==, 0);
	g_assert_cmpint(urgent_begin(&f->urgent), ==, 0);
	g_assert_cmpint(sched_getscheduler(f->tid[MIGRATION]), ==, SCHED_FIFO);
	g_assert_true(raised(f->tid[MAIN]));
	urgent_end(&f->urgent);
	g_assert_cmpint(sched_getscheduler(f->tid[MIGRATION]), ==, SCHED_FIFO);
	g_assert_cmpint(priority(f->tid[MIGRATION]), ==, 5);
}

/* To look for the threads of another QEMU leaves none of this one raised. */
static void test_find_puts_back(struct fixture *f, gconstpointer unused)
{
	if (!begin(f))
		return;
	g_assert_cmpint(urgent_find(&f->urgent, f->sock), ==, 0);
	g_assert_cmpint(sched_getscheduler(f->tid[MAIN]), ==, SCHED_BATCH);
	g_assert_true(begin(f));
	urgent_end(&f->urgent);
	g_assert_cmpint(sched_getscheduler(f->tid[MAIN]), ==, SCHED_BATCH);
}

static void test_gone(struct fixture *f, gconstpointer unused)
{
	kill(f->child, SIGKILL);
	waitpid(f->child, NULL, 0);
	if (!begin(f))
		return;
	g_assert_true(raised(0));
	urgent_end(&f->urgent);
	g_assert_cmpint(sched_getscheduler(0), ==, SCHED_OTHER);
	g_assert_cmpint(urgent_find(&f->urgent, f->sock), ==, -ENOENT);
	g_assert_cmpint(urgent_find(&f->urgent, -1), ==, -EBADF);
	g_assert_cmpint(urgent_begin(&f->urgent), ==, 0);
	g_assert_false(raised(0));
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add("/urgent/who", struct fixture, NULL, set_up, test_who, tear_down);
	g_test_add("/urgent/real-time-already", struct fixture, NULL, set_up,
	           test_real_time_already, tear_down);
	g_test_add("/urgent/find-puts-back", struct fixture, NULL, set_up, test_find_puts_back,
	           tear_down);
	g_test_add("/urgent/gone", struct fixture, NULL, set_up, test_gone, tear_down);
	return g_test_run();
}
