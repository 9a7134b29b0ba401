/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The comparison as a whole, against random schedules: two model VMs (PVM and SVM) with their own
 * initial sequence numbers, clocks, segmentation and timing, a model client behind a network that
 * loses and reorders, the gate, the shadow, and an in-order link with random delay between them.
 * Checkpoints are cut, committed and loaded at random moments, the SVM's streams diverge now and
 * then, input is lost for a lineage, and in half of the runs the primary dies at a random moment.
 *
 * A checker that sees everything asserts:
 *  - R1, R2: what is released by match has been said by the SVM of that lineage, byte for byte, and
 *    no acknowledgement is beyond its own; what is released by commit is covered by a checkpoint
 *    that is whole on the secondary; nothing else is released.
 *  - R4, R7: at the takeover the survivor has said every byte that the client has, and has every
 *    byte that the client was told to have arrived; after it every connection goes on to its end,
 *    in both directions, by the numbers that the client knows, and no timestamp goes back.
 *  - R8: without a crash every connection comes to its end when checkpoints are taken only as the
 *    gate asks for them.
 *  - R1, R2 of membership reports (docs/comparison.md), which both VMs send when they like, in
 *    packets of their own: one that is released by match says of each group what P has heard last
 *    of the SVM in that lineage, or, where that is nothing, what the PVM had said last before its
 *    checkpoint; one for which that is so is not held; all leave in the PVM's order; none is a
 *    mismatch; the SVM's are told group by group.
 *
 * SIM_SEED=n runs one seed, SIM_SEEDS=n that many, from 1 on; the seed of a failure is printed.
 * What the link loses in the crash: any tail of what was on its way, except the clock's lead, whose
 * loss shows as a pause of that length and not as an error.
 */
#include <glib.h>
#include <stdio.h>
#include <string.h>

#include "colo-proxy/core/gate.h"
#include "colo-proxy/core/seq.h"
#include "colo-proxy/core/shadow.h"
#include "tests/unit/report_builder.h"
#include "tests/unit/tcp_builder.h"

#define SLOTS         3u /* connections; the VM opens the last one */
#define MSS           100u
#define STREAM        3000u /* the longest stream */
#define WINDOW        800u
#define QUEUE         4096u
#define MS            1000000ull
#define VM_SLOT       (SLOTS - 1)
#define OPENING       9999u /* port of the datagrams that make the VM open a connection */
#define GROUPS        4u
#define CHANGING      9998u /* port of the datagrams that make the VM change what it means of one */
#define DEFAULT_SEEDS 3000u

enum conn_state {
	CLOSED,
	SYN_SENT,
	SYN_RCVD,
	OPEN,
};

/* One side of a connection. Offsets of a stream count from 0; its SYN is before, its FIN behind. */
struct conn {
	enum conn_state state;
	uint32_t iss, irs;
	uint32_t ts_offset, ts_recent;
	uint32_t snd_una, snd_nxt, snd_max; /* offsets; `total` + 1: the FIN */
	uint32_t rcv_nxt;                   /* offset */
	uint32_t total, acked;              /* acked: the highest offset acknowledged to the peer */
	bool fin_seen, ack_due, has_acked;
	uint32_t salt_from;            /* the SVM's bytes differ from here on */
	bool segment_ends[STREAM + 1]; /* at this offset, when it was said first */
};

struct vm {
	uint32_t lineage;
	uint64_t clock_at; /* the guest's clock is clock_ms + (now - clock_at) */
	uint32_t clock_ms;
	uint32_t counter, changes;
	uint8_t means[GROUPS]; /* a number in words[], for each group; 0: it was never in it */
	uint8_t news[GROUPS];  /* 1: not reported yet */
	struct conn conn[SLOTS];
};

/* A membership report, in numbers of words[]; 0: it says nothing of the group. */
struct report {
	struct frame *frame;
	uint32_t epoch;
	uint8_t word[GROUPS];
	bool unclear;
};

/* What P knows of the lineage's words; 0: nothing. */
struct heard {
	uint32_t epoch;
	uint8_t word[GROUPS];
	bool unclear; /* one of the VMs has said what nobody reads */
};

struct client {
	struct conn conn[SLOTS];
	uint8_t got[SLOTS][STREAM];
	uint32_t ts_seen[SLOTS]; /* the highest TSval released, of this incarnation */
	bool ts_known[SLOTS];
	bool aborted[SLOTS];
	uint32_t began[SLOTS], sent[SLOTS]; /* by the client's clock */
	uint32_t finished, opened;
};

struct queue {
	struct frame *frame[QUEUE];
	uint32_t n;
};

enum msg_kind {
	TO_S_INPUT,
	TO_S_OPEN,
	TO_S_LEAD,
	TO_P_DIGEST,
	TO_P_COMMITTED,
};

struct msg {
	struct msg *next;
	enum msg_kind kind;
	uint32_t epoch, ticks;
	struct frame *frame;
	struct flow_open open;
	struct digest digest;
	uint8_t word; /* of the digest's group */
	uint64_t due; /* to P: not there before */
};

struct channel {
	struct msg *head, *tail;
};

struct sim {
	uint64_t seed, random, now;
	bool ipv6; /* TCP of every other seed; the VM's with extension headers */
	struct gate *gate;
	struct shadow *shadow;
	struct packet_digest_key key;
	struct vm pvm, svm, svm_before, image;
	struct client client;
	struct queue to_client, to_vm;
	GPtrArray *input; /* all that the PVM was or will be given */
	uint32_t pvm_taken, arrived, svm_fed, image_cut;
	struct channel to_s, to_p;
	uint32_t epoch, whole, committed; /* whole: the newest checkpoint that S has */
	bool in_flight, image_here, image_loaded;
	bool wanted, crashed, draining;
	bool calm; /* no checkpoint but for a cause, no divergence, no lost input */
	uint32_t matched, by_commit, checkpoints;
	uint32_t late;         /* checkpoints that were asked for because the SVM is late */
	uint32_t broken_below; /* epochs of which nothing more matches */
	uint64_t lag_ns;       /* of what S tells P */
	GQueue reports;        /* of the PVM, that are held */
	struct report saying;  /* what a VM says */
	struct heard heard[2]; /* by epoch & 1 */
	uint8_t said[GROUPS];  /* the PVM's newest words; 0: not known */
	uint32_t told;         /* digests of what the SVM says */
	uint32_t reports_matched;
};

static uint32_t rnd(struct sim *s, uint32_t below)
{
	s->random ^= s->random << 13;
	s->random ^= s->random >> 7;
	s->random ^= s->random << 17;
	return (uint32_t)((s->random >> 16) % below);
}

