/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * compare-bench: what comparison costs, without any I/O, on one thread.
 *
 *	compare-bench [--flows N] [--payload BYTES] [--different] [--packets N] [--seed N]
 *
 * The gate and the shadow of both hosts run in this process, and between them the digests take the
 * form that they have on the link. The load is that of compare_load.h. One line of JSON comes out;
 * all times are nanoseconds, "packet" is one packet of the PVM's that the SVM has said too.
 *
 * Cost: in batches of BATCH frames, gate_output() for the PVM's, shadow_output() for the SVM's,
 * packing and unpacking the digests, gate_digest() for each. The clock is read between these, so
 * that a packet bears 1/BATCH of five readings. Making and freeing the frames is the data path's
 * and not in it.
 *
 * Latency, from the arrival of the frame that completes a verdict (the second of a pair; when
 * the segmentation differs, the one with the last missing byte) to the release of each PVM packet:
 *  - one: the next frame arrives when the last one is done with. This is the time that the
 *    comparison itself takes, with two readings of the clock in it ("clock_ns" each).
 *  - loaded: frames arrive at random (Poisson) at the rate of --load packets a second, whether or
 *    not the last one is done with, and the time counts from when the frame was due. Waiting is in
 *    it, also for a processor that the kernel or the hypervisor has taken away. "floor" is the
 *    same with nothing done for an arrival: what is left is the machine's.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "colo-proxy/core/gate.h"
#include "colo-proxy/core/hist.h"
#include "colo-proxy/core/shadow.h"
#include "colo-proxy/link/messages.h"
#include "compare_load.h"

#define BATCH       64u
#define BATCH_MAX   (BATCH + LOAD_TURN_MAX)
#define BLOCK_TURNS 1024u
#define LATE_NS     3600000000000ull
#define MANY_FLOWS  100000u /* below, a page more or less is most of what they take */

struct options {
	uint32_t flows, payload;
	bool different;
	uint64_t packets, latency_packets, load, seed;
};

struct frames {
	struct frame **frame;
	bool *svm;
	uint32_t count, room;
};

struct bench {
	struct gate *gate;
	struct shadow *shadow;
	struct load load;
	struct digest digests[2 * BATCH_MAX];
	uint8_t wire[2 * BATCH_MAX][DIGEST_WIRE_MAX];
	uint32_t digest_count;
	struct frame *released; /* to be freed outside of what is measured */
	uint64_t gate_bytes, shadow_bytes;
	uint64_t matched, requests;
	struct hist *latency; /* NULL: not now */
	uint64_t arrived;
};

enum stage {
	STAGE_GATE_OUTPUT,
	STAGE_SHADOW_OUTPUT,
	STAGE_CODEC,
	STAGE_GATE_DIGEST,
	STAGE_COUNT,
};

struct cost {
	uint64_t ns[STAGE_COUNT];
	uint64_t packets, digests;
};

static void fail(const char *what)
{
	fprintf(stderr, "compare-bench: %s\n", what);
	exit(1);
}

static uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- what the core asks for ---- */

static void on_release(void *ctx, struct frame *frame, const struct packet *packet,
                       enum release_why why, uint64_t held_ns)
{
	struct bench *b = ctx;

	if (b->latency) {
		uint64_t now = clock_ns();

		hist_add(b->latency, now - b->arrived);
	}
	if (why == RELEASE_MATCH)
		b->matched++;
	frame->next = b->released;
	b->released = frame;
}

static void on_request(void *ctx, const struct divergence *why)
{
	((struct bench *)ctx)->requests++;
}

static void on_flow_open(void *ctx, uint32_t epoch, const struct flow_open *open)
{
	fail("a connection was opened: the load has none");
}

static void on_ts_lead(void *ctx, uint32_t epoch, uint32_t ticks)
{
}

static void on_digest(void *ctx, uint32_t lineage, const struct digest *digest)
{
	struct bench *b = ctx;

	b->digests[b->digest_count++] = *digest;
}

