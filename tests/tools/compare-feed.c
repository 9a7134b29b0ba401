/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * compare-feed: comparators behind sockets.
 *
 *	compare-feed feed DIR [LOAD]...   feeds a comparator, and measures it
 *	compare-feed serve DIR            is one: the gate and the shadow behind the same sockets
 *
 * QEMU's colo-compare hears and speaks frames on stream sockets: be32 length, frame. In DIR the
 * unix sockets p (what the PVM says), s (what the SVM says), o (what is released) and, if it is
 * there, n, on which the comparator asks for a checkpoint ("DO_CHECKPOINT") and is told when one is
 * taken ("COLO_CHECKPOINT"), in the same framing. The load is that of compare_load.h.
 *
 * Rate: as many frames as fit the window are on their way, so that the comparator always has work;
 * the time from the first frame sent to the last released. QEMU loses frames (a queue or table of
 * its that is full): when nothing comes for STALL_MS, what is missing counts as lost, and that time
 * is taken off. Latency: the SVM's frame is sent, then the PVM's, then the released frame awaited
 * before the next; the time from sending the PVM's frame to having read it, two system calls and
 * two wake-ups included.
 *
 * `serve` prints "listening", serves one feeder and ends.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "colo-proxy/core/gate.h"
#include "colo-proxy/core/hist.h"
#include "colo-proxy/core/shadow.h"
#include "colo-proxy/link/messages.h"
#include "compare_load.h"

#define CHUNK     32u /* packets of the PVM's that are made at a time */
#define STALL_MS  200
#define FRAME_TOP 65536u /* no frame is longer */
#define BUFFER    (4u << 20)
#define READ_MAX  (256u << 10)
#define MAX_FLOWS 1048576u

struct buffer {
	uint8_t *data;
	size_t start, end; /* what is in it */
};

static void fail(const char *what)
{
	fprintf(stderr, "compare-feed: %s%s%s\n", what, errno ? ": " : "",
	        errno ? strerror(errno) : "");
	exit(1);
}

static uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- buffers of framed messages ---- */

static void buffer_init(struct buffer *b)
{
	*b = (struct buffer){.data = malloc(BUFFER)};
	if (!b->data)
		fail("out of memory");
}

/* Room for `len` bytes at the end. */
static uint8_t *buffer_room(struct buffer *b, size_t len)
{
	if (b->start == b->end)
		b->start = b->end = 0;
	if (BUFFER - b->end < len) {
		memmove(b->data, b->data + b->start, b->end - b->start);
		b->end -= b->start;
		b->start = 0;
	}
	if (BUFFER - b->end < len) {
		errno = 0;
		fail("a buffer is full");
	}
	return b->data + b->end;
}

/* Writes what the socket takes. */
static void buffer_flush(struct buffer *b, int fd)
{
	while (b->start < b->end) {
		ssize_t n = send(fd, b->data + b->start, b->end - b->start,
		                 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0)
			fail("cannot write");
		b->start += (size_t)n;
	}
}

