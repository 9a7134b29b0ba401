/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs what qemu-glue/ does against a real QEMU: two VMs on this host, their migration channel
 * through a small relay that passes every byte and counts the secondary's answers.
 *
 *   qemu-smoke --qemu BIN [--kernel FILE --initrd FILE] [--append TEXT] [--plugin tcg-flush.so]
 *              [--accel tcg|kvm] [--machine pc|q35] [--smp N] [--extra "ARGS"]
 *              [--dirty-ring N] [--reboots N] [--memory MIB] [--stock-tap PREFIX] [--stale-code]
 *              [--checkpoints N] [--dir DIR] [--keep]
 *
 * Without a kernel the firmware runs, and what needs a guest is left out.
 *
 * Enters COLO, triggers checkpoints, shows that requests coalesce and none is lost, kills the
 * primary, fails over, protects the survivor again, hangs it in its channel, frees it out of band
 * and fails over on that side. Exits 0 if all of it held, else 1 with the step that did not.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <glib.h>

#include "qemu-glue/colo.h"
#include "qemu-glue/launch.h"
#include "qemu-glue/process.h"
#include "qemu-glue/qmp.h"
#include "qemu-glue/tcg_flush.h"
#include "qemu-glue/versions.h"

#define MSG_READY    0
#define MSG_REPLY    2
#define MSG_RECEIVED 5
#define MSG_LOADED   6

#define DEADLINE_MS 120000

static struct {
	char *qemu;
	char *kernel;
	char *initrd;
	char *append;
	char *plugin;
	char *accel;
	char *machine;
	char *dir;
	char *extra;
	int checkpoints;
	int smp;
	gboolean keep;
	int reboots;
	int memory;
	int dirty_ring;
	char *stock_tap;
	gboolean stale_code;
} opt = {.checkpoints = 20, .smp = 1, .memory = 256};

static char err[1024];

static void step(const char *what, int ret)
{
	if (ret) {
		fprintf(stderr, "FAIL %s: %s (%s)\n", what, strerror(ret < 0 ? -ret : EIO), err);
		exit(1);
	}
	printf("ok   %s\n", what);
	fflush(stdout);
}

static void check(const char *what, bool held)
{
	err[0] = '\0';
	step(what, held ? 0 : -EIO);
}

/* The relay: one thread that passes bytes, and counts the secondary's answers. */
struct relay {
	int listen_fd;
	int p;
	int s;
	char *s_path;
	struct tcg_flush *flush;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t moved;
	bool hold_reply; /* keep back CHECKPOINT_REPLY */
	bool stall;      /* read nothing from the primary */
	bool stop;
	bool ready;
	unsigned int replies;
	unsigned int loads;
	uint64_t to_s; /* bytes */
	int wake[2];
	GByteArray *answers; /* from the secondary, not yet understood */
};