static void on_refeed(void *ctx, const struct flow_key *key, uint32_t seq)
{
	fail("input was asked for again: the load has none");
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

/* ---- memory ---- */

/* Resident bytes of this process: the tables' memory is the kernel's until it is touched. */
static uint64_t resident(void)
{
	FILE *file = fopen("/proc/self/statm", "r");
	uint64_t size, pages = 0;

	if (!file || fscanf(file, "%" SCNu64 " %" SCNu64, &size, &pages) != 2)
		fail("cannot read /proc/self/statm");
	fclose(file);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* ---- frames ---- */

static struct frame *make_frame(const struct load *load, const struct segment *segment)
{
	struct frame *frame = frame_new(LOAD_HEAD + segment->len);

	if (!frame)
		fail("no memory for a frame");
	frame->len = load_frame(load, segment, frame->data);
	return frame;
}

static void free_released(struct bench *b)
{
	while (b->released) {
		struct frame *next = b->released->next;

		frame_free(b->released);
		b->released = next;
	}
}

/* ---- the steps of a comparison ---- */

static void exchange(struct bench *b)
{
	for (uint32_t i = 0; i < b->digest_count; i++)
		(void)digest_pack(b->wire[i], &b->digests[i]);
	for (uint32_t i = 0; i < b->digest_count; i++) {
		if (digest_unpack(&b->digests[i], b->wire[i], DIGEST_WIRE_MAX) < 0)
			fail("a digest does not survive the link");
	}
}

static void deliver(struct bench *b, uint64_t now)
{
	gate_ahead_digests(b->gate, b->digests, b->digest_count);
	for (uint32_t i = 0; i < b->digest_count; i++) {
		if (gate_digest(b->gate, 0, &b->digests[i], now) != 0)
			fail("the gate refuses a digest");
	}
	b->digest_count = 0;
	gate_tick(b->gate, now);
}

/* As the daemon gets them: hold_receive() gives lists, a message many digests. */
static struct frame *as_list(const struct frames *frames)
{
	for (uint32_t i = 0; i < frames->count; i++)
		frames->frame[i]->next = i + 1 < frames->count ? frames->frame[i + 1] : NULL;
	return frames->count ? frames->frame[0] : NULL;
}

static uint64_t pvm_says(struct bench *b, const struct frames *pvm, uint64_t now)
{
	gate_ahead(b->gate, as_list(pvm));
	for (uint32_t i = 0; i < pvm->count; i++)
		gate_output(b->gate, pvm->frame[i], now);
	return clock_ns();
}

/* One batch, the PVM's frames before the SVM's or behind them. */
static void run_batch(struct bench *b, const struct frames *pvm, const struct frames *svm,
                      bool svm_first, struct cost *cost)
{
	uint64_t at = clock_ns(), next;

	if (!svm_first) {
		next = pvm_says(b, pvm, at);
		cost->ns[STAGE_GATE_OUTPUT] += next - at;
		at = next;
	}
	shadow_ahead(b->shadow, as_list(svm));
	for (uint32_t i = 0; i < svm->count; i++)
		shadow_output(b->shadow, svm->frame[i], at);
	next = clock_ns();
	cost->ns[STAGE_SHADOW_OUTPUT] += next - at;
	cost->digests += b->digest_count;
	at = next;
	exchange(b);
	next = clock_ns();
	cost->ns[STAGE_CODEC] += next - at;
	at = next;
	deliver(b, at);
	next = clock_ns();
	cost->ns[STAGE_GATE_DIGEST] += next - at;
	if (svm_first)
		cost->ns[STAGE_GATE_OUTPUT] += pvm_says(b, pvm, next) - next;
	cost->packets += pvm->count;
}

static void add_frames(struct bench *b, struct frames *frames, const struct segment *segments,
                       uint32_t count, bool svm)
{
	for (uint32_t i = 0; i < count; i++) {
		if (frames->count == frames->room)
			fail("more frames than were made room for");
		if (frames->svm)
			frames->svm[frames->count] = svm;
		frames->frame[frames->count++] = make_frame(&b->load, &segments[i]);
	}
}

/* Compares `turns` turns in batches. */
static void run_turns(struct bench *b, uint64_t turns, struct cost *cost)
{
	struct frame *pvm_room[BATCH_MAX], *svm_room[2 * BATCH_MAX];

	while (turns) {
		struct frames pvm = {.frame = pvm_room, .room = BATCH_MAX};
		struct frames svm = {.frame = svm_room, .room = 2 * BATCH_MAX};
		struct turn turn = {0};

		for (; turns && pvm.count < BATCH; turns--) {
			load_turn(&b->load, &turn);
			add_frames(b, &pvm, turn.pvm, turn.pvm_count, false);
			add_frames(b, &svm, turn.svm, turn.svm_count, true);
		}
		run_batch(b, &pvm, &svm, turn.svm_first, cost);
		for (uint32_t i = 0; i < svm.count; i++)
			frame_free(svm.frame[i]);
		free_released(b);
	}
}

/* ---- latency ---- */

/* The frames of some turns in the order in which they arrive. */
static void make_block(struct bench *b, struct frames *block)
{
	block->count = 0;
	for (uint32_t i = 0; i < BLOCK_TURNS; i++) {
		struct turn turn;

		load_turn(&b->load, &turn);
		if (turn.svm_first)
			add_frames(b, block, turn.svm, turn.svm_count, true);
		add_frames(b, block, turn.pvm, turn.pvm_count, false);
		if (!turn.svm_first)
			add_frames(b, block, turn.svm, turn.svm_count, true);
	}
}

static void arrive(struct bench *b, struct frame *frame, bool svm, uint64_t now)
{
	if (!svm) {
		gate_output(b->gate, frame, now);
		return;
	}
	shadow_output(b->shadow, frame, now);
	exchange(b);
	deliver(b, now);
}

/* Waits until the next arrival is due, which it returns; `due` is the one before. */
static double await_arrival(struct load *load, double due, double interval)
{
	double u = ((double)(load_random(load) >> 11) + 1) * 0x1p-53;

	due -= log(u) * interval;
	while (clock_ns() < (uint64_t)due)
		;
	return due;
}

/* How late the same arrivals are seen with nothing to do for them. */
static void run_floor(struct bench *b, uint64_t arrivals, double interval, struct hist *hist)
{
	double due = (double)clock_ns();

	hist_reset(hist);
	for (uint64_t i = 0; i < arrivals; i++) {
		due = await_arrival(&b->load, due, interval);
		hist_add(hist, clock_ns() - (uint64_t)due);
	}
}

/* interval: mean time between two arrivals; 0: one after the other. */
static void run_latency(struct bench *b, uint64_t packets, double interval, struct hist *hist)
{
	uint32_t room = BLOCK_TURNS * 2 * LOAD_TURN_MAX;
	struct frames block = {
	        .frame = malloc(room * sizeof(struct frame *)),
	        .svm = malloc(room * sizeof(bool)),
	        .room = room,
	};
	uint64_t end = b->matched + packets;

	if (!block.frame || !block.svm)
		fail("out of memory");
	hist_reset(hist);
	while (b->matched < end) {
		uint64_t before = b->matched;
		double due;

		make_block(b, &block);
		b->latency = hist;
		due = (double)clock_ns();
		for (uint32_t i = 0; i < block.count; i++) {
			uint64_t now;

			if (interval > 0)
				due = await_arrival(&b->load, due, interval);
			now = clock_ns();
			b->arrived = interval > 0 ? (uint64_t)due : now;
			arrive(b, block.frame[i], block.svm[i], now);
		}
		b->latency = NULL;
		for (uint32_t i = 0; i < block.count; i++) {
			if (block.svm[i])
				frame_free(block.frame[i]);
		}
		free_released(b);
		if (b->matched == before)
			fail("nothing is released");
	}
	free(block.frame);
	free(block.svm);
}

/* ---- the whole ---- */

static uint64_t clock_cost(void)
{
	uint64_t start = clock_ns();

	for (int i = 0; i < 1000; i++)
		(void)clock_ns();
	return (clock_ns() - start) / 1001;
}

static void print_hist(const char *name, const struct hist *hist)
{
	printf(", \"%s\": {\"count\": %" PRIu64 ", \"p50\": %" PRIu64 ", \"p99\": %" PRIu64
	       ", \"p999\": %" PRIu64 ", \"max\": %" PRIu64 "}",
	       name, hist->count, hist_quantile(hist, 500), hist_quantile(hist, 990),
	       hist_quantile(hist, 999), hist->max);
}

static double per_packet(const struct cost *cost, enum stage stage)
{
	return (double)cost->ns[stage] / (double)cost->packets;
}

static void bench_new(struct bench *b, const struct options *o)
{
	struct gate_limits limits = {
	        .late_ns = LATE_NS,
	        .max_bytes = 1u << 30,
	        .max_packets = 1u << 20,
	        .max_flows = o->flows,
	        .max_digests = 1024,
	};
	struct packet_digest_key key;
	uint64_t start;

	if (load_init(&b->load, o->flows, o->payload, o->different, o->seed) != 0)
		fail("out of memory");
	for (uint32_t i = 0; i < sizeof(key.secret); i++)
		key.secret[i] = (uint8_t)load_random(&b->load);
	start = resident();
	if (gate_new(&b->gate, &limits, &key, &gate_ops, b) != 0)
		fail("no gate");
	b->gate_bytes = resident() - start;
	start = resident();
	if (shadow_new(&b->shadow, o->flows, &key, &shadow_ops, b) != 0)
		fail("no shadow");
	b->shadow_bytes = resident() - start;
}

/* Says one turn of each flow, on one side. */
static void say_first(struct bench *b, bool svm)
{
	for (uint32_t i = 0; i < b->load.flows; i++) {
		struct turn turn;

		load_turn(&b->load, &turn);
		for (uint32_t k = 0; svm && k < turn.svm_count; k++) {
			struct frame *frame = make_frame(&b->load, &turn.svm[k]);

			shadow_output(b->shadow, frame, clock_ns());
			frame_free(frame);
			b->digest_count = 0;
		}
		for (uint32_t k = 0; !svm && k < turn.pvm_count; k++) {
			gate_output(b->gate, make_frame(&b->load, &turn.pvm[k]), clock_ns());
			free_released(b);
		}
	}
}

/* Makes every flow: what the PVM said before protection began; the SVM says it again, so that its
 * digests need not be compared. Notes how much memory the flows take. */
static void fill(struct bench *b)
{
	uint64_t before = resident();

	say_first(b, false);
	b->gate_bytes += resident() - before;
	gate_cut(b->gate, 0, clock_ns());
	load_again(&b->load);
	before = resident();
	say_first(b, true);
	b->shadow_bytes += resident() - before;
}

static void print_result(const struct bench *b, const struct options *o, const struct cost *cost,
                         const struct hist *one, const struct hist *loaded,
                         const struct hist *nothing)
{
	double gate = per_packet(cost, STAGE_GATE_OUTPUT) + per_packet(cost, STAGE_GATE_DIGEST);
	double shadow = per_packet(cost, STAGE_SHADOW_OUTPUT);
	double codec = per_packet(cost, STAGE_CODEC), total = gate + shadow + codec;

	printf("{\"flows\": %u, \"payload\": %u, \"different\": %s, \"seed\": %" PRIu64
	       ", \"packets\": %" PRIu64 ", \"released\": %" PRIu64 ", \"requests\": %" PRIu64
	       ", \"digests_per_packet\": %.3f, \"gate_output_ns\": %.1f, \"gate_digest_ns\": "
	       "%.1f, "
	       "\"gate_ns\": %.1f, \"shadow_ns\": %.1f, \"codec_ns\": %.1f, \"total_ns\": %.1f, "
	       "\"pps\": %.0f, \"clock_ns\": %" PRIu64 ", \"load_pps\": %" PRIu64,
	       o->flows, o->payload, o->different ? "true" : "false", o->seed, cost->packets,
	       b->matched, b->requests, (double)cost->digests / (double)cost->packets,
	       per_packet(cost, STAGE_GATE_OUTPUT), per_packet(cost, STAGE_GATE_DIGEST), gate,
	       shadow, codec, total, 1e9 / total, clock_cost(), o->load);
	if (o->flows >= MANY_FLOWS)
		printf(", \"gate_bytes_per_flow\": %.1f, \"shadow_bytes_per_flow\": %.1f",
		       (double)b->gate_bytes / o->flows, (double)b->shadow_bytes / o->flows);
	else
		printf(", \"gate_bytes_per_flow\": null, \"shadow_bytes_per_flow\": null");
	print_hist("latency_ns", one);
	print_hist("loaded_latency_ns", loaded);
	print_hist("loaded_floor_ns", nothing);
	printf("}\n");
}

static void run(const struct options *o)
{
	static struct bench bench;
	static struct hist one, loaded, nothing;
	struct bench *b = &bench;
	uint64_t packets_of_turn = o->different ? 4 : 1;
	uint64_t frames_of_turn = o->different ? 9 : 2;
	struct cost warm = {0}, cost = {0};
	uint64_t turns = o->packets / packets_of_turn;
	double interval;

	bench_new(b, o);
	fill(b);
	run_turns(b, turns / 8 + 1, &warm);
	run_turns(b, turns + 1, &cost);
	interval = 1e9 / (double)o->load * (double)packets_of_turn / (double)frames_of_turn;
	run_latency(b, o->latency_packets, 0, &one);
	run_latency(b, o->latency_packets, interval, &loaded);
	run_floor(b, 2 * o->latency_packets, interval, &nothing);
	if (b->matched != warm.packets + cost.packets + one.count + loaded.count)
		fail("not every packet was released by match");
	print_result(b, o, &cost, &one, &loaded, &nothing);
	gate_free(b->gate);
	shadow_free(b->shadow);
	load_fini(&b->load);
}

static void usage(FILE *to)
{
	fprintf(to, "usage: compare-bench [OPTION]...\n"
	            "What the gate and the shadow cost, in this process; one line of JSON.\n\n"
	            "  --flows N            connections (1)\n"
	            "  --payload BYTES      of a segment, even, 2 to 32768 (64)\n"
	            "  --different          the SVM cuts the stream elsewhere\n"
	            "  --packets N          packets of the PVM's to compare (400000)\n"
	            "  --latency-packets N  packets of each measurement of latency (20000)\n"
	            "  --load N             packets a second while latency is measured (100000)\n"
	            "  --seed N             of the load (1)\n");
}

int main(int argc, char **argv)
{
	static const struct option long_options[] = {
	        {"flows", required_argument, NULL, 'f'},
	        {"payload", required_argument, NULL, 'p'},
	        {"different", no_argument, NULL, 'd'},
	        {"packets", required_argument, NULL, 'n'},
	        {"latency-packets", required_argument, NULL, 'l'},
	        {"load", required_argument, NULL, 'r'},
	        {"seed", required_argument, NULL, 's'},
	        {"help", no_argument, NULL, 'h'},
	        {0},
	};
	struct options o = {.flows = 1,
	                    .payload = 64,
	                    .packets = 400000,
	                    .latency_packets = 20000,
	                    .load = 100000,
	                    .seed = 1};
	int c;

	while ((c = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
		if (c == 'f')
			o.flows = (uint32_t)load_option(optarg, 1, 16777216);
		else if (c == 'p')
			o.payload = (uint32_t)load_option(optarg, 2, 32768) & ~1u;
		else if (c == 'd')
			o.different = true;
		else if (c == 'n')
			o.packets = load_option(optarg, 1, UINT32_MAX);
		else if (c == 'l')
			o.latency_packets = load_option(optarg, 1, UINT32_MAX);
		else if (c == 'r')
			o.load = load_option(optarg, 1, 100000000);
		else if (c == 's')
			o.seed = load_option(optarg, 0, UINT32_MAX);
		else
			break;
	}
	if (c != -1 || optind != argc) {
		usage(c == 'h' ? stdout : stderr);
		return c == 'h' ? 0 : 2;
	}
	run(&o);
	return 0;
}
