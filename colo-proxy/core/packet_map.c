/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Rewriting in place: sequence mapping (R7), and a segment cut in two. Checksums follow by the
 * difference where one field changes, and are computed anew where bytes move.
 */
#include "colo-proxy/core/packet_private.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "colo-proxy/core/checksum.h"

/* Writes a 32-bit field of the TCP header and keeps the checksum in step. */
static void replace32(struct packet *p, uint32_t off, uint32_t to)
{
	struct frame *f = p->frame;
	uint32_t csum_off = p->l4_off + PACKET_TCP_CSUM_OFF;
	uint32_t from = frame_get32(f, off);

	if (from == to)
		return;
	frame_put32(f, off, to);
	if (!packet_needs_csum(p))
		frame_put16(f, csum_off,
		            checksum_replace32(frame_get16(f, csum_off), from, to,
		                               (off - p->l4_off) & 1));
}

void packet_map_out(struct packet *p, uint32_t seq_delta, uint32_t ts_delta)
{
	if (p->class != PACKET_TCP)
		return;
	p->tcp.seq += seq_delta;
	replace32(p, p->l4_off + 4, p->tcp.seq);
	if (p->tcp.ts_off) {
		p->tcp.tsval += ts_delta;
		replace32(p, p->tcp.ts_off, p->tcp.tsval);
	}
}

void packet_map_in(struct packet *p, uint32_t seq_delta, uint32_t ts_delta)
{
	uint32_t i;

	if (p->class != PACKET_TCP || !(p->tcp.flags & PACKET_ACK))
		return;
	packet_set_ack(p, p->tcp.ack - seq_delta);
	for (i = 0; i < p->tcp.sack_count * 2u; i++) {
		uint32_t off = p->tcp.sack_off + i * 4;

		replace32(p, off, frame_get32(p->frame, off) - seq_delta);
	}
	if (p->tcp.tsecr)
		packet_set_tsecr(p, p->tcp.tsecr - ts_delta);
}

void packet_set_ack(struct packet *p, uint32_t ack)
{
	if (p->class != PACKET_TCP || !(p->tcp.flags & PACKET_ACK))
		return;
	p->tcp.ack = ack;
	replace32(p, p->l4_off + 8, ack);
}

void packet_set_tsecr(struct packet *p, uint32_t tsecr)
{
	if (p->class != PACKET_TCP || !p->tcp.ts_off)
		return;
	p->tcp.tsecr = tsecr;
	replace32(p, p->tcp.ts_off + 4, tsecr);
}

/* The unfolded sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1). */
static uint64_t pseudo_header(const struct packet *p, uint32_t l4_len)
{
	if (p->version == 6)
		return checksum_ipv6_pseudo(packet_ipv6_src(p), p->proto, l4_len);
	return checksum_ipv4_pseudo(p->src, p->dst, p->proto, l4_len);
}

uint16_t packet_l4_checksum(const struct packet *p)
{
	const uint8_t *l4 = p->frame->data + p->l4_off;
	uint32_t csum_off;
	uint64_t sum = 0;

	switch (p->class) {
	case PACKET_TCP:
		csum_off = PACKET_TCP_CSUM_OFF;
		break;
	case PACKET_UDP:
		csum_off = PACKET_UDP_CSUM_OFF;
		break;
	case PACKET_ICMP:
		csum_off = PACKET_ICMP_CSUM_OFF;
		break;
	default:
		return 0;
	}
	if (p->class != PACKET_ICMP || p->version == 6) /* RFC 4443 section 2.3 */
		sum = pseudo_header(p, p->l4_len);
	sum = checksum_add(sum, l4, csum_off);
	sum = checksum_add(sum, l4 + csum_off + 2, p->l4_len - csum_off - 2);
	return (uint16_t)~checksum_fold(sum);
}

/* The length field that counts what is behind ip_off, for a packet that was cut. */
static void refit_ip(struct frame *f, const struct packet *was, uint32_t l4_len)
{
	if (was->version == 6) {
		frame_put16(f, was->ip_off + 4, (uint16_t)(was->ip_len - PACKET_IPV6_LEN + l4_len));
		return;
	}
	frame_put16(f, was->ip_off + 2, (uint16_t)(was->ip_len + l4_len));
	frame_put16(f, was->ip_off + 10, 0);
	frame_put16(f, was->ip_off + 10,
	            (uint16_t)~checksum_fold(checksum_add(0, f->data + was->ip_off, was->ip_len)));
}

/* Sets the lengths and checksums of a TCP packet whose payload has been cut. */
static void refit(struct frame *f, const struct packet *was, uint32_t payload_len)
{
	uint32_t l4_len = was->payload_off - was->l4_off + payload_len;
	struct packet now;

	refit_ip(f, was, l4_len);
	f->len = was->payload_off + payload_len;
	/* The guest may have counted payload in; a length beyond the frame makes it invalid. */
	if (f->vnet.hdr_len > was->payload_off)
		f->vnet.hdr_len = (uint16_t)was->payload_off;
	if (f->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE && payload_len <= f->vnet.gso_size) {
		f->vnet.gso_type = VIRTIO_NET_HDR_GSO_NONE;
		f->vnet.gso_size = 0;
	}
	if (packet_parse(&now, f) != 0)
		return;
	if (packet_needs_csum(&now))
		frame_put16(f, was->l4_off + PACKET_TCP_CSUM_OFF,
		            checksum_fold(pseudo_header(&now, l4_len)));
	else
		frame_put16(f, was->l4_off + PACKET_TCP_CSUM_OFF, packet_l4_checksum(&now));
}

int packet_split(struct packet *p, uint32_t prefix, struct frame **ret_first)
{
	struct frame *rest = p->frame;
	struct frame *first;
	struct packet was;

	if (p->class != PACKET_TCP || prefix == 0 || prefix >= p->payload_len ||
	    (p->tcp.flags & PACKET_SYN) || (rest->start == FRAME_AT_IP && !rest->linked))
		return -EINVAL;
	first = frame_new(FRAME_LINK + p->payload_off + prefix);
	if (!first)
		return -ENOMEM;
	if (rest->start == FRAME_AT_IP) {
		frame_show_link(rest);
		packet_parse(p, rest);
	}
	was = *p;
	first->vnet = rest->vnet;
	first->origin = rest->origin;
	memcpy(first->data, rest->data, p->payload_off + prefix);
	first->data[p->l4_off + 13] &= (uint8_t) ~(PACKET_FIN | PACKET_PSH);
	refit(first, &was, prefix);

	memmove(rest->data + prefix, rest->data, p->payload_off);
	rest->data += prefix;
	rest->room -= prefix;
	frame_put32(rest, was.l4_off + 4, was.tcp.seq + prefix);
	/* Only there CWR is RFC 3168's; else it may be a bit of AccECN's counter (RFC 9768). */
	if (rest->vnet.gso_type & VIRTIO_NET_HDR_GSO_ECN)
		rest->data[was.l4_off + 13] &= (uint8_t)~PACKET_CWR;
	refit(rest, &was, was.payload_len - prefix);
	packet_parse(p, rest);
	*ret_first = first;
	return 0;
}
