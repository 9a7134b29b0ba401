/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control thread: theory of operation
 *
 * Everything that may wait lives here, on a GLib main loop: QEMU's process and QMP, the fence, the
 * control socket. It decides nothing about the VM's output or about who may speak; the node (data
 * thread) orders what it needs and is told the outcome. Orders are carried out one after the other,
 * in order; only the fence's, which need no QEMU, and its answer go before those that wait. A QMP
 * call that hangs delays the next order and the control socket, by QMP_MS for each call; the hold,
 * the heartbeats and the comparison go on.
 *
 * Limits (R8): the node says once more only that it wants a checkpoint, and of those orders no more
 * than one waits. Any other one follows from a change of its state, or from an answer to the last.
 *
 * QEMU is spawned from this thread because it is the process's main one: the kernel ends a child
 * with the thread that made it (PR_SET_PDEATHSIG).
 */
#include "colo-proxy/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "colo-proxy/config/config.h"
#include "colo-proxy/config/table.h"
#include "colo-proxy/control/control.h"
#include "colo-proxy/control/log.h"
#include "colo-proxy/control/report.h"
#include "colo-proxy/control/report_divergence.h"
#include "colo-proxy/control/report_history.h"
#include "colo-proxy/core/dirty_rate.h"
#include "colo-proxy/loop/loop.h"
#include "colo-proxy/node/node.h"
#include "colo-proxy/stock.h"
#include "colo-proxy/vm.h"
#include "qemu-glue/colo.h"
#include "qemu-glue/dirty_sample.h"
#include "qemu-glue/guest_memory.h"
#include "qemu-glue/tcg_rearm.h"

#define QMP_MS          5000
#define COPY_POLL_MS    50
#define COPY_TELL_MS    200
#define HANDOVER_MAX_MS 15000
#define TAKEN_MAX_MS    5000
#define SAMPLE_LATE_MS  20 /* QEMU is asked again for what a sample says, so often at most: */
#define SAMPLE_TRIES    100
#define ERR_LEN         400

struct daemon {
	const struct config *config;
	GMainLoop *loop;
	struct node *node;
	struct vm vm;
	struct stock stock; /* comparator = qemu; with either: what QEMU's events say */
	struct control_server *server;
	int lock_fd;
	guint vm_watch, qmp_watch, copy_timer, sample_timer, fence_watch, fence_timer, stop_timer;
	unsigned sample_tries; /* left */
	GPid fence_pid;
	int fence_fd;              /* its pidfd */
	struct colo_progress copy; /* the first copy's, while there is one */
	gint64 copy_told_at;       /* us: when it was published last */
	bool in_colo;              /* QEMU has said so: it may be asked for checkpoints */
	gint checkpoint_waits;     /* atomic: such an order is there, and not yet carried out */
	bool stopping;
	int status;
};

/* ---- what those who watch are told ---- */

static void publish_quietly(struct daemon *daemon, const char *text)
{
	json_t *event = json_pack("{s:s, s:I}", "text", text, "at_ns",
	                          (json_int_t)g_get_real_time() * 1000);

	if (daemon->server && event)
		control_server_publish(daemon->server, event);
	json_decref(event);
}

/* Those who watch see how far the copy is; the log does not need to know. */
static void tell_progress(struct daemon *daemon, const struct colo_progress *progress)
{
	gint64 now = g_get_monotonic_time();

	daemon->copy = *progress;
	if (now < daemon->copy_told_at + COPY_TELL_MS * 1000)
		return;
	daemon->copy_told_at = now;
	publish_quietly(daemon, "copying");
}

static void end_copy(struct daemon *daemon)
{
	g_clear_handle_id(&daemon->copy_timer, g_source_remove);
	daemon->copy = (struct colo_progress){0};
}

/* ---- the VM ---- */

static void unwatch_vm(struct daemon *daemon)
{
	g_clear_handle_id(&daemon->vm_watch, g_source_remove);
	g_clear_handle_id(&daemon->qmp_watch, g_source_remove);
	g_clear_handle_id(&daemon->sample_timer, g_source_remove);
	end_copy(daemon);
	daemon->in_colo = false;
}

static void end_vm(struct daemon *daemon)
{
	unwatch_vm(daemon);
	vm_end(&daemon->vm);
}

static gboolean vm_ended(gint fd, GIOCondition condition, gpointer data)
{
	struct daemon *daemon = data;
	char text[ERR_LEN];

	(void)fd;
	(void)condition;
	daemon->vm_watch = 0;
	qemu_process_running(daemon->vm.process);
	qemu_process_describe(daemon->vm.process, text, sizeof(text));
	end_vm(daemon);
	node_vm_lost(daemon->node, text);
	return G_SOURCE_REMOVE;
}

static bool is_stock(const struct daemon *daemon)
{
	return daemon->config->comparator == CONFIG_COMPARATOR_QEMU;
}