/* Reads what there is. False at the end of the stream. */
static bool buffer_read(struct buffer *b, int fd)
{
	ssize_t n = recv(fd, buffer_room(b, READ_MAX), READ_MAX, MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return true;
	if (n < 0)
		fail("cannot read");
	b->end += (size_t)n;
	return n > 0;
}

/* The next whole message, taken out; NULL when there is none. */
static const uint8_t *buffer_next(struct buffer *b, uint32_t *ret_len)
{
	const uint8_t *at = b->data + b->start;
	uint32_t len;

	if (b->end - b->start < 4)
		return NULL;
	memcpy(&len, at, 4);
	len = be32toh(len);
	if (len > FRAME_TOP) {
		errno = 0;
		fail("a message that is longer than any frame");
	}
	if (b->end - b->start < 4 + len)
		return NULL;
	b->start += 4 + len;
	*ret_len = len;
	return at + 4;
}

static void buffer_add(struct buffer *b, const void *bytes, uint32_t len)
{
	uint8_t *at = buffer_room(b, 4 + len);

	load_put32(at, len);
	memcpy(at + 4, bytes, len);
	b->end += 4 + len;
}

static void buffer_add_segment(struct buffer *b, const struct load *load,
                               const struct segment *segment)
{
	uint8_t *at = buffer_room(b, 4 + LOAD_HEAD + segment->len);
	uint32_t len = load_frame(load, segment, at + 4);

	load_put32(at, len);
	b->end += 4 + len;
}

/* ---- sockets ---- */

static struct sockaddr_un address_of(const char *dir, const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", dir, name);

	if (n < 0 || (size_t)n >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		fail(dir);
	}
	return address;
}

/* A connection to the socket `name`; -1 when there is none. */
static int reach(const char *dir, const char *name)
{
	struct sockaddr_un address = address_of(dir, name);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		fail("socket");
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static int reach_or_fail(const char *dir, const char *name)
{
	int fd = reach(dir, name);

	if (fd < 0)
		fail(name);
	return fd;
}

static int listen_on(const char *dir, const char *name)
{
	struct sockaddr_un address = address_of(dir, name);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
	    listen(fd, 1) != 0)
		fail(name);
	return fd;
}

/* ---- feeding ---- */

struct options {
	uint32_t flows, payload, window;
	bool different;
	uint64_t packets, latency_packets, seed;
	int pid; /* the comparator's, 0: unknown */
};

/* Processor time that a process has used, in nanoseconds. */
struct cpu {
	uint64_t user, kernel;
};

struct feed {
	struct load load;
	int pvm, svm, out, notify; /* notify: -1 when there is none */
	struct buffer to_pvm, to_svm, to_notify, from_out, from_notify;
	uint64_t sent, released, lost, checkpoints;
	uint64_t stalled_ns;
};

static void hear_notify(struct feed *f)
{
	const uint8_t *message;
	uint32_t len;

	if (!buffer_read(&f->from_notify, f->notify))
		fail("the comparator has closed its notifications");
	while ((message = buffer_next(&f->from_notify, &len))) {
		if (len < 13 || memcmp(message, "DO_CHECKPOINT", 13) != 0)
			continue;
		f->checkpoints++;
		buffer_add(&f->to_notify, "COLO_CHECKPOINT", 15);
		buffer_flush(&f->to_notify, f->notify);
	}
}

static void hear_out(struct feed *f)
{
	uint32_t len;

	if (!buffer_read(&f->from_out, f->out)) {
		errno = 0;
		fail("the comparator has closed its output");
	}
	while (buffer_next(&f->from_out, &len))
		f->released++;
}

/* Waits for something to be read or written, and does it. False when nothing came in STALL_MS. */
static bool turn_once(struct feed *f)
{
	struct pollfd fds[4] = {
	        {.fd = f->out, .events = POLLIN},
	        {.fd = f->to_pvm.start < f->to_pvm.end ? f->pvm : -1, .events = POLLOUT},
	        {.fd = f->to_svm.start < f->to_svm.end ? f->svm : -1, .events = POLLOUT},
	        {.fd = f->notify, .events = POLLIN},
	};
	int n = poll(fds, 4, STALL_MS);

	if (n < 0 && errno != EINTR)
		fail("poll");
	if (n == 0)
		return false;
	if (fds[0].revents)
		hear_out(f);
	if (fds[1].revents)
		buffer_flush(&f->to_pvm, f->pvm);
	if (fds[2].revents)
		buffer_flush(&f->to_svm, f->svm);
	if (fds[3].revents)
		hear_notify(f);
	return true;
}

/* Nothing comes any more: what is missing is lost. */
static void give_up(struct feed *f)
{
	f->stalled_ns += STALL_MS * 1000000ull;
	f->lost += f->sent - f->released - f->lost;
}

static void make_chunk(struct feed *f)
{
	for (uint32_t made = 0; made < CHUNK;) {
		struct turn turn;

		load_turn(&f->load, &turn);
		for (uint32_t i = 0; i < turn.pvm_count; i++)
			buffer_add_segment(&f->to_pvm, &f->load, &turn.pvm[i]);
		for (uint32_t i = 0; i < turn.svm_count; i++)
			buffer_add_segment(&f->to_svm, &f->load, &turn.svm[i]);
		made += turn.pvm_count;
		f->sent += turn.pvm_count;
	}
}

/* The rate, in packets of the PVM's that came out a second. */
static double feed_all(struct feed *f, uint64_t packets, uint32_t window)
{
	uint64_t start = clock_ns(), sent = f->sent, released = f->released, end;
	uint64_t stalled = f->stalled_ns;

	while (f->sent - sent < packets || f->released + f->lost < f->sent) {
		bool more = f->sent - sent < packets &&
		            f->sent - f->released - f->lost + CHUNK <= window;

		if (more && f->to_pvm.start == f->to_pvm.end && f->to_svm.start == f->to_svm.end) {
			make_chunk(f);
			buffer_flush(&f->to_pvm, f->pvm);
			buffer_flush(&f->to_svm, f->svm);
		} else if (!turn_once(f)) {
			give_up(f);
		}
	}
	end = clock_ns();
	return (double)(f->released - released) * 1e9 /
	       (double)(end - start - (f->stalled_ns - stalled));
}

/* One segment each, the SVM's first; the verdict is awaited. */
static void feed_latency(struct feed *f, uint64_t packets, struct hist *hist)
{
	for (uint64_t i = 0; i < packets; i++) {
		uint64_t before = f->released, start;
		struct turn turn;

		load_turn(&f->load, &turn);
		buffer_add_segment(&f->to_svm, &f->load, &turn.svm[0]);
		buffer_add_segment(&f->to_pvm, &f->load, &turn.pvm[0]);
		buffer_flush(&f->to_svm, f->svm);
		start = clock_ns();
		buffer_flush(&f->to_pvm, f->pvm);
		f->sent++;
		while (f->released == before) {
			if (!turn_once(f)) {
				give_up(f);
				break;
			}
		}
		if (f->released > before)
			hist_add(hist, clock_ns() - start);
	}
}

/* Fields 14 and 15 of /proc/PID/stat, proc(5); zero when there is no such process. */
static struct cpu cpu_of(int pid)
{
	uint64_t tick = 1000000000ull / (uint64_t)sysconf(_SC_CLK_TCK), user, kernel;
	struct cpu cpu = {0};
	char path[64], line[1024];
	const char *at;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = pid ? fopen(path, "r") : NULL;
	if (!file)
		return cpu;
	at = fgets(line, sizeof(line), file) ? strrchr(line, ')') : NULL;
	fclose(file);
	if (at &&
	    sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64,
	           &user, &kernel) == 2)
		cpu = (struct cpu){user * tick, kernel * tick};
	return cpu;
}

