/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control thread (colo-proxy/daemon.c) with a QEMU that hangs on cue, which a real one does
 * not, and with a node that the test plays. QMP, the process, the VM and the node are models: they
 * stand in the place of the libraries' objects. The main loop and the fence are real; its timers
 * run a hundred times as fast.
 */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "colo-proxy/daemon.h"
#include "colo-proxy/node/node.h"
#include "colo-proxy/vm.h"

#define CALLS_MAX 16u
#define HANGS     "" /* no reply within the time */
#define TURNS_MAX 1000u

static struct {
	const struct node_ops *ops; /* the daemon's ears, and it */
	void *ctx;
	int quiet; /* a descriptor on which nothing comes */

	/* QEMU */
	const char *progress[CALLS_MAX]; /* query-migrate's answers, one after the other */
	uint32_t asked;
	int error;            /* with it ends every command that is no query */
	int lost;             /* and every one of them */
	uint32_t checkpoints; /* so often it was asked for one */
	uint32_t vm_ended;

	/* The node */
	void (*begin)(void);      /* the daemon is up */
	void (*protected)(void);  /* QEMU has been asked for the first checkpoint */
	void (*checkpoint)(void); /* and for each one */
	bool wants;               /* it wants a checkpoint, again and again */
	uint32_t turns;
	bool hands_over, taken; /* a switch-over begins, and is never over; the peer has the VM */
	struct node_job *handover;
	uint32_t goodbyes, copy_failed, fenced, vm_lost, vm_ended_first;
	bool granted, fence_was_first;
	char text[128];
} fake;

static char never[] = "never looked into";

static void say(enum order order, const char *text)
{
	fake.ops->order(fake.ctx, order, text);
}

static void stop(void)
{
	raise(SIGTERM);
}

static gboolean stop_idle(gpointer data)
{
	stop();
	return G_SOURCE_REMOVE;
}

/* ---- QEMU ---- */

static int query_migrate(json_t **ret_value)
{
	const char *status = fake.progress[fake.asked++];

	g_assert_nonnull(status);
	if (g_str_equal(status, HANGS))
		return -ETIMEDOUT;
	*ret_value = json_pack("{s:s}", "status", status);
	return 0;
}

static bool asks_for_checkpoint(const char *command, const json_t *args)
{
	return g_str_equal(command, "migrate-set-parameters") && json_object_size(args) == 1;
}

static void asked_for_checkpoint(void)
{
	if (fake.checkpoints++ == 0) {
		fake.wants = false;
		fake.protected();
	}
	if (fake.checkpoint)
		fake.checkpoint();
}

int qmp_execute(struct qmp *q, const char *command, json_t *args, uint64_t timeout_ms,
                json_t **ret_value, char *err, size_t errlen)
{
	bool query = g_str_has_prefix(command, "query-");
	bool checkpoint = asks_for_checkpoint(command, args);

	json_decref(args);
	if (checkpoint)
		asked_for_checkpoint();
	if (fake.lost && query)
		return fake.lost;
	if (fake.error && !query)
		return fake.error;
	if (g_str_equal(command, "query-migrate"))
		return query_migrate(ret_value);
	if (g_str_equal(command, "query-status"))
		*ret_value = json_pack("{s:s}", "status", "running");
	return 0;
}

int qmp_execute_oob(struct qmp *q, const char *command, json_t *args, uint64_t timeout_ms,
                    json_t **ret_value, char *err, size_t errlen)
{
	json_decref(args);
	return 0;
}

int qmp_wait_event(struct qmp *q, const char *name, uint64_t timeout_ms, json_t **ret_event,
                   char *err, size_t errlen)
{
	return -ETIMEDOUT;
}

void qmp_drop_events(struct qmp *q, const char *name)
{
}

int qmp_fd(const struct qmp *q)
{
	return fake.quiet;
}

int qmp_dispatch(struct qmp *q, char *err, size_t errlen)
{
	return 0;
}

pid_t qemu_process_pid(const struct qemu_process *process)
{
	return 1;
}

int qemu_process_pidfd(const struct qemu_process *process)
{
	return fake.quiet;
}

bool qemu_process_running(struct qemu_process *process)
{
	return true;
}

