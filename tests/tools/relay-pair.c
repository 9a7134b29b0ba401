/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A real PVM and a real SVM coupled by the two relays in one process: takes N checkpoints, each
 * loaded a while after it was captured and acknowledged, then kills the PVM, fails over and, with
 * a Linux guest, checks that the SVM's shell answers. Prints pauses, pages and bytes.
 *
 * Exit: 0 when all of it worked, 1 when something did not, 2 for bad usage.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kvm/relay_primary.h"
#include "kvm/relay_secondary.h"

#define NS_PER_MS UINT64_C(1000000)
#define DEADLINE  (60000 * NS_PER_MS) /* for each thing waited for */
#define CKPTS     8u
#define LINE_MAX_ 65536u

struct options {
	const char *qemu;
	const char *kernel;
	const char *initrd;
	const char *accel;
	const char *dump;
	unsigned int memory_mib;
	unsigned int checkpoints;
	unsigned int delay_ms;
	unsigned int interval_ms;
	unsigned int dirty_kib;
	bool keep_still;
	bool join_shut;
};

struct vm {
	const char *name;
	pid_t pid;
	int qmp;
	int serial;
	int migration;
	size_t line_len;
	char line[LINE_MAX_];
};

struct queued {
	struct ckpt ckpt;
	uint64_t due; /* 0: free, being captured, or being loaded */
	bool busy;
};

struct pair {
	struct options opt;
	char dir[64];
	struct vm p;
	struct vm s;
	struct relay_primary *primary;
	struct relay_secondary *secondary;
	struct queued queue[CKPTS];
	uint8_t *spill; /* of the initial migration, while the secondary's buffer is full */
	size_t spill_at;
	size_t spill_len;
	uint64_t now;
	uint64_t next_trigger;
	uint64_t started; /* READY sent */
	unsigned int triggers;
	unsigned int captured;
	unsigned int loaded;
	bool svm_runs;
	bool requested;
	uint64_t *pauses;
	uint64_t *load_times;
	uint64_t load_started;
	uint64_t pages, zero_pages, bytes, state_bytes;
};

static struct pair pair;

static uint64_t clock_ns(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void cleanup(void)
{
	static const char *const names[] = {"p.qmp", "s.qmp", "p.ser", "s.ser", "p.mig", "s.mig"};
	struct vm *const vms[] = {&pair.p, &pair.s};

	for (size_t i = 0; i < 2; i++) {
		if (vms[i]->pid <= 0)
			continue;
		(void)kill(vms[i]->pid, SIGKILL);
		(void)waitpid(vms[i]->pid, NULL, 0);
		vms[i]->pid = 0;
	}
	for (size_t i = 0; pair.dir[0] && i < sizeof(names) / sizeof(*names); i++) {
		char path[128];

		(void)snprintf(path, sizeof(path), "%s/%s", pair.dir, names[i]);
		(void)unlink(path);
	}
	if (pair.dir[0])
		(void)rmdir(pair.dir);
}

static void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

static void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	(void)fprintf(stderr, "relay-pair: ");
	(void)vfprintf(stderr, fmt, args);
	(void)fprintf(stderr, "\n");
	va_end(args);
	exit(1);
}

/* ------------------------------------------------------------------ sockets and QEMU */

static void address(const char *name, struct sockaddr_un *addr)
{
	*addr = (struct sockaddr_un){.sun_family = AF_UNIX};
	(void)snprintf(addr->sun_path, sizeof(addr->sun_path), "%s/%s", pair.dir, name);
}

static int listen_at(const char *name)
{
	struct sockaddr_un addr;
	int fd;

	address(name, &addr);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 1) < 0)
		die("%s: %s", addr.sun_path, strerror(errno));
	return fd;
}

static void wait_readable(int fd, const char *what)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};

	if (poll(&poll_fd, 1, (int)(DEADLINE / NS_PER_MS)) != 1)
		die("%s: nothing came in time", what);
}

static int accept_one(int listener, const char *what)
{
	int fd;

	wait_readable(listener, what);
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		die("%s: %s", what, strerror(errno));
	(void)close(listener);
	return fd;
}