static void feed(const char *dir, const struct options *o)
{
	static struct hist hist;
	static struct feed f;
	uint64_t checkpoints, lost, stalled;
	struct cpu before, after;
	double pps;

	if (load_init(&f.load, o->flows, o->payload, o->different, o->seed) != 0)
		fail("out of memory");
	f.pvm = reach_or_fail(dir, "p");
	f.svm = reach_or_fail(dir, "s");
	f.out = reach_or_fail(dir, "o");
	f.notify = reach(dir, "n");
	errno = 0;
	buffer_init(&f.to_pvm);
	buffer_init(&f.to_svm);
	buffer_init(&f.to_notify);
	buffer_init(&f.from_out);
	buffer_init(&f.from_notify);
	feed_all(&f, o->packets / 8 + 1, o->window); /* warm */
	checkpoints = f.checkpoints;
	lost = f.lost;
	stalled = f.stalled_ns;
	before = cpu_of(o->pid);
	pps = feed_all(&f, o->packets, o->window);
	after = cpu_of(o->pid);
	checkpoints = f.checkpoints - checkpoints;
	lost = f.lost - lost;
	stalled = f.stalled_ns - stalled;
	if (!o->different && o->latency_packets)
		feed_latency(&f, o->latency_packets, &hist);
	printf("{\"flows\": %u, \"payload\": %u, \"different\": %s, \"seed\": %" PRIu64
	       ", \"packets\": %" PRIu64 ", \"pps\": %.0f, \"lost\": %" PRIu64
	       ", \"checkpoints\": %" PRIu64 ", \"stalled_ms\": %" PRIu64
	       ", \"user_ns\": %.1f, \"kernel_ns\": %.1f, \"latency_ns\": {\"count\": %" PRIu64
	       ", \"p50\": %" PRIu64 ", \"p99\": %" PRIu64 ", \"max\": %" PRIu64 "}}\n",
	       o->flows, o->payload, o->different ? "true" : "false", o->seed, o->packets, pps,
	       lost, checkpoints, stalled / 1000000,
	       (double)(after.user - before.user) / (double)o->packets,
	       (double)(after.kernel - before.kernel) / (double)o->packets, hist.count,
	       hist_quantile(&hist, 500), hist_quantile(&hist, 990), hist.max);
	load_fini(&f.load);
}