static bool chance(struct sim *s, uint32_t percent)
{
	return rnd(s, 100) < percent;
}

/* A number that is near the wrap half of the time. */
/* Often close to the wrap, never as close to the connection before as RFC 9293's clock keeps away.
 */
static uint32_t any_iss(struct sim *s, uint32_t before)
{
	uint32_t iss;

	do {
		iss = chance(s, 50) ? (uint32_t) - (int32_t)rnd(s, 2000) : rnd(s, UINT32_MAX);
	} while (iss - before + 2 * STREAM < 4 * STREAM);
	return iss;
}

#define CHECK(s, holds, ...)                                                                       \
	do {                                                                                       \
		if (!(holds)) {                                                                    \
			g_printerr("SIM_SEED=%lu: ", (unsigned long)(s)->seed);                    \
			g_printerr(__VA_ARGS__);                                                   \
			g_printerr("\n");                                                          \
			g_error("%s", #holds);                                                     \
		}                                                                                  \
	} while (0)

/* What a VM can mean of a group: all sources, none, one, all but one. */
static const struct build_record words[] = {
        {0},
        {.type = IS_EX},
        {.type = IS_IN},
        {.type = IS_IN, .source = 5},
        {.type = IS_EX, .source = 6},
};

/* ---- streams ---- */

static uint8_t vm_byte(const struct conn *c, uint32_t off)
{
	uint8_t b = (uint8_t)((off + c->irs) * 37 ^ off >> 5);

	return off >= c->salt_from ? b ^ 0x5a : b;
}

static uint32_t total_of(uint32_t irs)
{
	return irs * 2654435761u % STREAM;
}

static uint32_t client_byte(const struct conn *c, uint32_t off)
{
	return (uint8_t)(off * 11 ^ c->iss);
}

static uint32_t vm_clock(const struct sim *s, const struct vm *vm)
{
	return vm->clock_ms + (uint32_t)((s->now - vm->clock_at) / MS);
}

static uint16_t slot_vm_port(uint32_t slot)
{
	return slot == VM_SLOT ? 4000 : 80;
}

static uint16_t slot_peer_port(uint32_t slot)
{
	return (uint16_t)(slot == VM_SLOT ? 90 : 1000 + slot);
}

/* ---- the link ---- */

static void post(struct channel *channel, const struct msg *from)
{
	struct msg *msg = g_new(struct msg, 1);

	*msg = *from;
	msg->next = NULL;
	*(channel->tail ? &channel->tail->next : &channel->head) = msg;
	channel->tail = msg;
}

static struct msg *take(struct channel *channel)
{
	struct msg *msg = channel->head;

	if (msg) {
		channel->head = msg->next;
		if (!channel->head)
			channel->tail = NULL;
	}
	return msg;
}

static void push(struct sim *s, struct queue *queue, struct frame *frame)
{
	if (queue->n == QUEUE || chance(s, s->draining ? 2 : 10))
		frame_free(frame);
	else
		queue->frame[queue->n++] = frame;
}

/* Mostly in order. */
static struct frame *pull(struct sim *s, struct queue *queue)
{
	uint32_t at = chance(s, 80) ? 0 : rnd(s, queue->n);
	struct frame *frame = queue->frame[at];

	memmove(&queue->frame[at], &queue->frame[at + 1],
	        (queue->n - at - 1) * sizeof(struct frame *));
	queue->n--;
	return frame;
}

/* ---- the checker ---- */

static int slot_of(const struct packet *p, bool from_vm)
{
	uint16_t peer_port = from_vm ? p->tcp.dport : p->tcp.sport;

	for (uint32_t i = 0; i < SLOTS; i++) {
		if (peer_port == slot_peer_port(i))
			return (int)i;
	}
	return -1;
}

static bool in_half(uint32_t offset)
{
	return (int32_t)offset >= 0;
}

/* The SVM in this lineage, or what it will begin as: a committed checkpoint that is not loaded. */
static const struct vm *vm_of_lineage(const struct sim *s, uint32_t epoch)
{
	if (s->svm.lineage == epoch)
		return &s->svm;
	if (s->in_flight && s->image_here && !s->image_loaded && s->image.lineage == epoch)
		return &s->image;
	return s->svm_before.lineage == epoch ? &s->svm_before : NULL;
}

/* A segment that was released by match, against the SVM of its lineage; the connection is the one
 * that the acknowledgement or the SYN names. */
static void check_match(struct sim *s, const struct packet *p, uint32_t epoch)
{
	const struct vm *svm = vm_of_lineage(s, epoch);
	int slot = slot_of(p, true);
	const struct conn *pvm = &s->pvm.conn[slot], *c = &svm->conn[slot];
	uint32_t off, end;

	CHECK(s, svm, "match in epoch %u, the SVM is in %u", epoch, s->svm.lineage);
	if (p->tcp.flags & PACKET_RST || pvm->state == CLOSED || c->state == CLOSED ||
	    pvm->irs != c->irs || (c->state == SYN_SENT && !(p->tcp.flags & PACKET_SYN)))
		return; /* nothing is left of the connection to compare with */
	off = p->tcp.seq - pvm->iss - 1;
	if (p->tcp.flags & PACKET_SYN)
		off++;
	if (!in_half(off) || off > STREAM + 1)
		return; /* of an older connection */
	end = off + p->payload_len + !!(p->tcp.flags & PACKET_FIN);
	if (end > off)
		CHECK(s, end <= c->snd_max, "slot %d: offset %u released, SVM has said %u", slot,
		      end, c->snd_max);
	for (uint32_t i = 0; i < p->payload_len; i++)
		CHECK(s, p->frame->data[p->payload_off + i] == vm_byte(c, off + i),
		      "slot %d: other byte at %u", slot, off + i);
	if (p->tcp.flags & PACKET_ACK && !(p->tcp.flags & PACKET_SYN)) {
		uint32_t ack = p->tcp.ack - pvm->irs - 1;

		if (in_half(ack) && ack <= STREAM + 1)
			CHECK(s, c->has_acked && ack <= c->acked, "slot %d: ack %u, the SVM's %u",
			      slot, ack, c->acked);
	}
}

static void note_shown(struct sim *s, const struct packet *p)
{
	int slot = slot_of(p, true);
	struct client *client = &s->client;

	if (slot < 0 || !p->tcp.ts_off || p->tcp.flags & PACKET_RST)
		return;
	if (s->crashed && client->ts_known[slot] && !(p->tcp.flags & PACKET_SYN))
		CHECK(s, seq_geq(p->tcp.tsval, client->ts_seen[slot]),
		      "slot %d: the clock went back from %u to %u", slot, client->ts_seen[slot],
		      p->tcp.tsval);
	if (p->tcp.flags & PACKET_SYN || !client->ts_known[slot] ||
	    seq_gt(p->tcp.tsval, client->ts_seen[slot]))
		client->ts_seen[slot] = p->tcp.tsval;
	client->ts_known[slot] = true;
}

/* ---- membership reports: what may be let out ---- */

static bool is_report(const struct digest *digest)
{
	return digest->key.kind == FLOW_GROUP || digest->key.kind == FLOW_MEMBERSHIP;
}

static uint32_t group_of(const struct digest *digest)
{
	return (digest->key.peer_ip & 0xff) % GROUPS;
}

/* Whether the lineage of the report's epoch means all that it says. */
static bool is_known(const struct sim *s, const struct report *report)
{
	const struct heard *heard = &s->heard[report->epoch & 1];

	if (report->unclear || heard->unclear || heard->epoch != report->epoch)
		return false;
	for (uint32_t i = 0; i < GROUPS; i++) {
		if (report->word[i] && report->word[i] != heard->word[i])
			return false;
	}
	return true;
}

static void check_report(struct sim *s, const struct frame *frame, enum release_why why)
{
	struct report *first = g_queue_peek_head(&s->reports);

	if (!first || first->frame != frame) {
		for (const GList *one = s->reports.head; one; one = one->next)
			CHECK(s, ((struct report *)one->data)->frame != frame,
			      "a report overtakes another");
		return;
	}
	CHECK(s, why == RELEASE_COMMIT || is_known(s, first),
	      "a report is released, and the SVM does not mean all of it");
	s->reports_matched += why == RELEASE_MATCH;
	g_free(g_queue_pop_head(&s->reports));
}

static void check_held_report(struct sim *s)
{
	const struct report *first = g_queue_peek_head(&s->reports);

	CHECK(s,
	      !first || first->epoch > s->committed || first->epoch < s->broken_below ||
	              !is_known(s, first),
	      "a report is held, and the SVM means all of it");
}

static void heard_of_group(struct sim *s, const struct msg *msg)
{
	struct heard *heard = &s->heard[msg->epoch & 1];

	if (!is_report(&msg->digest) || heard->epoch != msg->epoch || msg->epoch < s->committed)
		return;
	if (msg->digest.key.kind == FLOW_MEMBERSHIP)
		heard->unclear = true;
	else
		heard->word[group_of(&msg->digest)] = msg->word;
}

static void on_release(void *ctx, struct frame *frame, const struct packet *packet,
                       enum release_why why, uint64_t held_ns)
{
	struct sim *s = ctx;
	uint32_t epoch = s->epoch - (uint8_t)(s->epoch - frame->origin); /* see vm_says() */

	(void)held_ns;
	CHECK(s, why != RELEASE_UNPROTECTED, "released as unprotected");
	if (why == RELEASE_COMMIT) {
		s->by_commit++;
		CHECK(s, s->whole > epoch, "epoch %u released, C(%u) is the newest", epoch,
		      s->whole);
	} else {
		s->matched++;
		if (packet->class == PACKET_TCP)
			check_match(s, packet, epoch);
	}
	if (packet->class == PACKET_TCP)
		note_shown(s, packet);
	check_report(s, frame, why);
	push(s, &s->to_client, frame);
}

static void on_request(void *ctx, const struct divergence *why)
{
	struct sim *s = ctx;

	CHECK(s, why->cause != CKPT_MISMATCH || why->key.kind != FLOW_MEMBERSHIP,
	      "a report is a mismatch");
	s->wanted = true;
	s->late += why->cause == CKPT_LATE;
}

static void on_flow_open(void *ctx, uint32_t epoch, const struct flow_open *open)
{
	struct sim *s = ctx;
	struct msg msg = {.kind = TO_S_OPEN, .epoch = epoch, .open = *open};

	post(&s->to_s, &msg);
}

static void on_ts_lead(void *ctx, uint32_t epoch, uint32_t ticks)
{
	struct sim *s = ctx;
	struct msg msg = {.kind = TO_S_LEAD, .epoch = epoch, .ticks = ticks};

	post(&s->to_s, &msg);
}

static void on_digest(void *ctx, uint32_t lineage, const struct digest *digest)
{
	struct sim *s = ctx;
	struct msg msg = {.kind = TO_P_DIGEST,
	                  .epoch = lineage,
	                  .digest = *digest,
	                  .due = s->now + s->lag_ns};

	if (is_report(digest)) {
		CHECK(s, (digest->key.kind == FLOW_MEMBERSHIP) == s->saying.unclear,
		      "an unclear report is told as a clear one, or otherwise");
		s->told++;
		msg.word = s->saying.word[group_of(digest)];
	}
	post(&s->to_p, &msg);
}

/* The model's SVM loses no input: what it lacks, the client's retransmission brings to both. */
static void on_refeed(void *ctx, const struct flow_key *key, uint32_t seq)
{
	(void)ctx;
	(void)key;
	(void)seq;
}

static const struct gate_ops gate_ops = {
        .release = on_release,
        .request = on_request,
        .flow_open = on_flow_open,
        .ts_lead = on_ts_lead,
};
static const struct shadow_ops shadow_ops = {.digest = on_digest, .refeed = on_refeed};

/* ---- the VMs ---- */

static void vm_says(struct sim *s, struct vm *vm, struct frame *frame)
{
	struct packet p;

	if (vm == &s->pvm) {
		frame->origin = (uint8_t)s->epoch; /* the gate's cuts keep it */
		gate_output(s->gate, frame, s->now);
		return;
	}
	if (!s->crashed) {
		shadow_output(s->shadow, frame, s->now);
		frame_free(frame);
		return;
	}
	shadow_translate(s->shadow, frame, s->now);
	CHECK(s, packet_parse(&p, frame) == 0, "the translation broke a frame");
	if (p.class == PACKET_TCP)
		note_shown(s, &p);
	push(s, &s->to_client, frame);
}

static void vm_sends(struct sim *s, struct vm *vm, uint32_t slot, uint16_t flags, uint32_t off,
                     uint32_t len)
{
	struct conn *c = &vm->conn[slot];
	uint8_t data[WINDOW];
	struct build_tcp t = {
	        .ipv6 = s->ipv6,
	        .extended = s->ipv6,
	        .vm_port = slot_vm_port(slot),
	        .peer_port = slot_peer_port(slot),
	        .seq = c->iss + 1 + off,
	        .len = len,
	        .data = data,
	        .flags = flags,
	        .has_ts = true,
	        .tsval = vm_clock(s, vm) + c->ts_offset,
	        .tsecr = c->ts_recent,
	        .gso_size = len > MSS ? MSS : 0,
	};

	for (uint32_t i = 0; i < len; i++)
		data[i] = vm_byte(c, off + i);
	if (flags & PACKET_SYN) {
		t.seq = c->iss;
		t.mss = MSS;
		t.sack_permitted = true;
	}
	if (flags & PACKET_ACK) {
		t.ack = c->irs + 1 + c->rcv_nxt;
		c->acked = c->rcv_nxt > c->acked ? c->rcv_nxt : c->acked;
		c->has_acked = true;
		c->ack_due = false;
	}
	if (len || flags & PACKET_FIN) {
		uint32_t end = off + len + !!(flags & PACKET_FIN);

		c->snd_max = end > c->snd_max ? end : c->snd_max;
	}
	vm_says(s, vm, build_tcp(&t));
}

static void vm_resets(struct sim *s, struct vm *vm, uint32_t slot, const struct packet *p)
{
	struct build_tcp t = {.ipv6 = s->ipv6,
	                      .extended = s->ipv6,
	                      .vm_port = slot_vm_port(slot),
	                      .peer_port = slot_peer_port(slot),
	                      .flags = PACKET_RST};

	if (p->tcp.flags & PACKET_ACK) {
		t.seq = p->tcp.ack;
	} else {
		t.flags |= PACKET_ACK;
		t.ack = p->tcp.seq + packet_seq_len(p);
	}
	vm_says(s, vm, build_tcp(&t));
}

static void conn_begins(struct sim *s, struct conn *c, enum conn_state state)
{
	uint32_t irs = c->irs, before = c->iss;

	*c = (struct conn){.state = state,
	                   .irs = irs,
	                   .iss = any_iss(s, before),
	                   .ts_offset = rnd(s, UINT32_MAX),
	                   .salt_from = UINT32_MAX};
}

static bool conn_done(const struct conn *c)
{
	return c->fin_seen && c->snd_una == c->total + 1 && c->state == OPEN;
}

/* Acknowledgement and payload of an established connection, for either side. */
static bool conn_hears(struct conn *c, const struct packet *p)
{
	uint32_t off = p->tcp.seq - c->irs - 1, len = packet_seq_len(p), ack;
	bool news = false;

	if (p->tcp.flags & PACKET_ACK) {
		ack = p->tcp.ack - c->iss - 1;
		if (in_half(ack) && ack > c->snd_una && ack <= c->snd_max)
			c->snd_una = ack;
		if (c->snd_nxt < c->snd_una)
			c->snd_nxt = c->snd_una;
	}
	/* Plain comparisons: a segment of an earlier connection has an offset beyond any stream. */
	if (len && off <= c->rcv_nxt && off + len > c->rcv_nxt) {
		news = true;
		c->rcv_nxt = off + len;
		if (p->tcp.flags & PACKET_FIN)
			c->fin_seen = true;
	}
	if (len)
		c->ack_due = true;
	if (p->tcp.ts_off)
		c->ts_recent = p->tcp.tsval;
	return news;
}

static void vm_hears_closed(struct sim *s, struct vm *vm, uint32_t slot, const struct packet *p)
{
	struct conn *c = &vm->conn[slot];

	if (p->tcp.flags & PACKET_RST)
		return;
	if (slot == VM_SLOT || !(p->tcp.flags & PACKET_SYN) || p->tcp.flags & PACKET_ACK) {
		vm_resets(s, vm, slot, p);
		return;
	}
	conn_begins(s, c, SYN_RCVD);
	c->irs = p->tcp.seq;
	c->total = total_of(c->irs);
	c->ts_recent = p->tcp.tsval;
	vm_sends(s, vm, slot, PACKET_SYN | PACKET_ACK, 0, 0);
}

static void vm_hears_syn_sent(struct sim *s, struct vm *vm, uint32_t slot, const struct packet *p)
{
	struct conn *c = &vm->conn[slot];

	if (!(p->tcp.flags & PACKET_ACK))
		return;
	if (p->tcp.ack != c->iss + 1) {
		if (!(p->tcp.flags & PACKET_RST))
			vm_resets(s, vm, slot, p);
		return;
	}
	if (p->tcp.flags & PACKET_RST) {
		c->state = CLOSED;
		return;
	}
	if (!(p->tcp.flags & PACKET_SYN))
		return;
	c->state = OPEN;
	c->irs = p->tcp.seq;
	c->total = total_of(c->irs);
	c->ts_recent = p->tcp.tsval;
	c->ack_due = true;
}

static void vm_hears_tcp(struct sim *s, struct vm *vm, uint32_t slot, const struct packet *p)
{
	struct conn *c = &vm->conn[slot];

	if (c->state == CLOSED || (conn_done(c) && p->tcp.flags & PACKET_SYN &&
	                           !(p->tcp.flags & PACKET_ACK) && p->tcp.seq != c->irs)) {
		vm_hears_closed(s, vm, slot, p);
		return;
	}
	if (c->state == SYN_SENT) {
		vm_hears_syn_sent(s, vm, slot, p);
		return;
	}
	if (p->tcp.flags & PACKET_RST) {
		if (p->tcp.seq == c->irs + 1 + c->rcv_nxt)
			c->state = CLOSED;
		return;
	}
	if (p->tcp.flags & PACKET_SYN) {
		if (c->state == SYN_RCVD && p->tcp.seq == c->irs)
			vm_sends(s, vm, slot, PACKET_SYN | PACKET_ACK, 0, 0);
		else
			vm_sends(s, vm, slot, PACKET_ACK, c->snd_nxt, 0);
		return;
	}
	if (p->tcp.flags & PACKET_ACK && (c->state == SYN_RCVD) && p->tcp.ack == c->iss + 1)
		c->state = OPEN;
	if (c->state == SYN_RCVD)
		return;
	conn_hears(c, p);
}

/* Both VMs mean the same of their groups when they have heard the same. */
static void vm_changes(struct vm *vm)
{
	uint32_t random = ++vm->changes * 2654435761u >> 8, group = random % GROUPS;

	vm->means[group] = 1 + random / GROUPS % (G_N_ELEMENTS(words) - 1);
	vm->news[group] = 1;
}

/* What is new, and some of the rest, as it comes. */
static uint32_t choose_records(struct sim *s, struct vm *vm, struct report *report,
                               struct build_record record[GROUPS])
{
	uint32_t n = 0, first = rnd(s, GROUPS);

	for (uint32_t i = 0; i < GROUPS; i++) {
		uint32_t group = (first + i) % GROUPS, word = vm->means[group];

		if (!word || !(vm->news[group] ? chance(s, 80) : chance(s, 30)))
			continue;
		vm->news[group] = 0;
		report->word[group] = (uint8_t)word;
		record[n] = words[word];
		record[n].group = (uint8_t)group;
		record[n++].type += chance(s, 50) ? TO_IN - IS_IN : 0;
	}
	return n;
}

static struct frame *build_words(struct sim *s, const struct build_record *record, uint32_t n,
                                 bool unclear)
{
	bool longer = unclear && chance(s, 50),
	     all = record->type == IS_EX || record->type == TO_EX;
	struct frame *frame;

	if (n == 1 && !unclear && !record->source && chance(s, 50))
		frame = build_old_report(s->ipv6, all, record->group);
	else
		frame = build_report(s->ipv6, record, n, longer ? 4 : 0);
	if (unclear && !longer)
		frame->data[frame->len - 1] ^= 1; /* the checksum is wrong */
	return frame;
}

static void pvm_said(struct sim *s, struct report *report)
{
	for (uint32_t i = 0; i < GROUPS; i++)
		s->said[i] = report->unclear ? 0 : report->word[i] ? report->word[i] : s->said[i];
	s->heard[s->epoch & 1].unclear |= report->unclear;
	g_queue_push_tail(&s->reports, g_memdup2(report, sizeof(*report)));
}

static void vm_reports(struct sim *s, struct vm *vm)
{
	struct report *report = &s->saying;
	struct build_record record[GROUPS];
	uint32_t n;

	*report = (struct report){.epoch = s->epoch, .unclear = rnd(s, 20) == 0};
	n = choose_records(s, vm, report, record);
	if (!n)
		return;
	s->told = 0;
	report->frame = build_words(s, record, n, report->unclear);
	if (vm == &s->pvm)
		pvm_said(s, report);
	vm_says(s, vm, report->frame);
	CHECK(s, vm == &s->pvm || s->crashed || s->told == (report->unclear ? 1 : n),
	      "of %u groups %u are told", n, s->told);
}

static void vm_hears(struct sim *s, struct vm *vm, struct frame *frame)
{
	struct packet p;
	char text[32];
	int slot;

	CHECK(s, packet_parse(&p, frame) == 0, "input does not parse");
	if (p.class == PACKET_TCP) {
		slot = slot_of(&p, false);
		vm_hears_tcp(s, vm, (uint32_t)slot, &p);
		return;
	}
	if (p.udp.dport == CHANGING) {
		vm_changes(vm);
		return;
	}
	vm->counter++;
	g_snprintf(text, sizeof(text), "%u", vm->counter);
	vm_says(s, vm, build_udp(false, OPENING, p.udp.sport, text, (uint32_t)strlen(text)));
	if (vm->conn[VM_SLOT].state == CLOSED || conn_done(&vm->conn[VM_SLOT])) {
		conn_begins(s, &vm->conn[VM_SLOT], SYN_SENT);
		vm_sends(s, vm, VM_SLOT, PACKET_SYN, 0, 0);
	}
}

/* How much a VM says at snd_nxt. Stacks repeat what they have said segment by segment, as it is in
 * their queues; now and then in other portions. */
static uint32_t vm_portion(struct sim *s, struct conn *c)
{
	uint32_t len = chance(s, 60)   ? MSS
	               : chance(s, 50) ? 1 + rnd(s, MSS)
	                               : MSS * (1 + rnd(s, 6));
	uint32_t end = c->snd_nxt;

	if (c->snd_nxt >= c->snd_max || (!s->calm && chance(s, 20)))
		return len;
	do
		end++;
	while (end < c->snd_max && end < c->total && !c->segment_ends[end]);
	return end - c->snd_nxt;
}

static void note_segments(struct conn *c, uint32_t len)
{
	for (uint32_t at = c->snd_nxt; at < c->snd_nxt + len; at += MSS)
		c->segment_ends[at] = true;
	c->segment_ends[c->snd_nxt + len] = true;
}

/* Something that a stack does by itself: data, FIN, acknowledgement, retransmission. */
static void vm_acts(struct sim *s, struct vm *vm)
{
	uint32_t slot = rnd(s, SLOTS), len, left;
	struct conn *c = &vm->conn[slot];
	uint16_t fin = 0;
	bool reports = !s->calm && !s->draining;

	if (reports && chance(s, memchr(vm->news, 1, sizeof(vm->news)) ? 20 : 2))
		vm_reports(s, vm);
	if (c->state == SYN_RCVD && chance(s, 10))
		vm_sends(s, vm, slot, PACKET_SYN | PACKET_ACK, 0, 0);
	if (c->state == SYN_SENT && chance(s, 10))
		vm_sends(s, vm, slot, PACKET_SYN, 0, 0);
	if (c->state != OPEN)
		return;
	if (chance(s, 5) && c->snd_una < c->snd_nxt)
		c->snd_nxt = c->snd_una; /* retransmission */
	if (c->snd_nxt > c->total || c->snd_nxt - c->snd_una >= WINDOW || chance(s, 30)) {
		if (c->ack_due && chance(s, 60))
			vm_sends(s, vm, slot, PACKET_ACK, c->snd_nxt, 0);
		return;
	}
	left = c->total - c->snd_nxt;
	len = vm_portion(s, c);
	len = len < left ? len : left;
	if (len > WINDOW - (c->snd_nxt - c->snd_una))
		len = WINDOW - (c->snd_nxt - c->snd_una);
	if (c->snd_nxt + len == c->total && (len == 0 || chance(s, 50)))
		fin = PACKET_FIN;
	note_segments(c, len);
	vm_sends(s, vm, slot, PACKET_ACK | fin, c->snd_nxt, len);
	c->snd_nxt += len + !!fin;
}

/* ---- the client ---- */

static void client_sends(struct sim *s, uint32_t slot, uint16_t flags, uint32_t off, uint32_t len)
{
	struct conn *c = &s->client.conn[slot];
	uint8_t data[WINDOW];
	struct build_tcp t = {
	        .from_peer = true,
	        .ipv6 = s->ipv6,
	        .vm_port = slot_vm_port(slot),
	        .peer_port = slot_peer_port(slot),
	        .seq = flags & PACKET_SYN ? c->iss : c->iss + 1 + off,
	        .len = len,
	        .data = data,
	        .flags = flags,
	        .has_ts = true,
	        .tsval = (uint32_t)(s->now / MS),
	        .tsecr = flags & PACKET_ACK ? c->ts_recent : 0,
	};

	for (uint32_t i = 0; i < len; i++)
		data[i] = (uint8_t)client_byte(c, off + i);
	if (flags & PACKET_ACK) {
		t.ack = c->irs + 1 + c->rcv_nxt;
		c->ack_due = false;
	}
	if (len || flags & PACKET_FIN) {
		uint32_t end = off + len + !!(flags & PACKET_FIN);

		c->snd_max = end > c->snd_max ? end : c->snd_max;
	}
	s->client.sent[slot] = t.tsval;
	push(s, &s->to_vm, build_tcp(&t));
}

static void client_begins(struct sim *s, uint32_t slot, enum conn_state state)
{
	struct conn *c = &s->client.conn[slot];

	conn_begins(s, c, state);
	c->total = rnd(s, STREAM);
	s->client.ts_known[slot] = s->client.ts_known[slot] && slot == VM_SLOT;
	s->client.aborted[slot] = false;
	s->client.began[slot] = (uint32_t)(s->now / MS);
	s->client.opened++;
}

static void client_hears_data(struct sim *s, uint32_t slot, const struct packet *p)
{
	struct conn *c = &s->client.conn[slot];
	uint32_t before = c->rcv_nxt, off = p->tcp.seq - c->irs - 1;

	if (off > STREAM + 1 || (p->tcp.ts_off && p->tcp.tsecr < s->client.began[slot]))
		return; /* of an older connection */
	CHECK(s,
	      !(p->tcp.flags & PACKET_ACK) || p->tcp.ack - c->iss - 1 <= c->snd_max ||
	              !in_half(p->tcp.ack - c->iss - 1),
	      "slot %u: acknowledges what was never sent", slot);
	if (!conn_hears(c, p))
		return;
	for (uint32_t at = before; at < off + p->payload_len; at++)
		s->client.got[slot][at] = p->frame->data[p->payload_off + at - off];
}

static void client_hears(struct sim *s, struct frame *frame)
{
	struct packet p;
	struct conn *c;
	int slot;

	CHECK(s, packet_parse(&p, frame) == 0, "output does not parse");
	if (p.class != PACKET_TCP)
		return;
	CHECK(s,
	      packet_l4_checksum(&p) ==
	              (uint16_t)(frame->data[p.l4_off + 16] << 8 | frame->data[p.l4_off + 17]),
	      "wrong checksum");
	slot = slot_of(&p, true);
	c = &s->client.conn[slot];
	if (p.tcp.flags & PACKET_RST) {
		if (c->state == OPEN && p.tcp.seq == c->irs + 1 + c->rcv_nxt) {
			CHECK(s, c->fin_seen, "slot %d: the VM broke the connection", slot);
			c->state = CLOSED;
		} else if (c->state == SYN_SENT && p.tcp.flags & PACKET_ACK &&
		           p.tcp.ack == c->iss + 1) {
			c->state = CLOSED;
		}
		return;
	}
	if (slot == VM_SLOT && (p.tcp.flags & (PACKET_SYN | PACKET_ACK)) == PACKET_SYN &&
	    (c->state == CLOSED || (conn_done(c) && p.tcp.seq != c->irs))) {
		client_begins(s, VM_SLOT, SYN_RCVD);
		c->irs = p.tcp.seq;
		c->ts_recent = p.tcp.tsval;
	}
	if (c->state == SYN_RCVD) {
		if (p.tcp.flags & PACKET_SYN && p.tcp.seq == c->irs)
			client_sends(s, (uint32_t)slot, PACKET_SYN | PACKET_ACK, 0, 0);
		else if (p.tcp.flags & PACKET_ACK && p.tcp.ack == c->iss + 1)
			c->state = OPEN;
	} else if (c->state == SYN_SENT) {
		if (p.tcp.flags & PACKET_SYN && p.tcp.ack == c->iss + 1) {
			c->state = OPEN;
			c->irs = p.tcp.seq;
			c->ts_recent = p.tcp.tsval;
			c->ack_due = true;
		} else if (p.tcp.flags & PACKET_ACK && p.tcp.ack != c->iss + 1) {
			struct build_tcp t = {.from_peer = true,
			                      .ipv6 = s->ipv6,
			                      .seq = p.tcp.ack,
			                      .vm_port = slot_vm_port((uint32_t)slot),
			                      .peer_port = slot_peer_port((uint32_t)slot),
			                      .flags = PACKET_RST};

			push(s, &s->to_vm, build_tcp(&t));
		}
	}
	if (c->state != OPEN)
		return;
	if (p.tcp.flags & PACKET_SYN)
		c->ack_due = true;
	else
		client_hears_data(s, (uint32_t)slot, &p);
}

static void client_acts(struct sim *s)
{
	uint32_t slot = rnd(s, SLOTS), len;
	struct conn *c = &s->client.conn[slot];
	uint16_t fin = 0;

	if (!s->calm && !s->draining && chance(s, 2))
		push(s, &s->to_vm, build_udp(true, CHANGING, 701, "", 0));
	if (c->state == CLOSED || conn_done(c)) {
		if (s->draining || s->client.opened > 8 || !chance(s, 5) ||
		    s->client.sent[slot] == (uint32_t)(s->now / MS))
			return;
		if (slot == VM_SLOT) {
			push(s, &s->to_vm, build_udp(true, OPENING, 700, "open", 4));
			return;
		}
		client_begins(s, slot, SYN_SENT);
		client_sends(s, slot, PACKET_SYN, 0, 0);
		return;
	}
	if (c->state == SYN_SENT && chance(s, 10))
		client_sends(s, slot, PACKET_SYN, 0, 0);
	if (c->state == SYN_RCVD && chance(s, 10))
		client_sends(s, slot, PACKET_SYN | PACKET_ACK, 0, 0);
	if (c->state != OPEN)
		return;
	if (!s->draining && rnd(s, 2000) == 0) {
		client_sends(s, slot, PACKET_RST, c->snd_nxt, 0);
		c->state = CLOSED;
		s->client.aborted[slot] = true;
		return;
	}
	if (chance(s, 5) && c->snd_una < c->snd_nxt)
		c->snd_nxt = c->snd_una;
	if (c->snd_nxt > c->total || c->snd_nxt - c->snd_una >= WINDOW || chance(s, 40)) {
		if (c->ack_due || chance(s, 2))
			client_sends(s, slot, PACKET_ACK, c->snd_nxt, 0);
		return;
	}
	len = 1 + rnd(s, MSS);
	len = len < c->total - c->snd_nxt ? len : c->total - c->snd_nxt;
	if (c->snd_nxt + len == c->total)
		fin = PACKET_FIN;
	client_sends(s, slot, PACKET_ACK | fin, c->snd_nxt, len);
	c->snd_nxt += len + !!fin;
}

/* ---- the machinery between them ---- */

static void network_to_vm(struct sim *s)
{
	struct frame *frame;
	struct msg msg = {.kind = TO_S_INPUT};

	if (!s->to_vm.n)
		return;
	frame = pull(s, &s->to_vm);
	if (s->crashed) {
		shadow_input(s->shadow, frame, s->now);
		vm_hears(s, &s->svm, frame);
		frame_free(frame);
		return;
	}
	g_ptr_array_add(s->input, frame);
	post(&s->to_s, &msg);
}

static void network_to_client(struct sim *s)
{
	struct frame *frame;

	if (!s->to_client.n)
		return;
	frame = pull(s, &s->to_client);
	client_hears(s, frame);
	frame_free(frame);
}

static void pvm_takes(struct sim *s)
{
	if (!s->crashed && s->pvm_taken < s->input->len)
		vm_hears(s, &s->pvm, s->input->pdata[s->pvm_taken++]);
}

static void svm_takes(struct sim *s)
{
	struct frame *frame;

	if (s->svm_fed >= s->arrived)
		return;
	frame = frame_copy(s->input->pdata[s->svm_fed++]);
	shadow_input(s->shadow, frame, s->now);
	vm_hears(s, &s->svm, frame);
	frame_free(frame);
}

static void at_s(struct sim *s, struct msg *msg)
{
	switch (msg->kind) {
	case TO_S_INPUT:
		s->arrived++;
		break;
	case TO_S_OPEN:
		shadow_flow_open(s->shadow, msg->epoch, &msg->open, s->now);
		break;
	default:
		shadow_ts_lead(s->shadow, msg->epoch, msg->ticks);
		break;
	}
}

static void link_to_s(struct sim *s)
{
	struct msg *msg = take(&s->to_s);

	if (msg)
		at_s(s, msg);
	g_free(msg);
}

static void link_to_p(struct sim *s)
{
	struct msg *msg;

	if (s->crashed || (s->to_p.head && s->to_p.head->due > s->now))
		return;
	msg = take(&s->to_p);
	if (!msg)
		return;
	if (msg->kind == TO_P_COMMITTED) {
		s->committed = msg->epoch;
		gate_commit(s->gate, msg->epoch, s->now);
	} else {
		heard_of_group(s, msg);
		CHECK(s, gate_digest(s->gate, msg->epoch, &msg->digest, s->now) == 0,
		      "a digest is refused");
	}
	g_free(msg);
}

static void cut(struct sim *s)
{
	if (s->in_flight || s->crashed)
		return;
	s->epoch++;
	gate_cut(s->gate, s->epoch, s->now);
	s->heard[s->epoch & 1] = (struct heard){.epoch = s->epoch};
	memcpy(s->heard[s->epoch & 1].word, s->said, sizeof(s->said));
	s->image = s->pvm;
	s->image.lineage = s->epoch;
	s->image.clock_ms = vm_clock(s, &s->pvm);
	s->image_cut = s->pvm_taken;
	s->in_flight = true;
	s->image_here = s->image_loaded = false;
	s->wanted = false;
	s->checkpoints++;
}

static void load(struct sim *s)
{
	s->image_loaded = true;
	s->svm_before = s->svm;
	s->svm = s->image;
	s->svm.clock_at = s->now;
	s->svm_fed = s->image_cut;
	shadow_lineage(s->shadow, s->svm.lineage);
}

/* The checkpoint's way: it arrives, it is loaded, the next one may come. */
static void checkpoint_goes_on(struct sim *s)
{
	struct msg msg = {.kind = TO_P_COMMITTED, .epoch = s->epoch};

	if (!s->in_flight || s->crashed)
		return;
	if (!s->image_here) {
		s->image_here = true;
		s->whole = s->epoch;
		post(&s->to_p, &msg);
	} else if (!s->image_loaded) {
		load(s);
	} else if (s->committed == s->epoch) {
		s->in_flight = false;
	}
}

static void diverge(struct sim *s)
{
	struct conn *c = &s->svm.conn[rnd(s, SLOTS)];

	if (c->salt_from == UINT32_MAX && c->state != CLOSED)
		c->salt_from = c->snd_max;
}

/* ---- the takeover ---- */

static void check_takeover(struct sim *s)
{
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		const struct conn *client = &s->client.conn[slot], *vm = &s->svm.conn[slot];

		if (client->state != OPEN || vm->state == CLOSED || vm->state == SYN_SENT ||
		    vm->irs != client->iss) {
			CHECK(s,
			      client->state != OPEN || conn_done(client) || client->fin_seen ||
			              vm->state == SYN_SENT || vm->state == SYN_RCVD,
			      "slot %u: the survivor does not know the connection", slot);
			continue;
		}
		CHECK(s, client->rcv_nxt <= vm->snd_max, "slot %u: the client has %u, said is %u",
		      slot, client->rcv_nxt, vm->snd_max);
		CHECK(s, client->snd_una <= vm->rcv_nxt || vm->state == SYN_RCVD,
		      "slot %u: acknowledged %u, the survivor has %u", slot, client->snd_una,
		      vm->rcv_nxt);
	}
}