static void stock_checkpoint(void *ctx, uint64_t ago_ns, uint64_t pause_ns)
{
	struct daemon *daemon = ctx;

	node_checkpoint_seen(daemon->node, loop_clock() - ago_ns, pause_ns);
}

static void stock_left(void *ctx, const char *why)
{
	struct daemon *daemon = ctx;

	if (is_stock(daemon)) /* else the relay sees it */
		node_channel_lost(daemon->node, why);
}

static const struct stock_ops stock_operations = {
        .checkpoint = stock_checkpoint,
        .left = stock_left,
};

static void take_stock_events(struct daemon *daemon)
{
	if (daemon->stock.counting)
		stock_take_events(&daemon->stock, &stock_operations, daemon);
}

static gboolean qmp_readable(gint fd, GIOCondition condition, gpointer data)
{
	struct daemon *daemon = data;
	char err[ERR_LEN];

	(void)fd;
	(void)condition;
	if (qmp_dispatch(daemon->vm.qmp, err, sizeof(err)) == 0) {
		take_stock_events(daemon);
		return G_SOURCE_CONTINUE;
	}
	daemon->qmp_watch = 0; /* the pidfd says the rest */
	log_debug("QMP: %s", err);
	return G_SOURCE_REMOVE;
}

static void watch_vm(struct daemon *daemon)
{
	daemon->vm_watch =
	        g_unix_fd_add(qemu_process_pidfd(daemon->vm.process), G_IO_IN, vm_ended, daemon);
	daemon->qmp_watch =
	        g_unix_fd_add(qmp_fd(daemon->vm.qmp), G_IO_IN | G_IO_HUP, qmp_readable, daemon);
}

/* The URI for the channel that the node's relay is at the other end of, or the other QEMU. */
static char *migration_uri(const struct daemon *daemon, bool secondary)
{
	if (is_stock(daemon))
		return stock_uri(daemon->config);
	return g_strconcat("unix:",
	                   secondary ? node_incoming_path(daemon->node)
	                             : node_migration_path(daemon->node),
	                   NULL);
}

/* Where the secondary's memory lies, to compare pages with; without it, all are sent. */
static void find_memory(struct daemon *daemon)
{
	struct guest_memory memory;
	char err[ERR_LEN] = "";
	int r;

	node_set_guest_memory(daemon->node, NULL);
	if (is_stock(daemon) || daemon->config->agreeing_pages == CONFIG_AGREEING_OFF)
		return;
	r = guest_memory_find(daemon->vm.qmp, qemu_process_pid(daemon->vm.process), QMP_MS, &memory,
	                      err, sizeof(err));
	if (r < 0)
		log_info("agreeing-pages: the VM's memory cannot be read: %s", err);
	else
		node_set_guest_memory(daemon->node, &memory);
}

static void start_vm(struct daemon *daemon, bool secondary)
{
	char err[ERR_LEN] = "";
	char *uri = migration_uri(daemon, secondary);
	int r;

	end_vm(daemon);
	daemon->stock = (struct stock){.vm = &daemon->vm};
	if (secondary && g_str_has_prefix(uri, "unix:"))
		unlink(uri + strlen("unix:"));
	r = vm_start(&daemon->vm, secondary, node_tap_fd(daemon->node), err, sizeof(err));
	if (r == 0) {
		watch_vm(daemon);
		if (secondary)
			r = colo_prepare_secondary(daemon->vm.qmp, uri, QMP_MS, err, sizeof(err));
		else if (is_stock(daemon))
			r = stock_open(&daemon->stock, err, sizeof(err));
	}
	g_free(uri);
	if (r < 0) {
		end_vm(daemon);
		log_error("QEMU does not start: %s", err);
	} else {
		log_info("QEMU runs as pid %d", (int)qemu_process_pid(daemon->vm.process));
		node_set_tcg_flush(daemon->node, daemon->vm.flush);
		if (secondary)
			find_memory(daemon);
	}
	node_vm_ready(daemon->node, r == 0, err);
}

/* ---- protection ---- */

/* "completed": it was in COLO, and has left it again. */
static bool copy_ended(const struct colo_progress *progress)
{
	return strcmp(progress->status, "failed") == 0 ||
	       strcmp(progress->status, "cancelled") == 0 ||
	       strcmp(progress->status, "completed") == 0;
}

/* The first copy is under way: until QEMU is in COLO, or it failed. No VM, no timer: end_vm(). */
static gboolean watch_copy(gpointer data)
{
	struct daemon *daemon = data;
	struct colo_progress progress;
	char err[ERR_LEN] = "QEMU says that the migration failed";
	bool running;
	char status[32];
	int r = colo_query_progress(daemon->vm.qmp, QMP_MS, &progress, err, sizeof(err));

	if (r == -ETIMEDOUT)
		return G_SOURCE_CONTINUE; /* it hangs; not asked again, it is in COLO unseen */
	if (r < 0 || copy_ended(&progress)) {
		daemon->copy_timer = 0;
		end_copy(daemon);
		node_copy_failed(daemon->node, err);
		return G_SOURCE_REMOVE;
	}
	tell_progress(daemon, &progress);
	if (strcmp(progress.status, "colo") != 0)
		return G_SOURCE_CONTINUE;
	if (colo_query_status(daemon->vm.qmp, QMP_MS, &running, status, sizeof(status), err,
	                      sizeof(err)) < 0 ||
	    !running)
		return G_SOURCE_CONTINUE;
	daemon->in_colo = true;
	daemon->copy_timer = 0;
	end_copy(daemon);
	stock_count(&daemon->stock);
	if (is_stock(daemon))
		node_in_colo(daemon->node);
	return G_SOURCE_REMOVE;
}

