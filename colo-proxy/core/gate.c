/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The gate: theory of operation
 *
 * Goal: release what the PVM says at the earliest moment that R1 allows, and never before.
 *
 * Every frame that the PVM emits in epoch e is appended to one list in order of arrival, tagged
 * with e, and to the list of its flow. It leaves
 *  (a) by match: lineage e of the SVM has been seen to say the equivalent; or
 *  (b) by commit: a checkpoint C(j), j > e, is committed.
 * Nothing else takes a frame out while protected: not a limit, not a timer. A flow's frames leave
 * in the order in which they came, whatever releases them.
 *
 * TCP is compared as a stream. For each flow and epoch a `struct view` knows which part of the
 * PVM's sequence space is covered: said by the SVM with the same bytes, or said before the epoch
 * began. The secondary sends the SVM's stream as digests of consecutive ranges (each byte once,
 * retransmissions left out), in the PVM's numbers. A digest is verified against the bytes of the
 * held frames, whose boundaries may differ: when the frames that hold its range are all there, the
 * hash over them must be equal, and coverage advances to the digest's end. A frame is releasable
 * when coverage has passed its end and the SVM has acknowledged at least what the frame does.
 *
 * What a fresh lineage has in common with the PVM needs no digest: bytes below the highest
 * sequence number that the PVM had sent at the cut, and acknowledgements up to the highest that it
 * had sent then, are in C(e) itself. What is retransmitted of it in epoch e goes out as soon as
 * C(e) is committed. Nothing of epoch e goes out before: match releases in the newest committed
 * epoch only, so that an epoch's first release comes behind all of the epochs before it.
 *
 * Two views are kept for each flow, for the current epoch and the one before, whose checkpoint is
 * in flight. A frame whose view is gone can only be committed.
 *
 * Datagrams (UDP, ICMP, ARP) are compared one by one, in order within their flow.
 *
 * A difference ends the comparison of that flow for the epoch (view->broken) and asks for a
 * checkpoint, once for each cause and epoch; a frame that waits for too long asks, too. What is not
 * comparable has no flow, and asks when it is late.
 *
 * Invariants: every held frame is in the list of all, and in exactly one flow's list unless it is
 * not comparable; epochs in the list of all never decrease; bytes and packets equal the list's sums.
 *
 * Limits: a table that is full of flows with held frames makes new flows incomparable (commit
 * only), and asks for a checkpoint. Unverified digests of a flow beyond max_digests break its
 * view. A full gate (gate_has_room() is false) makes the caller stop reading.
 */
#include "colo-proxy/core/gate.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "colo-proxy/core/seq.h"

#define TS_LEAD_GRAIN  128u           /* ticks; told in steps, so that it is told seldom */
#define TS_SEEN_WITHIN 1000000000ull  /* ns: older sights of the SVM's clock say nothing */
#define TS_TICK_NS     1000000u
#define COVERED_SPAN   (1u << 30)     /* no more is remembered of what is covered */
#define SPLIT_AFTER_NS 3000000ull     /* the SVM is usually faster than this */
#define SPLIT_LOOKS    32u
#define EVICT_TRIES    16u
#define NO_EPOCH       UINT32_MAX

struct held {
	struct held *older, *newer;   /* all, by arrival */
	struct held *flow_next;       /* of the flow, by arrival */
	struct flow *flow;            /* NULL: not comparable */
	struct frame *frame;
	struct packet packet;
	uint64_t arrived;
	uint32_t epoch;
	uint32_t incarnation;         /* TCP: of the 4-tuple, see struct flow */
	uint32_t end;                 /* TCP: sequence number behind it */
};

struct pending {
	struct pending *next;
	struct digest digest;
};

struct view {
	uint32_t epoch;               /* NO_EPOCH: unused */
	bool broken;                  /* nothing more of the flow matches in this epoch */
	bool covered_known;
	bool covered_low_open;        /* everything below covered_end is covered */
	bool ack_known;
	bool rst;
	bool syn_awaited;             /* a connection of this epoch, whose SYN the SVM has not said */
	bool ts_known;
	uint32_t covered_start, covered_end;
	uint32_t ack;                 /* the SVM's */
	uint32_t rst_seq, rst_ack;
	uint32_t ts;
	uint64_t ts_at;
	struct pending *head, *tail;  /* digests to be verified */
	uint32_t pending;
};

struct flow {
	struct flow *bucket_next;
	struct flow *lru_older, *lru_newer;
	struct flow *touched_next;
	struct flow_key key;
	struct held *head, *tail;
	struct view view[2];
	uint32_t incarnation;         /* counts the connections that used the 4-tuple */
	uint32_t iss, snd_max, ack_max;
	uint32_t open_epoch;          /* in which the secondary was told of iss */
	bool iss_known, snd_known, ack_known, touched;
};

