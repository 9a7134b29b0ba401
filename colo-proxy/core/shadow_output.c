/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the SVM says, as digests: each byte of a connection's stream once, in the PVM's numbers.
 *
 * A SYN waits for the mapping (shadow.c). A segment tells what is new of it, in pieces when it is a
 * superframe, or a bare acknowledgement when only that is new. Datagrams are told as they come.
 */
#include "colo-proxy/core/shadow_private.h"

#include <string.h>

#include "colo-proxy/core/seq.h"

void shadow_tell(struct shadow *shadow, const struct digest *digest)
{
	shadow->stats.digests++;
	shadow->ops->digest(shadow->ctx, shadow->lineage, digest);
}

/* What every digest of the segment has in common. */
static struct digest digest_of(const struct flow *flow, const struct packet *packet)
{
	const struct packet_tcp *tcp = &packet->tcp;

	return (struct digest){
	        .key = flow->entry.key,
	        .kind = DIGEST_SEGMENT,
	        .tcp_flags = tcp->flags & PACKET_ACK,
	        .has_ts = tcp->ts_off != 0,
	        .seq = tcp->seq + flow->seq_delta,
	        .ack = (tcp->flags & PACKET_ACK) ? tcp->ack : 0,
	        .tsval = tcp->ts_off ? tcp->tsval + flow->ts_delta : 0,
	};
}

static void syn_seen(struct shadow *shadow, struct flow *flow, const struct packet *packet)
{
	const struct packet_tcp *tcp = &packet->tcp;
	bool has_ack = tcp->flags & PACKET_ACK;

	if (flow->svm.seen && flow->svm.iss == tcp->seq && flow->svm.has_ack == has_ack)
		return; /* a retransmission: it has been told, or waits */
	flow->mapped = flow->told_known = flow->ack_known = false;
	flow->fin_in = flow->fin_out = flow->reset = false;
	flow->seq_delta = flow->ts_delta = 0;
	flow->svm = (struct opening){
	        .seen = true,
	        .has_ack = has_ack,
	        .has_ts = tcp->ts_off != 0,
	        .iss = tcp->seq,
	        .ack = has_ack ? tcp->ack : 0,
	        .tsval = tcp->tsval,
	};
	digest_syn(&shadow->key, tcp, flow->syn_hash);
	shadow_try_map(shadow, flow);
}

/* Tells [from, to) of the segment's payload in pieces of its segment size, and FIN with the last.
 */
static void tell_range(struct shadow *shadow, const struct flow *flow, const struct packet *packet,
                       uint32_t from, bool fin)
{
	const struct frame *frame = packet->frame;
	uint32_t start = packet->tcp.seq, piece = packet->payload_len;
	uint32_t end = start + packet->payload_len;

	if (frame->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE && frame->vnet.gso_size)
		piece = frame->vnet.gso_size; /* little endian, as this host is */
	do {
		struct digest digest = digest_of(flow, packet);
		uint32_t offset = from - start;
		uint32_t len = piece ? piece - offset % piece : 0;

		if (len > end - from)
			len = end - from;
		digest.seq = from + flow->seq_delta;
		digest.len = len;
		digest_stream(&shadow->key, frame->data + packet->payload_off + offset, len,
		              digest.hash);
		from += len;
		if (from == end && fin) {
			digest.len++;
			digest.tcp_flags |= PACKET_FIN;
		}
		shadow_tell(shadow, &digest);
	} while (from != end);
}

static void segment_seen(struct shadow *shadow, struct flow *flow, const struct packet *packet)
{
	const struct packet_tcp *tcp = &packet->tcp;
	bool fin = tcp->flags & PACKET_FIN;
	uint32_t data_end = tcp->seq + packet->payload_len;
	uint32_t end = data_end + fin;
	bool new_ack =
	        (tcp->flags & PACKET_ACK) && (!flow->ack_known || seq_gt(tcp->ack, flow->ack));

	if (fin)
		flow->fin_out = true;
	if (tcp->flags & PACKET_RST) {
		struct digest digest = digest_of(flow, packet);

		flow->reset = true;
		digest.tcp_flags |= PACKET_RST;
		shadow_tell(shadow, &digest);
		return;
	}
	shadow_watch_ack(shadow, flow, packet);
	if (new_ack) {
		flow->ack_known = true;
		flow->ack = tcp->ack;
	}
	if (!flow->told_known) {
		flow->told_known = true;
		flow->told = tcp->seq;
	}
	if (seq_gt(end, flow->told)) {
		uint32_t from = seq_max(tcp->seq, flow->told);

		/* Only the FIN is new: there is no payload to go with it. */
		flow->told = end;
		tell_range(shadow, flow, packet, seq_min(from, data_end), fin);
	} else if (new_ack) {
		struct digest digest = digest_of(flow, packet);

		shadow_tell(shadow, &digest);
	}
}

void shadow_note_source(struct shadow *shadow, const struct packet *packet)
{
	uint32_t address = packet->class == PACKET_ARP ? packet->arp.spa : packet->src;

	if (packet->frame->start == FRAME_AT_ETHERNET && packet->frame->len >= 12) {
		memcpy(shadow->mac, packet->frame->data + 6, 6);
		shadow->mac_known = true;
	}
	if (!address)
		return;
	for (uint32_t i = 0; i < shadow->address_count; i++) {
		if (shadow->addresses[i] == address)
			return;
	}
	if (shadow->address_count < SHADOW_MAX_ADDRESSES)
		shadow->addresses[shadow->address_count++] = address;
}

void shadow_output(struct shadow *shadow, struct frame *frame, uint64_t now)
{
	struct packet packet;
	struct flow_key key;
	struct flow *flow;

	shadow->stats.packets++;
	shadow->stats.bytes += frame->len;
	if (packet_parse(&packet, frame) != 0 ||
	    packet_flow_key(&packet, PACKET_FROM_VM, &key) != 0) {
		shadow->stats.uncompared++;
		return;
	}
	shadow_note_source(shadow, &packet);
	if (packet.class != PACKET_TCP) {
		struct digest digest = {.key = key, .kind = DIGEST_DATAGRAM};

		if (packet_digest_datagram(&packet, &shadow->key, digest.hash) == 0)
			shadow_tell(shadow, &digest);
		return;
	}
	flow = digest_tcp_exempt(&packet) ? NULL : shadow_flow_get(shadow, &key, now);
	if (!flow) {
		shadow->stats.uncompared++;
		return;
	}
	if (packet.tcp.flags & PACKET_SYN)
		syn_seen(shadow, flow, &packet);
	else
		segment_seen(shadow, flow, &packet);
}
