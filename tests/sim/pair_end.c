/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/sim/pair_end.h"

#include <string.h>
#include <sys/param.h>

#include "colo-proxy/core/seq.h"
#include "tests/unit/tcp_builder.h"

#define WINDOW      1200u
#define WAIT_MS     200u
#define WAIT_MAX_MS 1600u

static void transmit(struct end *end, const struct end_owner *owner, uint16_t flags, uint32_t off,
                     uint32_t len)
{
	uint8_t data[WINDOW];
	struct build_tcp t = {
	        .from_peer = !owner->is_vm,
	        .vm_port = end->vm_port,
	        .peer_port = end->peer_port,
	        .seq = flags & PACKET_SYN ? end->iss : end->iss + 1 + off,
	        .len = len,
	        .data = data,
	        .flags = flags,
	        .has_ts = true,
	        .tsval = owner->clock_ms + end->ts_offset,
	        .gso_size = owner->is_vm && len > END_MSS ? END_MSS : 0,
	};

	for (uint32_t done = 0; done < len;) {
		uint32_t from = (off + done) % END_TX, n = MIN(len - done, END_TX - from);

		memcpy(data + done, end->tx + from, n);
		done += n;
	}
	if (flags & PACKET_SYN) {
		t.mss = END_MSS;
		t.sack_permitted = true;
		end->syn_first = end->syn_sent ? end->syn_first : t.tsval;
		end->syn_last = t.tsval;
		end->syn_sent = true;
	}
	if (flags & PACKET_ACK) {
		t.ack = end->irs + 1 + end->rcv;
		t.tsecr = end->ts_recent;
		end->ack_due = false;
		end->acked = end->rcv;
	}
	off += len + !!(flags & PACKET_FIN);
	if (!(flags & PACKET_SYN) && off > end->max)
		end->max = off;
	owner->says(owner->ctx, build_tcp(&t));
}

static void rearm(struct end *end, const struct end_owner *owner, bool later)
{
	end->wait_ms = !later                       ? WAIT_MS
	               : end->wait_ms < WAIT_MAX_MS ? 2 * end->wait_ms
	                                            : end->wait_ms;
	end->resend_at = owner->clock_ms + end->wait_ms;
}

static void send_syn(struct end *end, const struct end_owner *owner, bool again)
{
	transmit(end, owner, end->state == END_SYN_RCVD ? PACKET_SYN | PACKET_ACK : PACKET_SYN, 0,
	         0);
	rearm(end, owner, again);
}

void end_begin(struct end *end, const struct end_owner *owner, const struct packet *syn)
{
	*end = (struct end){.vm_port = end->vm_port, .peer_port = end->peer_port};
	/* Often close to the wrap. */
	end->iss = owner->random(owner->ctx, 2) ? 0u - owner->random(owner->ctx, 3000)
	                                        : owner->random(owner->ctx, UINT32_MAX);
	end->ts_offset = owner->random(owner->ctx, UINT32_MAX);
	end->state = syn ? END_SYN_RCVD : END_SYN_SENT;
	if (syn) {
		end->irs = syn->tcp.seq;
		end->ts_recent = syn->tcp.tsval;
	}
	send_syn(end, owner, false);
}

uint32_t end_room(const struct end *end)
{
	return END_TX - (end->written - end->una);
}

bool end_write(struct end *end, const void *data, uint32_t len)
{
	if (len > end_room(end))
		return false;
	for (uint32_t done = 0; done < len;) {
		uint32_t to = (end->written + done) % END_TX, n = MIN(len - done, END_TX - to);

		memcpy(end->tx + to, (const uint8_t *)data + done, n);
		done += n;
	}
	end->written += len;
	return true;
}

bool end_done(const struct end *end)
{
	return end->state == END_OPEN && end->fin_heard && end->fin_queued &&
	       end->una == end->written + 1;
}

static void take_ack(struct end *end, const struct end_owner *owner, uint32_t ack)
{
	uint32_t off = ack - end->iss - 1;

	if (!seq_gt(off, end->una) || seq_gt(off, end->max))
		return;
	end->una = off;
	if (end->nxt < end->una)
		end->nxt = end->una;
	rearm(end, owner, false);
}

static void take_data(struct end *end, const struct end_owner *owner, const struct packet *p)
{
	uint32_t off = p->tcp.seq - end->irs - 1, len = p->payload_len, skip, eaten;
	bool fin = p->tcp.flags & PACKET_FIN;

	if (!len && !fin)
		return;
	end->ack_due = true;
	if (end->fin_heard || seq_gt(off, end->rcv) || seq_leq(off + len + fin, end->rcv))
		return;
	skip = end->rcv - off;
	eaten = owner->eats(owner->ctx, end, p->frame->data + p->payload_off + skip, len - skip);
	end->rcv += eaten;
	if (eaten == len - skip && fin) {
		end->rcv++;
		end->fin_heard = true;
	}
}