struct gate {
	struct packet_digest_key key;
	XXH3_state_t *hash;
	struct gate_limits limits;
	const struct gate_ops *ops;
	void *ctx;
	bool protected;
	uint32_t epoch, committed;
	uint32_t broken_below;        /* of gate_break(): epochs before it match no more */
	uint64_t committed_at;        /* when C(committed) was */
	uint64_t cut_at[2];           /* when the epoch began, by parity */
	uint32_t pending;             /* digests that wait, in all flows */
	uint32_t requested;           /* bit mask of enum ckpt_cause, of this epoch */
	uint32_t ts_lead[2];          /* told in this epoch and the one before */
	struct held *oldest, *newest, *first_of_epoch;
	struct flow *lru_oldest, *lru_newest, *touched;
	struct flow **buckets;
	uint32_t bucket_mask;
	struct gate_stats stats;
};

/* ---- flows ---- */

static uint32_t key_bucket(const struct gate *gate, const struct flow_key *key)
{
	return (uint32_t)XXH3_64bits_withSecret(key, sizeof(*key), gate->key.secret,
						sizeof(gate->key.secret)) &
	       gate->bucket_mask;
}

static void lru_unlink(struct gate *gate, struct flow *flow)
{
	*(flow->lru_older ? &flow->lru_older->lru_newer : &gate->lru_oldest) = flow->lru_newer;
	*(flow->lru_newer ? &flow->lru_newer->lru_older : &gate->lru_newest) = flow->lru_older;
	flow->lru_older = flow->lru_newer = NULL;
}

static void lru_push(struct gate *gate, struct flow *flow)
{
	flow->lru_older = gate->lru_newest;
	*(gate->lru_newest ? &gate->lru_newest->lru_newer : &gate->lru_oldest) = flow;
	gate->lru_newest = flow;
}

static void view_clear(struct gate *gate, struct view *view)
{
	gate->pending -= view->pending;
	while (view->head) {
		struct pending *next = view->head->next;

		free(view->head);
		view->head = next;
	}
	memset(view, 0, sizeof(*view));
	view->epoch = NO_EPOCH;
}

static void flow_free(struct gate *gate, struct flow *flow)
{
	struct flow **at = &gate->buckets[key_bucket(gate, &flow->key)];

	while (*at != flow)
		at = &(*at)->bucket_next;
	*at = flow->bucket_next;
	lru_unlink(gate, flow);
	view_clear(gate, &flow->view[0]);
	view_clear(gate, &flow->view[1]);
	free(flow);
	gate->stats.now_flows--;
}

/* What an evicted flow knew is lost, which is safe: its next packets wait for the SVM's own. */
static bool evict_one(struct gate *gate)
{
	struct flow *flow = gate->lru_oldest;

	for (uint32_t i = 0; flow && i < EVICT_TRIES; i++, flow = flow->lru_newer) {
		if (flow->head || flow->touched)
			continue;
		flow_free(gate, flow);
		gate->stats.flows_evicted++;
		return true;
	}
	return false;
}

/* The flow of a key, made if need be; NULL when the table is full of busy flows. */
static struct flow *flow_get(struct gate *gate, const struct flow_key *key)
{
	struct flow **bucket = &gate->buckets[key_bucket(gate, key)];
	struct flow *flow;

	for (flow = *bucket; flow; flow = flow->bucket_next) {
		if (memcmp(&flow->key, key, sizeof(*key)) == 0) {
			if (gate->lru_newest != flow) {
				lru_unlink(gate, flow);
				lru_push(gate, flow);
			}
			return flow;
		}
	}
	if (gate->stats.now_flows >= gate->limits.max_flows && !evict_one(gate))
		return NULL;
	flow = calloc(1, sizeof(*flow));
	if (!flow)
		return NULL;
	flow->key = *key;
	flow->open_epoch = NO_EPOCH;
	flow->view[0].epoch = flow->view[1].epoch = NO_EPOCH;
	flow->bucket_next = *bucket;
	*bucket = flow;
	lru_push(gate, flow);
	gate->stats.now_flows++;
	if (gate->stats.now_flows > gate->stats.high_flows)
		gate->stats.high_flows = gate->stats.now_flows;
	return flow;
}

/*
 * The flow's view of an epoch, made at first use; NULL for an epoch that is over. At first use
 * nothing that the flow said in this epoch has been noted, so that snd_max and ack_max are those
 * of the cut.
 */
static struct view *view_get(struct gate *gate, struct flow *flow, uint32_t epoch)
{
	struct view *view = &flow->view[epoch & 1];

	if (view->epoch == epoch)
		return view;
	if (view->epoch != NO_EPOCH && view->epoch > epoch)
		return NULL;
	view_clear(gate, view);
	view->epoch = epoch;
	if (flow->snd_known) {
		view->covered_known = view->covered_low_open = true;
		view->covered_end = flow->snd_max;
	}
	if (flow->ack_known) {
		view->ack_known = true;
		view->ack = flow->ack_max;
	}
	return view;
}

/* ---- asking for checkpoints ---- */

static void request(struct gate *gate, enum ckpt_cause cause, const struct flow *flow,
		    uint32_t seq, const char *what)
{
	struct divergence why = { .cause = cause, .epoch = gate->epoch, .seq = seq, .what = what };

	if (!gate->protected || (gate->requested & (1u << cause)))
		return;
	gate->requested |= 1u << cause;
	if (flow)
		why.key = flow->key;
	gate->ops->request(gate->ctx, &why);
}

