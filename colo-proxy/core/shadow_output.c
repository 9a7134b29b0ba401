/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the SVM says, as digests: each byte of a connection's stream once, in the PVM's numbers.
 *
 * A SYN waits for the mapping (shadow.c). A segment tells what is new of it, in pieces when it is a
 * superframe, or a bare acknowledgement when only that is new. Datagrams are told as they come.
 */
#include "colo-proxy/core/shadow_private.h"

#include <string.h>

#include "colo-proxy/core/membership.h"
#include "colo-proxy/core/seq.h"

#define HOLE_SPAN (1u << 30)

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
	        .seq = tcp->seq + shadow_seq_delta(flow, tcp),
	        .ack = (tcp->flags & PACKET_ACK) ? tcp->ack : 0,
	        .tsval = tcp->ts_off ? tcp->tsval + flow->ts_delta : 0,
	};
}

/* Both ends open (RFC 9293 section 3.5, figure 7): behind the SYN, which has been told, comes the
 * SYN-ACK with the same number. Only the acknowledgement is new. */
static void syn_acknowledged(struct shadow *shadow, struct flow *flow, const struct packet *packet)
{
	struct digest digest = digest_of(flow, packet);

	flow->svm.has_ack = flow->ack_known = true;
	flow->svm.ack = flow->ack = packet->tcp.ack;
	shadow_tell(shadow, &digest);
}

/*
 * What was fed to the SVM on the 4-tuple may be of the connection that the SYN opens: its SYN-ACK
 * is said anew, for the same SYN of the client's, or is the first word of the lineage's. Otherwise
 * it is of an older one, whose numbers tell nothing.
 */
static bool is_fed_on(const struct flow *flow, const struct packet_tcp *tcp)
{
	if (!(tcp->flags & PACKET_ACK))
		return false;
	if (flow->svm.seen)
		return flow->svm.has_ack && flow->svm.ack == tcp->ack;
	return !flow->told_known && !flow->ack_known;
}

static void forget_fed(struct shadow *shadow, struct flow *flow)
{
	flow->fed_known = flow->fed_ts_known = flow->fed_ack_known = false;
	flow->repeats = 0;
	shadow_set_missing(shadow, flow, false);
}

