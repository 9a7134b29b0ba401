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
 * in the order in which they came, whatever releases them. What the operator's rules (policy.c)
 * bypass is never taken in.
 *
 * TCP is compared as a stream. For each flow and epoch a `struct view` knows which part of the
 * PVM's sequence space is covered: said by the SVM with the same bytes, or said before the epoch
 * began; and which bytes those were, see gate_spoken.c. The secondary sends the SVM's stream as
 * digests of consecutive ranges (each byte once, retransmissions left out), in the PVM's numbers. A
 * digest is verified against the bytes of the held frames, whose boundaries may differ: when the
 * frames that hold its range are all there, the hash over them must be equal, and coverage advances
 * to the digest's end. A frame is releasable when coverage has passed its end and the SVM has
 * acknowledged at least what the frame does. A range that goes on behind what the PVM has said is
 * asked for in two (gate_cut.c).
 *
 * What a fresh lineage has in common with the PVM needs no digest: bytes below the highest
 * sequence number that the PVM had sent at the cut, and acknowledgements up to the highest that it
 * had sent then, are in C(e) itself. What is retransmitted of it in epoch e, with the same bytes,
 * goes out as soon as C(e) is committed. Nothing of epoch e goes out before: match releases in the
 * newest committed epoch only, so that an epoch's first release comes behind all of the epochs
 * before it.
 *
 * Two views are kept for each flow, for the current epoch and the one before, whose checkpoint is
 * in flight. A frame whose view is gone can only be committed.
 *
 * Datagrams (UDP, ICMP, ARP and others: protocols.c) are compared one by one, in order within their
 * flow; what was said in fragments, as the packet that they make. Membership reports are compared
 * by what they say of each group (gate_membership.c).
 *
 * A difference ends the comparison of that flow for the epoch (view->broken) and asks for a
 * checkpoint, once for each cause and epoch; a frame that waits for too long asks, too. How long is
 * too long follows from how far behind the SVM has been when it said the same (lag.c). What is not
 * comparable has no flow, and asks after a fixed time.
 *
 * The files and the invariants are listed in gate_private.h.
 *
 * Limits: a table that is full of flows with held frames makes new flows incomparable (commit
 * only), and asks for a checkpoint. Unverified digests of a flow beyond max_digests break its
 * view. A full gate (gate_has_room() is false) makes the caller stop reading.
 */
#include "colo-proxy/core/gate_private.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "colo-proxy/core/seq.h"

#define POOL_KEEP 1024u /* of each kind; a burst */

/* ---- asking for checkpoints ---- */

/* Whether this epoch has not asked for this cause; from now on it has. */
static bool first_request(struct gate *gate, enum ckpt_cause cause)
{
	if (!gate->protected || (gate->requested & (1u << cause)))
		return false;
	gate->requested |= 1u << cause;
	return true;
}

void gate_request(struct gate *gate, enum ckpt_cause cause, const struct flow *flow, uint32_t seq,
                  const char *what)
{
	struct divergence why = {.cause = cause, .epoch = gate->epoch, .seq = seq, .what = what};

	if (!first_request(gate, cause))
		return;
	if (flow)
		gate_evidence(flow, gate->epoch, &why);
	gate->ops->request(gate->ctx, &why);
}

void gate_mismatch(struct gate *gate, struct flow *flow, struct view *view, uint32_t seq,
                   const char *what)
{
	const struct held *held = flow->head;
	const struct digest *said = &gate_pending_first(view)->digest;
	struct divergence why = {
	        .cause = CKPT_MISMATCH,
	        .epoch = gate->epoch,
	        .seq = seq,
	        .len = said->len,
	        .wanted = view->covered_end,
	        .seen = said->seq,
	        .what = what,
	        .said = said,
	};

	view->broken = true;
	if (held)
		gate->stats.by_class[held->packet.class].mismatched++;
	if (view->epoch != gate->epoch || !first_request(gate, CKPT_MISMATCH))
		return;
	gate_evidence(flow, gate->epoch, &why);
	gate->ops->request(gate->ctx, &why);
}

/* ---- the PVM speaks ---- */