static void migrate(struct daemon *daemon)
{
	struct colo_tuning tuning = colo_tuning_default;
	char *uri = migration_uri(daemon, false);
	char err[ERR_LEN] = "no VM";
	int r = -ESRCH;

	tuning.downtime_limit_ms = (uint32_t)(daemon->config->downtime_limit_ns / 1000000);
	if (daemon->vm.qmp && is_stock(daemon))
		r = stock_migrate(&daemon->stock, uri, err, sizeof(err));
	else if (daemon->vm.qmp)
		r = colo_start_primary(daemon->vm.qmp, uri, &tuning, QMP_MS, err, sizeof(err));
	if (r < 0) {
		node_copy_failed(daemon->node, err);
	} else {
		g_clear_handle_id(&daemon->copy_timer, g_source_remove);
		daemon->copy_timer = g_timeout_add(COPY_POLL_MS, watch_copy, daemon);
	}
	g_free(uri);
}

static void mark(struct daemon *daemon)
{
	int r = node_mark(daemon->node);

	node_marked(daemon->node, r == 0, strerror(-r));
}

static void rearm(struct daemon *daemon)
{
	char err[ERR_LEN] = "no VM";
	int r = -ESRCH;

	if (daemon->vm.qmp && daemon->vm.kvm)
		r = 0;
	else if (daemon->vm.qmp)
		r = tcg_rearm(daemon->vm.qmp, daemon->config->machine == CONFIG_MACHINE_Q35, QMP_MS,
		              err, sizeof(err));
	node_rearmed(daemon->node, r == 0, err);
}

static void trigger_checkpoint(struct daemon *daemon)
{
	char err[ERR_LEN];

	if (!daemon->in_colo || !daemon->vm.qmp)
		return; /* the node asks again */
	if (colo_trigger_checkpoint(daemon->vm.qmp,
	                            is_stock(daemon) ? STOCK_CHECKPOINT_DELAY_MS : COLO_DELAY_NEVER,
	                            QMP_MS, err, sizeof(err)) < 0)
		log_warn("QEMU does not take the request for a checkpoint: %s", err);
}

static uint64_t sample_window(const struct daemon *daemon)
{
	return dirty_rate_window_ms(daemon->config->memory_mib,
	                            daemon->config->dirty_rate_interval_ns);
}

/* What has the sample said? */
static gboolean take_sample(gpointer data)
{
	struct daemon *daemon = data;
	uint64_t window = sample_window(daemon), rate = 0;
	char err[ERR_LEN] = "it takes too long";
	int r = dirty_sample_take(daemon->vm.qmp, window, QMP_MS, &rate, err, sizeof(err));

	if (r == -EINPROGRESS && daemon->sample_tries-- > 0) {
		daemon->sample_timer = g_timeout_add(SAMPLE_LATE_MS, take_sample, daemon);
		return G_SOURCE_REMOVE;
	}
	daemon->sample_timer = 0;
	node_dirty_sample(daemon->node, r, rate, err);
	return G_SOURCE_REMOVE;
}

static void begin_sample(struct daemon *daemon)
{
	uint64_t memory = daemon->config->memory_mib, window = sample_window(daemon);
	char err[ERR_LEN] = "no VM";
	int r = -ESRCH;

	g_clear_handle_id(&daemon->sample_timer, g_source_remove);
	if (daemon->vm.qmp)
		r = dirty_sample_begin(daemon->vm.qmp, window, dirty_rate_pages_per_gib(memory),
		                       QMP_MS, err, sizeof(err));
	if (r < 0) {
		node_dirty_sample(daemon->node, r, 0, err);
		return;
	}
	daemon->sample_tries = SAMPLE_TRIES;
	daemon->sample_timer = g_timeout_add((guint)window + SAMPLE_LATE_MS, take_sample, daemon);
}

static int leave_colo_once(struct daemon *daemon, bool primary, char *err, size_t errlen)
{
	if (is_stock(daemon))
		return stock_leave(&daemon->stock, primary, err, errlen);
	return primary ? colo_failover_primary(daemon->vm.qmp, QMP_MS, err, errlen)
	               : colo_failover_secondary(daemon->vm.qmp, QMP_MS, err, errlen);
}