/* ---- serving ---- */

struct serve {
	struct gate *gate;
	struct shadow *shadow;
	struct buffer out;
	uint64_t now;
};

static void on_release(void *ctx, struct frame *frame, const struct packet *packet,
                       enum release_why why, uint64_t held_ns)
{
	buffer_add(&((struct serve *)ctx)->out, frame->data, frame->len);
	frame_free(frame);
}

static void on_request(void *ctx, const struct divergence *why)
{
	errno = 0;
	fail(why->what);
}

static void on_flow_open(void *ctx, uint32_t epoch, const struct flow_open *open)
{
}

static void on_ts_lead(void *ctx, uint32_t epoch, uint32_t ticks)
{
}

static void on_digest(void *ctx, uint32_t lineage, const struct digest *digest)
{
	struct serve *s = ctx;
	uint8_t wire[DIGEST_WIRE_MAX];
	struct digest heard;

	errno = 0;
	if (digest_unpack(&heard, wire, digest_pack(wire, digest)) < 0 ||
	    gate_digest(s->gate, lineage, &heard, s->now) != 0)
		fail("the gate refuses a digest");
}

static void on_refeed(void *ctx, const struct flow_key *key, uint32_t seq)
{
}

static const struct gate_ops gate_ops = {
        .release = on_release,
        .request = on_request,
        .flow_open = on_flow_open,
        .ts_lead = on_ts_lead,
};

static const struct shadow_ops shadow_ops = {
        .digest = on_digest,
        .refeed = on_refeed,
};

static void serve_new(struct serve *s)
{
	static const struct packet_digest_key key = {"a key that is no secret: a measurement"};
	struct gate_limits limits = {
	        .late_ns = 3600000000000ull,
	        .max_bytes = 1u << 30,
	        .max_packets = 1u << 20,
	        .max_flows = MAX_FLOWS,
	        .max_digests = 1024,
	};

	buffer_init(&s->out);
	if (gate_new(&s->gate, &limits, &key, &gate_ops, s) != 0 ||
	    shadow_new(&s->shadow, MAX_FLOWS, &key, &shadow_ops, s) != 0)
		fail("out of memory");
	gate_cut(s->gate, 0, clock_ns());
	shadow_lineage(s->shadow, 0);
}

static struct frame *frame_of(const uint8_t *bytes, uint32_t len)
{
	struct frame *frame = frame_new(len);

	if (!frame)
		fail("out of memory");
	memcpy(frame->data, bytes, len);
	frame->len = len;
	return frame;
}

/* False at the end of the stream. */
static bool hear_vm(struct serve *s, struct buffer *from, int fd, bool svm)
{
	bool open = buffer_read(from, fd);
	const uint8_t *bytes;
	uint32_t len;

	while ((bytes = buffer_next(from, &len))) {
		struct frame *frame = frame_of(bytes, len);

		if (svm) {
			shadow_output(s->shadow, frame, s->now);
			frame_free(frame);
		} else {
			gate_output(s->gate, frame, s->now);
		}
	}
	return open;
}