void qemu_process_describe(struct qemu_process *process, char *buf, size_t size)
{
}

int vm_probe(struct vm *vm, const struct config *config, char *err, size_t errlen)
{
	return 0;
}

int vm_start(struct vm *vm, bool secondary, int tap_fd, char *err, size_t errlen)
{
	vm->process = (struct qemu_process *)never;
	vm->qmp = (struct qmp *)never;
	return 0;
}

void vm_end(struct vm *vm)
{
	if (vm->process)
		fake.vm_ended++;
	vm->process = NULL;
	vm->qmp = NULL;
}

void vm_fini(struct vm *vm)
{
}

void vm_version_text(const struct vm *vm, char *buf, size_t size)
{
}

/* ---- the node ---- */

static gboolean node_turns(gpointer data)
{
	if (fake.begin)
		fake.begin();
	fake.begin = NULL;
	if (!fake.wants)
		return G_SOURCE_CONTINUE;
	/* The timers of the watch have come as often. */
	g_assert_cmpuint(fake.turns++, <, TURNS_MAX);
	say(ORDER_CHECKPOINT, "output");
	return G_SOURCE_CONTINUE;
}

int node_new(struct node **ret_node, const struct config *config, const char *machine,
             const struct node_ops *ops, void *ctx, char *err, size_t errlen)
{
	fake.ops = ops;
	fake.ctx = ctx;
	return 0;
}

void node_free(struct node *node)
{
}

int node_mark(const struct node *node)
{
	return 0;
}

int node_tap_fd(const struct node *node)
{
	return -1;
}

const char *node_migration_path(const struct node *node)
{
	return "/nowhere";
}

const char *node_incoming_path(const struct node *node)
{
	return "/nowhere";
}

void node_set_tcg_flush(struct node *node, struct tcg_flush *flush)
{
}

void node_set_guest_memory(struct node *node, const struct guest_memory *memory)
{
}

void node_vm_ready(struct node *node, bool ok, const char *text)
{
	g_assert_true(ok);
	say(ORDER_MIGRATE, "");
}

void node_copy_failed(struct node *node, const char *text)
{
	fake.copy_failed++;
	stop();
}

void node_marked(struct node *node, bool ok, const char *text)
{
}

void node_rearmed(struct node *node, bool ok, const char *text)
{
}

void node_left_colo(struct node *node, bool ok, const char *text)
{
}

void node_vm_lost(struct node *node, const char *text)
{
	fake.vm_lost++;
	fake.vm_ended_first = fake.vm_ended;
	if (fake.taken)
		say(ORDER_RETIRED, "");
}

void node_fenced(struct node *node, bool granted, const char *text)
{
	fake.fenced++;
	fake.granted = granted;
	fake.fence_was_first = fake.checkpoints == 1;
	g_strlcpy(fake.text, text, sizeof(fake.text));
	g_idle_add(stop_idle, NULL);
}

void node_checkpoint_seen(struct node *node, uint64_t stopped_at, uint64_t pause_ns)
{
}

void node_dirty_sample(struct node *node, int error, uint64_t mib_per_s, const char *text)
{
}

void node_in_colo(struct node *node)
{
}

void node_channel_lost(struct node *node, const char *text)
{
}

void node_snapshot(struct node *node, struct node_job *job)
{
}

void node_divergences(struct node *node, struct node_job *job)
{
}

void node_checkpoint(struct node *node, struct node_job *job)
{
}

void node_policy(struct node *node, struct node_job *job)
{
}

void node_failover(struct node *node, struct node_job *job)
{
	if (fake.hands_over)
		fake.handover = job;
	else
		job->done(job, false, "there is nothing to fail over");
}

void node_say_goodbye(struct node *node, struct node_job *job)
{
	fake.goodbyes++;
	job->done(job, true, "");
}

guint __real_g_timeout_add(guint interval, GSourceFunc function, gpointer data);
guint __wrap_g_timeout_add(guint interval, GSourceFunc function, gpointer data);

guint __wrap_g_timeout_add(guint interval, GSourceFunc function, gpointer data)
{
	return __real_g_timeout_add(interval / 100, function, data);
}

