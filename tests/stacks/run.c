/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One seed: a connection between the client and the two VMs, and the engine between their taps.
 *
 *   client tap -> NET_IN -> switch -> PVM_IN -> PVM tap
 *                             `-----> link -> log -> shadow_input() -> SVM_IN -> SVM tap
 *   PVM tap -> PVM_OUT -> gate_output() -> release -> NET_OUT -> client tap
 *   SVM tap -> SVM_OUT -> shadow_output() -> digests -> link -> gate_digest()
 *
 * After a crash: SVM tap -> SVM_OUT -> shadow_translate() -> NET_OUT -> client tap, and
 * client tap -> NET_IN -> shadow_input() -> SVM_IN -> SVM tap.
 *
 * Both VMs' stacks run on one machine and hash their initial sequence numbers and timestamp offsets
 * from the same secret, so each VM's numbers are shifted at its tap, by what the plan says.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "colo-proxy/core/packet.h"
#include "colo-proxy/core/seq.h"
#include "colo-proxy/link/messages.h"
#include "tests/stacks/stacks.h"

#define LATE_NS      (400 * MS)
#define REFEED_NS    (20 * MS)
#define RECENT_BYTES (1u << 20)

static const struct gate_limits limits = {
        .late_ns = LATE_NS,
        .max_bytes = 16u << 20,
        .max_packets = 16384,
        .max_flows = 4,
        .max_digests = 8192,
};

enum message_kind {
	MESSAGE_INPUT,
	MESSAGE_FLOW_OPEN,
	MESSAGE_TS_LEAD,
	MESSAGE_DIGEST,
	MESSAGE_CHECKPOINT,
	MESSAGE_COMMITTED,
	MESSAGE_CUT_ASK,
	MESSAGE_CUT,
};

#define PATIENCE_NS (5000 * MS) /* for a state that can be copied */

/* On the link, as the daemons pack it. */
struct message {
	enum message_kind kind;
	uint32_t epoch, len;
	uint8_t bytes[];
};

void run_fail(struct run *run, const char *format, ...)
{
	va_list args;

	if (run->failed)
		return;
	run->failed = true;
	va_start(args, format);
	vsnprintf(run->why, sizeof(run->why), format, args);
	va_end(args);
	if (run->verbose)
		printf("%u %10.3f ms  FAILED %s\n", run->index,
		       (double)(now_ns() - run->began) / 1e6, run->why);
}

void run_trace(const struct run *run, const char *what, struct frame *frame)
{
	struct packet packet;
	char text[200] = "";
	struct segment s;

	if (!run->verbose)
		return;
	if (frame && packet_parse(&packet, frame) == 0)
		packet_describe(&packet, text, sizeof(text));
	if (frame && segment_parse(&s, frame) && s.ts_off)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), " ts %u", s.tsval);
	printf("%u %10.3f ms  %-18s %s\n", run->index, (double)(now_ns() - run->began) / 1e6, what,
	       text);
}

/* ---- the link ---- */

static void post(struct run *run, bool to_s, enum message_kind kind, uint32_t epoch,
                 const void *head, uint32_t head_len, const void *body, uint32_t body_len)
{
	struct message *message = malloc(sizeof(*message) + head_len + body_len);
	uint64_t *last = to_s ? &run->to_s_last : &run->to_p_last;
	uint64_t at = now_ns() + rng_below(&run->rng, run->plan.link_delay + 1) * 1000ull;

	if (!message)
		abort();
	message->kind = kind;
	message->epoch = epoch;
	message->len = head_len + body_len;
	if (head_len)
		memcpy(message->bytes, head, head_len);
	if (body_len)
		memcpy(message->bytes + head_len, body, body_len);
	*last = at > *last ? at : *last; /* in order */
	event_add(run, to_s ? EVENT_TO_S : EVENT_TO_P, *last)->message = message;
}

/* ---- the gate's and the shadow's operations ---- */

static void on_release(void *ctx, struct frame *frame, const struct packet *packet,
                       enum release_why why, uint64_t held_ns)
{
	struct run *run = ctx;

	(void)packet;
	(void)held_ns;
	run_trace(run, why == RELEASE_MATCH ? "released, match" : "released, commit", frame);
	truth_released(run, frame, why);
	hop_take(run, HOP_NET_OUT, frame);
}

static void on_request(void *ctx, const struct divergence *why)
{
	struct run *run = ctx;

	run->requested[why->cause]++;
	if (!run->wanted_since)
		run->wanted_since = now_ns();
	run->wanted = true;
	if (run->verbose)
		printf("%u %10.3f ms  REQUEST %s: %s, seq %u wanted %u seen %u\n", run->index,
		       (double)(now_ns() - run->began) / 1e6, ckpt_cause_name(why->cause),
		       why->what, why->seq, why->wanted, why->seen);
	if (why->cause == CKPT_MISMATCH && run->plan.kind != KIND_LIE)
		run_fail(run, "false divergence: %s (offset %u)", why->what,
		         why->seq - run->truth.iss[PVM] - 1);
	if (why->cause == CKPT_PRESSURE)
		run_fail(run, "pressure: %s", why->what);
}

static void on_flow_open(void *ctx, uint32_t epoch, const struct flow_open *open)
{
	uint8_t wire[FLOW_OPEN_WIRE_MAX];
	uint32_t len = (uint32_t)flow_open_pack(wire, open);

	post(ctx, true, MESSAGE_FLOW_OPEN, epoch, wire, len, NULL, 0);
}

static void on_ts_lead(void *ctx, uint32_t epoch, uint32_t ticks)
{
	run_trace(ctx, "clock leads", NULL);
	post(ctx, true, MESSAGE_TS_LEAD, epoch, &ticks, sizeof(ticks), NULL, 0);
}

static void on_cut(void *ctx, uint32_t epoch, const struct digest *said, uint32_t at)
{
	uint8_t wire[CUT_ASK_WIRE_MAX];
	uint32_t len = (uint32_t)cut_ask_pack(wire, said, at);

	run_trace(ctx, "asks for a cut", NULL);
	post(ctx, true, MESSAGE_CUT_ASK, epoch, wire, len, NULL, 0);
}

static void on_digest(void *ctx, uint32_t lineage, const struct digest *digest)
{
	uint8_t wire[DIGEST_WIRE_MAX];
	uint32_t len = (uint32_t)digest_pack(wire, digest);

	post(ctx, false, MESSAGE_DIGEST, lineage, wire, len, NULL, 0);
}

/* ---- what the SVM is fed ---- */

static void feed_frame(struct run *run, const struct frame *from, bool again)
{
	struct frame *frame = frame_copy(from);

	if (!frame)
		abort();
	if (again)
		shadow_input_again(run->shadow, frame, now_ns());
	else
		shadow_input(run->shadow, frame, now_ns());
	hop_take(run, HOP_SVM_IN, frame);
}

static void feed(struct run *run)
{
	while (run->next_to_feed && !run->svm_silent) {
		feed_frame(run, run->next_to_feed->frame, false);
		run->next_to_feed = run->next_to_feed->next;
	}
}

static uint32_t segment_end(const struct segment *s)
{
	return s->seq + s->len + !!(s->flags & PACKET_FIN);
}

static bool input_has(const struct input *input, uint32_t seq)
{
	struct segment s;

	return segment_parse(&s, input->frame) && !(s.flags & PACKET_SYN) && seq_leq(s.seq, seq) &&
	       seq_lt(seq, segment_end(&s));
}

static void on_refeed(void *ctx, const struct flow_key *key, uint32_t seq)
{
	struct run *run = ctx;
	struct input *input = run->log;

	(void)key;
	while (input && input != run->next_to_feed && !input_has(input, seq))
		input = input->next;
	if (input && input != run->next_to_feed && !run->svm_silent) {
		run_trace(run, "fed again", input->frame);
		feed_frame(run, input->frame, true);
	}
	if (!run->refeed_armed)
		event_add(run, EVENT_REFEED, now_ns() + REFEED_NS);
	run->refeed_armed = true;
}

static void log_input(struct run *run, const struct message *message)
{
	struct input *input = calloc(1, sizeof(*input));

	if (!input || input_unpack(&input->index, &input->frame, message->bytes, message->len) != 0)
		abort();
	*run->log_end = input;
	run->log_end = &input->next;
	if (!run->next_to_feed)
		run->next_to_feed = input;
	feed(run);
}

static void switch_passes(struct run *run, struct frame *frame)
{
	uint8_t head[INPUT_HEAD_LEN];

	if (run->crashed) {
		shadow_input(run->shadow, frame, now_ns());
		hop_take(run, HOP_SVM_IN, frame);
		return;
	}
	input_pack_head(head, run->input_index++, frame);
	post(run, true, MESSAGE_INPUT, gate_epoch(run->gate), head, sizeof(head), frame->data,
	     frame->len);
	hop_take(run, HOP_PVM_IN, frame);
}

/* ---- the VMs' numbers ---- */

static void shift_in(struct run *run, enum place vm, struct frame *frame)
{
	struct segment s;

	if (segment_parse(&s, frame))
		segment_shift_in(&s, run->shift[vm], run->plan.ts[vm]);
}

static void shift_out(struct run *run, enum place vm, struct segment *s)
{
	if ((s->flags & PACKET_SYN) && !run->shift_known[vm]) {
		run->shift_known[vm] = true;
		run->shift[vm] = run->plan.iss[vm] - s->seq;
	}
	segment_shift_out(s, run->shift[vm], run->plan.ts[vm]);
}

/* ---- the gate's clock ---- */

static void tick(struct run *run)
{
	uint64_t at;

	if (run->crashed)
		return;
	at = gate_tick(run->gate, now_ns());
	if (at == UINT64_MAX || (run->tick_at && run->tick_at <= at))
		return;
	run->tick_at = at;
	event_add(run, EVENT_TICK, at);
}

/* ---- frames ---- */

/* Both VMs hear the same SYN, with the offers that the plan lets through. */
static void restrict_syn(struct run *run, struct segment *s)
{
	if ((s->flags & (PACKET_SYN | PACKET_ACK)) == PACKET_SYN)
		segment_restrict(s, run->plan.offer);
}

void run_heard(struct run *run, enum place place, struct frame *frame)
{
	static const enum hop first[PLACES] = {HOP_NET_IN, HOP_PVM_OUT, HOP_SVM_OUT};
	static const char *const names[PLACES] = {"client says", "PVM says", "SVM says"};
	struct segment s;

	if (run->ended || (place == SVM && run->svm_silent) || (place == PVM && run->crashed) ||
	    !segment_parse(&s, frame)) {
		frame_free(frame);
		return;
	}
	if (place != CLIENT)
		shift_out(run, place, &s);
	else
		restrict_syn(run, &s);
	run_trace(run, names[place], frame);
	truth_heard(run, place, &s);
	hop_take(run, first[place], frame);
}

static void crash(struct run *run);

static void svm_speaks(struct run *run, struct frame *frame)
{
	struct segment s;

	if (run->crashed) {
		shadow_translate(run->shadow, frame, now_ns());
		run_trace(run, "translated", frame);
		truth_translated(run, frame);
		hop_take(run, HOP_NET_OUT, frame);
		return;
	}
	run_trace(run, "to the shadow", frame);
	if (segment_parse(&s, frame))
		truth_svm_said(run, &s, run->lineage);
	shadow_output(run->shadow, frame, now_ns());
	recent_keep(run->recent, frame, run->lineage, shadow_last_map(run->shadow), now_ns());
	while ((frame = recent_evict(run->recent, false)))
		frame_free(frame);
}

void run_passed(struct run *run, enum hop hop, struct frame *frame)
{
	struct segment s;

	switch (hop) {
	case HOP_NET_IN:
		switch_passes(run, frame);
		break;
	case HOP_PVM_IN:
		run->pvm_taken++;
		shift_in(run, PVM, frame);
		run_trace(run, "to the PVM", frame);
		if (run->crashed)
			frame_free(frame);
		else
			net_deliver(&run->stacks[PVM], PVM, frame);
		break;
	case HOP_SVM_IN:
		shift_in(run, SVM, frame);
		run_trace(run, "to the SVM", frame);
		net_deliver(&run->stacks[SVM], SVM, frame);
		break;
	case HOP_PVM_OUT:
		frame->origin = (uint8_t)gate_epoch(run->gate); /* the gate's cuts keep it */
		run_trace(run, "to the gate", frame);
		if (run->crashed)
			frame_free(frame);
		else if (gate_output(run->gate, frame, now_ns()) < 0)
			abort();
		tick(run);
		break;
	case HOP_SVM_OUT:
		svm_speaks(run, frame);
		break;
	case HOP_NET_OUT:
		if (segment_parse(&s, frame))
			restrict_syn(run, &s);
		run_trace(run, "to the client", frame);
		net_deliver(&run->stacks[CLIENT], CLIENT, frame);
		if (run->plan.kind == KIND_CRASH && !run->crashed &&
		    run->truth.to_client >= run->plan.crash_after)
			crash(run);
		break;
	default:
		abort();
	}
}

/* ---- events ---- */

static void answer_cut(struct run *run, const struct message *message)
{
	uint8_t wire[CUT_WIRE_MAX];
	struct digest_cut cut;

	if (cut_ask_unpack(&cut, message->bytes, message->len) < 0)
		abort();
	if (recent_cut(run->recent, &run->key, message->epoch, &cut) == 0)
		post(run, false, MESSAGE_CUT, message->epoch, wire, (uint32_t)cut_pack(wire, &cut),
		     NULL, 0);
}

static void message_to_s(struct run *run, const struct message *message)
{
	struct flow_open open;
	uint32_t ticks;

	switch (message->kind) {
	case MESSAGE_INPUT:
		log_input(run, message);
		break;
	case MESSAGE_FLOW_OPEN:
		if (flow_open_unpack(&open, message->bytes, message->len) < 0)
			abort();
		shadow_flow_open(run->shadow, message->epoch, &open, now_ns());
		break;
	case MESSAGE_TS_LEAD:
		memcpy(&ticks, message->bytes, sizeof(ticks));
		shadow_ts_lead(run->shadow, message->epoch, ticks);
		break;
	case MESSAGE_CUT_ASK:
		answer_cut(run, message);
		break;
	case MESSAGE_CHECKPOINT:
		run->truth.whole = message->epoch;
		post(run, false, MESSAGE_COMMITTED, message->epoch, NULL, 0, NULL, 0);
		event_add(run, EVENT_LOAD, now_ns() + rng_below(&run->rng, 8000) * 1000ull);
		break;
	default:
		abort();
	}
}

static void message_to_p(struct run *run, const struct message *message)
{
	struct digest_cut cut;
	struct digest digest;

	if (run->crashed)
		return;
	if (message->kind == MESSAGE_CUT) {
		if (cut_unpack(&cut, message->bytes, message->len) < 0)
			abort();
		if (gate_digest_cut(run->gate, message->epoch, &cut, now_ns()) != 0)
			run_fail(run, "the gate refuses a range in two");
		tick(run);
		return;
	}
	if (message->kind == MESSAGE_COMMITTED) {
		run->committing = false;
		run_trace(run, "COMMITTED", NULL);
		gate_commit(run->gate, message->epoch, now_ns());
		tick(run);
		return;
	}
	if (message->kind != MESSAGE_DIGEST ||
	    digest_unpack(&digest, message->bytes, message->len) < 0)
		abort();
	if (gate_digest(run->gate, message->epoch, &digest, now_ns()) != 0)
		run_fail(run, "the gate refuses a digest");
	tick(run);
}

/* ---- checkpoints ---- */

static uint64_t checkpoint_pause(struct run *run)
{
	return (2 + rng_below(&run->rng, 40)) * MS;
}

/* The PVM stands still: nothing else runs meanwhile, and what is on its way to it and from it is
 * brought there first. */
static void cut(struct run *run)
{
	uint32_t epoch = gate_epoch(run->gate) + 1;

	hop_flush(run, HOP_PVM_IN, false);
	net_drain(PVM);
	run->image = image_take(&run->end[PVM]);
	if (!run->image)
		return;
	net_drain(PVM);
	hop_flush(run, HOP_PVM_OUT, false);
	run_trace(run, "CUT", NULL);
	run->wanted = false;
	run->wanted_since = 0;
	run->differed = run->differed || truth_differed(run);
	run->checkpoints++;
	run->committing = true;
	run->image_epoch = epoch;
	run->image_cut = run->input_index;
	truth_cut(run, epoch);
	gate_cut(run->gate, epoch, now_ns());
	post(run, true, MESSAGE_CHECKPOINT, epoch, NULL, 0, NULL, 0);
}

/* Forgets the input that is in the image. What the PVM has out of order is not (repair mode does
 * not show it), so it is fed to the copy again. */
static void forget_input(struct run *run, uint32_t heard)
{
	struct input **at = &run->log;

	while (*at) {
		struct input *input = *at;
		struct segment s;

		if (input->index >= run->image_cut ||
		    (segment_parse(&s, input->frame) && seq_gt(segment_end(&s), heard))) {
			at = &input->next;
			continue;
		}
		*at = input->next;
		frame_free(input->frame);
		free(input);
	}
	run->log_end = at;
	run->next_to_feed = run->log;
}

/* The SVM becomes a copy of the PVM: what the lineage before has said last is not heard. */
static void load(struct run *run)
{
	struct end *svm = &run->end[SVM];
	uint32_t heard;
	int r;

	if (!run->image || run->truth.whole != run->image_epoch)
		return;
	run->svm_silent = true;
	net_accept(SVM);
	end_abort(svm);
	hop_flush(run, HOP_SVM_IN, true);
	hop_flush(run, HOP_SVM_OUT, true);
	net_drain(SVM);
	r = image_load(run->image, svm, &run->stacks[SVM]);
	heard = image_heard(run->image);
	image_free(run->image);
	run->image = NULL;
	if (r < 0) {
		run_fail(run, "the SVM cannot load: %s", strerror(-r));
		return;
	}
	run_trace(run, "LOADED", NULL);
	run->shift[SVM] = run->shift[PVM];
	run->shift_known[SVM] = true;
	run->plan.ts[SVM] = run->plan.ts[PVM];
	run->truth.iss[SVM] = run->truth.iss[PVM];
	run->lineage = run->image_epoch;
	shadow_lineage(run->shadow, run->lineage);
	run->svm_silent = false;
	net_drain(SVM);
	forget_input(run, heard);
	feed(run);
	end_pump(svm);
}

static void checkpoint(struct run *run)
{
	if (!run->wanted || run->crashed || run->image || run->committing)
		return;
	if (run->end[PVM].connected)
		cut(run);
	if (run->wanted && run->wanted_since && now_ns() - run->wanted_since > PATIENCE_NS)
		run->cut_short = true;
}

/* The beginning of what is on its way to the secondary arrives, the rest is lost with the primary.
 * Of the clock's lead nothing is: that would show as a pause (docs/comparison.md). */
static void lose_link(struct run *run)
{
	struct message *message;
	bool lost = false;

	while ((message = link_take(run))) {
		lost = lost || rng_chance(&run->rng, 30);
		if (!lost || message->kind == MESSAGE_TS_LEAD)
			message_to_s(run, message);
		free(message);
	}
}

static void crash(struct run *run)
{
	run_trace(run, "CRASH", NULL);
	hop_flush(run, HOP_SVM_OUT, false);
	lose_link(run);
	run->crashed = true;
	load(run); /* C(j) that is whole, and not loaded yet (R4) */
	image_free(run->image);
	run->image = NULL;
	shadow_takeover(run->shadow, now_ns());
	end_abort(&run->end[PVM]);
}

void run_event(struct run *run, struct event *event)
{
	struct frame *frame = event->frame;

	event->frame = NULL;
	switch (event->kind) {
	case EVENT_FRAME:
		if (run->hop[event->value].joinable == event)
			run->hop[event->value].joinable = NULL;
		if (frame)
			run_passed(run, (enum hop)event->value, frame);
		break;
	case EVENT_TO_S:
		if (event->message)
			message_to_s(run, event->message);
		break;
	case EVENT_TO_P:
		message_to_p(run, event->message);
		break;
	case EVENT_TICK:
		run->tick_at = 0;
		tick(run);
		break;
	case EVENT_REFEED:
		run->refeed_armed = shadow_ask_again(run->shadow);
		if (run->refeed_armed)
			event_add(run, EVENT_REFEED, now_ns() + REFEED_NS);
		break;
	case EVENT_WAKE:
		end_pump(&run->end[event->value]);
		break;
	case EVENT_LOAD:
		load(run);
		break;
	case EVENT_CHECKPOINT:
		run->wanted = true;
		event_add(run, EVENT_CHECKPOINT, now_ns() + checkpoint_pause(run));
		break;
	case EVENT_SVM_STARTS:
		if (run->end[SVM].fd >= 0)
			break; /* it is a copy already */
		end_connect(&run->end[SVM], &run->stacks[SVM], VM_IP, run->port, run->client_ip,
		            CLIENT_PORT);
		break;
	default:
		break;
	}
}

/* ---- beginning and end ---- */

static const struct gate_ops gate_ops = {
        .release = on_release,
        .request = on_request,
        .flow_open = on_flow_open,
        .ts_lead = on_ts_lead,
        .cut = on_cut,
};
static const struct shadow_ops shadow_ops = {.digest = on_digest, .refeed = on_refeed};

static void open_connection(struct run *run)
{
	uint16_t vm_port = run->plan.ending == END_REFUSED ? CLOSED_PORT : VM_PORT;

	if (!run->plan.vm_opens) {
		end_connect(&run->end[CLIENT], &run->stacks[CLIENT], run->client_ip, run->port,
		            VM_IP, vm_port);
		return;
	}
	end_connect(&run->end[PVM], &run->stacks[PVM], VM_IP, run->port, run->client_ip,
	            CLIENT_PORT);
	event_add(run, EVENT_SVM_STARTS, now_ns() + run->plan.svm_starts * 1000ull);
}

struct run *run_new(struct stack *stacks, uint64_t seed, uint32_t index, bool verbose)
{
	struct run *run = calloc(1, sizeof(*run));

	if (!run)
		abort();
	run->seed = seed;
	run->index = index;
	run->verbose = verbose;
	run->client_ip = CLIENT_NET + 256 + index / 50000;
	run->port = (uint16_t)(10000 + index % 50000);
	run->stacks = stacks;
	run->began = now_ns();
	run->log_end = &run->log;
	run->rng = rng_of(seed, 'r');
	plan_make(&run->plan, seed);
	for (int i = 0; i < HOPS; i++)
		run->hop[i].rng = rng_of(seed, 'h' + ((uint64_t)i << 8));
	for (int i = 0; i < PLACES; i++)
		run->end[i] = (struct end){.run = run,
		                           .place = (enum place)i,
		                           .script = (enum place)i,
		                           .fd = -1,
		                           .rng = rng_of(seed, 'e' + ((uint64_t)i << 8))};
	for (size_t i = 0; i < sizeof(run->key.secret); i++)
		run->key.secret[i] = (uint8_t)rng_below(&run->rng, 256);
	if (truth_init(run) != 0 || gate_new(&run->gate, &limits, &run->key, &gate_ops, run) != 0 ||
	    shadow_new(&run->shadow, 4, &run->key, &shadow_ops, run) != 0 ||
	    recent_new(&run->recent, RECENT_BYTES) != 0)
		abort();
	gate_cut(run->gate, 0, run->began);
	shadow_lineage(run->shadow, 0);
	open_connection(run);
	if (run->plan.checkpoints)
		event_add(run, EVENT_CHECKPOINT, run->began + checkpoint_pause(run));
	return run;
}

static bool done(const struct run *run)
{
	if (!end_done(&run->end[CLIENT]))
		return false;
	if (run->crashed)
		return end_done(&run->end[SVM]);
	return end_done(&run->end[PVM]) && end_done(&run->end[SVM]);
}

void run_check(struct run *run)
{
	if (run->ended)
		return;
	if (!run->failed)
		checkpoint(run);
	if (!run->failed && done(run) && truth_differed(run) && !run->requested[CKPT_MISMATCH] &&
	    !run->requested[CKPT_LATE])
		run_fail(run, "a divergence at %u was missed",
		         plan_difference(&run->plan, run->seed));
	if (run->failed || run->cut_short || done(run))
		run_end(run);
}

void run_end(struct run *run)
{
	struct gate_stats stats;
	struct frame *frame;

	gate_get_stats(run->gate, &stats);
	run->ranges_cut = (uint32_t)stats.ranges_cut;
	while ((frame = recent_evict(run->recent, true)))
		frame_free(frame);
	recent_free(run->recent);
	run->recent = NULL;
	run->differed = run->differed || truth_differed(run);
	for (int i = 0; i < PLACES; i++)
		end_abort(&run->end[i]);
	run->ended = true;
	gate_free(run->gate);
	shadow_free(run->shadow);
	image_free(run->image);
	run->image = NULL;
	run->gate = NULL;
	run->shadow = NULL;
}

void run_free(struct run *run)
{
	while (run->log) {
		struct input *next = run->log->next;

		frame_free(run->log->frame);
		free(run->log);
		run->log = next;
	}
	truth_fini(run);
	free(run);
}
