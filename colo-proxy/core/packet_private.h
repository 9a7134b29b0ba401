/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_PACKET_PRIVATE_H
#define COLO_CORE_PACKET_PRIVATE_H

#include <endian.h>
#include <string.h>

#include "colo-proxy/core/packet.h"

/*
 * What the packet's files share. Nobody else includes this.
 *
 *   packet.c       theory of operation; the parser: Ethernet, tags, IP, and what is not TCP
 *   packet_tcp.c   the parser of TCP and its options
 *   packet_map.c   rewriting in place: sequence mapping, cutting in two, checksums
 *   packet_quote.c what an ICMP error quotes
 *   membership.c   what IGMP and MLD reports mean
 *   packet_flow.c  the flow's key, the digest of a datagram, the words for a log
 */

#define PACKET_ETH_LEN       FRAME_LINK
#define PACKET_IPV6_LEN      40u
#define PACKET_TCP_CSUM_OFF  16u
#define PACKET_UDP_CSUM_OFF  6u
#define PACKET_ICMP_CSUM_OFF 2u

static inline uint16_t frame_get16(const struct frame *f, uint32_t off)
{
	uint16_t v;

	memcpy(&v, f->data + off, sizeof(v));
	return be16toh(v);
}

static inline uint32_t frame_get32(const struct frame *f, uint32_t off)
{
	uint32_t v;

	memcpy(&v, f->data + off, sizeof(v));
	return be32toh(v);
}

static inline void frame_put16(struct frame *f, uint32_t off, uint16_t v)
{
	f->data[off] = (uint8_t)(v >> 8);
	f->data[off + 1] = (uint8_t)v;
}

static inline void frame_put32(struct frame *f, uint32_t off, uint32_t v)
{
	frame_put16(f, off, (uint16_t)(v >> 16));
	frame_put16(f, off + 2, (uint16_t)v);
}

static inline void packet_set_other(struct packet *p, enum packet_why why)
{
	p->class = PACKET_OTHER;
	p->why = (uint8_t)why;
}

static inline bool packet_needs_csum(const struct packet *p)
{
	return p->frame->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
}

static inline bool packet_is_udp_superframe(const struct packet *p)
{
	return (p->frame->vnet.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_UDP_L4;
}

/* Whether the checksum that the vnet header may ask for is the transport header's own, at csum_off
 * (0: it has none that could be asked for). */
bool packet_csum_start_ok(const struct packet *p, uint32_t csum_off);

/* The TCP header at l4_off: sets class and why. */
void packet_parse_tcp(struct packet *p);

#endif