static void mismatch(struct gate *gate, struct flow *flow, struct view *view, uint32_t seq,
		     const char *what)
{
	const struct held *held = flow->head;

	view->broken = true;
	if (held)
		gate->stats.by_class[held->packet.class].mismatched++;
	if (view->epoch == gate->epoch)
		request(gate, CKPT_MISMATCH, flow, seq, what);
}

static void pop_pending(struct gate *gate, struct view *view)
{
	struct pending *first = view->head;

	view->head = first->next;
	if (!view->head)
		view->tail = NULL;
	view->pending--;
	gate->pending--;
	free(first);
}

/* ---- holding and releasing ---- */

static void count(uint64_t *packets, uint64_t *bytes, const struct frame *frame)
{
	(*packets)++;
	*bytes += frame->len;
}

static void let_out(struct gate *gate, struct frame *frame, const struct packet *packet,
		    enum release_why why, uint64_t held_ns)
{
	struct gate_class_stats *stats = &gate->stats.by_class[packet->class];

	if (why == RELEASE_MATCH)
		count(&stats->matched_packets, &stats->matched_bytes, frame);
	else if (why == RELEASE_COMMIT)
		count(&stats->committed_packets, &stats->committed_bytes, frame);
	else
		count(&stats->unprotected_packets, &stats->unprotected_bytes, frame);
	if (why != RELEASE_UNPROTECTED && held_ns > gate->limits.late_ns)
		stats->late++;
	gate->ops->release(gate->ctx, frame, packet, why, held_ns);
}

static void unlink_all(struct gate *gate, struct held *held)
{
	*(held->older ? &held->older->newer : &gate->oldest) = held->newer;
	*(held->newer ? &held->newer->older : &gate->newest) = held->older;
	if (gate->first_of_epoch == held)
		gate->first_of_epoch = held->newer;
	gate->stats.now_packets--;
	gate->stats.now_bytes -= held->frame->len;
}

static void release(struct gate *gate, struct held *held, enum release_why why, uint64_t now)
{
	struct flow *flow = held->flow;

	if (flow) {
		assert(flow->head == held); /* a flow's frames leave in order */
		flow->head = held->flow_next;
		if (!flow->head)
			flow->tail = NULL;
	}
	unlink_all(gate, held);
	let_out(gate, held->frame, &held->packet, why, now - held->arrived);
	free(held);
}

static int append(struct gate *gate, struct frame *frame, const struct packet *packet,
		  struct flow *flow, uint64_t now)
{
	struct held *held = malloc(sizeof(*held));

	if (!held)
		return -ENOMEM;
	*held = (struct held){
		.older = gate->newest,
		.flow = flow,
		.frame = frame,
		.packet = *packet,
		.arrived = now,
		.epoch = gate->epoch,
		.incarnation = flow ? flow->incarnation : 0,
	};
	if (packet->class == PACKET_TCP)
		held->end = packet->tcp.seq + packet_seq_len(packet);
	*(gate->newest ? &gate->newest->newer : &gate->oldest) = held;
	gate->newest = held;
	if (!gate->first_of_epoch)
		gate->first_of_epoch = held;
	if (flow) {
		*(flow->tail ? &flow->tail->flow_next : &flow->head) = held;
		flow->tail = held;
	}
	gate->stats.now_packets++;
	gate->stats.now_bytes += frame->len;
	if (gate->stats.now_packets > gate->stats.high_packets)
		gate->stats.high_packets = gate->stats.now_packets;
	if (gate->stats.now_bytes > gate->stats.high_bytes)
		gate->stats.high_bytes = gate->stats.now_bytes;
	count(&gate->stats.by_class[packet->class].held_packets,
	      &gate->stats.by_class[packet->class].held_bytes, frame);
	return 0;
}

/* The SVM's clock has not been seen of late. It was the PVM's at the cut, and the PVM's has not gone
 * further since than time has, at a tick each millisecond, the fastest that RFC 7323 allows. */
static int32_t lead_bound(const struct gate *gate, const struct view *view, uint64_t now)
{
	uint64_t ticks = (now - gate->cut_at[view->epoch & 1]) / TS_TICK_NS + 1;

	return ticks < INT32_MAX / 2 ? (int32_t)ticks : INT32_MAX / 2;
}

/* Puts a frame that was cut off the beginning of `held` in front of it, with its age. -ENOMEM. */
static int insert_before(struct gate *gate, struct held *held, struct frame *frame,
			 const struct packet *packet)
{
	struct held *first = malloc(sizeof(*first));

	if (!first)
		return -ENOMEM;
	*first = *held;
	first->frame = frame;
	first->packet = *packet;
	first->end = packet->tcp.seq + packet_seq_len(packet);
	first->newer = held;
	first->flow_next = held;
	held->flow->head = first; /* held was the head */
	*(held->older ? &held->older->newer : &gate->oldest) = first;
	held->older = first;
	if (gate->first_of_epoch == held)
		gate->first_of_epoch = first;
	gate->stats.now_packets++;
	gate->stats.now_bytes += frame->len;
	count(&gate->stats.by_class[packet->class].held_packets,
	      &gate->stats.by_class[packet->class].held_bytes, frame);
	return 0;
}

