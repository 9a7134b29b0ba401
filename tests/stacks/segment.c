/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TCP segments, read and made without the engine's own parser, and with every checksum
 * computed anew, so that a kernel that takes them is a witness for what the engine changes.
 */
#include <string.h>

#include "colo-proxy/core/checksum.h"
#include "colo-proxy/core/packet.h"
#include "tests/stacks/stacks.h"

#define ETHERNET  14u
#define FRAME_MTU 1500u

static uint32_t get16(const uint8_t *at)
{
	return (uint32_t)at[0] << 8 | at[1];
}

static uint32_t get32(const uint8_t *at)
{
	return get16(at) << 16 | get16(at + 2);
}

static void put16(uint8_t *at, uint32_t v)
{
	at[0] = (uint8_t)(v >> 8);
	at[1] = (uint8_t)v;
}

static void put32(uint8_t *at, uint32_t v)
{
	put16(at, v >> 16);
	put16(at + 2, v & 0xffff);
}

static void find_options(struct segment *s)
{
	const uint8_t *d = s->frame->data;
	uint32_t at = s->tcp_off + 20;

	while (at < s->data_off && d[at] != 0) {
		uint32_t len = d[at] == 1 ? 1 : d[at + 1];

		if (len == 0 || at + len > s->data_off)
			return;
		if (d[at] == 8) {
			s->ts_off = at + 2;
			s->tsval = get32(d + at + 2);
		} else if (d[at] == 5) {
			s->sack_off = at + 2;
			s->sack_count = (len - 2) / 8;
		}
		at += len;
	}
}

bool segment_parse(struct segment *ret, struct frame *frame)
{
	const uint8_t *d = frame->data, *ip = d + ETHERNET;
	uint32_t total, head;
	bool six;

	if (frame->len < ETHERNET + 40)
		return false;
	six = get16(d + 12) == 0x86dd;
	if (frame->len < ETHERNET + (six ? 60 : 40) || (!six && get16(d + 12) != 0x0800) ||
	    ip[six ? 6 : 9] != 6)
		return false;
	*ret = (struct segment){.frame = frame, .six = six, .ip_off = ETHERNET};
	head = six ? 40 : (ip[0] & 15u) * 4;
	total = six ? 40 + get16(ip + 4) : get16(ip + 2);
	ret->tcp_off = ETHERNET + head;
	ret->data_off = ret->tcp_off + (d[ret->tcp_off + 12] >> 4) * 4u;
	if (ETHERNET + total > frame->len || ret->data_off > ETHERNET + total)
		return false;
	ret->len = ETHERNET + total - ret->data_off;
	ret->src = get32(ip + (six ? 20 : 12));
	ret->dst = get32(ip + (six ? 36 : 16));
	ret->sport = get16(d + ret->tcp_off);
	ret->dport = get16(d + ret->tcp_off + 2);
	ret->seq = get32(d + ret->tcp_off + 4);
	ret->ack = get32(d + ret->tcp_off + 8);
	ret->flags = d[ret->tcp_off + 13];
	find_options(ret);
	return true;
}

/* Lengths and checksums for what is in the frame now. */
static void seal(struct segment *s, bool partial)
{
	struct frame *f = s->frame;
	uint8_t *ip = f->data + s->ip_off, *tcp = f->data + s->tcp_off;
	uint32_t l4_len = s->data_off - s->tcp_off + s->len;
	uint64_t sum = s->six ? checksum_ipv6_pseudo(ip + 8, 6, l4_len)
	                      : checksum_ipv4_pseudo(s->src, s->dst, 6, l4_len);

	if (s->six) {
		put16(ip + 4, l4_len);
	} else {
		put16(ip + 2, s->tcp_off - s->ip_off + l4_len);
		put16(ip + 10, 0);
		put16(ip + 10,
		      (uint16_t)~checksum_fold(checksum_add(0, ip, s->tcp_off - s->ip_off)));
	}
	put16(tcp + 16, 0);
	if (partial) {
		f->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		f->vnet.csum_start = (uint16_t)s->tcp_off;
		f->vnet.csum_offset = 16;
		put16(tcp + 16, checksum_fold(sum));
	} else {
		f->vnet.flags = 0;
		f->vnet.csum_start = f->vnet.csum_offset = 0;
		put16(tcp + 16, (uint16_t)~checksum_fold(checksum_add(sum, tcp, l4_len)));
	}
}

void segment_seal(struct frame *frame)
{
	struct segment s;

	if (segment_parse(&s, frame))
		seal(&s, false);
}

static void set_superframe(struct segment *s, uint32_t size)
{
	struct virtio_net_hdr_v1 *vnet = &s->frame->vnet;

	vnet->gso_type = VIRTIO_NET_HDR_GSO_NONE;
	vnet->gso_size = vnet->hdr_len = 0;
	if (s->len <= size)
		return;
	vnet->gso_type = s->six ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
	if (s->flags & PACKET_CWR)
		vnet->gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	vnet->gso_size = (uint16_t)size;
	vnet->hdr_len = (uint16_t)s->data_off;
}