static void crash(struct sim *s)
{
	uint32_t arrives = chance(s, 50) ? UINT32_MAX : rnd(s, 20);
	struct msg *msg;

	while ((msg = take(&s->to_s))) {
		if (arrives || msg->kind == TO_S_LEAD)
			at_s(s, msg);
		if (arrives)
			arrives--;
		g_free(msg);
	}
	while ((msg = take(&s->to_p)))
		g_free(msg);
	if (s->in_flight && s->image_here && !s->image_loaded)
		load(s);
	while (s->svm_fed < s->arrived)
		svm_takes(s);
	while ((msg = take(&s->to_p)))
		g_free(msg);
	check_takeover(s);
	s->now += rnd(s, 300) * MS;
	shadow_takeover(s->shadow, s->now);
	s->crashed = true;
}

/* ---- a run ---- */

static void step(struct sim *s)
{
	s->now += rnd(s, 4) * MS / 2;
	switch (rnd(s, 12)) {
	case 0:
	case 1:
		client_acts(s);
		break;
	case 2:
		network_to_client(s);
		break;
	case 3:
		network_to_vm(s);
		break;
	case 4:
		pvm_takes(s);
		break;
	case 5:
		if (!s->crashed)
			vm_acts(s, &s->pvm);
		break;
	case 6:
		svm_takes(s);
		break;
	case 7:
		vm_acts(s, &s->svm);
		break;
	case 8:
		link_to_s(s);
		break;
	case 9:
	case 10:
		link_to_p(s);
		break;
	default:
		if (chance(s, 20))
			checkpoint_goes_on(s);
		break;
	}
	if (s->crashed)
		return;
	check_held_report(s);
	gate_tick(s->gate, s->now);
	if (s->wanted && chance(s, 20))
		cut(s);
	if (s->calm)
		return;
	if (!s->draining && rnd(s, 1000) == 0)
		cut(s);
	if (!s->draining && rnd(s, 1500) == 0)
		diverge(s);
	if (!s->draining && rnd(s, 5000) == 0) {
		s->broken_below = s->epoch + 1;
		gate_break(s->gate, CKPT_PRESSURE, "the simulation lost input", s->now);
	}
}