/* Tells the secondary how far the PVM's timestamp clock leads, before a packet shows it. */
static void note_ts_lead(struct gate *gate, const struct view *view, const struct packet *packet,
			 uint64_t now)
{
	uint32_t *told = &gate->ts_lead[view->epoch & 1];
	int32_t lead;

	if (!packet->tcp.ts_off)
		return;
	if (view->ts_known && now - view->ts_at <= TS_SEEN_WITHIN)
		lead = seq_diff(packet->tcp.tsval, view->ts);
	else
		lead = lead_bound(gate, view, now);
	if (lead <= 0 || (uint32_t)lead <= *told)
		return;
	*told = ((uint32_t)lead / TS_LEAD_GRAIN + 1) * TS_LEAD_GRAIN;
	gate->ops->ts_lead(gate->ctx, view->epoch, *told);
}

static bool range_covered(const struct view *view, const struct held *held)
{
	uint32_t seq = held->packet.tcp.seq;

	if (seq == held->end)
		return true; /* nothing of the stream in it, and those before it are gone */
	return view->covered_known && seq_leq(held->end, view->covered_end) &&
	       (view->covered_low_open || seq_geq(seq, view->covered_start));
}

/* A RST that answers a SYN has no stream: sequence number 0, and the acknowledgement names the SYN
 * (RFC 9293 section 3.5.2). */
static bool reset_matches(const struct view *view, const struct packet_tcp *tcp)
{
	if (!view->rst || view->rst_seq != tcp->seq)
		return false;
	return tcp->seq != 0 || !(tcp->flags & PACKET_ACK) || view->rst_ack == tcp->ack;
}

/* R1 (a) and R2 for one TCP segment. */
static bool segment_matches(const struct view *view, const struct held *held)
{
	const struct packet_tcp *tcp = &held->packet.tcp;

	if (!range_covered(view, held))
		return false;
	if ((tcp->flags & PACKET_RST) && !reset_matches(view, tcp))
		return false;
	if (!(tcp->flags & PACKET_ACK))
		return true;
	return view->ack_known && seq_leq(tcp->ack, view->ack);
}

static bool datagram_matches(struct gate *gate, struct flow *flow, struct view *view,
			     const struct held *held)
{
	struct pending *said = view->head;
	uint8_t hash[PACKET_DIGEST_LEN];

	if (!said || packet_digest_datagram(&held->packet, &gate->key, hash) != 0)
		return false;
	if (memcmp(said->digest.hash, hash, sizeof(hash)) != 0) {
		mismatch(gate, flow, view, 0, "the SVM sent another datagram");
		return false;
	}
	pop_pending(gate, view);
	return true;
}

/* Releases from the flow's head what matches. */
static void release_matched(struct gate *gate, struct flow *flow, uint64_t now)
{
	while (flow->head) {
		struct held *held = flow->head;
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): release() moves the head on */
		struct view *view = &flow->view[held->epoch & 1];

		assert(held->flow == flow);
		if (held->epoch != gate->committed || view->epoch != held->epoch ||
		    held->epoch < gate->broken_below)
			return;
		if (held->packet.class == PACKET_TCP) {
			if (held->incarnation != flow->incarnation ||
			    !segment_matches(view, held))
				return;
			note_ts_lead(gate, view, &held->packet, now);
		} else if (view->broken || !datagram_matches(gate, flow, view, held)) {
			return;
		}
		release(gate, held, RELEASE_MATCH, now);
	}
}

/* ---- verifying the SVM's stream ---- */

enum verdict {
	VERDICT_EQUAL,
	VERDICT_WAIT, /* the PVM has not said it all yet */
	VERDICT_DIFFERENT,
};

static uint32_t data_start(const struct held *held)
{
	return held->packet.tcp.seq + !!(held->packet.tcp.flags & PACKET_SYN);
}

/* The held frame of this view that has the stream's byte at `seq`; *ret_fin: its FIN is there. */
static const struct held *find_byte(const struct flow *flow, const struct view *view, uint32_t seq,
				    bool *ret_fin)
{
	*ret_fin = false;
	for (const struct held *held = flow->head; held; held = held->flow_next) {
		uint32_t start, end;

		if (held->epoch != view->epoch || held->incarnation != flow->incarnation)
			continue;
		start = data_start(held);
		end = start + held->packet.payload_len;
		if (seq_leq(start, seq) && seq_lt(seq, end))
			return held;
		if (seq == end && (held->packet.tcp.flags & PACKET_FIN))
			*ret_fin = true;
	}
	return NULL;
}