static void leave_colo(struct daemon *daemon)
{
	bool primary = daemon->config->role == CONFIG_ROLE_PRIMARY;
	char err[ERR_LEN] = "no VM";
	int r = -ESRCH;

	daemon->in_colo = false;
	daemon->stock.counting = false;
	end_copy(daemon);
	if (daemon->vm.qmp) {
		r = leave_colo_once(daemon, primary, err, sizeof(err));
		if (r == -ETIMEDOUT) {
			log_warn("QEMU hangs in its migration channel: %s; freeing it", err);
			if (colo_unwedge(daemon->vm.qmp, QMP_MS, err, sizeof(err)) == 0)
				r = leave_colo_once(daemon, primary, err, sizeof(err));
		}
	}
	node_left_colo(daemon->node, r == 0, err);
}

/* The copy is abandoned: whatever phase QEMU is in, its VM runs on alone. */
static void abort_copy(struct daemon *daemon)
{
	struct colo_progress progress;
	char err[ERR_LEN] = "";
	gint64 until = g_get_monotonic_time() + QMP_MS * 1000;

	end_copy(daemon);
	daemon->in_colo = false;
	while (daemon->vm.qmp && g_get_monotonic_time() < until) {
		if (colo_query_progress(daemon->vm.qmp, QMP_MS, &progress, err, sizeof(err)) < 0)
			break;
		if (strcmp(progress.status, "colo") == 0) {
			leave_colo(daemon);
			return;
		}
		if (strcmp(progress.status, "active") != 0 &&
		    strcmp(progress.status, "setup") != 0 &&
		    strcmp(progress.status, "device") != 0 &&
		    strcmp(progress.status, "cancelling") != 0) {
			int r = stock_drop_filters(&daemon->stock, err, sizeof(err));

			node_left_colo(daemon->node, r == 0, err);
			return;
		}
		if (qmp_execute(daemon->vm.qmp, "migrate_cancel", NULL, QMP_MS, NULL, err,
		                sizeof(err)) < 0)
			break;
	}
	node_left_colo(daemon->node, false, err);
}

static void announce_vm(struct daemon *daemon)
{
	char err[ERR_LEN] = "no VM";

	if (!daemon->vm.qmp || stock_announce(&daemon->stock, err, sizeof(err)) < 0)
		log_error("QEMU does not announce the VM's address: %s", err);
}

/* ---- the fence ---- */

/* Whatever comes of the fence that runs is not heard. */
static void fence_forget(struct daemon *daemon)
{
	g_clear_handle_id(&daemon->fence_timer, g_source_remove);
	g_clear_handle_id(&daemon->fence_watch, g_source_remove);
	if (daemon->fence_fd >= 0)
		close(daemon->fence_fd);
	daemon->fence_fd = -1;
	daemon->fence_pid = 0;
}

/*
 * R6: the right comes with the status 0 of a child that was reaped here. GLib's watch says 0 of one
 * that nobody can reap, too, as under a SIGCHLD that is ignored.
 */
static gboolean fence_ended(gint fd, GIOCondition condition, gpointer data)
{
	struct daemon *daemon = data;
	siginfo_t how = {0};
	bool reaped = waitid(P_PIDFD, (id_t)fd, &how, WEXITED) == 0;
	bool granted = reaped && how.si_code == CLD_EXITED && how.si_status == 0;
	char text[80];

	(void)condition;
	if (!reaped)
		snprintf(text, sizeof(text), "its exit status is not known: %s", strerror(errno));
	else if (how.si_code == CLD_EXITED)
		snprintf(text, sizeof(text), "exit status %d", how.si_status);
	else
		snprintf(text, sizeof(text), "killed by signal %d", how.si_status);
	daemon->fence_watch = 0;
	fence_forget(daemon);
	node_fenced(daemon->node, granted, text);
	return G_SOURCE_REMOVE;
}

static void fence_reaped(GPid pid, gint wait_status, gpointer data)
{
	(void)wait_status;
	(void)data;
	g_spawn_close_pid(pid);
}

static void fence_kill(struct daemon *daemon)
{
	kill(-daemon->fence_pid, SIGKILL);
	g_child_watch_add(daemon->fence_pid, fence_reaped, NULL);
	fence_forget(daemon);
}

static gboolean fence_too_late(gpointer data)
{
	struct daemon *daemon = data;

	daemon->fence_timer = 0;
	fence_kill(daemon);
	node_fenced(daemon->node, false, "no answer within fence-timeout");
	return G_SOURCE_REMOVE;
}

static void fence_child_setup(gpointer data)
{
	const struct sched_param none = {0};

	(void)data;
	setpgid(0, 0);
	sched_setscheduler(0, SCHED_OTHER, &none); /* may fail: it then runs as the daemon does */
}

static void watch_fence(struct daemon *daemon)
{
	guint timeout_ms = (guint)(daemon->config->fence_timeout_ns / 1000000);

	daemon->fence_fd = (int)syscall(SYS_pidfd_open, daemon->fence_pid, 0);
	if (daemon->fence_fd < 0) {
		const char *why = strerror(errno);

		fence_kill(daemon);
		node_fenced(daemon->node, false, why);
		return;
	}
	daemon->fence_watch = g_unix_fd_add_full(G_PRIORITY_HIGH, daemon->fence_fd, G_IO_IN,
	                                         fence_ended, daemon, NULL);
	daemon->fence_timer = g_timeout_add(timeout_ms, fence_too_late, daemon);
}