static void reseal(struct segment *s)
{
	if (!(s->frame->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		seal(s, false);
}

void segment_restrict(struct segment *s, const bool offer[OFFERS])
{
	uint8_t *d = s->frame->data;
	uint32_t at = s->tcp_off + 20;

	while (at < s->data_off && d[at] != 0) {
		uint32_t len = d[at] == 1 ? 1 : d[at + 1];
		bool out = (d[at] == 8 && !offer[OFFER_TIMESTAMPS]) ||
		           (d[at] == 4 && !offer[OFFER_SACK]) ||
		           (d[at] == 3 && !offer[OFFER_WSCALE]);

		if (len == 0 || at + len > s->data_off)
			break;
		if (out)
			memset(d + at, 1, len);
		at += len;
	}
	if (!offer[OFFER_ECN])
		d[s->tcp_off + 13] &= (uint8_t) ~(PACKET_ECE | PACKET_CWR);
	s->flags = d[s->tcp_off + 13];
	if (!offer[OFFER_TIMESTAMPS])
		s->ts_off = 0;
	reseal(s);
}

static uint32_t segment_size(const struct segment *s)
{
	const struct virtio_net_hdr_v1 *vnet = &s->frame->vnet;

	return vnet->gso_type ? vnet->gso_size : s->len;
}

struct frame *segment_part(const struct segment *s, uint32_t from, uint32_t count, bool partial)
{
	struct frame *f = frame_new(s->data_off + count);
	struct segment part = *s;

	if (!f)
		return NULL;
	memcpy(f->data, s->frame->data, s->data_off);
	memcpy(f->data + s->data_off, s->frame->data + s->data_off + from, count);
	f->len = s->data_off + count;
	part.frame = f;
	part.len = count;
	put32(f->data + s->tcp_off + 4, s->seq + from);
	if (from + count != s->len)
		part.flags &= (uint8_t) ~(PACKET_FIN | PACKET_PSH);
	if (from && (s->frame->vnet.gso_type & VIRTIO_NET_HDR_GSO_ECN))
		part.flags &= (uint8_t)~PACKET_CWR;
	f->data[s->tcp_off + 13] = part.flags;
	set_superframe(&part, segment_size(s));
	seal(&part, partial || part.frame->vnet.gso_type);
	return f;
}

struct frame *segment_join(const struct segment *a, const struct segment *b)
{
	const uint8_t either = PACKET_SYN | PACKET_RST | PACKET_URG | PACKET_CWR;
	struct segment all = *a;
	struct frame *f;
	uint32_t size;

	if (!a->len || !b->len || a->seq + a->len != b->seq || a->ack != b->ack ||
	    ((a->flags | b->flags) & either) || (a->flags & PACKET_FIN) ||
	    a->data_off != b->data_off || a->len + b->len > 60000)
		return NULL;
	f = frame_new(a->data_off + a->len + b->len);
	if (!f)
		return NULL;
	memcpy(f->data, a->frame->data, a->data_off + a->len);
	memcpy(f->data + a->data_off + a->len, b->frame->data + b->data_off, b->len);
	f->len = a->data_off + a->len + b->len;
	all.frame = f;
	all.len = a->len + b->len;
	all.flags |= b->flags & (PACKET_FIN | PACKET_PSH);
	f->data[a->tcp_off + 13] = all.flags;
	size = segment_size(a);
	set_superframe(&all, f->len - ETHERNET <= FRAME_MTU ? all.len : size);
	seal(&all, true);
	return f;
}

void segment_complete(struct segment *s)
{
	if ((s->frame->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && !s->frame->vnet.gso_type)
		seal(s, false);
}

void segment_shift_out(struct segment *s, uint32_t seq, uint32_t ts)
{
	uint8_t *d = s->frame->data;

	s->seq += seq;
	put32(d + s->tcp_off + 4, s->seq);
	if (s->ts_off) {
		s->tsval += ts;
		put32(d + s->ts_off, s->tsval);
	}
	reseal(s);
}

void segment_shift_in(struct segment *s, uint32_t seq, uint32_t ts)
{
	uint8_t *d = s->frame->data;

	if (!(s->flags & PACKET_ACK))
		return;
	s->ack -= seq;
	put32(d + s->tcp_off + 8, s->ack);
	for (uint32_t i = 0; i < s->sack_count * 2; i++)
		put32(d + s->sack_off + i * 4, get32(d + s->sack_off + i * 4) - seq);
	if (s->ts_off && get32(d + s->ts_off + 4))
		put32(d + s->ts_off + 4, get32(d + s->ts_off + 4) - ts);
	reseal(s);
}