/* Compares `len` bytes from `seq` on with the hash. */
static enum verdict verify_bytes(const struct gate *gate, const struct flow *flow,
				 const struct view *view, uint32_t seq, uint32_t len,
				 const uint8_t hash[16])
{
	XXH128_canonical_t canonical;
	uint32_t done = 0;

	XXH3_128bits_reset_withSecret(gate->hash, gate->key.secret, sizeof(gate->key.secret));
	while (done < len) {
		bool fin;
		const struct held *held = find_byte(flow, view, seq + done, &fin);
		uint32_t skip, part;

		if (!held)
			return fin ? VERDICT_DIFFERENT : VERDICT_WAIT;
		skip = seq + done - data_start(held);
		part = held->packet.payload_len - skip;
		if (part > len - done)
			part = len - done;
		XXH3_128bits_update(gate->hash,
				    held->frame->data + held->packet.payload_off + skip, part);
		done += part;
	}
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(gate->hash));
	return memcmp(canonical.digest, hash, 16) == 0 ? VERDICT_EQUAL : VERDICT_DIFFERENT;
}

static enum verdict verify_syn(const struct gate *gate, const struct flow *flow,
			       const struct view *view, const struct digest *said)
{
	for (const struct held *held = flow->head; held; held = held->flow_next) {
		uint8_t hash[16];

		if (held->epoch != view->epoch || held->incarnation != flow->incarnation ||
		    !(held->packet.tcp.flags & PACKET_SYN) || held->packet.tcp.seq != said->seq)
			continue;
		digest_syn(&gate->key, &held->packet.tcp, hash);
		return memcmp(hash, said->hash, 16) == 0 ? VERDICT_EQUAL : VERDICT_DIFFERENT;
	}
	return VERDICT_WAIT;
}

static enum verdict verify_fin(const struct flow *flow, const struct view *view, uint32_t seq)
{
	bool fin;

	if (find_byte(flow, view, seq, &fin))
		return VERDICT_DIFFERENT;
	return fin ? VERDICT_EQUAL : VERDICT_WAIT;
}

/* Verifies the next part of a digest that begins where coverage ends; advances both. */
static enum verdict verify_part(const struct gate *gate, const struct flow *flow,
				struct view *view, struct digest *said)
{
	bool fin = said->tcp_flags & PACKET_FIN;
	enum verdict verdict;
	uint32_t part;

	if (said->tcp_flags & PACKET_SYN) {
		part = said->len;
		verdict = verify_syn(gate, flow, view, said);
	} else if (said->len > fin) {
		part = said->len - fin;
		verdict = verify_bytes(gate, flow, view, said->seq, part, said->hash);
	} else {
		part = 1;
		verdict = verify_fin(flow, view, said->seq);
	}
	if (verdict != VERDICT_EQUAL)
		return verdict;
	said->seq += part;
	said->len -= part;
	view->covered_end += part;
	if (seq_diff(view->covered_end, view->covered_start) > (int32_t)COVERED_SPAN)
		view->covered_start = view->covered_end - COVERED_SPAN;
	return VERDICT_EQUAL;
}

/* Verifies as many of the SVM's digests as the PVM's held bytes allow. */
static void verify(struct gate *gate, struct flow *flow, struct view *view)
{
	while (view->head && !view->broken) {
		struct digest *said = &view->head->digest;

		if (!view->covered_known) {
			view->covered_known = true;
			view->covered_start = view->covered_end = said->seq;
		}
		if (said->len == 0 ||
		    (view->covered_low_open &&
		     seq_leq(said->seq + said->len, view->covered_end))) {
			pop_pending(gate, view);
			continue;
		}
		if (said->seq != view->covered_end) {
			mismatch(gate, flow, view, said->seq,
				 "the SVM's stream goes on at another place");
			return;
		}
		switch (verify_part(gate, flow, view, said)) {
		case VERDICT_EQUAL:
			break;
		case VERDICT_WAIT:
			return;
		case VERDICT_DIFFERENT:
			mismatch(gate, flow, view, said->seq, "the SVM's stream has other bytes");
			return;
		}
	}
}

/* ---- the PVM speaks ---- */

/* A SYN with another initial sequence number: the 4-tuple is used by a new connection. What waits
 * of the old one can only be committed. */
static void new_incarnation(struct gate *gate, struct flow *flow, struct view *view,
			    const struct packet_tcp *tcp)
{
	uint32_t epoch = view->epoch;

	view_clear(gate, view);
	view->epoch = epoch;
	view->covered_known = true;
	view->covered_start = view->covered_end = tcp->seq;
	view->syn_awaited = true;
	flow->incarnation++;
	flow->iss = tcp->seq;
	flow->iss_known = true;
	flow->snd_known = true;
	flow->snd_max = tcp->seq;
	flow->ack_known = false;
	flow->open_epoch = NO_EPOCH;
}

static void tell_flow_open(struct gate *gate, struct flow *flow, const struct packet_tcp *tcp)
{
	struct flow_open open = {
		.key = flow->key,
		.iss = tcp->seq,
		.has_ack = tcp->flags & PACKET_ACK,
		.ack = (tcp->flags & PACKET_ACK) ? tcp->ack : 0,
		.has_ts = tcp->ts_off != 0,
		.tsval = tcp->tsval,
	};

	if (flow->open_epoch == gate->epoch)
		return;
	flow->open_epoch = gate->epoch;
	gate->ops->flow_open(gate->ctx, gate->epoch, &open);
}