static pid_t spawn(struct vm *vm, const char *incoming)
{
	const struct options *o = &pair.opt;
	char chardev_qmp[128], chardev_serial[128], memory[32];
	const char *argv[48] = {
	        o->qemu,    "-nodefaults",
	        "-display", "none",
	        "-machine", "pc",
	        "-accel",   o->accel,
	        "-m",       memory,
	        "-smp",     "1",
	        "-qmp",     chardev_qmp,
	        "-serial",  chardev_serial,
	        "-netdev",  "hubport,id=n0,hubid=0",
	        "-device",  "virtio-net-pci,netdev=n0,romfile=",
	};
	size_t n = 20;
	pid_t pid;

	(void)snprintf(chardev_qmp, sizeof(chardev_qmp), "unix:%s/%s.qmp", pair.dir, vm->name);
	(void)snprintf(chardev_serial, sizeof(chardev_serial), "unix:%s/%s.ser", pair.dir,
	               vm->name);
	(void)snprintf(memory, sizeof(memory), "%u", o->memory_mib);
	if (o->kernel) {
		argv[n++] = "-kernel";
		argv[n++] = o->kernel;
		argv[n++] = "-initrd";
		argv[n++] = o->initrd;
		argv[n++] = "-append";
		argv[n++] = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check "
		            "mitigations=off nowatchdog audit=0 cryptomgr.notests colo.shell";
	}
	if (incoming) {
		argv[n++] = "-incoming";
		argv[n++] = incoming;
	}
	argv[n] = NULL;
	pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)execvp(o->qemu, (char *const *)argv);
		(void)fprintf(stderr, "relay-pair: %s: %s\n", o->qemu, strerror(errno));
		_exit(127);
	}
	return pid;
}

/* The next line of QMP; valid until the next call. */
static const char *qmp_line(struct vm *vm)
{
	static char line[LINE_MAX_];

	for (;;) {
		char *end = memchr(vm->line, '\n', vm->line_len);
		ssize_t n;

		if (end) {
			size_t len = (size_t)(end - vm->line);

			memcpy(line, vm->line, len);
			line[len] = '\0';
			vm->line_len -= len + 1;
			memmove(vm->line, end + 1, vm->line_len);
			return line;
		}
		wait_readable(vm->qmp, "QMP");
		n = read(vm->qmp, vm->line + vm->line_len, sizeof(vm->line) - vm->line_len);
		if (n <= 0)
			die("%s: QMP closed", vm->name);
		vm->line_len += (size_t)n;
	}
}

static void qmp_send(struct vm *vm, const char *command)
{
	size_t len = strlen(command);

	if (write(vm->qmp, command, len) != (ssize_t)len || write(vm->qmp, "\n", 1) != 1)
		die("%s: QMP: %s", vm->name, strerror(errno));
}

/* The answer's line. */
static const char *qmp(struct vm *vm, const char *command)
{
	const char *line;

	qmp_send(vm, command);
	do
		line = qmp_line(vm);
	while (strstr(line, "\"event\""));
	if (!strstr(line, "\"return\""))
		die("%s: %s: %s", vm->name, command, line);
	return line;
}

