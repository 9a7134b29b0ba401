/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the client says to the PVM, in the SVM's numbers, and the loss of it on its way to the SVM.
 *
 * The client does not repeat what the PVM has acknowledged, so what the SVM has missed is fed to it
 * again from the primary's log of the input.
 */
#include "colo-proxy/core/shadow_private.h"

#include "colo-proxy/core/seq.h"

#define DUPLICATE_ACKS 3u /* RFC 5681 section 3.2 */

void shadow_set_missing(struct shadow *shadow, struct flow *flow, bool missing)
{
	if (flow->missing == missing)
		return;
	flow->missing = missing;
	if (missing) {
		flow->missing_next = shadow->missing;
		flow->missing_at = &shadow->missing;
		shadow->missing = flow;
	} else {
		*flow->missing_at = flow->missing_next;
	}
	if (flow->missing_next)
		flow->missing_next->missing_at = missing ? &flow->missing_next : flow->missing_at;
}

/*
 * The SVM acknowledges less than it was fed, again and again: input is lost between the tap and its
 * stream (its receive buffer was full because it runs behind the PVM, whose window the client goes
 * by). The client will not send it again, for the PVM has it. This is fast retransmit and fast
 * recovery (RFC 5681 section 3.2, RFC 6582) from the input log, between this daemon and the SVM.
 */
void shadow_watch_ack(struct shadow *shadow, struct flow *flow, const struct packet *packet)
{
	uint32_t ack = packet->tcp.ack;

	if (!flow->fed_known || !flow->ack_known || !(packet->tcp.flags & PACKET_ACK))
		return;
	if (seq_gt(ack, flow->ack)) {
		flow->repeats = 0;
		if (flow->missing && seq_geq(ack, flow->missing_until))
			shadow_set_missing(shadow, flow, false);
	} else if (ack == flow->ack && !packet->payload_len && seq_lt(ack, flow->fed)) {
		if (++flow->repeats != DUPLICATE_ACKS)
			return;
		if (!flow->missing) {
			flow->missing_until = flow->fed;
			shadow_set_missing(shadow, flow, true);
		}
	} else {
		return;
	}
	if (!flow->missing)
		return;
	shadow->stats.refeeds++;
	shadow->ops->refeed(shadow->ctx, &flow->entry.key, ack);
}

static void note_fed(struct flow *flow, const struct packet *packet)
{
	uint32_t end = packet->tcp.seq + packet_seq_len(packet);

	flow->fed = flow->fed_known ? seq_max(flow->fed, end) : end;
	flow->fed_known = true;
}

static void note_newest(struct flow *flow, const struct packet *packet)
{
	const struct packet_tcp *tcp = &packet->tcp;

	if (tcp->ts_off) {
		flow->fed_ts = flow->fed_ts_known ? seq_max(flow->fed_ts, tcp->tsval) : tcp->tsval;
		flow->fed_ts_known = true;
	}
	if (tcp->flags & PACKET_ACK) {
		flow->fed_ack = flow->fed_ack_known ? seq_max(flow->fed_ack, tcp->ack) : tcp->ack;
		flow->fed_ack_known = true;
	}
}

bool shadow_has_acked(struct shadow *shadow, const struct flow_key *key, uint32_t seq)
{
	const struct flow *flow = (const struct flow *)flow_table_peek(&shadow->flows, key);

	return !flow || !flow->ack_known || flow->reset || seq_geq(flow->ack, seq);
}

bool shadow_ask_again(struct shadow *shadow)
{
	if (!shadow->missing || shadow->speaking)
		return false;
	for (const struct flow *flow = shadow->missing; flow; flow = flow->missing_next) {
		shadow->stats.refeeds++;
		shadow->ops->refeed(shadow->ctx, &flow->entry.key, flow->ack);
	}
	return true;
}

/* An ICMP error about one of the VM's segments, in the numbers that the client's network saw. */
static void map_error(struct shadow *shadow, struct packet *packet)
{
	const struct flow *flow;
	struct flow_key key;
	uint32_t seq_off;

	if (packet_quote(packet, &key, &seq_off) != 0)
		return;
	flow = (const struct flow *)flow_table_peek(&shadow->flows, &key);
	if (flow && flow->seq_delta)
		packet_map_quote(packet, seq_off, flow->seq_delta);
}