/* What the PVM has sent and acknowledged so far: the base of the next epoch's view. */
static void note_sent(struct flow *flow, const struct packet *packet)
{
	uint32_t end = packet->tcp.seq + packet_seq_len(packet);

	if (!(packet->tcp.flags & PACKET_RST)) {
		flow->snd_max = flow->snd_known ? seq_max(flow->snd_max, end) : end;
		flow->snd_known = true;
	}
	if (packet->tcp.flags & PACKET_ACK) {
		flow->ack_max = flow->ack_known ? seq_max(flow->ack_max, packet->tcp.ack)
						: packet->tcp.ack;
		flow->ack_known = true;
	}
}

/* Prepares a TCP segment's flow and view. */
static void note_segment(struct gate *gate, struct flow *flow, const struct packet *packet)
{
	struct view *view = view_get(gate, flow, gate->epoch);
	const struct packet_tcp *tcp = &packet->tcp;

	assert(view); /* the current epoch's view is never over */
	if (tcp->flags & PACKET_SYN) {
		if (!flow->iss_known || flow->iss != tcp->seq)
			new_incarnation(gate, flow, view, tcp);
		if (gate->protected)
			tell_flow_open(gate, flow, tcp);
	}
}

static void note_limits(struct gate *gate)
{
	if (gate->stats.now_bytes > gate->limits.max_bytes / 2 ||
	    gate->stats.now_packets > gate->limits.max_packets / 2)
		request(gate, CKPT_PRESSURE, NULL, 0, "held output nears its limit");
}

/* The flow that the packet is compared in; NULL: not comparable. */
static struct flow *flow_of(struct gate *gate, const struct packet *packet)
{
	struct flow_key key;
	struct flow *flow;

	if (packet_flow_key(packet, PACKET_FROM_VM, &key) != 0)
		return NULL;
	if (packet->class == PACKET_TCP && digest_tcp_exempt(packet))
		return NULL;
	flow = flow_get(gate, &key);
	if (!flow)
		request(gate, CKPT_PRESSURE, NULL, 0, "the flow table is full");
	return flow;
}

int gate_output(struct gate *gate, struct frame *frame, uint64_t now)
{
	struct packet packet;
	struct flow *flow;
	int r;

	if (packet_parse(&packet, frame) != 0)
		packet = (struct packet){ .frame = frame, .class = PACKET_OTHER };
	flow = flow_of(gate, &packet);
	if (flow && packet.class == PACKET_TCP)
		note_segment(gate, flow, &packet);
	if (!gate->protected) {
		if (flow && packet.class == PACKET_TCP)
			note_sent(flow, &packet);
		let_out(gate, frame, &packet, RELEASE_UNPROTECTED, 0);
		return 0;
	}
	r = append(gate, frame, &packet, flow, now);
	if (r < 0) {
		frame_free(frame);
		request(gate, CKPT_PRESSURE, flow, 0, "no memory for held output");
		return r;
	}
	note_limits(gate);
	if (!flow)
		return 0;
	if (packet.class == PACKET_TCP) {
		note_sent(flow, &packet); /* not what was lost: it was never said */
		verify(gate, flow, view_get(gate, flow, gate->epoch));
	} else {
		(void)view_get(gate, flow, gate->epoch);
	}
	release_matched(gate, flow, now);
	return 0;
}

/* ---- the SVM speaks ---- */

static void add_pending(struct gate *gate, struct flow *flow, struct view *view,
			const struct digest *digest)
{
	struct pending *pending;

	if (view->broken)
		return;
	if (view->pending >= gate->limits.max_digests ||
	    gate->pending >= gate->limits.max_packets) {
		view->broken = true;
		request(gate, CKPT_PRESSURE, flow, digest->seq, "the SVM is too far ahead");
		return;
	}
	pending = malloc(sizeof(*pending));
	if (!pending) {
		view->broken = true;
		request(gate, CKPT_PRESSURE, flow, digest->seq, "no memory for a digest");
		return;
	}
	pending->next = NULL;
	pending->digest = *digest;
	*(view->tail ? &view->tail->next : &view->head) = pending;
	view->tail = pending;
	view->pending++;
	gate->pending++;
}

static void note_svm_segment(struct gate *gate, struct flow *flow, struct view *view,
			     const struct digest *digest, uint64_t now)
{
	if (view->syn_awaited && (digest->tcp_flags & PACKET_SYN) &&
	    digest->seq == view->covered_end) {
		view->syn_awaited = false;
		view->ack_known = view->rst = view->ts_known = false;
	}
	/* Before its SYN, what the SVM says is the old connection's. */
	if (view->syn_awaited)
		return;
	if (digest->tcp_flags & PACKET_ACK) {
		view->ack = view->ack_known ? seq_max(view->ack, digest->ack) : digest->ack;
		view->ack_known = true;
	}
	if (digest->has_ts) {
		view->ts_known = true;
		view->ts = digest->tsval;
		view->ts_at = now;
	}
	if (digest->tcp_flags & PACKET_RST) {
		view->rst = true;
		view->rst_seq = digest->seq;
		view->rst_ack = digest->ack;
		return;
	}
	if (digest->len)
		add_pending(gate, flow, view, digest);
	verify(gate, flow, view);
}