static bool all_done(const struct sim *s)
{
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		const struct conn *c = &s->client.conn[slot];

		if (c->state != CLOSED && !conn_done(c))
			return false;
	}
	return s->crashed || !s->reports.head;
}

static void check_streams(struct sim *s, const struct vm *speaker)
{
	for (uint32_t slot = 0; slot < SLOTS; slot++) {
		const struct conn *client = &s->client.conn[slot], *vm = &speaker->conn[slot];

		if (client->state != OPEN || vm->state != OPEN || vm->irs != client->iss)
			continue;
		CHECK(s, client->rcv_nxt == vm->total + 1, "slot %u: %u of %u bytes", slot,
		      client->rcv_nxt, vm->total + 1);
		for (uint32_t i = 0; i < vm->total; i++)
			CHECK(s, s->client.got[slot][i] == vm_byte(vm, i),
			      "slot %u: the client has another byte at %u", slot, i);
		CHECK(s, vm->rcv_nxt == client->total + 1, "slot %u: the VM lacks data", slot);
	}
}

static void clear(struct sim *s)
{
	struct msg *msg;

	while ((msg = take(&s->to_s)) || (msg = take(&s->to_p)))
		g_free(msg);
	for (uint32_t i = 0; i < s->to_client.n; i++)
		frame_free(s->to_client.frame[i]);
	for (uint32_t i = 0; i < s->to_vm.n; i++)
		frame_free(s->to_vm.frame[i]);
	for (uint32_t i = 0; i < s->input->len; i++)
		frame_free(s->input->pdata[i]);
	g_ptr_array_free(s->input, TRUE);
	g_queue_clear_full(&s->reports, g_free);
	gate_free(s->gate);
	shadow_free(s->shadow);
}