static void start_vm(struct vm *vm, const char *name, const char *incoming)
{
	char path[16];
	int qmp_listener;
	int serial_listener;

	vm->name = name;
	vm->migration = -1;
	(void)snprintf(path, sizeof(path), "%s.qmp", name);
	qmp_listener = listen_at(path);
	(void)snprintf(path, sizeof(path), "%s.ser", name);
	serial_listener = listen_at(path);
	vm->pid = spawn(vm, incoming);
	vm->qmp = accept_one(qmp_listener, "QEMU's QMP connection");
	vm->serial = accept_one(serial_listener, "QEMU's serial connection");
	(void)qmp_line(vm); /* greeting */
	(void)qmp(vm, "{\"execute\":\"qmp_capabilities\"}");
	(void)qmp(vm, "{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":["
	              "{\"capability\":\"return-path\",\"state\":true},"
	              "{\"capability\":\"x-colo\",\"state\":true}]}}");
}

/* Reads the serial line until `text` was seen. */
static void expect_serial(struct vm *vm, const char *text)
{
	uint64_t deadline = clock_ns() + DEADLINE;
	char seen[LINE_MAX_];
	size_t len = 0;

	while (clock_ns() < deadline) {
		ssize_t n;

		if (len > sizeof(seen) / 2) {
			memmove(seen, seen + len / 2, len - len / 2);
			len -= len / 2;
		}
		wait_readable(vm->serial, text);
		n = read(vm->serial, seen + len, sizeof(seen) - 1 - len);
		if (n <= 0)
			die("%s: serial line closed", vm->name);
		len += (size_t)n;
		seen[len] = '\0';
		if (memmem(seen, len, text, strlen(text)))
			return;
	}
	die("%s: no \"%s\" on the serial line", vm->name, text);
}

static void say_serial(struct vm *vm, const char *text)
{
	if (write(vm->serial, text, strlen(text)) != (ssize_t)strlen(text))
		die("%s: serial line: %s", vm->name, strerror(errno));
}

/* ----------------------------------------------------------------------- the relays */

static int on_forward(void *ctx, const uint8_t *data, size_t len)
{
	ssize_t n = relay_secondary_from_peer(pair.secondary, data, len);

	if (n < 0)
		return (int)n;
	if ((size_t)n < len) {
		pair.spill = realloc(pair.spill, len);
		if (!pair.spill)
			return -ENOMEM;
		pair.spill_at = 0;
		pair.spill_len = len - (size_t)n;
		memcpy(pair.spill, data + n, pair.spill_len);
	}
	return 0;
}

static int on_back(void *ctx, const uint8_t *data, size_t len)
{
	(void)printf("return path:");
	for (size_t i = 0; i < len; i++)
		(void)printf(" %02x", data[i]);
	(void)printf("\n");
	return relay_primary_from_peer(pair.primary, data, len);
}

static void on_running(void *ctx, uint64_t now)
{
	pair.svm_runs = true;
}

static void give_reply(void)
{
	for (unsigned int i = 0; i < CKPTS; i++) {
		struct queued *q = &pair.queue[i];

		if (q->busy)
			continue;
		q->busy = true;
		pair.requested = false;
		if (relay_primary_reply(pair.primary, &q->ckpt, pair.captured + 1) < 0)
			die("reply refused");
		return;
	}
}

static void on_requested(void *ctx, uint64_t now)
{
	pair.requested = true;
	give_reply();
}

static void on_stopped(void *ctx, struct ckpt *ckpt, uint64_t now)
{
}

static void dump(const struct ckpt *ckpt)
{
	char path[256];
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/checkpoint-%" PRIu64, pair.opt.dump, ckpt->epoch);
	f = fopen(path, "wbe");
	if (!f || fwrite(ckpt->buf.base, 1, ckpt->buf.len, f) != ckpt->buf.len || fclose(f) != 0)
		die("%s: %s", path, strerror(errno));
}

static void on_captured(void *ctx, struct ckpt *ckpt, uint64_t now)
{
	struct queued *q = (struct queued *)ckpt; /* its first member */

	if (relay_primary_resume(pair.primary, now) < 0)
		die("resume refused");
	q->due = now + pair.opt.delay_ms * NS_PER_MS;
	pair.captured++;
}

static void on_svm_stopped(void *ctx, uint64_t now)
{
}

static void on_loaded(void *ctx, struct ckpt *ckpt, uint64_t now)
{
	struct queued *q = (struct queued *)ckpt;

	if (pair.loaded < pair.opt.checkpoints) {
		pair.pauses[pair.loaded] = ckpt->resumed_at - ckpt->stopped_at;
		pair.load_times[pair.loaded] = now - pair.load_started;
		pair.pages += ckpt->stats.pages;
		pair.zero_pages += ckpt->stats.zero_pages;
		pair.bytes += ckpt->stats.bytes;
		pair.state_bytes += ckpt->stats.state_bytes;
	}
	if (pair.opt.dump)
		dump(ckpt);
	pair.loaded++;
	q->busy = false;
	if (pair.requested)
		give_reply();
	if (pair.opt.keep_still && relay_secondary_stop(pair.secondary) < 0)
		die("stop refused");
}

static const struct relay_primary_ops primary_ops = {
        .forward = on_forward,
        .requested = on_requested,
        .stopped = on_stopped,
        .captured = on_captured,
};

static const struct relay_secondary_ops secondary_ops = {
        .back = on_back,
        .running = on_running,
        .stopped = on_svm_stopped,
        .loaded = on_loaded,
};

static bool gone(ssize_t n, const char *what)
{
	if (n > 0)
		return false;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	die("%s: %s", what, n == 0 ? "closed" : strerror(errno));
}

static void read_primary(void)
{
	uint8_t *ptr;
	size_t len;
	ssize_t n;

	if (relay_primary_want(pair.primary, &ptr, &len) < 0)
		die("%s", relay_primary_error(pair.primary));
	n = read(pair.p.migration, ptr, len);
	if (gone(n, "PVM"))
		return;
	if (relay_primary_got(pair.primary, (size_t)n, clock_ns()) < 0)
		die("%s", relay_primary_error(pair.primary));
}

static void read_secondary(void)
{
	uint8_t *ptr;
	size_t len;
	ssize_t n;

	if (relay_secondary_want(pair.secondary, &ptr, &len) < 0)
		die("%s", relay_secondary_error(pair.secondary));
	n = read(pair.s.migration, ptr, len);
	if (gone(n, "SVM"))
		return;
	if (relay_secondary_got(pair.secondary, (size_t)n, clock_ns()) < 0)
		die("%s", relay_secondary_error(pair.secondary));
}

/* Returns whether bytes are left. */
static bool write_primary(void)
{
	const uint8_t *ptr;
	size_t len;
	ssize_t n;

	relay_primary_pending(pair.primary, &ptr, &len);
	if (len == 0)
		return false;
	n = write(pair.p.migration, ptr, len);
	if (!gone(n, "PVM") && relay_primary_wrote(pair.primary, (size_t)n) < 0)
		die("PVM: wrote too much");
	relay_primary_pending(pair.primary, &ptr, &len);
	return len > 0;
}

static bool write_secondary(void)
{
	const uint8_t *ptr;
	size_t len;
	ssize_t n;

	while (pair.spill_len > 0) {
		n = relay_secondary_from_peer(pair.secondary, pair.spill + pair.spill_at,
		                              pair.spill_len);
		if (n <= 0)
			break;
		pair.spill_at += (size_t)n;
		pair.spill_len -= (size_t)n;
	}
	relay_secondary_pending(pair.secondary, &ptr, &len);
	if (len == 0)
		return false;
	n = write(pair.s.migration, ptr, len);
	if (!gone(n, "SVM") && relay_secondary_wrote(pair.secondary, (size_t)n) < 0)
		die("SVM: wrote too much");
	relay_secondary_pending(pair.secondary, &ptr, &len);
	return len > 0;
}

/* READY may go to the PVM only when it has read what came before (relay_primary_start()). */
static void try_start(void)
{
	const uint8_t *ptr;
	size_t len;
	int unread = 0;

	if (pair.started || !pair.svm_runs)
		return;
	relay_primary_pending(pair.primary, &ptr, &len);
	if (pair.opt.join_shut) {
		uint8_t both[64];

		memcpy(both, ptr, len);
		(void)relay_primary_wrote(pair.primary, len);
		if (relay_primary_start(pair.primary) < 0)
			die("start refused");
		memset(both + len, 0, 4);
		(void)relay_primary_wrote(pair.primary, 4);
		if (write(pair.p.migration, both, len + 4) != (ssize_t)len + 4)
			die("PVM: %s", strerror(errno));
	} else {
		if (len > 0 || ioctl(pair.p.migration, SIOCOUTQ, &unread) < 0 || unread > 0)
			return;
		if (relay_primary_start(pair.primary) < 0)
			die("start refused");
	}
	pair.started = clock_ns();
	pair.next_trigger = pair.started + 500 * NS_PER_MS;
}

static void trigger(void)
{
	char command[128];

	if (!pair.started || pair.now < pair.next_trigger ||
	    pair.triggers >= pair.opt.checkpoints || pair.triggers > pair.captured)
		return;
	(void)snprintf(command, sizeof(command),
	               "{\"execute\":\"migrate-set-parameters\",\"arguments\":{"
	               "\"x-checkpoint-delay\":%u}}",
	               3600000 + pair.triggers);
	qmp_send(&pair.p, command);
	pair.triggers++;
	pair.next_trigger = pair.now + pair.opt.interval_ms * NS_PER_MS;
}

static void load_next(void)
{
	struct queued *next = NULL;
	enum relay_secondary_phase phase = relay_secondary_phase(pair.secondary);

	if (phase != RELAY_SECONDARY_RUNNING && phase != RELAY_SECONDARY_STOPPED)
		return;
	for (unsigned int i = 0; i < CKPTS; i++) {
		struct queued *q = &pair.queue[i];

		if (q->due && q->due <= pair.now && (!next || q->ckpt.epoch < next->ckpt.epoch))
			next = q;
	}
	if (!next)
		return;
	next->due = 0;
	pair.load_started = pair.now;
	if (relay_secondary_load(pair.secondary, &next->ckpt) < 0)
		die("%s", relay_secondary_error(pair.secondary));
}

static void discard(int fd)
{
	char bytes[4096];

	(void)!read(fd, bytes, sizeof(bytes));
}

static void turn(void)
{
	struct pollfd fds[5] = {
	        {.fd = pair.p.migration},
	        {.fd = pair.s.migration, .events = POLLIN},
	        {.fd = pair.p.qmp, .events = POLLIN},
	        {.fd = pair.p.serial, .events = POLLIN},
	        {.fd = pair.s.serial, .events = POLLIN},
	};
	bool held = pair.opt.join_shut && !pair.started;

	pair.now = clock_ns();
	try_start();
	trigger();
	load_next();
	if (!held && write_primary())
		fds[0].events |= POLLOUT;
	if (write_secondary())
		fds[1].events |= POLLOUT;
	if (pair.spill_len == 0)
		fds[0].events |= POLLIN;
	if (poll(fds, 5, 1) < 0 && errno != EINTR)
		die("poll: %s", strerror(errno));
	if (fds[0].revents & (POLLIN | POLLHUP | POLLERR))
		read_primary();
	if (fds[1].revents & (POLLIN | POLLHUP | POLLERR))
		read_secondary();
	for (size_t i = 2; i < 5; i++) {
		if (fds[i].revents & POLLIN)
			discard(fds[i].fd);
	}
}

/* ---------------------------------------------------------------------- the whole run */

static void boot(void)
{
	if (!pair.opt.kernel)
		return;
	expect_serial(&pair.p, "# ");
	if (pair.opt.dirty_kib) {
		char command[160];

		(void)snprintf(command, sizeof(command),
		               "while :; do dd if=/dev/urandom of=/tmp/x bs=1024 count=%u "
		               "2>/dev/null; usleep 1000; done &\n",
		               pair.opt.dirty_kib);
		say_serial(&pair.p, command);
		expect_serial(&pair.p, "# ");
	}
	say_serial(&pair.p, "echo up$((6*7))\n");
	expect_serial(&pair.p, "up42");
}

static void connect_migration(void)
{
	struct sockaddr_un addr;
	char command[256];
	int listener;

	(void)snprintf(
	        command, sizeof(command),
	        "{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"unix:%s/s.mig\"}}",
	        pair.dir);
	(void)qmp(&pair.s, command);
	address("s.mig", &addr);
	pair.s.migration = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (pair.s.migration < 0 ||
	    connect(pair.s.migration, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		die("%s: %s", addr.sun_path, strerror(errno));
	(void)qmp(&pair.p, "{\"execute\":\"migrate-set-parameters\",\"arguments\":{"
	                   "\"x-checkpoint-delay\":3600000,\"downtime-limit\":20,"
	                   "\"max-bandwidth\":0}}");
	listener = listen_at("p.mig");
	(void)snprintf(command, sizeof(command),
	               "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"unix:%s/p.mig\"}}",
	               pair.dir);
	(void)qmp(&pair.p, command);
	pair.p.migration = accept_one(listener, "PVM's migration");
	if (fcntl(pair.p.migration, F_SETFL, O_NONBLOCK) < 0 ||
	    fcntl(pair.s.migration, F_SETFL, O_NONBLOCK) < 0)
		die("fcntl: %s", strerror(errno));
}

static void run(void)
{
	const size_t limit = ((size_t)pair.opt.memory_mib + 64) << 20;
	uint64_t deadline;
	uint64_t begin;

	for (unsigned int i = 0; i < CKPTS; i++) {
		if (ckpt_buf_init(&pair.queue[i].ckpt.buf, limit, (size_t)16 << 20) < 0)
			die("no memory for checkpoints");
	}
	if (relay_primary_new(&pair.primary, &primary_ops, NULL) < 0 ||
	    relay_secondary_new(&pair.secondary, &secondary_ops, NULL) < 0)
		die("no memory for the relays");
	begin = clock_ns();
	deadline = begin + DEADLINE;
	while (!pair.started && clock_ns() < deadline)
		turn();
	if (!pair.started)
		die("the SVM did not come up");
	(void)printf("initial migration: %" PRIu64 " bytes, %" PRIu64 " ms\n",
	             relay_primary_initial_bytes(pair.primary), (pair.started - begin) / NS_PER_MS);
	deadline = clock_ns() + DEADLINE +
	           (uint64_t)pair.opt.checkpoints * pair.opt.interval_ms * NS_PER_MS;
	while (pair.loaded < pair.opt.checkpoints && clock_ns() < deadline)
		turn();
	if (pair.loaded < pair.opt.checkpoints)
		die("%u of %u checkpoints: triggered %u, captured %u; PVM %s, SVM %s", pair.loaded,
		    pair.opt.checkpoints, pair.triggers, pair.captured,
		    relay_primary_phase_name(relay_primary_phase(pair.primary)),
		    relay_secondary_phase_name(relay_secondary_phase(pair.secondary)));
}

static void fail_over(void)
{
	const char *line;

	(void)kill(pair.p.pid, SIGKILL);
	(void)waitpid(pair.p.pid, NULL, 0);
	pair.p.pid = 0;
	(void)close(pair.s.migration);
	do
		line = qmp_line(&pair.s);
	while (!strstr(line, "COLO_EXIT"));
	(void)qmp(&pair.s, "{\"execute\":\"x-colo-lost-heartbeat\"}");
	for (uint64_t deadline = clock_ns() + DEADLINE;;) {
		line = qmp(&pair.s, "{\"execute\":\"query-status\"}");
		if (strstr(line, "\"running\": true"))
			break;
		if (clock_ns() > deadline)
			die("the SVM does not run after the failover: %s", line);
	}
	if (pair.opt.kernel) {
		say_serial(&pair.s, "\necho alive$((6*7))\n");
		expect_serial(&pair.s, "alive42");
	}
	(void)printf("failover: the SVM runs%s\n", pair.opt.kernel ? " and its shell answers" : "");
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double percentile_ms(uint64_t *values, unsigned int n, unsigned int percent)
{
	unsigned int rank = ((n - 1) * percent + 99) / 100;

	qsort(values, n, sizeof(*values), compare_u64);
	return (double)values[rank] / (double)NS_PER_MS;
}

static void print_results(void)
{
	unsigned int n = pair.opt.checkpoints;

	(void)printf("checkpoints: %u, each loaded %u ms after its capture\n", n,
	             pair.opt.delay_ms);
	(void)printf("pause (SEND seen to LOADED queued): p50 %.2f ms, p99 %.2f ms\n",
	             percentile_ms(pair.pauses, n, 50), percentile_ms(pair.pauses, n, 99));
	(void)printf("load (handed over to LOADED seen): p50 %.2f ms, p99 %.2f ms\n",
	             percentile_ms(pair.load_times, n, 50), percentile_ms(pair.load_times, n, 99));
	(void)printf("a checkpoint on average: %.1f pages, %.1f zero pages, %.0f bytes of which "
	             "%.0f are device state\n",
	             (double)pair.pages / n, (double)pair.zero_pages / n, (double)pair.bytes / n,
	             (double)pair.state_bytes / n);
}

static void usage(FILE *f)
{
	(void)fprintf(f,
	              "usage: relay-pair [option...]\n"
	              "  --qemu PATH         QEMU >= 11\n"
	              "  --kernel PATH --initrd PATH  the guest; --firmware: none, SeaBIOS only\n"
	              "  --accel NAME        tcg (default) or kvm\n"
	              "  --memory MIB        256\n"
	              "  --checkpoints N     50\n"
	              "  --delay MS          100: between capture and load\n"
	              "  --interval MS       50: between triggers\n"
	              "  --dirty KIB         the guest rewrites a file of this size all the time\n"
	              "  --keep-still        the SVM stands still between checkpoints\n"
	              "  --join-shut         write SHUT and READY to the PVM in one piece\n"
	              "  --dump DIR          write each checkpoint to DIR/checkpoint-N\n");
}

static unsigned int number(const char *text)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end || value > 1000000) {
		(void)fprintf(stderr, "relay-pair: \"%s\" is not a number up to 1000000\n", text);
		exit(2);
	}
	return (unsigned int)value;
}

static void parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
	        {"qemu", 1, NULL, 'q'},
	        {"kernel", 1, NULL, 'k'},
	        {"initrd", 1, NULL, 'i'},
	        {"firmware", 0, NULL, 'f'},
	        {"accel", 1, NULL, 'a'},
	        {"memory", 1, NULL, 'm'},
	        {"checkpoints", 1, NULL, 'n'},
	        {"delay", 1, NULL, 'd'},
	        {"interval", 1, NULL, 't'},
	        {"dirty", 1, NULL, 'w'},
	        {"keep-still", 0, NULL, 's'},
	        {"join-shut", 0, NULL, 'j'},
	        {"dump", 1, NULL, 'D'},
	        {"help", 0, NULL, 'h'},
	        {NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case 'q':
			o->qemu = optarg;
			break;
		case 'k':
			o->kernel = optarg;
			break;
		case 'i':
			o->initrd = optarg;
			break;
		case 'f':
			o->kernel = NULL;
			break;
		case 'a':
			o->accel = optarg;
			break;
		case 'm':
			o->memory_mib = number(optarg);
			break;
		case 'n':
			o->checkpoints = number(optarg);
			break;
		case 'd':
			o->delay_ms = number(optarg);
			break;
		case 't':
			o->interval_ms = number(optarg);
			break;
		case 'w':
			o->dirty_kib = number(optarg);
			break;
		case 's':
			o->keep_still = true;
			break;
		case 'j':
			o->join_shut = true;
			break;
		case 'D':
			o->dump = optarg;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			usage(stderr);
			exit(2);
		}
	}
	if (optind != argc || o->checkpoints == 0 || o->memory_mib == 0) {
		usage(stderr);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	const char *cache = getenv("COLO_CACHE");
	static char qemu[256], kernel[256], initrd[256];

	if (!cache)
		cache = "/var/cache/colo-proxy";
	(void)snprintf(qemu, sizeof(qemu), "%s/qemu/bin/qemu-system-x86_64", cache);
	(void)snprintf(kernel, sizeof(kernel), "%s/guest/vmlinuz", cache);
	(void)snprintf(initrd, sizeof(initrd), "%s/guest/initrd.img", cache);
	pair.opt = (struct options){.qemu = qemu,
	                            .kernel = kernel,
	                            .initrd = initrd,
	                            .accel = "tcg",
	                            .memory_mib = 256,
	                            .checkpoints = 50,
	                            .delay_ms = 100,
	                            .interval_ms = 50};
	parse(argc, argv, &pair.opt);
	pair.pauses = calloc(pair.opt.checkpoints, sizeof(*pair.pauses));
	pair.load_times = calloc(pair.opt.checkpoints, sizeof(*pair.load_times));
	if (!pair.pauses || !pair.load_times)
		die("out of memory");
	(void)signal(SIGPIPE, SIG_IGN);
	(void)setvbuf(stdout, NULL, _IOLBF, 0);
	(void)strcpy(pair.dir, "/tmp/relay-pair.XXXXXX");
	if (!mkdtemp(pair.dir)) {
		pair.dir[0] = '\0';
		die("mkdtemp: %s", strerror(errno));
	}
	(void)atexit(cleanup);
	start_vm(&pair.p, "p", NULL);
	boot();
	start_vm(&pair.s, "s", "defer");
	connect_migration();
	run();
	fail_over();
	print_results();
	for (unsigned int i = 0; i < CKPTS; i++)
		ckpt_buf_fini(&pair.queue[i].ckpt.buf);
	relay_primary_free(pair.primary);
	relay_secondary_free(pair.secondary);
	free(pair.spill);
	free(pair.pauses);
	free(pair.load_times);
	return 0;
}