/* Whether the record can have been made from one packet of its flow. */
static bool digest_sane(const struct digest *digest)
{
	bool syn = digest->tcp_flags & PACKET_SYN, fin = digest->tcp_flags & PACKET_FIN;

	if (digest->kind == DIGEST_DATAGRAM)
		return digest->key.kind != FLOW_TCP;
	if (digest->kind != DIGEST_SEGMENT || digest->key.kind != FLOW_TCP ||
	    digest->len > FRAME_MAX_LEN)
		return false;
	if (syn)
		return digest->len == 1 && !fin;
	return !fin || digest->len > 0;
}

int gate_digest(struct gate *gate, uint32_t lineage, const struct digest *digest, uint64_t now)
{
	struct flow *flow;
	struct view *view;

	if (!gate->protected || lineage < gate->committed) {
		gate->stats.digests_stale++;
		return 0;
	}
	if (lineage > gate->epoch || !digest_sane(digest))
		return -EPROTO;
	gate->stats.digests++;
	flow = flow_get(gate, &digest->key);
	if (!flow) {
		request(gate, CKPT_PRESSURE, NULL, 0, "the flow table is full");
		return 0;
	}
	view = view_get(gate, flow, lineage);
	if (!view) {
		gate->stats.digests_stale++;
		return 0;
	}
	if (digest->kind == DIGEST_SEGMENT)
		note_svm_segment(gate, flow, view, digest, now);
	else
		add_pending(gate, flow, view, digest);
	release_matched(gate, flow, now);
	return 0;
}

/* ---- checkpoints ---- */

void gate_cut(struct gate *gate, uint32_t epoch, uint64_t now)
{
	assert(epoch == 0 || (gate->protected && epoch == gate->epoch + 1));
	if (epoch == 0) {
		assert(!gate->oldest);
		gate->committed = 0;
		gate->committed_at = now;
		gate->broken_below = 0;
		for (struct flow *flow = gate->lru_oldest; flow; flow = flow->lru_newer) {
			view_clear(gate, &flow->view[0]);
			view_clear(gate, &flow->view[1]);
			flow->open_epoch = NO_EPOCH;
		}
	}
	gate->protected = true;
	gate->epoch = epoch;
	gate->cut_at[epoch & 1] = now;
	gate->requested = 0;
	gate->ts_lead[epoch & 1] = 0;
	gate->first_of_epoch = NULL;
}

static void touch(struct gate *gate, struct flow *flow)
{
	if (!flow || flow->touched)
		return;
	flow->touched = true;
	flow->touched_next = gate->touched;
	gate->touched = flow;
}

static void release_oldest(struct gate *gate, enum release_why why, uint64_t now)
{
	assert(!gate->oldest->older);
	release(gate, gate->oldest, why, now);
}

void gate_commit(struct gate *gate, uint32_t epoch, uint64_t now)
{
	if (!gate->protected || epoch > gate->epoch || epoch <= gate->committed)
		return;
	gate->committed = epoch;
	gate->committed_at = now;
	while (gate->oldest && gate->oldest->epoch < epoch)
		release_oldest(gate, RELEASE_COMMIT, now);
	/* What the epoch has said so far may repeat what is in the checkpoint. */
	for (struct held *held = gate->oldest; held; held = held->newer)
		touch(gate, held->flow);
	while (gate->touched) {
		struct flow *flow = gate->touched;

		gate->touched = flow->touched_next;
		flow->touched = false;
		release_matched(gate, flow, now);
	}
}

void gate_break(struct gate *gate, enum ckpt_cause cause, const char *what, uint64_t now)
{
	(void)now;
	if (!gate->protected)
		return;
	/* The lineage that runs hears the same input as the one that is being sent. */
	gate->broken_below = gate->epoch + 1;
	request(gate, cause, NULL, 0, what);
}

void gate_unprotect(struct gate *gate, uint64_t now)
{
	while (gate->oldest)
		release_oldest(gate, RELEASE_UNPROTECTED, now);
	gate->protected = false;
	gate->requested = 0;
	gate->first_of_epoch = NULL;
}

/* What the oldest packet of the epoch waits for, and how far the SVM is. */
static void request_late(struct gate *gate, const struct held *held)
{
	struct divergence why = {
		.cause = held->flow ? CKPT_LATE : CKPT_UNCOMPARED,
		.epoch = gate->epoch,
		.what = packet_why_name(held->packet.why),
	};

	gate->requested |= 1u << why.cause;
	if (held->flow) {
		const struct view *view = &held->flow->view[held->epoch & 1];

		why.key = held->flow->key;
		why.what = "the SVM has not said it in time";
		if (held->packet.class == PACKET_TCP && view->epoch == held->epoch) {
			bool covered = range_covered(view, held);

			why.what = covered ? "the SVM has not acknowledged it in time"
					   : "the SVM has not sent it in time";
			why.seq = held->packet.tcp.seq;
			why.wanted = covered ? held->packet.tcp.ack : held->end;
			why.seen = covered ? view->ack : view->covered_end;
		}
	}
	gate->ops->request(gate->ctx, &why);
}