/*
 * The VM hears echoes of what it has said. The client may echo what only the PVM has said, whose
 * clock leads or whose segment was another one; and after the takeover the lead is taken from what
 * the PVM had said, too, which did not have it. Before 4.19.209 Linux takes an echo from the future
 * for a round trip of 2^32 ticks.
 *
 * A VM that waits for the answer to its SYN takes the echo of a timestamp that the SYN had, and no
 * other: Linux drops the segment in SYN-RECEIVED (since 6.15) and answers with RST in SYN-SENT. One
 * that sends SYN cookies reads the client's options from the echo's low six bits (Linux), so it is
 * exactly the first or the newest SYN's, or of a later word: a VM that only receives has nothing
 * but its SYN acknowledged. Of a handshake that is not known here these bits stay as they are: the
 * lead is a multiple of 128.
 */
static void map_echo(struct flow *flow, struct packet *packet)
{
	uint32_t tsecr = packet->tcp.tsecr;

	if (flow->opening && seq_gt(packet->tcp.ack, flow->svm.iss + 1))
		flow->opening = false;
	if (!tsecr || !flow->said_ts_known)
		return;
	tsecr = seq_min(tsecr, flow->said_ts);
	if (flow->opening)
		tsecr = seq_leq(tsecr, flow->svm.tsval) ? flow->svm.tsval
		                                        : seq_max(tsecr, flow->syn_tsval);
	packet_set_tsecr(packet, tsecr);
}

/*
 * The RST is one that the VM takes: it has the number that the VM expects next (RFC 5961 section
 * 3.2), or acknowledges the SYN that the VM waits on (RFC 9293 section 3.10.7.3). Anyone can say
 * another one. With nothing known it does not count: what is kept in vain costs memory only.
 */
static bool is_reset(const struct flow *flow, const struct packet_tcp *tcp)
{
	if ((flow->ack_known && tcp->seq == flow->ack) ||
	    (flow->fed_known && tcp->seq == flow->fed))
		return true;
	return !flow->ack_known && flow->svm.seen && (tcp->flags & PACKET_ACK) &&
	       tcp->ack == flow->svm.iss + flow->seq_delta + 1;
}

void shadow_input(struct shadow *shadow, struct frame *frame, uint64_t now)
{
	struct packet packet;
	struct flow_key key;
	struct flow *flow;
	bool stream;

	if (packet_parse(&packet, frame) != 0)
		return;
	if (packet.class == PACKET_ICMP)
		map_error(shadow, &packet);
	if (packet.class != PACKET_TCP || packet_flow_key(&packet, PACKET_TO_VM, &key) != 0)
		return;
	/* The FIN, too: the client repeats neither once the PVM has acknowledged it. */
	stream = packet.payload_len || (packet.tcp.flags & PACKET_FIN);
	flow = !shadow->speaking && stream ? shadow_flow_get(shadow, &key, now)
	                                   : shadow_flow_find(shadow, &key, now);
	if (!flow)
		return;
	if (stream)
		note_fed(flow, &packet);
	note_newest(flow, &packet);
	if (packet.tcp.flags & PACKET_FIN) {
		flow->fin_in = true;
		shadow->map_changes++;
	}
	if ((packet.tcp.flags & PACKET_RST) && is_reset(flow, &packet.tcp))
		shadow_note_reset(shadow, flow, true);
	shadow_note_state(shadow, flow, &packet, PACKET_TO_VM, now);
	if (flow->seq_delta || flow->ts_delta)
		packet_map_in(&packet, flow->seq_delta, flow->ts_delta);
	if (packet.tcp.flags & PACKET_ACK) {
		map_echo(flow, &packet);
		shadow_note_peer_ack(flow, packet.tcp.ack);
	}
}

void shadow_input_again(struct shadow *shadow, struct frame *frame, uint64_t now)
{
	const struct flow *flow;
	struct packet packet;
	struct flow_key key;

	if (packet_parse(&packet, frame) != 0 || packet.class != PACKET_TCP ||
	    packet_flow_key(&packet, PACKET_TO_VM, &key) != 0)
		return;
	flow = (const struct flow *)flow_table_peek(&shadow->flows, &key);
	if (flow && flow->fed_ts_known && packet.tcp.ts_off &&
	    seq_lt(packet.tcp.tsval, flow->fed_ts))
		packet_map_out(&packet, 0, flow->fed_ts - packet.tcp.tsval);
	if (flow && flow->fed_ack_known && seq_lt(packet.tcp.ack, flow->fed_ack))
		packet_set_ack(&packet, flow->fed_ack);
	shadow_input(shadow, frame, now);
}