static void tell_flow_open(struct gate *gate, struct flow *flow, const struct packet_tcp *tcp)
{
	struct flow_open open = {
	        .key = flow->entry.key,
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

/* Prepares a TCP segment's flow and view. */
static void note_segment(struct gate *gate, struct flow *flow, const struct packet *packet)
{
	struct view *view = gate_view_get(gate, flow, gate->epoch);
	const struct packet_tcp *tcp = &packet->tcp;

	assert(view); /* the current epoch's view is never over */
	if (tcp->flags & PACKET_SYN) {
		if (!flow->iss_known || flow->iss != tcp->seq)
			gate_flow_new_incarnation(gate, flow, view, tcp);
		if (gate->protected)
			tell_flow_open(gate, flow, tcp);
	}
	gate_flow_note_state(gate, flow, tcp->flags);
}

/*
 * A segment that is not compared is part of its connection all the same: the next epoch begins
 * behind it. If it is a SYN, a new connection begins of which the SVM will not say the SYN; so
 * nothing of it matches in this epoch, not even an acknowledgement, which must not be in front of
 * the SYN.
 */
static void note_exempt(struct gate *gate, const struct packet *packet)
{
	struct flow_key key;
	struct flow *flow;

	if (packet_flow_key(packet, PACKET_FROM_VM, &key) != 0)
		return;
	flow = gate_flow_get(gate, &key);
	if (!flow)
		return; /* the table is full: nothing of it is compared */
	if ((packet->tcp.flags & PACKET_SYN) && (!flow->iss_known || flow->iss != packet->tcp.seq))
		gate_flow_new_incarnation(gate, flow, gate_view_get(gate, flow, gate->epoch),
		                          &packet->tcp);
	gate_flow_note_sent(flow, packet);
}

static void note_limits(struct gate *gate)
{
	if (gate->stats.now_bytes > gate->limits.max_bytes / 2 ||
	    gate->stats.now_packets > gate->limits.max_packets / 2)
		gate_request(gate, CKPT_PRESSURE, NULL, 0, "held output nears its limit");
}

/* What is to be done with a packet that no flow has been judged for. */
static enum policy_action judge_packet(const struct gate *gate, const struct packet *packet,
                                       const struct flow_key *key)
{
	struct policy_subject subject;

	if (!gate->policy)
		return POLICY_COMPARE;
	if (key)
		policy_subject_of_flow(&subject, key);
	else
		policy_subject_of_packet(&subject, packet);
	return policy_decide(gate->policy, &subject);
}

/* What is to be done with the packet, and the flow that it is compared in (NULL: by commit only).
 */
static enum policy_action judge(struct gate *gate, struct packet *packet, struct flow **ret_flow)
{
	struct flow_key key;
	struct flow *flow;

	*ret_flow = NULL;
	if (packet_flow_key(packet, PACKET_FROM_VM, &key) != 0)
		return judge_packet(gate, packet, NULL);
	if (packet->class == PACKET_TCP)
		packet->why = (uint8_t)digest_tcp_exempt(packet);
	if (packet->why != PACKET_WHY_NONE)
		return judge_packet(gate, packet, &key);
	flow = gate_flow_get(gate, &key);
	if (!flow) {
		gate_request(gate, CKPT_PRESSURE, NULL, 0, "the flow table is full");
		return judge_packet(gate, packet, &key);
	}
	if (flow->action == POLICY_COMPARE)
		*ret_flow = flow;
	return flow->action;
}

struct flow *gate_flow_of(struct gate *gate, struct packet *packet)
{
	struct flow *flow;

	(void)judge(gate, packet, &flow);
	return flow;
}

void gate_ahead(struct gate *gate, const struct frame *list)
{
	flow_ahead_frames(&gate->flows, list, PACKET_FROM_VM);
}

int gate_output(struct gate *gate, struct frame *frame, uint64_t now)
{
	struct packet packet;
	struct flow *flow;
	enum policy_action action;
	int r;

	gate->now = now;
	if (packet_parse(&packet, frame) != 0)
		packet = (struct packet){.frame = frame, .class = PACKET_OTHER};
	action = judge(gate, &packet, &flow);
	if (flow && packet.class == PACKET_TCP)
		note_segment(gate, flow, &packet);
	else if (packet.class == PACKET_TCP)
		note_exempt(gate, &packet);
	if (!gate->protected) {
		if (flow && packet.class == PACKET_TCP)
			gate_flow_note_sent(flow, &packet);
		gate_membership_said(gate, &packet);
		gate_let_out(gate, frame, &packet, RELEASE_UNPROTECTED, 0);
		return 0;
	}
	if (action == POLICY_BYPASS) {
		gate_let_out(gate, frame, &packet, RELEASE_BYPASS, 0);
		return 0;
	}
	r = gate_held_append(gate, frame, &packet, flow, now);
	if (r < 0) {
		frame_free(frame);
		gate_request(gate, CKPT_PRESSURE, flow, 0, "no memory for held output");
		return r;
	}
	note_limits(gate);
	gate_membership_said(gate, &packet);
	if (packet.why == PACKET_WHY_FRAGMENT)
		flow = gate_fragment_join(gate, gate->newest);
	if (!flow) {
		/* Only a commit can release it; but a fragment's packet may still become whole. */
		if (gate->compared && packet.why != PACKET_WHY_FRAGMENT)
			gate_request_held(gate, gate->newest);
		return 0;
	}
	if (packet.class == PACKET_TCP) {
		gate_flow_note_sent(flow, &packet); /* not what was lost: it was never said */
		gate_verify(gate, flow, gate_view_get(gate, flow, gate->epoch));
	} else {
		(void)gate_view_get(gate, flow, gate->epoch);
	}
	gate_match_release(gate, flow, now);
	return 0;
}

/* ---- the SVM speaks ---- */

static void note_svm_segment(struct gate *gate, struct flow *flow, struct view *view,
                             const struct digest *digest, uint64_t now)
{
	/* Before its SYN, what the SVM says is the old connection's. */
	if (view->syn_awaited) {
		if (!(digest->tcp_flags & PACKET_SYN) || digest->seq != view->covered_end)
			return;
		view->syn_awaited = false;
	}
	if (!(digest->tcp_flags & (PACKET_RST | PACKET_FIN)))
		gate_flow_note_state(gate, flow, digest->tcp_flags);
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
		gate_pending_add(gate, flow, view, digest);
	gate_verify(gate, flow, view);
}

bool gate_digest_sane(const struct digest *digest)
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

	if (!gate->protected || lineage < gate->committed ||
	    (lineage == gate->epoch && !gate->compared)) {
		gate->stats.digests_stale++;
		return 0;
	}
	if (lineage > gate->epoch || !gate_digest_sane(digest))
		return -EPROTO;
	gate->stats.digests++;
	gate->now = now;
	flow = gate_flow_get(gate, &digest->key);
	if (!flow) {
		gate_request(gate, CKPT_PRESSURE, NULL, 0, "the flow table is full");
		return 0;
	}
	/* The secondary does not know the rules: it tells of flows that are not compared, too. */
	view = flow->action == POLICY_COMPARE ? gate_view_get(gate, flow, lineage) : NULL;
	if (!view) {
		gate->stats.digests_stale++;
		return 0;
	}
	if (digest->kind == DIGEST_SEGMENT)
		note_svm_segment(gate, flow, view, digest, now);
	else if (digest->key.kind == FLOW_MEMBERSHIP || digest->key.kind == FLOW_GROUP)
		flow = gate_membership_heard(gate, flow, view, digest);
	else
		gate_pending_add(gate, flow, view, digest);
	if (flow)
		gate_match_release(gate, flow, now);
	return 0;
}

void gate_ahead_digests(struct gate *gate, const struct digest *digests, uint32_t count)
{
	struct flow_ahead ahead = {0};

	if (!flow_ahead_pays(&gate->flows))
		return;
	for (uint32_t i = 0; i < count; i++)
		flow_ahead_add(&gate->flows, &ahead, &digests[i].key);
	flow_ahead_go(&gate->flows, &ahead);
}

/* ---- epochs ---- */

void gate_cut(struct gate *gate, uint32_t epoch, uint64_t now)
{
	assert(epoch == 0 || (gate->protected && epoch == gate->epoch + 1));
	if (epoch == 0) {
		assert(!gate->oldest);
		gate->committed = 0;
		gate->committed_at = now;
		gate->broken_below = 0;
		lag_init(&gate->lag, gate->limits.late_ns, gate->limits.late_max_ns);
		gate_flow_clear_views(gate);
	}
	gate->protected = true;
	gate->epoch = epoch;
	gate->compared = gate->comparing;
	if (!gate->compared)
		gate->broken_below = epoch + 1;
	gate->flows.lines = gate_flow_lines(epoch);
	gate->cut_at[epoch & 1] = now;
	gate->requested = 0;
	gate->ts_lead[epoch & 1] = 0;
	gate->first_of_epoch = NULL;
	fragments_clear(gate->fragments);
}

static void touch(struct gate *gate, struct flow *flow)
{
	if (!flow || flow->touched)
		return;
	flow->touched = true;
	flow->touched_next = gate->touched;
	gate->touched = flow;
}

void gate_commit(struct gate *gate, uint32_t epoch, uint64_t now)
{
	if (!gate->protected || epoch > gate->epoch || epoch <= gate->committed)
		return;
	gate->committed = epoch;
	gate->committed_at = now;
	while (gate->oldest && gate->oldest->epoch < epoch)
		gate_held_release(gate, gate->oldest, RELEASE_COMMIT, now);
	/* What the epoch has said so far may repeat what is in the checkpoint. */
	for (struct held *held = gate->oldest; held; held = held->newer)
		touch(gate, held->flow);
	while (gate->touched) {
		struct flow *flow = gate->touched;

		gate->touched = flow->touched_next;
		flow->touched = false;
		gate_match_release(gate, flow, now);
	}
}

void gate_each_before(const struct gate *gate, uint32_t epoch,
                      void (*fn)(void *ctx, const struct packet *packet), void *ctx)
{
	if (!gate->protected)
		return;
	for (const struct held *held = gate->oldest; held && held->epoch < epoch;
	     held = held->newer)
		fn(ctx, &held->packet);
}

void gate_break(struct gate *gate, enum ckpt_cause cause, const char *what, uint64_t now)
{
	(void)now;
	if (!gate->protected)
		return;
	/* The lineage that runs hears the same input as the one that is being sent. */
	gate->broken_below = gate->epoch + 1;
	gate_request(gate, cause, NULL, 0, what);
}

void gate_unprotect(struct gate *gate, uint64_t now)
{
	while (gate->oldest)
		gate_held_release(gate, gate->oldest, RELEASE_UNPROTECTED, now);
	gate->protected = false;
	gate->requested = 0;
	gate->first_of_epoch = NULL;
}

/* ---- what is due ---- */

static uint64_t late_due(struct gate *gate, uint64_t now)
{
	const struct held *first = gate->first_of_epoch;
	enum ckpt_cause cause;
	uint64_t due;

	if (!first || !gate->compared)
		return UINT64_MAX;
	cause = gate_held_cause(first);
	if (gate->requested & (1u << cause))
		return UINT64_MAX;
	/* The lineage that could say it does not run before its checkpoint is committed. */
	if (cause == CKPT_LATE && gate->committed < gate->epoch)
		return UINT64_MAX;
	due = first->arrived;
	if (cause == CKPT_LATE && due < gate->committed_at)
		due = gate->committed_at;
	due += cause == CKPT_LATE ? lag_wait_ns(&gate->lag) : gate->limits.late_ns;
	if (due > now)
		return due;
	if (cause == CKPT_LATE)
		lag_gave_up(&gate->lag);
	gate_request_held(gate, first);
	return UINT64_MAX;
}

uint64_t gate_tick(struct gate *gate, uint64_t now)
{
	uint64_t split = gate_held_split_stuck(gate, now);
	uint64_t cut = gate_cut_stuck(gate, now);
	uint64_t due = late_due(gate, now);

	flow_table_expire(&gate->flows, now);
	due = split < due ? split : due;
	return cut < due ? cut : due;
}

/* ---- the rest ---- */

int gate_new(struct gate **ret_gate, const struct gate_limits *limits,
             const struct packet_digest_key *key, const struct gate_ops *ops, void *ctx)
{
	struct gate *gate = calloc(1, sizeof(*gate));

	if (!gate)
		return -ENOMEM;
	assert(limits->max_digests < 1u << 24); /* struct view counts them */
	gate->key = *key;
	gate->joined = malloc(FRAME_MAX_LEN);
	gate->fragments = fragments_new();
	if (!gate->joined || !gate->fragments || gate_spoken_init(gate) ||
	    flow_table_init(&gate->flows, limits->max_flows, &gate->key, &gate_flow_ops, gate)) {
		gate_free(gate);
		return -ENOMEM;
	}
	gate->held_pool = (struct pool){.size = sizeof(struct held), .keep = POOL_KEEP};
	gate->pending_pool = (struct pool){.size = sizeof(struct pending), .keep = POOL_KEEP};
	gate->limits = *limits;
	lag_init(&gate->lag, limits->late_ns, limits->late_max_ns);
	gate->comparing = true;
	gate->ops = ops;
	gate->ctx = ctx;
	*ret_gate = gate;
	return 0;
}

void gate_set_comparing(struct gate *gate, bool comparing)
{
	gate->comparing = comparing;
}

void gate_set_policy(struct gate *gate, const struct policy *policy)
{
	gate->policy = policy;
}

void gate_free(struct gate *gate)
{
	if (!gate)
		return;
	while (gate->oldest) {
		struct held *next = gate->oldest->newer;

		frame_free(gate->oldest->frame);
		gate_held_free(gate, gate->oldest);
		gate->oldest = next;
	}
	flow_table_fini(&gate->flows);
	pool_fini(&gate->held_pool);
	pool_fini(&gate->pending_pool);
	fragments_free(gate->fragments);
	gate_spoken_fini(gate);
	free(gate->joined);
	free(gate);
}

bool gate_has_room(const struct gate *gate)
{
	return gate->stats.now_bytes < gate->limits.max_bytes &&
	       gate->stats.now_packets < gate->limits.max_packets;
}

bool gate_epoch_has_output(const struct gate *gate)
{
	return gate->protected && gate->first_of_epoch;
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
	ret_stats->now_flows = gate->flows.count;
	ret_stats->high_flows = gate->flows.high;
	ret_stats->flows_evicted = gate->flows.evicted;
	ret_stats->lag_ns = gate->lag.smoothed_ns;
	ret_stats->late_wait_ns = lag_wait_ns(&gate->lag);
}