static void syn_seen(struct shadow *shadow, struct flow *flow, const struct packet *packet)
{
	const struct packet_tcp *tcp = &packet->tcp;
	bool has_ack = tcp->flags & PACKET_ACK;

	if (flow->svm.seen && flow->svm.iss == tcp->seq) {
		if (!has_ack || flow->svm.has_ack)
			return; /* a retransmission: it has been told, or waits */
		if (flow->mapped) {
			syn_acknowledged(shadow, flow, packet);
			return;
		}
	}
	if (!is_fed_on(flow, tcp))
		forget_fed(shadow, flow);
	flow->mapped = flow->told_known = flow->ack_known = false;
	flow->fin_in = flow->fin_out = false;
	flow->seq_delta = flow->ts_delta = 0;
	flow->opening = tcp->ts_off != 0;
	flow->said_ts_known = false;
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

/* Tells [from, end) of the segment's payload in pieces of its segment size, and FIN with the last.
 */
static void tell_range(struct shadow *shadow, const struct flow *flow, const struct packet *packet,
                       uint32_t from, uint32_t end, bool fin)
{
	const struct frame *frame = packet->frame;
	uint32_t start = packet->tcp.seq, piece = 0;

	if (frame->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE)
		piece = frame->vnet.gso_size; /* little endian, as this host is */
	do {
		struct digest digest = digest_of(flow, packet);
		uint32_t offset = from - start, len = end - from;

		if (piece && piece - offset % piece < len)
			len = piece - offset % piece;
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

/*
 * A hole: what the SVM has said there was lost in the guest, or is still on its way behind what it
 * said later, and its repetition is told. The first segment of a lineage may not be the lineage's
 * first, so all below it is one. One hole is remembered; what begins behind another is not told
 * before it is repeated, as it will be: the client is not given it, and cannot acknowledge it.
 */
static void tell_hole(struct shadow *shadow, struct flow *flow, const struct packet *packet)
{
	uint32_t data_end = packet->tcp.seq + packet->payload_len;
	uint32_t from = seq_max(packet->tcp.seq, flow->hole),
	         end = seq_min(data_end, flow->hole_end);

	if (seq_geq(from, end))
		return;
	if (end == flow->hole_end && from != flow->hole)
		flow->hole_end = from;
	else if (from == flow->hole || flow->hole_end - flow->hole >= HOLE_SPAN / 2)
		flow->hole = end;
	else
		return; /* from the middle: its beginning will be repeated first */
	tell_range(shadow, flow, packet, from, end, false);
}

void shadow_note_peer_ack(struct flow *flow, uint32_t ack)
{
	if (flow->told_known && seq_geq(ack, flow->hole_end))
		flow->hole = flow->hole_end;
}

/* False: the segment begins behind a second hole. */
static bool note_hole(struct flow *flow, uint32_t seq)
{
	if (!flow->told_known) {
		flow->told_known = true;
		flow->told = flow->hole_end = seq;
		flow->hole = seq - HOLE_SPAN;
	} else if (seq_gt(seq, flow->told)) {
		if (flow->hole != flow->hole_end)
			return false;
		flow->hole = flow->told;
		flow->hole_end = seq;
	}
	return true;
}

static void segment_seen(struct shadow *shadow, struct flow *flow, const struct packet *packet)
{
	const struct packet_tcp *tcp = &packet->tcp;
	bool fin = tcp->flags & PACKET_FIN;
	uint32_t data_end = tcp->seq + packet->payload_len;
	uint32_t end = data_end + fin;
	bool news = false;
	bool new_ack =
	        (tcp->flags & PACKET_ACK) && (!flow->ack_known || seq_gt(tcp->ack, flow->ack));

	if (fin)
		flow->fin_out = true;
	if (tcp->flags & PACKET_RST) {
		struct digest digest = digest_of(flow, packet);

		digest.tcp_flags |= PACKET_RST;
		shadow_tell(shadow, &digest);
		return;
	}
	shadow_watch_ack(shadow, flow, packet);
	if (new_ack) {
		flow->ack_known = true;
		flow->ack = tcp->ack;
	}
	if (end != tcp->seq && note_hole(flow, tcp->seq)) {
		tell_hole(shadow, flow, packet);
		news = seq_gt(end, flow->told);
	}
	if (news) {
		uint32_t from = seq_max(tcp->seq, flow->told);

		/* Only the FIN is new: there is no payload to go with it. */
		flow->told = end;
		tell_range(shadow, flow, packet, seq_min(from, data_end), data_end, fin);
	} else if (new_ack) {
		struct digest digest = digest_of(flow, packet);

		shadow_tell(shadow, &digest);
	}
}

static bool same_tags(const uint16_t a[2], const uint16_t b[2])
{
	return a[0] == b[0] && a[1] == b[1];
}

static void note_vlan(struct shadow_sources *sources, const uint16_t tag[2])
{
	for (uint32_t i = 0; i < sources->vlan_count; i++) {
		if (same_tags(sources->vlan[i], tag))
			return;
	}
	if (sources->vlan_count < SHADOW_MAX_VLANS)
		memcpy(sources->vlan[sources->vlan_count++], tag, sizeof(sources->vlan[0]));
}

static void note_ipv4(struct shadow_sources *sources, const uint16_t tag[2], uint32_t address)
{
	struct shadow_ipv4 heard = {{tag[0], tag[1]}, address};

	if (!address)
		return;
	for (uint32_t i = 0; i < sources->ipv4_count; i++) {
		if (sources->ipv4[i].address == address && same_tags(sources->ipv4[i].tag, tag))
			return;
	}
	if (sources->ipv4_count < SHADOW_MAX_ADDRESSES)
		sources->ipv4[sources->ipv4_count++] = heard;
}

static void note_ipv6(struct shadow_sources *sources, const uint16_t tag[2],
                      const uint8_t address[16])
{
	static const uint8_t unspecified[16];
	struct shadow_ipv6 heard = {.tag = {tag[0], tag[1]}};

	memcpy(heard.address, address, 16);
	if (memcmp(address, unspecified, 16) == 0)
		return;
	for (uint32_t i = 0; i < sources->ipv6_count; i++) {
		if (memcmp(&sources->ipv6[i], &heard, sizeof(heard)) == 0)
			return;
	}
	if (sources->ipv6_count < SHADOW_MAX_ADDRESSES)
		sources->ipv6[sources->ipv6_count++] = heard;
}

void shadow_note_source(struct shadow *shadow, const struct packet *packet)
{
	struct shadow_sources *sources = &shadow->sources;

	if (packet->frame->start != FRAME_AT_ETHERNET)
		return;
	if (packet->tag[0])
		note_vlan(sources, packet->tag);
	if (!packet->tag[0] || !sources->mac_known)
		memcpy(sources->mac, packet->frame->data + 6, 6);
	sources->mac_known = true;
	if (packet->class == PACKET_ARP)
		note_ipv4(sources, packet->tag, packet->arp.spa);
	else if (packet->version == 4)
		note_ipv4(sources, packet->tag, packet->src);
	else if (packet->version == 6)
		note_ipv6(sources, packet->tag, packet_ipv6_src(packet));
}

static void tell_datagram(struct shadow *shadow, const struct packet *packet)
{
	struct digest digest = {.kind = DIGEST_DATAGRAM};

	if (packet_flow_key(packet, PACKET_FROM_VM, &digest.key) == 0 &&
	    packet_digest_datagram(packet, &shadow->key, digest.hash) == 0)
		shadow_tell(shadow, &digest);
	else
		shadow->stats.uncompared++;
}

/* Tells what a membership report says of each group. */
static void tell_words(struct shadow *shadow, const struct packet *packet)
{
	struct membership_word word;
	uint32_t at = 0;

	while (membership_next(packet, &shadow->key, &at, &word)) {
		struct digest digest = {.kind = DIGEST_DATAGRAM, .key = word.group};

		memcpy(digest.hash, word.hash, sizeof(digest.hash));
		shadow_tell(shadow, &digest);
	}
}

/* Tells that something was said of groups, and not what. */
static void tell_unclear(struct shadow *shadow, const struct packet *packet)
{
	struct digest digest = {.kind = DIGEST_DATAGRAM};

	membership_key(packet, &digest.key);
	shadow_tell(shadow, &digest);
}

/* Tells the packet when its last fragment has come. */
static void fragment_seen(struct shadow *shadow, const struct packet *packet)
{
	struct packet whole;
	uint32_t serial, count;
	struct frame *frame = fragments_add(shadow->fragments, packet, &serial, &count);

	if (!frame)
		return;
	if (packet_parse(&whole, frame) == 0)
		tell_datagram(shadow, &whole);
	frame_free(frame);
}

/* What is not compared is not told. A SYN ends the connection that the 4-tuple had: its map is not
 * for the new one, of which the client hears nothing before a checkpoint makes a map needless. */
static void exempt_seen(struct shadow *shadow, const struct packet *packet,
                        const struct flow_key *key)
{
	struct flow_entry *entry = flow_table_peek(&shadow->flows, key);

	shadow->stats.uncompared++;
	if (entry && (packet->tcp.flags & PACKET_SYN))
		flow_table_remove(&shadow->flows, entry);
}

void shadow_ahead(struct shadow *shadow, const struct frame *list)
{
	flow_ahead_frames(&shadow->flows, list, PACKET_FROM_VM);
}

void shadow_output(struct shadow *shadow, struct frame *frame, uint64_t now)
{
	struct packet packet;
	struct flow_key key;
	struct flow *flow;

	shadow->stats.packets++;
	shadow->stats.bytes += frame->len;
	shadow->last = (struct recent_map){0};
	if (packet_parse(&packet, frame) != 0) {
		shadow->stats.uncompared++;
		return;
	}
	if (membership_is_unclear(&packet))
		tell_unclear(shadow, &packet);
	if (packet.why == PACKET_WHY_FRAGMENT) {
		fragment_seen(shadow, &packet);
		return;
	}
	if (packet.class == PACKET_OTHER) {
		shadow->stats.uncompared++;
		return;
	}
	shadow_note_source(shadow, &packet);
	if (packet.class == PACKET_MEMBERSHIP) {
		tell_words(shadow, &packet);
		return;
	}
	if (packet.class != PACKET_TCP) {
		tell_datagram(shadow, &packet);
		return;
	}
	(void)packet_flow_key(&packet, PACKET_FROM_VM, &key); /* it has one: it is TCP */
	if (digest_tcp_exempt(&packet)) {
		exempt_seen(shadow, &packet, &key);
		return;
	}
	flow = shadow_flow_get(shadow, &key, now);
	if (!flow) {
		shadow->stats.uncompared++;
		return;
	}
	shadow_note_reset(shadow, flow, packet.tcp.flags & PACKET_RST);
	if (packet.tcp.flags & PACKET_SYN)
		syn_seen(shadow, flow, &packet);
	else
		segment_seen(shadow, flow, &packet);
	shadow_note_ts(flow, &packet.tcp);
	shadow->last = (struct recent_map){shadow_seq_delta(flow, &packet.tcp), flow->ts_delta};
	shadow_note_state(shadow, flow, &packet, PACKET_FROM_VM, now);
}

struct recent_map shadow_last_map(const struct shadow *shadow)
{
	return shadow->last;
}