static void serve(const char *dir)
{
	static const char *const names[] = {"p", "s", "o"};
	static struct serve s;
	static struct buffer from[2];
	int fd[3], listening[3];

	serve_new(&s);
	buffer_init(&from[0]);
	buffer_init(&from[1]);
	for (int i = 0; i < 3; i++)
		listening[i] = listen_on(dir, names[i]);
	printf("listening\n");
	fflush(stdout);
	for (int i = 0; i < 3; i++) {
		fd[i] = accept4(listening[i], NULL, NULL, SOCK_CLOEXEC);
		if (fd[i] < 0)
			fail("accept");
	}
	for (;;) {
		struct pollfd fds[3] = {
		        {.fd = fd[0], .events = POLLIN},
		        {.fd = fd[1], .events = POLLIN},
		        {.fd = fd[2], .events = s.out.start < s.out.end ? POLLOUT : 0},
		};

		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			fail("poll");
		s.now = clock_ns();
		for (int i = 0; i < 2; i++) {
			if (fds[i].revents && !hear_vm(&s, &from[i], fd[i], i == 1))
				return;
		}
		gate_tick(s.gate, s.now);
		buffer_flush(&s.out, fd[2]);
	}
}

/* ---- the command line ---- */

static void usage(FILE *to)
{
	fprintf(to,
	        "usage: compare-feed feed DIR [OPTION]...\n"
	        "       compare-feed serve DIR\n"
	        "Measures a comparator behind the unix sockets p, s, o and n in DIR; one line of "
	        "JSON.\n`serve` is such a comparator.\n\n"
	        "  --flows N            connections (1)\n"
	        "  --payload BYTES      of a segment, even, 2 to 32768 (64)\n"
	        "  --different          the SVM cuts the stream elsewhere\n"
	        "  --packets N          packets of the PVM's (100000)\n"
	        "  --latency-packets N  packets sent one by one; 0: none (2000)\n"
	        "  --window N           packets on their way at most (512)\n"
	        "  --seed N             of the load (1)\n");
}

/* The letter of the option that getopt_long() stopped at: -1 at the end, 'h' or '?'. */
static int read_options(int argc, char **argv, struct options *o)
{
	static const struct option long_options[] = {
	        {"flows", required_argument, NULL, 'f'},
	        {"payload", required_argument, NULL, 'p'},
	        {"different", no_argument, NULL, 'd'},
	        {"packets", required_argument, NULL, 'n'},
	        {"latency-packets", required_argument, NULL, 'l'},
	        {"window", required_argument, NULL, 'w'},
	        {"seed", required_argument, NULL, 's'},
	        {"pid", required_argument, NULL, 'i'},
	        {"help", no_argument, NULL, 'h'},
	        {0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
		if (c == 'f')
			o->flows = (uint32_t)load_option(optarg, 1, MAX_FLOWS);
		else if (c == 'p')
			o->payload = (uint32_t)load_option(optarg, 2, 32768) & ~1u;
		else if (c == 'd')
			o->different = true;
		else if (c == 'n')
			o->packets = load_option(optarg, 1, UINT32_MAX);
		else if (c == 'l')
			o->latency_packets = load_option(optarg, 0, UINT32_MAX);
		else if (c == 'w')
			o->window = (uint32_t)load_option(optarg, CHUNK, 65536);
		else if (c == 'i')
			o->pid = (int)load_option(optarg, 1, INT32_MAX);
		else if (c == 's')
			o->seed = load_option(optarg, 0, UINT32_MAX);
		else
			break;
	}
	return c;
}

int main(int argc, char **argv)
{
	struct options o = {.flows = 1,
	                    .payload = 64,
	                    .window = 512,
	                    .packets = 100000,
	                    .latency_packets = 2000,
	                    .seed = 1};
	int c = read_options(argc, argv, &o);

	if (c != -1 || argc - optind != 2) {
		usage(c == 'h' ? stdout : stderr);
		return c == 'h' ? 0 : 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (strcmp(argv[optind], "feed") == 0)
		feed(argv[optind + 1], &o);
	else if (strcmp(argv[optind], "serve") == 0)
		serve(argv[optind + 1]);
	else
		usage(stderr);
	return 0;
}