/*
 * A superframe of the PVM's of which the SVM has said only the beginning: its congestion window may
 * be the smaller one, and opens when the client acknowledges what is held here. So the beginning
 * goes out by itself. Returns its length, 0 when the frame is no such one.
 */
static uint32_t covered_part(const struct gate *gate, const struct held *held)
{
	const struct view *view;
	uint32_t part;

	if (!held->flow || held->flow->head != held || held->packet.class != PACKET_TCP ||
	    held->epoch < gate->broken_below)
		return 0;
	view = &held->flow->view[held->epoch & 1];
	if (view->epoch != held->epoch || !view->covered_known ||
	    seq_leq(view->covered_end, held->packet.tcp.seq))
		return 0;
	part = view->covered_end - held->packet.tcp.seq;
	return part < held->packet.payload_len ? part : 0;
}

static void split(struct gate *gate, struct held *held, uint32_t part, uint64_t now)
{
	struct frame *frame;
	struct packet first;

	if (packet_split(&held->packet, part, &frame) != 0)
		return;
	/* Both are counted again as parts of the frame in front. */
	gate->stats.now_bytes -= part;
	gate->stats.by_class[PACKET_TCP].held_bytes -= part;
	if (packet_parse(&first, frame) != 0 || insert_before(gate, held, frame, &first) != 0) {
		/* The bytes are not lost: the PVM sends them again when nobody acknowledges. */
		frame_free(frame);
		return;
	}
	release_matched(gate, held->flow, now);
}

/* Splits what has waited for long enough among the oldest. Returns when to look again. */
static uint64_t split_stuck(struct gate *gate, uint64_t now)
{
	struct held *held = gate->first_of_epoch;

	for (uint32_t i = 0; held && i < SPLIT_LOOKS; i++) {
		struct held *next = held->newer;
		uint32_t part = covered_part(gate, held);

		if (part && held->arrived + SPLIT_AFTER_NS > now)
			return held->arrived + SPLIT_AFTER_NS;
		if (part)
			split(gate, held, part, now);
		held = next;
	}
	return UINT64_MAX;
}

static uint64_t late_due(struct gate *gate, uint64_t now)
{
	const struct held *first = gate->first_of_epoch;
	enum ckpt_cause cause;
	uint64_t due;

	if (!first)
		return UINT64_MAX;
	cause = first->flow ? CKPT_LATE : CKPT_UNCOMPARED;
	if (gate->requested & (1u << cause))
		return UINT64_MAX;
	/* The lineage that could say it does not run before its checkpoint is committed. */
	if (cause == CKPT_LATE && gate->committed < gate->epoch)
		return UINT64_MAX;
	due = first->arrived;
	if (cause == CKPT_LATE && due < gate->committed_at)
		due = gate->committed_at;
	due += gate->limits.late_ns;
	if (due > now)
		return due;
	request_late(gate, first);
	return UINT64_MAX;
}

uint64_t gate_tick(struct gate *gate, uint64_t now)
{
	uint64_t look = split_stuck(gate, now);
	uint64_t due = late_due(gate, now);

	return look < due ? look : due;
}

/* ---- the rest ---- */

int gate_new(struct gate **ret_gate, const struct gate_limits *limits,
	     const struct packet_digest_key *key, const struct gate_ops *ops, void *ctx)
{
	struct gate *gate = calloc(1, sizeof(*gate));
	uint32_t buckets = 256;

	if (!gate)
		return -ENOMEM;
	while (buckets < limits->max_flows && buckets < 1u << 20)
		buckets *= 2;
	gate->buckets = calloc(buckets, sizeof(struct flow *));
	gate->hash = XXH3_createState();
	if (!gate->buckets || !gate->hash) {
		gate_free(gate);
		return -ENOMEM;
	}
	gate->bucket_mask = buckets - 1;
	gate->key = *key;
	gate->limits = *limits;
	gate->ops = ops;
	gate->ctx = ctx;
	*ret_gate = gate;
	return 0;
}

void gate_free(struct gate *gate)
{
	if (!gate)
		return;
	while (gate->oldest) {
		struct held *next = gate->oldest->newer;

		frame_free(gate->oldest->frame);
		free(gate->oldest);
		gate->oldest = next;
	}
	while (gate->lru_oldest)
		flow_free(gate, gate->lru_oldest);
	XXH3_freeState(gate->hash);
	free(gate->buckets);
	free(gate);
}

bool gate_has_room(const struct gate *gate)
{
	return gate->stats.now_bytes < gate->limits.max_bytes &&
	       gate->stats.now_packets < gate->limits.max_packets;
}

bool gate_is_protected(const struct gate *gate)
{
	return gate->protected;
}

uint32_t gate_epoch(const struct gate *gate)
{
	return gate->epoch;
}

void gate_get_stats(const struct gate *gate, struct gate_stats *ret_stats)
{
	*ret_stats = gate->stats;
}