/*
 * COLO_PEER: whom to switch off. The host of `peer`, as it is configured; of a side that only
 * listens, where the last session came from ("HOST port PORT", numeric). Unset when neither is
 * known: no script may take this host for the other one.
 */
static char **fence_environment(const struct daemon *daemon, const char *session)
{
	const struct config *config = daemon->config;
	const char *end = strstr(session, " port ");
	char *peer = config->peer.host ? g_strdup(config->peer.host)
	             : end             ? g_strndup(session, (gsize)(end - session))
	                               : NULL;
	/* IPv4 on a socket that listens for both. */
	bool mapped = peer && g_str_has_prefix(peer, "::ffff:") && strchr(peer, '.');
	char **env = g_get_environ();

	env = g_environ_setenv(env, "COLO_NAME", config->name, TRUE);
	env = g_environ_setenv(env, "COLO_REASON", "heartbeats lost", TRUE);
	env = g_environ_unsetenv(env, "COLO_PEER");
	if (peer)
		env = g_environ_setenv(env, "COLO_PEER", mapped ? peer + strlen("::ffff:") : peer,
		                       TRUE);
	g_free(peer);
	return env;
}

/* `session`: as ORDER_FENCE has it. */
static void ask_fence(struct daemon *daemon, const char *session)
{
	const struct config *config = daemon->config;
	char **env = fence_environment(daemon, session);
	GError *error = NULL;

	/* That the peer was off when an earlier question was asked does not answer this one. */
	if (daemon->fence_pid)
		fence_kill(daemon);
	if (!g_spawn_async("/", config->fence_argv, env,
	                   G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, fence_child_setup, NULL,
	                   &daemon->fence_pid, &error)) {
		daemon->fence_pid = 0;
		node_fenced(daemon->node, false, error->message);
		g_error_free(error);
	} else {
		watch_fence(daemon);
	}
	g_strfreev(env);
}

/* ---- orders ---- */

struct posted {
	struct daemon *daemon;
	enum order order;
	char text[200];
};

static void publish(struct daemon *daemon, const char *text)
{
	log_info("%s", text);
	publish_quietly(daemon, text);
}

static gboolean carry_out(gpointer data)
{
	struct posted *posted = data;
	struct daemon *daemon = posted->daemon;

	switch (posted->order) {
	case ORDER_START_PRIMARY:
		start_vm(daemon, false);
		break;
	case ORDER_START_SECONDARY:
		start_vm(daemon, true);
		break;
	case ORDER_MARK:
		mark(daemon);
		break;
	case ORDER_MIGRATE:
		migrate(daemon);
		break;
	case ORDER_REARM:
		rearm(daemon);
		break;
	case ORDER_ABORT_COPY:
		abort_copy(daemon);
		break;
	case ORDER_CHECKPOINT:
		/* First: what is wanted from now on is another one. */
		g_atomic_int_set(&daemon->checkpoint_waits, 0);
		trigger_checkpoint(daemon);
		break;
	case ORDER_DIRTY_SAMPLE:
		begin_sample(daemon);
		break;
	case ORDER_LEAVE_COLO:
		leave_colo(daemon);
		break;
	case ORDER_KILL_VM:
		end_vm(daemon);
		break;
	case ORDER_FENCE:
		ask_fence(daemon, posted->text);
		break;
	case ORDER_FENCE_END:
		if (daemon->fence_pid) {
			fence_kill(daemon);
			publish(daemon, "the fence was ended: its answer is not needed any more");
		}
		break;
	case ORDER_ANNOUNCE:
		announce_vm(daemon);
		break;
	case ORDER_EVENT:
		publish(daemon, posted->text);
		break;
	case ORDER_RETIRED:
		end_vm(daemon);
		if (daemon->stopping)
			g_main_loop_quit(daemon->loop);
		break;
	case ORDER_NONE:
		break;
	}
	return G_SOURCE_REMOVE;
}

/* Called in the data thread. */
static void order(void *ctx, enum order what, const char *text)
{
	bool fence = what == ORDER_FENCE || what == ORDER_FENCE_END;
	struct daemon *daemon = ctx;
	struct posted *posted;

	if (what == ORDER_CHECKPOINT &&
	    !g_atomic_int_compare_and_exchange(&daemon->checkpoint_waits, 0, 1))
		return;
	posted = g_new0(struct posted, 1);
	posted->daemon = daemon;
	posted->order = what;
	snprintf(posted->text, sizeof(posted->text), "%s", text);
	g_idle_add_full(fence ? G_PRIORITY_HIGH : G_PRIORITY_DEFAULT, carry_out, posted, g_free);
	/* cppcheck-suppress memleak ; the source frees it */
}