/* ---- the tests ---- */

static struct config config = {
        .role = CONFIG_ROLE_PRIMARY,
        .comparator = CONFIG_COMPARATOR_PROXY,
        .name = (char *)"vm0",
        .fence_timeout_ns = 6000000000000ull,
};

static void prepare(void (*begin)(void))
{
	memset(&fake, 0, sizeof(fake));
	fake.begin = begin;
	fake.protected = stop;
}

/* The daemon's life, until the test stops it. */
static void run(void)
{
	g_autofree char *dir = g_dir_make_tmp("test-daemon-XXXXXX", NULL);
	g_autofree char *lock = g_build_filename(dir, "lock", NULL);
	guint turns;

	fake.quiet = eventfd(0, EFD_CLOEXEC);
	g_assert_cmpint(fake.quiet, >=, 0);
	config.run_dir = dir;
	config.socket = g_build_filename(dir, "socket", NULL);
	turns = __real_g_timeout_add(1, node_turns, NULL);
	g_assert_cmpint(daemon_run(&config), ==, 0);
	g_source_remove(turns);
	close(fake.quiet);
	unlink(config.socket);
	unlink(lock);
	g_assert_cmpint(rmdir(dir), ==, 0);
	g_free(config.socket);
}

static void protect(void)
{
	fake.wants = true;
	say(ORDER_START_PRIMARY, "");
}

/* Else a VM whose QEMU hung once is protected and never checkpointed: output is held for good. */
static void test_copy_late_answer(void)
{
	prepare(protect);
	fake.progress[0] = "active";
	fake.progress[1] = fake.progress[2] = HANGS;
	fake.progress[3] = "active";
	fake.progress[4] = "colo";
	run();
	g_assert_cmpuint(fake.copy_failed, ==, 0);
	g_assert_cmpuint(fake.checkpoints, ==, 1);
}

static void test_copy_failed(gconstpointer status)
{
	prepare(protect);
	fake.progress[0] = "active";
	fake.progress[1] = status;
	run();
	g_assert_cmpuint(fake.copy_failed, ==, 1);
	g_assert_cmpuint(fake.checkpoints, ==, 0);
}

/* Any other error ends the watch: the node has to hear of it. */
static void test_copy_error(void)
{
	prepare(protect);
	fake.lost = -ECONNRESET;
	run();
	g_assert_cmpuint(fake.copy_failed, ==, 1);
}

/* QEMU hangs: what is said meanwhile, each 250 ms, is one order (R8). */
static void say_it_again(void)
{
	fake.error = -ETIMEDOUT;
	for (int i = 0; i < 20; i++)
		say(ORDER_CHECKPOINT, "output");
	g_idle_add_full(G_PRIORITY_LOW, stop_idle, NULL, NULL);
}

/* The one that is being carried out is not the one that is wanted now. */
static void test_checkpoint_once(void)
{
	prepare(protect);
	fake.progress[0] = "colo";
	fake.protected = say_it_again;
	run();
	g_assert_cmpuint(fake.checkpoints, ==, 2);
}

static void checkpoint_and_fence(void)
{
	say(ORDER_CHECKPOINT, "output");
	say(ORDER_FENCE, "");
}

/* The fence needs no QEMU: it waits for the call that hangs, and for none behind it. */
static void test_fence_first(void)
{
	char *argv[] = {(char *)"/does/not/exist", NULL};

	prepare(protect);
	config.fence_argv = argv;
	fake.progress[0] = "colo";
	fake.protected = checkpoint_and_fence;
	run();
	g_assert_cmpuint(fake.fenced, ==, 1);
	g_assert_false(fake.granted);
	g_assert_true(fake.fence_was_first);
}

static const char *session; /* of ORDER_FENCE */

static void fence(void)
{
	say(ORDER_FENCE, session);
}

/* $0 is `word`. */
static void run_fence(void (*begin)(void), const char *script, const char *word)
{
	char *argv[] = {(char *)"/bin/sh", (char *)"-c", (char *)script, (char *)word, NULL};

	prepare(begin);
	config.fence_argv = argv;
	run();
	g_assert_cmpuint(fake.fenced, ==, 1);
}