static void hear_reset(struct end *end, const struct packet *p)
{
	if (end->state == END_SYN_SENT ? p->tcp.ack == end->iss + 1
	                               : p->tcp.seq == end->irs + 1 + end->rcv) {
		end->state = END_CLOSED;
		end->refused = true;
	}
}

static bool echoes_syn(const struct end *end, const struct packet *p)
{
	return !p->tcp.ts_off ||
	       (seq_geq(p->tcp.tsecr, end->syn_first) && seq_leq(p->tcp.tsecr, end->syn_last));
}

static void hear_handshake(struct end *end, const struct end_owner *owner, const struct packet *p)
{
	bool syn = p->tcp.flags & PACKET_SYN, ack = p->tcp.flags & PACKET_ACK;

	if (end->state == END_SYN_RCVD) {
		if (syn && p->tcp.seq == end->irs)
			send_syn(end, owner, true);
		else if (ack && p->tcp.ack == end->iss + 1 && echoes_syn(end, p))
			end->state = END_OPEN;
	} else if (ack && p->tcp.ack == end->iss + 1 && !echoes_syn(end, p)) {
		end_refuses(owner, p);
	} else if (syn && ack && p->tcp.ack == end->iss + 1) {
		end->state = END_OPEN;
		end->irs = p->tcp.seq;
		end->ts_recent = p->tcp.tsval;
		end->ack_due = true;
	}
}

void end_hears(struct end *end, const struct end_owner *owner, const struct packet *p)
{
	uint32_t off = p->tcp.seq - end->irs - 1;

	if (p->tcp.flags & PACKET_RST) {
		hear_reset(end, p);
		return;
	}
	if (end->state != END_OPEN)
		hear_handshake(end, owner, p);
	if (end->state != END_OPEN)
		return;
	if (p->tcp.flags & PACKET_SYN) {
		end->ack_due = true;
		return;
	}
	if (p->tcp.ts_off && seq_lt(p->tcp.tsval, end->ts_recent)) {
		end->ack_due = true; /* PAWS */
		return;
	}
	if (p->tcp.ts_off && seq_leq(off, end->rcv))
		end->ts_recent = p->tcp.tsval;
	if (p->tcp.flags & PACKET_ACK)
		take_ack(end, owner, p->tcp.ack);
	take_data(end, owner, p);
}

static void send_data(struct end *end, const struct end_owner *owner)
{
	uint32_t limit = end->written + end->fin_queued;

	while (end->nxt < limit && end->nxt - end->una < WINDOW) {
		uint32_t left = end->nxt < end->written ? end->written - end->nxt : 0;
		uint32_t room = WINDOW - (end->nxt - end->una);
		uint32_t len = END_MSS * (owner->is_vm ? 1 + owner->random(owner->ctx, 4) : 1);
		bool fin;

		len = len < left ? len : left;
		len = len < room ? len : room;
		fin = end->fin_queued && end->nxt + len == end->written &&
		      (len == 0 || owner->random(owner->ctx, 4));
		if (end->una == end->max)
			rearm(end, owner, false);
		transmit(end, owner, PACKET_ACK | (fin ? PACKET_FIN : 0), end->nxt, len);
		end->nxt += len + fin;
	}
}

static bool is_due(const struct end *end, const struct end_owner *owner)
{
	return (int32_t)(owner->clock_ms - end->resend_at) >= 0;
}

void end_acts(struct end *end, const struct end_owner *owner)
{
	if (end->state == END_SYN_SENT || end->state == END_SYN_RCVD) {
		if (is_due(end, owner))
			send_syn(end, owner, true);
		return;
	}
	if (end->state != END_OPEN)
		return;
	if (end->una < end->max && is_due(end, owner)) {
		end->nxt = end->una;
		rearm(end, owner, true);
	}
	send_data(end, owner);
	if (end->ack_due)
		transmit(end, owner, PACKET_ACK, end->nxt, 0);
}

bool end_due(const struct end *end, uint32_t *ret_at)
{
	if (end->state == END_CLOSED || (end->state == END_OPEN && end->una == end->max))
		return false;
	*ret_at = end->resend_at;
	return true;
}

void end_refuses(const struct end_owner *owner, const struct packet *p)
{
	struct build_tcp t = {.from_peer = !owner->is_vm,
	                      .vm_port = owner->is_vm ? p->tcp.dport : p->tcp.sport,
	                      .peer_port = owner->is_vm ? p->tcp.sport : p->tcp.dport,
	                      .flags = PACKET_RST};

	if (p->tcp.flags & PACKET_RST)
		return;
	if (p->tcp.flags & PACKET_ACK) {
		t.seq = p->tcp.ack;
	} else {
		t.flags |= PACKET_ACK;
		t.ack = p->tcp.seq + packet_seq_len(p);
	}
	owner->says(owner->ctx, build_tcp(&t));
}