static void begin(struct sim *s, uint64_t seed, uint64_t late_max_ns)
{
	const struct gate_limits limits = {50 * MS, 1 << 20, 2000, 64, 256, late_max_ns};

	memset(s, 0, sizeof(*s));
	s->seed = seed;
	s->ipv6 = seed % 2;
	s->random = seed * 0x9e3779b97f4a7c15ull | 1;
	for (uint32_t i = 0; i < 8; i++)
		rnd(s, 2);
	s->now = 1000000 * MS;
	s->input = g_ptr_array_new();
	memset(s->key.secret, 3, sizeof(s->key.secret));
	g_assert_cmpint(gate_new(&s->gate, &limits, &s->key, &gate_ops, s), ==, 0);
	g_assert_cmpint(shadow_new(&s->shadow, 64, &s->key, &shadow_ops, s), ==, 0);
	s->pvm.clock_at = s->svm.clock_at = s->now;
	s->pvm.clock_ms = s->svm.clock_ms = 0xfffffff0u;
	gate_cut(s->gate, 0, s->now);
	shadow_lineage(s->shadow, 0);
}

static void run(struct sim *s, uint64_t seed)
{
	uint32_t crash_at, i;

	begin(s, seed, 400 * MS);
	crash_at = chance(s, 50) ? rnd(s, 6000) : UINT32_MAX;
	for (i = 0; i < 6000; i++) {
		if (i == crash_at)
			crash(s);
		step(s);
	}
	s->draining = true;
	for (i = 0; i < 400000 && !all_done(s); i++)
		step(s);
	CHECK(s, all_done(s), "a connection never came to its end, or a report (crashed: %d)",
	      s->crashed);
	check_streams(s, s->crashed ? &s->svm : &s->pvm);
	clear(s);
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *text = g_getenv(name);

	return text ? g_ascii_strtoull(text, NULL, 10) : otherwise;
}