static int send_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static uint32_t be32(const guint8 *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* How many bytes of the secondary's stream may pass now. */
static size_t understand(struct relay *r)
{
	size_t at = 0;
	const guint8 *d = r->answers->data;
	size_t len = r->answers->len;

	while (!r->ready && len - at >= 4) {
		size_t n = 4 + ((size_t)d[at + 2] << 8 | d[at + 3]);

		if (be32(d + at) == MSG_READY) {
			r->ready = true;
			at += 4;
		} else if (len - at >= n) { /* be16 type, be16 length, data: the return path */
			at += n;
		} else {
			return at;
		}
	}
	while (r->ready && len - at >= 4) {
		uint32_t message = be32(d + at);

		if (message == MSG_REPLY) {
			if (r->hold_reply)
				return at;
			r->replies++;
			if (r->flush)
				tcg_flush_bump(r->flush);
		} else if (message == MSG_LOADED) {
			r->loads++;
			if (r->flush)
				tcg_flush_settle(r->flush);
		}
		at += 4;
	}
	return at;
}

static int pass_answers(struct relay *r)
{
	size_t n;
	int ret;

	pthread_mutex_lock(&r->lock);
	n = understand(r);
	pthread_cond_broadcast(&r->moved);
	pthread_mutex_unlock(&r->lock);
	if (!n)
		return 0;
	ret = send_all(r->p, r->answers->data, n);
	g_byte_array_remove_range(r->answers, 0, (guint)n);
	return ret;
}

static int dial(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
	if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool relay_turn(struct relay *r)
{
	guint8 buf[65536];
	bool stall;
	ssize_t n;

	pthread_mutex_lock(&r->lock);
	stall = r->stall;
	pthread_mutex_unlock(&r->lock);

	struct pollfd pfds[3] = {{.fd = stall ? -1 : r->p, .events = POLLIN},
	                         {.fd = r->s, .events = POLLIN},
	                         {.fd = r->wake[0], .events = POLLIN}};
	if (poll(pfds, 3, -1) < 0)
		return errno == EINTR;
	if (pfds[2].revents) {
		n = read(r->wake[0], buf, 1);
		if (n != 1 || r->stop)
			return false;
	}
	if (pfds[0].revents) {
		n = recv(r->p, buf, sizeof(buf), 0);
		if (n <= 0 || send_all(r->s, buf, (size_t)n) < 0)
			return false;
		r->to_s += (uint64_t)n;
	}
	if (pfds[1].revents) {
		n = recv(r->s, buf, sizeof(buf), 0);
		if (n <= 0)
			return false;
		g_byte_array_append(r->answers, buf, (guint)n);
	}
	return pass_answers(r) == 0;
}

static void *relay_main(void *arg)
{
	struct relay *r = arg;

	r->p = accept(r->listen_fd, NULL, NULL);
	r->s = dial(r->s_path);
	while (r->p >= 0 && r->s >= 0 && relay_turn(r))
		;
	if (r->s >= 0)
		shutdown(r->s, SHUT_RDWR);
	return NULL;
}

static struct relay *relay_start(const char *p_path, const char *s_path, struct tcg_flush *flush)
{
	struct relay *r = g_new0(struct relay, 1);

	step("listen for the primary's channel",
	     qemu_listen(p_path, &r->listen_fd, err, sizeof(err)));
	r->p = r->s = -1;
	r->s_path = g_strdup(s_path);
	r->flush = flush;
	r->answers = g_byte_array_new();
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->moved, NULL);
	check("relay's pipe and thread",
	      pipe(r->wake) == 0 && pthread_create(&r->thread, NULL, relay_main, r) == 0);
	return r;
}

static void relay_set(struct relay *r, bool hold_reply, bool stall, bool stop)
{
	pthread_mutex_lock(&r->lock);
	r->hold_reply = hold_reply;
	r->stall = stall;
	r->stop = stop;
	pthread_mutex_unlock(&r->lock);
	check("wake the relay", write(r->wake[1], "", 1) == 1);
}

static void relay_end(struct relay *r)
{
	relay_set(r, false, false, true);
	pthread_join(r->thread, NULL);
	close(r->p);
	close(r->s);
	close(r->listen_fd);
	close(r->wake[0]);
	close(r->wake[1]);
	g_byte_array_unref(r->answers);
	g_free(r->s_path);
	g_free(r);
}

static unsigned int relay_get(struct relay *r, const unsigned int *counter)
{
	unsigned int value;

	pthread_mutex_lock(&r->lock);
	value = *counter;
	pthread_mutex_unlock(&r->lock);
	return value;
}

/* Waits until `*counter` (under the lock) is at least `value`. */
static bool relay_wait(struct relay *r, const unsigned int *counter, unsigned int value,
                       unsigned int timeout_ms)
{
	struct timespec until;
	bool held;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_mutex_lock(&r->lock);
	while (*counter < value && pthread_cond_timedwait(&r->moved, &r->lock, &until) == 0)
		;
	held = *counter >= value;
	pthread_mutex_unlock(&r->lock);
	return held;
}

struct vm {
	struct qemu_process *process;
	struct qmp *qmp;
	struct tcg_flush *flush;
	char *serial;
	char *incoming;
};

static char *in_dir(const char *name, const char *suffix)
{
	return g_strdup_printf("%s/%s.%s", opt.dir, name, suffix);
}

static void vm_start(struct vm *vm, const char *name, enum qemu_role role)
{
	g_autofree char *qmp_path = in_dir(name, "qmp");
	g_autofree char *log = in_dir(name, "log");
	g_autofree char *counter = in_dir(name, "flush");
	g_autofree char *tap = g_strdup_printf("%s%s", opt.stock_tap ? opt.stock_tap : "", name);
	g_auto(GStrv) extra = opt.extra ? g_strsplit(opt.extra, " ", -1) : NULL;
	struct qemu_params params;
	gint64 start = g_get_monotonic_time();

	*vm = (struct vm){.serial = in_dir(name, "serial"), .incoming = in_dir(name, "mig")};
	qemu_params_init(&params);
	params.binary = opt.qemu;
	params.name = name;
	params.role = role;
	params.accel = g_strcmp0(opt.accel, "kvm") == 0 ? QEMU_ACCEL_KVM : QEMU_ACCEL_TCG;
	params.machine = opt.machine;
	params.memory_mib = (uint32_t)opt.memory;
	params.dirty_ring = (uint32_t)opt.dirty_ring;
	params.smp = (uint32_t)opt.smp;
	params.kernel = opt.kernel;
	params.initrd = opt.initrd;
	params.append = opt.append;
	params.serial_path = vm->serial;
	params.extra = extra;
	if (opt.stock_tap) {
		params.comparator = QEMU_COMPARATOR_QEMU;
		params.compare_host = "127.0.0.1";
		params.run_dir = opt.dir;
		params.paused = role == QEMU_ROLE_PRIMARY;
		params.tap_ifname = tap;
		params.mac = "52:54:00:c0:10:01";
	}
	if (role == QEMU_ROLE_SECONDARY && params.accel == QEMU_ACCEL_TCG && opt.plugin) {
		step("counter file", tcg_flush_create(counter, &vm->flush, err, sizeof(err)));
		params.flush_plugin = opt.plugin;
		params.flush_counter = counter;
	}
	step("start QEMU", qemu_launch(&params, qmp_path, log, DEADLINE_MS, &vm->process, &vm->qmp,
	                               err, sizeof(err)));
	printf("     %s: QEMU %s, %.0f ms to QMP\n", name, qmp_version(vm->qmp),
	       (g_get_monotonic_time() - start) / 1e3);
}

static void vm_end(struct vm *vm)
{
	qmp_free(vm->qmp);
	qemu_process_free(vm->process);
	tcg_flush_free(vm->flush);
	g_free(vm->serial);
	g_free(vm->incoming);
	*vm = (struct vm){0};
}

/* Waits until the VM's serial port said `text`. */
static bool serial_says(const char *path, const char *text, int timeout_ms)
{
	gint64 deadline = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
	int fd = inotify_init1(IN_CLOEXEC);
	bool found = false;

	if (fd < 0 || inotify_add_watch(fd, path, IN_MODIFY) < 0)
		return false;
	while (!found && g_get_monotonic_time() < deadline) {
		g_autofree char *content = NULL;
		struct pollfd pfd = {.fd = fd, .events = POLLIN};
		char buf[4096];

		if (g_file_get_contents(path, &content, NULL, NULL) && strstr(content, text))
			found = true;
		else if (poll(&pfd, 1, 1000) == 1 && read(fd, buf, sizeof(buf)) < 0)
			break;
	}
	close(fd);
	return found;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a;
	double y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void print_median(const char *what, double *values, int n)
{
	qsort(values, (size_t)n, sizeof(*values), by_value);
	printf("     %s: median %.2f ms, max %.2f ms (%d)\n", what, values[n / 2], values[n - 1],
	       n);
}

static double stamp_ms(const json_t *event)
{
	const json_t *t = json_object_get(event, "timestamp");

	return (double)json_integer_value(json_object_get(t, "seconds")) * 1e3 +
	       (double)json_integer_value(json_object_get(t, "microseconds")) / 1e3;
}

static struct relay *protect(struct vm *p, struct vm *s, const char *name)
{
	g_autofree char *path = in_dir(name, "relay");
	g_autofree char *to_relay = g_strdup_printf("unix:%s", path);
	g_autofree char *to_s = g_strdup_printf("unix:%s", s->incoming);
	gint64 start = g_get_monotonic_time();
	struct relay *r;

	step("prepare the secondary",
	     colo_prepare_secondary(s->qmp, to_s, DEADLINE_MS, err, sizeof(err)));
	r = relay_start(path, s->incoming, s->flush);
	step("start the primary's copy", colo_start_primary(p->qmp, to_relay, &colo_tuning_default,
	                                                    DEADLINE_MS, err, sizeof(err)));
	step("primary is in COLO", colo_wait_primary(p->qmp, DEADLINE_MS, err, sizeof(err)));
	step("secondary is in COLO", colo_wait_secondary(s->qmp, DEADLINE_MS, err, sizeof(err)));
	printf("     protected after %.0f ms, %.1f MiB\n", (g_get_monotonic_time() - start) / 1e3,
	       (double)r->to_s / 1048576);
	return r;
}

static void checkpoints(struct vm *p, struct relay *r)
{
	g_autofree double *reply = g_new(double, opt.checkpoints);
	g_autofree double *pause = g_new(double, opt.checkpoints);

	for (int i = 0; i < opt.checkpoints; i++) {
		unsigned int replies = relay_get(r, &r->replies);
		unsigned int loads = relay_get(r, &r->loads);
		json_t *stopped = NULL;
		json_t *resumed = NULL;
		gint64 start;

		qmp_drop_events(p->qmp, NULL);
		start = g_get_monotonic_time();
		if (colo_trigger_checkpoint(p->qmp, COLO_DELAY_NEVER, DEADLINE_MS, err,
		                            sizeof(err)) ||
		    !relay_wait(r, &r->replies, replies + 1, 5000))
			step("checkpoint follows a trigger", -ETIMEDOUT);
		reply[i] = (double)(g_get_monotonic_time() - start) / 1e3;
		if (!relay_wait(r, &r->loads, loads + 1, 5000) ||
		    qmp_wait_event(p->qmp, "STOP", 5000, &stopped, err, sizeof(err)) ||
		    qmp_wait_event(p->qmp, "RESUME", 5000, &resumed, err, sizeof(err)))
			step("checkpoint ends", -ETIMEDOUT);
		pause[i] = stamp_ms(resumed) - stamp_ms(stopped);
		json_decref(stopped);
		json_decref(resumed);
	}
	print_median("trigger to secondary's reply", reply, opt.checkpoints);
	print_median("primary's pause", pause, opt.checkpoints);
}

static void checkpoint_now(struct vm *p, struct relay *r)
{
	unsigned int loads = relay_get(r, &r->loads);

	step("trigger",
	     colo_trigger_checkpoint(p->qmp, COLO_DELAY_NEVER, DEADLINE_MS, err, sizeof(err)));
	check("the checkpoint is loaded", relay_wait(r, &r->loads, loads + 1, 20000));
}

/* No checkpoint within a time: the only way to see that none comes is to wait for one. */
static void no_more(struct relay *r, const char *what)
{
	check(what, !relay_wait(r, &r->replies, relay_get(r, &r->replies) + 1, 300));
}

static void coalesce(struct vm *p, struct relay *r)
{
	unsigned int loads = relay_get(r, &r->loads);

	relay_set(r, true, false, false);
	for (int i = 0; i < 5; i++)
		step("trigger", colo_trigger_checkpoint(p->qmp, COLO_DELAY_NEVER, DEADLINE_MS, err,
		                                        sizeof(err)));
	relay_set(r, false, false, false);
	check("the checkpoint comes", relay_wait(r, &r->loads, loads + 1, 5000));
	no_more(r, "five triggers before the copy are one checkpoint, and the timer is off");
	step("trigger",
	     colo_trigger_checkpoint(p->qmp, COLO_DELAY_NEVER, DEADLINE_MS, err, sizeof(err)));
	check("a later trigger is another one", relay_wait(r, &r->loads, loads + 2, 5000));
}

static void expect_running(struct vm *vm, const char *what)
{
	bool running = false;

	step("query-status",
	     colo_query_status(vm->qmp, DEADLINE_MS, &running, NULL, 0, err, sizeof(err)));
	check(what, running && qemu_process_running(vm->process));
}

static void check_flushes(const struct vm *s, unsigned int checkpoints_seen)
{
	struct tcg_flush_page page;

	if (!s->flush)
		return;
	tcg_flush_read(s->flush, &page);
	printf("     plugin: %" PRIu64 " checks (last %.2f ms, longest %.2f ms), %" PRIu64
	       " flushes, %" PRIu64 " of them blind, answered %" PRIu64 " of %u\n",
	       page.checks, (double)page.check_ns / 1e6, (double)page.check_ns_max / 1e6,
	       page.flushes, page.blind, page.done, checkpoints_seen);
	printf("     it watches %" PRIu64 " pages, %" PRIu64 " heads, %" PRIu64 " bytes\n",
	       page.pages, page.heads, page.bytes);
	check("QEMU loaded the plugin", tcg_flush_loaded(s->flush));
	check("every checkpoint was followed by a check",
	      page.done == checkpoints_seen && page.checks >= checkpoints_seen);
}

/* QEMU appends; a file cut to nothing starts again at its beginning. */
static void truncate_serial(const struct vm *vm)
{
	check("empty the serial log", truncate(vm->serial, 0) == 0);
}

/* Waits until the guest has started again, which has dirtied much memory and replaced its code. */
static void reboot_guest(struct vm *vm)
{
	truncate_serial(vm);
	step("reset the guest",
	     qmp_execute(vm->qmp, "system_reset", NULL, DEADLINE_MS, NULL, err, sizeof(err)));
	check("the guest is up again", serial_says(vm->serial, "GUEST READY", 60000));
}

/*
 * The primary stalls while it sends memory, more than the socket holds: its main loop hangs until
 * the channel is yanked.
 */
static void wedge(struct vm *p, struct relay *r)
{
	bool running;
	int ret = 0;

	reboot_guest(p);
	relay_set(r, false, true, false);
	qmp_drop_events(p->qmp, NULL);
	step("trigger",
	     colo_trigger_checkpoint(p->qmp, COLO_DELAY_NEVER, DEADLINE_MS, err, sizeof(err)));
	/* The request waits unread in the socket; the secondary never sees it. */
	check("answer for the secondary", send_all(r->p, "\0\0\0\2", 4) == 0);
	step("it stops for the copy",
	     qmp_wait_event(p->qmp, "STOP", DEADLINE_MS, NULL, err, sizeof(err)));
	for (int i = 0; i < 20 && ret != -ETIMEDOUT; i++) {
		qmp_wait_event(p->qmp, "nothing", 50, NULL, err, sizeof(err)); /* time to stall */
		ret = colo_query_status(p->qmp, 1000, &running, NULL, 0, err, sizeof(err));
	}
	printf("     query-status while stalled: %s\n", ret ? err : "answered");
	check("its main loop hangs", ret == -ETIMEDOUT);
	step("out-of-band yank on the same connection",
	     colo_unwedge(p->qmp, DEADLINE_MS, err, sizeof(err)));
	step("fail over on the primary's side",
	     colo_failover_primary(p->qmp, DEADLINE_MS, err, sizeof(err)));
	expect_running(p, "the freed primary runs");
}

/*
 * After a reboot of the guest, a checkpoint and a failover, the survivor must execute the new code:
 * its guest goes on without a panic (which would reset it: panic=-1).
 */
static void expect_no_panic(struct vm *vm)
{
	int ret = qmp_wait_event(vm->qmp, "RESET", 3000, NULL, err, sizeof(err));
	g_autofree char *text = NULL;

	g_file_get_contents(vm->serial, &text, NULL, NULL);
	check("no panic after the failover",
	      ret == -ETIMEDOUT && !(text && strstr(text, "Kernel panic")));
}

static void run(void)
{
	struct vm p;
	struct vm s;
	struct vm s2;
	struct relay *r;
	gint64 start;
	json_t *event = NULL;

	vm_start(&p, "p", QEMU_ROLE_PRIMARY);
	vm_start(&s, "s", QEMU_ROLE_SECONDARY);
	if (opt.kernel)
		check("the guest is up", serial_says(p.serial, "GUEST READY", 60000));
	r = protect(&p, &s, "p");
	checkpoints(&p, r);
	coalesce(&p, r);
	for (int i = 0; i < opt.reboots; i++) {
		reboot_guest(&p);
		checkpoint_now(&p, r);
	}
	qmp_drop_events(s.qmp, NULL);
	step("kill the primary", qemu_process_kill(p.process));
	start = g_get_monotonic_time();
	step("COLO_EXIT on the secondary",
	     qmp_wait_event(s.qmp, "COLO_EXIT", DEADLINE_MS, &event, err, sizeof(err)));
	json_decref(event);
	step("fail over", colo_failover_secondary(s.qmp, DEADLINE_MS, err, sizeof(err)));
	printf("     %.1f ms from the primary's death\n", (g_get_monotonic_time() - start) / 1e3);
	step("fail over again", colo_failover_secondary(s.qmp, DEADLINE_MS, err, sizeof(err)));
	expect_running(&s, "the secondary runs alone");
	if (opt.reboots)
		expect_no_panic(&s);
	step("announce", colo_announce_self(s.qmp, DEADLINE_MS, err, sizeof(err)));
	check_flushes(&s, relay_get(r, &r->loads));
	if (s.flush)
		check("not every checkpoint flushed",
		      tcg_flush_count(s.flush) < relay_get(r, &r->loads));
	relay_end(r);
	vm_end(&p);

	vm_start(&s2, "s2", QEMU_ROLE_SECONDARY);
	r = protect(&s, &s2, "s");
	checkpoints(&s, r);
	if (opt.kernel)
		wedge(&s, r);
	relay_end(r);
	vm_end(&s2);
	vm_end(&s);
}

/* The same with QEMU's own comparator: its objects, and its documented order of failing over. */
static void run_stock(void)
{
	struct colo_stock_channels channels = {
	        .host = "127.0.0.1", .mirror_port = 9003, .compare_port = 9004, .run_dir = opt.dir};
	struct vm p;
	struct vm s;
	struct vm s2;
	struct relay *r;

	vm_start(&p, "p", QEMU_ROLE_PRIMARY);
	vm_start(&s, "s", QEMU_ROLE_SECONDARY);
	r = protect(&p, &s, "p"); /* which starts the guest */
	check("the guest is up", serial_says(p.serial, "GUEST READY", 60000));
	checkpoint_now(&p, r);
	step("kill the primary", qemu_process_kill(p.process));
	step("fail over", colo_stock_failover_secondary(s.qmp, DEADLINE_MS, err, sizeof(err)));
	expect_running(&s, "the secondary runs alone");
	relay_end(r);
	vm_end(&p);

	step("the survivor's filters",
	     colo_stock_prepare_primary(s.qmp, &channels, true, DEADLINE_MS, err, sizeof(err)));
	vm_start(&s2, "s2", QEMU_ROLE_SECONDARY);
	r = protect(&s, &s2, "s");
	checkpoint_now(&s, r);
	step("kill the secondary", qemu_process_kill(s2.process));
	step("fail over on the primary's side",
	     colo_stock_failover_primary(s.qmp, DEADLINE_MS, err, sizeof(err)));
	expect_running(&s, "the primary runs alone");
	relay_end(r);
	vm_end(&s2);

	step("its filters again",
	     colo_stock_prepare_primary(s.qmp, NULL, false, DEADLINE_MS, err, sizeof(err)));
	vm_end(&s);
}

/*
 * A multiboot guest that calls one function all the time and now and then replaces the constant in
 * it by the time. It says so when the function returns another one: then it ran old code.
 *
 *   entry: mov $0x200000,%esp; mov $ready,%esi; call print
 *   again: mov $100000,%ecx
 *   1:     call f; cmp want,%eax; jne stale; loop 1b
 *          rdtsc; mov %eax,want; mov %eax,f+1; jmp again
 *   stale: mov $text,%esi; call print; mov want,%eax; mov %eax,f+1; jmp again
 *   print: lodsb; test %al,%al; jz 2f; mov $0x3f8,%dx; out %al,%dx; jmp print
 *   2:     ret
 *   ready: .asciz "GUEST READY\n"
 *   text:  .asciz "STALE CODE\n"
 *   f:     mov $0,%eax; ret
 *   want:  .long 0
 */
/* clang-format off */
static const unsigned char stale_code_guest[] = {
	0x02, 0xb0, 0xad, 0x1b, 0x00, 0x00, 0x01, 0x00, 0xfe, 0x4f, 0x51, 0xe4, 0x00, 0x00,
	0x10, 0x00, 0x00, 0x00, 0x10, 0x00, 0xa4, 0x00, 0x10, 0x00, 0xa4, 0x00, 0x10, 0x00,
	0x20, 0x00, 0x10, 0x00, 0xbc, 0x00, 0x00, 0x20, 0x00, 0xbe, 0x74, 0x00, 0x10, 0x00,
	0xe8, 0x38, 0x00, 0x00, 0x00, 0xb9, 0xa0, 0x86, 0x01, 0x00, 0xe8, 0x57, 0x00, 0x00,
	0x00, 0x3b, 0x05, 0xa0, 0x00, 0x10, 0x00, 0x75, 0x10, 0xe2, 0xf1, 0x0f, 0x31, 0xa3,
	0xa0, 0x00, 0x10, 0x00, 0xa3, 0x91, 0x00, 0x10, 0x00, 0xeb, 0xde, 0xbe, 0x81, 0x00,
	0x10, 0x00, 0xe8, 0x0c, 0x00, 0x00, 0x00, 0xa1, 0xa0, 0x00, 0x10, 0x00, 0xa3, 0x91,
	0x00, 0x10, 0x00, 0xeb, 0xc8, 0xac, 0x84, 0xc0, 0x74, 0x07, 0x66, 0xba, 0xf8, 0x03,
	0xee, 0xeb, 0xf4, 0xc3, 0x47, 0x55, 0x45, 0x53, 0x54, 0x20, 0x52, 0x45, 0x41, 0x44,
	0x59, 0x0a, 0x00, 0x53, 0x54, 0x41, 0x4c, 0x45, 0x20, 0x43, 0x4f, 0x44, 0x45, 0x0a,
	0x00, 0x8d, 0x76, 0x00, 0xb8, 0x00, 0x00, 0x00, 0x00, 0xc3, 0x8d, 0xb4, 0x26, 0x00,
	0x00, 0x00, 0x00, 0x8d, 0x76, 0x00, 0x00, 0x00, 0x00, 0x00,
};
/* clang-format on */

/* The secondary never runs code that a checkpoint replaced; without the plugin it does. */
static void run_stale_code(void)
{
	struct vm p;
	struct vm s;
	struct relay *r;
	bool stale;

	opt.kernel = in_dir("stale", "bin");
	check("write the guest", g_file_set_contents(opt.kernel, (const char *)stale_code_guest,
	                                             sizeof(stale_code_guest), NULL));
	vm_start(&p, "p", QEMU_ROLE_PRIMARY);
	vm_start(&s, "s", QEMU_ROLE_SECONDARY);
	check("the guest is up", serial_says(p.serial, "GUEST READY", 60000));
	r = protect(&p, &s, "p");
	checkpoints(&p, r);
	step("kill the primary", qemu_process_kill(p.process));
	step("fail over", colo_failover_secondary(s.qmp, DEADLINE_MS, err, sizeof(err)));
	expect_running(&s, "the secondary runs alone");
	check_flushes(&s, relay_get(r, &r->loads));
	stale = serial_says(s.serial, "STALE CODE", 1000);
	if (s.flush) {
		check("changed code was seen", tcg_flush_count(s.flush) > 0);
		check("no old code ran", !stale);
	} else {
		check("old code ran: the test can fail", stale);
	}
	relay_end(r);
	vm_end(&p);
	vm_end(&s);
	unlink(opt.kernel);
}

int main(int argc, char **argv)
{
	const GOptionEntry entries[] = {
	        {"qemu", 0, 0, G_OPTION_ARG_FILENAME, &opt.qemu, "QEMU program", "BIN"},
	        {"kernel", 0, 0, G_OPTION_ARG_FILENAME, &opt.kernel, "guest kernel", "FILE"},
	        {"initrd", 0, 0, G_OPTION_ARG_FILENAME, &opt.initrd, "guest initrd", "FILE"},
	        {"append", 0, 0, G_OPTION_ARG_STRING, &opt.append, "kernel command line", "TEXT"},
	        {"plugin", 0, 0, G_OPTION_ARG_FILENAME, &opt.plugin, "tcg-flush.so", "FILE"},
	        {"accel", 0, 0, G_OPTION_ARG_STRING, &opt.accel, "tcg or kvm", "NAME"},
	        {"machine", 0, 0, G_OPTION_ARG_STRING, &opt.machine, "pc or q35", "NAME"},
	        {"smp", 0, 0, G_OPTION_ARG_INT, &opt.smp, "vCPUs", "N"},
	        {"extra", 0, 0, G_OPTION_ARG_STRING, &opt.extra, "more arguments for QEMU", "ARGS"},
	        {"checkpoints", 0, 0, G_OPTION_ARG_INT, &opt.checkpoints, "how many", "N"},
	        {"stock-tap", 0, 0, G_OPTION_ARG_STRING, &opt.stock_tap,
	         "QEMU's own comparator, on taps PREFIXp, PREFIXs, PREFIXs2", "PREFIX"},
	        {"stale-code", 0, 0, G_OPTION_ARG_NONE, &opt.stale_code,
	         "a guest that changes its code", NULL},
	        {"reboots", 0, 0, G_OPTION_ARG_INT, &opt.reboots, "reboots before failover", "N"},
	        {"dirty-ring", 0, 0, G_OPTION_ARG_INT, &opt.dirty_ring, "KVM: entries", "N"},
	        {"memory", 0, 0, G_OPTION_ARG_INT, &opt.memory, "MiB for the guest", "N"},
	        {"dir", 0, 0, G_OPTION_ARG_FILENAME, &opt.dir, "run directory", "DIR"},
	        {"keep", 0, 0, G_OPTION_ARG_NONE, &opt.keep, "keep the run directory", NULL},
	        G_OPTION_ENTRY_NULL,
	};
	g_autoptr(GOptionContext) context = g_option_context_new("- try qemu-glue on a real QEMU");
	g_autoptr(GError) error = NULL;

	g_option_context_add_main_entries(context, entries, NULL);
	if (!g_option_context_parse(context, &argc, &argv, &error) || !opt.qemu ||
	    opt.checkpoints < 1 || (!opt.kernel && (opt.reboots || opt.stock_tap))) {
		fprintf(stderr, "%s\n",
		        error ? error->message
		              : "--qemu is needed; and --kernel for reboots and the stock "
		                "comparator");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (!opt.dir)
		opt.dir = g_dir_make_tmp("qemu-smoke-XXXXXX", NULL);
	if (opt.stale_code)
		run_stale_code();
	else if (opt.stock_tap)
		run_stock();
	else
		run();
	if (!opt.keep) {
		static const char *const names[] = {"p", "s", "s2"};
		static const char *const suffixes[] = {"qmp", "log", "serial", "mig", "relay"};

		for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
			for (size_t j = 0; j < G_N_ELEMENTS(suffixes); j++) {
				g_autofree char *path = in_dir(names[i], suffixes[j]);

				unlink(path);
			}
		}
		rmdir(opt.dir);
	}
	printf("all held\n");
	return 0;
}