static void test_fence_status(void)
{
	session = "";
	run_fence(fence, "exit 0", "sh");
	g_assert_true(fake.granted);
	run_fence(fence, "exit 1", "sh");
	g_assert_false(fake.granted);
	g_assert_cmpstr(fake.text, ==, "exit status 1");
	run_fence(fence, "kill -9 $$", "sh");
	g_assert_false(fake.granted);
	g_assert_cmpstr(fake.text, ==, "killed by signal 9");
}

static char *waits_for; /* a file: the fence ends when it is gone */

static gboolean let_it_end(gpointer data)
{
	unlink(waits_for);
	return G_SOURCE_REMOVE;
}

static void fence_that_waits(void)
{
	say(ORDER_FENCE, "");
	g_idle_add_full(G_PRIORITY_LOW, let_it_end, NULL, NULL);
}

/* R6: nobody knows how it ended. (`colo-proxy start` does not leave it so: e2e fence-fails.) */
static void test_fence_not_reaped(void)
{
	close(g_file_open_tmp("test-daemon-XXXXXX", &waits_for, NULL));
	signal(SIGCHLD, SIG_IGN);
	run_fence(fence_that_waits, "while [ -e \"$0\" ]; do sleep 0.01; done; exit 1", waits_for);
	signal(SIGCHLD, SIG_DFL);
	g_assert_false(fake.granted);
	g_free(waits_for);
}

/* Whom it is to switch off: never this host, which listens on 10.78.0.2. */
static void test_fence_peer(void)
{
	static const struct {
		const char *peer, *session, *told;
	} cases[] = {
	        {NULL, "10.78.0.1 port 40000", "10.78.0.1"},
	        {NULL, "fd00:78::1 port 40000", "fd00:78::1"},
	        {NULL, "::ffff:10.78.0.1 port 40000", "10.78.0.1"},
	        {NULL, "", "nobody"},
	        {NULL, "unknown address", "nobody"},
	        {"alpha", "10.78.0.1 port 40000", "alpha"},
	        {"alpha", "", "alpha"},
	};

	g_setenv("COLO_PEER", "inherited", TRUE);
	config.listen.host = (char *)"10.78.0.2";
	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		config.peer.host = (char *)cases[i].peer;
		session = cases[i].session;
		run_fence(fence, "test \"${COLO_PEER-nobody}\" = \"$0\"", cases[i].told);
		g_assert_true(fake.granted);
	}
	config.peer.host = config.listen.host = NULL;
	g_unsetenv("COLO_PEER");
}

static void protect_then_stop(void)
{
	fake.hands_over = true;
	protect();
}

/*
 * The host goes down and no checkpoint comes: the node, which then lets the secondary have the VM,
 * is told that it has ended here, once it has; and not that protection is off.
 */
static void test_stop_late(gconstpointer taken)
{
	prepare(protect_then_stop);
	fake.taken = taken != NULL;
	fake.progress[0] = "colo";
	run();
	g_assert_cmpuint(fake.vm_lost, ==, 1);
	g_assert_cmpuint(fake.vm_ended_first, ==, 1);
	g_assert_cmpuint(fake.goodbyes, ==, 0);
	g_free(fake.handover);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/daemon/copy/late-answer", test_copy_late_answer);
	g_test_add_data_func("/daemon/copy/failed", "failed", test_copy_failed);
	g_test_add_data_func("/daemon/copy/cancelled", "cancelled", test_copy_failed);
	g_test_add_data_func("/daemon/copy/left", "completed", test_copy_failed);
	g_test_add_func("/daemon/copy/error", test_copy_error);
	g_test_add_func("/daemon/checkpoint/once", test_checkpoint_once);
	g_test_add_func("/daemon/fence/first", test_fence_first);
	g_test_add_func("/daemon/fence/status", test_fence_status);
	g_test_add_func("/daemon/fence/not-reaped", test_fence_not_reaped);
	g_test_add_func("/daemon/fence/peer", test_fence_peer);
	g_test_add_data_func("/daemon/stop/late", "taken", test_stop_late);
	g_test_add_data_func("/daemon/stop/alone", NULL, test_stop_late);
	return g_test_run();
}