static void test_seeds(void)
{
	struct sim *s = g_new(struct sim, 1);
	uint64_t one = setting("SIM_SEED", 0), seeds = setting("SIM_SEEDS", DEFAULT_SEEDS);
	uint64_t matched = 0, committed = 0, checkpoints = 0, crashes = 0, reports = 0;

	for (uint64_t seed = one ? one : 1; seed <= (one ? one : seeds); seed++) {
		run(s, seed);
		matched += s->matched;
		committed += s->by_commit;
		checkpoints += s->checkpoints;
		crashes += s->crashed;
		reports += s->reports_matched;
	}
	g_test_message("released by match %lu (of them reports %lu), by commit %lu; checkpoints "
	               "%lu, crashes %lu",
	               (unsigned long)matched, (unsigned long)reports, (unsigned long)committed,
	               (unsigned long)checkpoints, (unsigned long)crashes);
	g_assert_cmpuint(matched, >, 0);
	g_assert_cmpuint(reports, >, 0);
	g_free(s);
}

/* Checkpoints for lateness of an honest SVM whose words take `lag_ns` to arrive. */
static uint32_t late_of(struct sim *s, uint64_t seed, uint64_t lag_ns, uint64_t late_max_ns)
{
	uint32_t late;

	begin(s, seed, late_max_ns);
	s->calm = true;
	s->lag_ns = lag_ns;
	for (uint32_t i = 0; i < 40000; i++)
		step(s);
	late = s->late;
	clear(s);
	return late;
}

/* The time to wait follows the lag: what a fixed time takes for late is not asked for again and
 * again; and where nothing lags, nothing changes. */
static void test_lag(void)
{
	struct sim *s = g_new(struct sim, 1);
	uint32_t fixed = 0, adapted = 0, prompt_fixed = 0, prompt_adapted = 0;

	for (uint64_t seed = 1; seed <= 20; seed++) {
		fixed += late_of(s, seed, 200 * MS, 0);
		adapted += late_of(s, seed, 200 * MS, 2000 * MS);
		prompt_fixed += late_of(s, seed, 0, 0);
		prompt_adapted += late_of(s, seed, 0, 2000 * MS);
	}
	g_test_message("late checkpoints with 200 ms of lag: %u fixed, %u adapted; with none: %u, "
	               "%u",
	               fixed, adapted, prompt_fixed, prompt_adapted);
	g_assert_cmpuint(fixed, >, 10 * adapted);
	g_assert_cmpuint(prompt_adapted, <=, prompt_fixed);
	g_free(s);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/sim/compare/seeds", test_seeds);
	g_test_add_func("/sim/compare/lag", test_lag);
	return g_test_run();
}