static const struct node_ops node_operations = {.order = order};

/* ---- the operator ---- */

struct answer {
	struct node_job job; /* first: the node hands back a pointer to it */
	struct daemon *daemon;
	struct control_request *request;
	enum {
		ANSWER_OK,
		ANSWER_STATUS,
		ANSWER_STATS,
		ANSWER_CHECKPOINT,
		ANSWER_STOP,
		ANSWER_POLICY,
		ANSWER_DIVERGENCES
	} kind;
	bool ok;
	char text[256];
};

static void add_vm_status(struct daemon *daemon, struct status_snapshot *status)
{
	vm_version_text(&daemon->vm, status->qemu_version, sizeof(status->qemu_version));
	status->copy_total = daemon->copy.total;
	status->copy_done = daemon->copy.total - MIN(daemon->copy.remaining, daemon->copy.total);
	status->qemu_pid = daemon->vm.process ? (uint64_t)qemu_process_pid(daemon->vm.process) : 0;
	snprintf(status->accel, sizeof(status->accel), "%s", daemon->vm.kvm ? "kvm" : "tcg");
}

/* Bytes that a process has in memory, by proc(5). 0 when it is gone. */
static uint64_t resident(pid_t pid)
{
	char path[64], line[128], *end;
	uint64_t pages = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (fgets(line, sizeof(line), f)) {
		(void)strtoull(line, &end, 10); /* all of its size */
		pages = strtoull(end, NULL, 10);
	}
	fclose(f);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void add_memory(const struct daemon *daemon, struct stats_snapshot *stats)
{
	if (daemon->vm.process)
		stats->memory.qemu = resident(qemu_process_pid(daemon->vm.process));
	stats->memory.daemon = resident(getpid());
}

/* The figures, and when asked for the last checkpoints beside them. */
static json_t *stats_with_history(struct node_job *job)
{
	json_t *stats = stats_to_json(&job->stats);

	if (job->history)
		json_object_set_new(stats, "history",
		                    history_to_json(job->history, job->history_count));
	g_free(job->history);
	job->history = NULL;
	return stats;
}

static gboolean reply(gpointer data)
{
	struct answer *answer = data;
	struct daemon *daemon = answer->daemon;

	if (!answer->ok) {
		control_fail(answer->request, "%s", answer->text);
	} else if (answer->kind == ANSWER_STATS) {
		add_memory(daemon, &answer->job.stats);
		control_reply(answer->request, stats_with_history(&answer->job));
	} else if (answer->kind == ANSWER_STATUS) {
		add_vm_status(daemon, &answer->job.status);
		control_reply(answer->request, status_to_json(&answer->job.status));
	} else if (answer->kind == ANSWER_DIVERGENCES) {
		control_reply(answer->request,
		              divergences_to_json(answer->job.list, answer->job.count,
		                                  CONTROL_REPLY_MAX / 4 * 3));
		evidence_list_free(answer->job.list, answer->job.count);
	} else if (answer->kind == ANSWER_POLICY) {
		json_t *status = status_to_json(&answer->job.status);

		control_reply(answer->request, json_incref(json_object_get(status, "policy")));
		json_decref(status);
	} else if (answer->kind == ANSWER_CHECKPOINT) {
		control_reply(answer->request,
		              json_pack("{s:I, s:I, s:I}", "epoch", (json_int_t)answer->job.epoch,
		                        "pause_us", (json_int_t)answer->job.pause_us, "commit_us",
		                        (json_int_t)answer->job.commit_us));
	} else {
		control_reply(answer->request, NULL);
	}
	if (answer->kind == ANSWER_STOP)
		g_main_loop_quit(daemon->loop);
	return G_SOURCE_REMOVE;
}

/* Called in the data thread. */
static void job_done(struct node_job *job, bool ok, const char *text)
{
	struct answer *answer = (struct answer *)job;

	answer->ok = ok;
	snprintf(answer->text, sizeof(answer->text), "%s", text);
	g_idle_add_full(G_PRIORITY_DEFAULT, reply, answer, g_free);
}

/*
 * A number of the request's, if it is there: within what the configuration allows for its key in
 * [checkpoint], and scaled as that is.
 */
static int read_number(const json_t *args, const char *name, const char *key, bool *has,
                       uint64_t *ret, char *err, size_t errlen)
{
	const struct config_key *row = config_find("checkpoint", key);
	const json_t *value = json_object_get(args, name);

	*has = value != NULL;
	if (!value)
		return 0;
	if (!json_is_integer(value) || json_integer_value(value) < (json_int_t)row->min ||
	    json_integer_value(value) > (json_int_t)row->max) {
		snprintf(err, errlen, "%s is %lu to %lu", name, (unsigned long)row->min,
		         (unsigned long)row->max);
		return -EINVAL;
	}
	*ret = (uint64_t)json_integer_value(value) * (row->scale ? row->scale : 1);
	return 0;
}

static int read_policy_change(const json_t *args, struct pacer_change *change, char *err,
                              size_t errlen)
{
	const char *name = json_string_value(json_object_get(args, "policy"));
	int r = 0;

	change->has_policy = name != NULL;
	if (name && pacer_policy_parse(&change->to.policy, name) < 0) {
		snprintf(err, errlen,
		         "there is no policy \"%s\": compare, epoch, on-output, continuous or auto",
		         name);
		return -EINVAL;
	}
	r = read_number(args, "latency_target_ms", "latency-target", &change->has_latency,
	                &change->to.latency_ns, err, errlen);
	if (r == 0)
		r = read_number(args, "rest_ms", "rest", &change->has_rest, &change->to.rest_ns,
		                err, errlen);
	if (r == 0)
		r = read_number(args, "max_pause_percent", "max-pause", &change->has_max_pause,
		                &change->to.max_pause, err, errlen);
	return r;
}

static void handle_command(void *ctx, struct control_request *request, const char *command,
                           json_t *args)
{
	struct daemon *daemon = ctx;
	struct answer *answer;

	if (strcmp(command, "version") == 0) {
		control_reply(request, json_string(COLO_VERSION));
		return;
	}
	answer = g_new0(struct answer, 1);
	answer->daemon = daemon;
	answer->request = request;
	answer->job.done = job_done;
	if (strcmp(command, "status") == 0) {
		answer->kind = ANSWER_STATUS;
		node_snapshot(daemon->node, &answer->job);
	} else if (strcmp(command, "stats") == 0) {
		const json_t *count = json_object_get(args, "checkpoints");

		answer->kind = ANSWER_STATS;
		if (json_is_integer(count) && json_integer_value(count) > 0) {
			answer->job.history = g_new(struct history_entry, HISTORY_LEN);
			answer->job.max_history =
			        (uint32_t)MIN(json_integer_value(count), HISTORY_LEN);
		}
		take_stock_events(daemon);
		node_snapshot(daemon->node, &answer->job);
	} else if (strcmp(command, "divergences") == 0) {
		const json_t *count = json_object_get(args, "count");

		answer->kind = ANSWER_DIVERGENCES;
		answer->job.max = UINT32_MAX;
		if (json_is_integer(count) && json_integer_value(count) >= 0 &&
		    json_integer_value(count) < UINT32_MAX)
			answer->job.max = (uint32_t)json_integer_value(count);
		answer->job.any_kind = json_is_true(json_object_get(args, "all"));
		node_divergences(daemon->node, &answer->job);
	} else if (strcmp(command, "policy") == 0) {
		char err[ERR_LEN];

		answer->kind = ANSWER_POLICY;
		if (read_policy_change(args, &answer->job.change, err, sizeof(err)) < 0) {
			control_fail(request, "%s", err);
			g_free(answer);
			return;
		}
		node_policy(daemon->node, &answer->job);
	} else if (strcmp(command, "checkpoint") == 0) {
		answer->kind = ANSWER_CHECKPOINT;
		node_checkpoint(daemon->node, &answer->job);
	} else if (strcmp(command, "failover") == 0) {
		answer->job.force = json_is_true(json_object_get(args, "force"));
		node_failover(daemon->node, &answer->job);
	} else if (strcmp(command, "stop") == 0) {
		answer->kind = ANSWER_STOP;
		node_say_goodbye(daemon->node, &answer->job);
	} else {
		control_fail(request, "there is no command \"%s\"", command);
		g_free(answer);
	}
}

/* ---- ending ---- */

struct farewell {
	struct node_job job; /* first */
	struct daemon *daemon;
};

static gboolean quit(gpointer data)
{
	g_main_loop_quit(((struct daemon *)data)->loop);
	return G_SOURCE_REMOVE;
}

static gboolean never_taken(gpointer data)
{
	struct daemon *daemon = data;

	daemon->stop_timer = 0;
	return quit(daemon);
}

/*
 * No checkpoint in time. The VM ends, which the node tells the secondary as ever: it goes on from
 * the newest checkpoint that it has, without a fence, and says so (ORDER_RETIRED).
 */
static gboolean handover_too_late(gpointer data)
{
	struct daemon *daemon = data;

	end_vm(daemon);
	node_vm_lost(daemon->node, "the switch-over took too long, and this side was to stop");
	daemon->stop_timer = g_timeout_add(TAKEN_MAX_MS, never_taken, daemon);
	return G_SOURCE_REMOVE;
}

static void farewell_said(struct node_job *job, bool ok, const char *text)
{
	struct farewell *farewell = (struct farewell *)job;

	(void)ok;
	(void)text;
	g_idle_add(quit, farewell->daemon);
	g_free(farewell);
}

static struct farewell *farewell_new(struct daemon *daemon,
                                     void (*done)(struct node_job *, bool, const char *))
{
	struct farewell *farewell = g_new0(struct farewell, 1);

	farewell->daemon = daemon;
	farewell->job.done = done;
	return farewell;
}

/* A switch-over that worked ends with ORDER_RETIRED; otherwise the peer is told that this ends. */
static void switched_over(struct node_job *job, bool ok, const char *text)
{
	struct farewell *farewell = (struct farewell *)job;

	(void)text;
	if (!ok)
		node_say_goodbye(farewell->daemon->node,
		                 &farewell_new(farewell->daemon, farewell_said)->job);
	g_free(farewell);
}

/* SIGTERM, SIGINT: the host goes down. A protected VM moves to the secondary. */
static gboolean terminated(gpointer data)
{
	struct daemon *daemon = data;

	if (daemon->stopping) {
		g_main_loop_quit(daemon->loop); /* asked twice */
		return G_SOURCE_CONTINUE;
	}
	daemon->stopping = true;
	daemon->stop_timer = g_timeout_add(HANDOVER_MAX_MS, handover_too_late, daemon);
	node_failover(daemon->node, &farewell_new(daemon, switched_over)->job);
	return G_SOURCE_CONTINUE;
}

/* ---- starting ---- */

static int take_lock(struct daemon *daemon)
{
	const char *dir = daemon->config->run_dir;
	char *path;

	if (g_mkdir_with_parents(dir, 0755) < 0) {
		log_error("cannot make %s: %s", dir, strerror(errno));
		return -errno;
	}
	path = g_build_filename(dir, "lock", NULL);
	daemon->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	g_free(path);
	if (daemon->lock_fd < 0 || flock(daemon->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		log_error("another colo-proxy runs with run-dir %s (%s)", dir, strerror(errno));
		return -EBUSY;
	}
	return 0;
}

static gid_t admin_gid(const struct config *config)
{
	const struct group *group = config->admin_group ? getgrnam(config->admin_group) : NULL;

	return group ? group->gr_gid : (gid_t)-1;
}

/*
 * A thread of SCHED_BATCH that wakes up waits until a processor is free or the running thread's
 * slice is over, where another one takes the processor from it at once (sched(7)). On a full host a
 * packet is worth no interruption of a virtual CPU, least of all under TCG: with both VMs on two
 * processors the pair does up to twice as much (docs/bench.md). Where a processor is free, nothing
 * changes. Set before any thread is made: the data thread and QEMU's threads inherit it. Whoever
 * has started the daemon in another class than the default one has chosen.
 */
static void be_batch(const struct config *config)
{
	const struct sched_param none = {0};

	if (config->scheduling != CONFIG_SCHEDULING_BATCH || sched_getscheduler(0) != SCHED_OTHER)
		return;
	if (sched_setscheduler(0, SCHED_BATCH, &none) < 0)
		log_warn("cannot run as SCHED_BATCH: %s; a full host will be slower",
		         strerror(errno));
}

static void warn_of_bypass(const struct policy *flows)
{
	for (uint32_t i = 0; i < flows->count; i++) {
		char *text = config_rule_text(&flows->rule[i]);

		if (flows->rule[i].action == POLICY_BYPASS)
			log_warn("[flows] rule-%u: %s: what it fits leaves unprotected",
			         flows->rule[i].number, text);
		g_free(text);
	}
}

static int bring_up(struct daemon *daemon)
{
	const struct config *config = daemon->config;
	char err[ERR_LEN] = "";
	int r = take_lock(daemon);

	if (r < 0)
		return r;
	be_batch(config);
	r = vm_probe(&daemon->vm, config, err, sizeof(err));
	if (r == 0)
		r = node_new(&daemon->node, config, daemon->vm.machine, &node_operations, daemon,
		             err, sizeof(err));
	if (r == 0)
		r = control_server_new(config->socket, admin_gid(config), handle_command, daemon,
		                       &daemon->server, err, sizeof(err));
	if (r < 0)
		log_error("cannot start: %s", err);
	else
		warn_of_bypass(&config->flows);
	return r;
}

int daemon_run(const struct config *config)
{
	struct daemon daemon = {.config = config, .lock_fd = -1, .fence_fd = -1};
	guint term, intr;

	signal(SIGPIPE, SIG_IGN);
	daemon.loop = g_main_loop_new(NULL, FALSE);
	term = g_unix_signal_add(SIGTERM, terminated, &daemon);
	intr = g_unix_signal_add(SIGINT, terminated, &daemon);
	if (bring_up(&daemon) < 0) {
		daemon.status = 1;
	} else {
		log_info("%s of %s is up",
		         config->role == CONFIG_ROLE_PRIMARY ? "primary" : "secondary",
		         config->name);
		g_main_loop_run(daemon.loop);
	}
	end_vm(&daemon);
	node_free(daemon.node);
	vm_fini(&daemon.vm);
	/* Last: `colo-proxy stop` waits for its connection to close. */
	control_server_free(daemon.server);
	g_clear_handle_id(&daemon.stop_timer, g_source_remove);
	fence_forget(&daemon);
	g_source_remove(term);
	g_source_remove(intr);
	g_main_loop_unref(daemon.loop);
	if (daemon.lock_fd >= 0)
		close(daemon.lock_fd);
	return daemon.status;
}
