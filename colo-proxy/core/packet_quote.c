/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ICMP errors quote the packet that they are about (RFC 792, RFC 4443 section 2.4): at the least
 * its IP header and eight bytes, which of a TCP segment are the ports and the sequence number. Path
 * MTU discovery goes by them, and a stack ignores an error whose number it has not sent (RFC 5927
 * section 4.1). So to a VM whose numbers are mapped, the number in the quotation is mapped as well.
 */
#include "colo-proxy/core/packet_private.h"

#include <errno.h>
#include <netinet/in.h>

#include "colo-proxy/core/checksum.h"

#define ICMP_HEADER  8u
#define QUOTED_TCP   8u /* ports and sequence number */
#define IPV4_HEADER  20u
#define FRAGMENT_OFF 0x1fffu

/* Unreachable, source quench, time exceeded, parameter problem; ICMPv6: all that is below 128. */
static bool is_error(const struct packet *p)
{
	if (p->class != PACKET_ICMP)
		return false;
	if (p->version == 6)
		return p->icmp.type < 128;
	return p->icmp.type == 3 || p->icmp.type == 4 || p->icmp.type == 11 || p->icmp.type == 12;
}

/* The quoted IPv4 header at `off`, `len` bytes of quotation. Returns the header's length or 0. */
static uint32_t quoted_ipv4(const struct frame *f, uint32_t off, uint32_t len, struct flow_key *key)
{
	uint32_t header;

	if (len < IPV4_HEADER || f->data[off] >> 4 != 4)
		return 0;
	header = (f->data[off] & 15u) * 4;
	if (header < IPV4_HEADER || len < header || f->data[off + 9] != IPPROTO_TCP ||
	    frame_get16(f, off + 6) & FRAGMENT_OFF)
		return 0;
	key->vm_ip = frame_get32(f, off + 12);
	key->peer_ip = frame_get32(f, off + 16);
	return header;
}

static uint32_t quoted_ipv6(const struct frame *f, uint32_t off, uint32_t len, struct flow_key *key)
{
	if (len < PACKET_IPV6_LEN || f->data[off] >> 4 != 6 || f->data[off + 6] != IPPROTO_TCP)
		return 0;
	key->flags |= FLOW_IPV6;
	for (uint32_t i = 0; i < 3; i++) {
		key->vm_net[i] = frame_get32(f, off + 8 + i * 4);
		key->peer_net[i] = frame_get32(f, off + 24 + i * 4);
	}
	key->vm_ip = frame_get32(f, off + 20);
	key->peer_ip = frame_get32(f, off + 36);
	return PACKET_IPV6_LEN;
}

int packet_quote(const struct packet *p, struct flow_key *ret_key, uint32_t *ret_seq_off)
{
	const struct frame *f = p->frame;
	struct flow_key key = {.proto = IPPROTO_TCP, .kind = FLOW_TCP};
	uint32_t off, len, header;

	if (!is_error(p) || p->l4_len < ICMP_HEADER)
		return -EINVAL;
	off = p->l4_off + ICMP_HEADER;
	len = p->l4_len - ICMP_HEADER;
	header = p->version == 6 ? quoted_ipv6(f, off, len, &key) : quoted_ipv4(f, off, len, &key);
	if (!header || len - header < QUOTED_TCP)
		return -EINVAL;
	key.vm_port = frame_get16(f, off + header);
	key.peer_port = frame_get16(f, off + header + 2);
	if (p->tag[0]) {
		key.flags |= FLOW_TAGGED;
		key.tag[0] = p->tag[0];
		key.tag[1] = p->tag[1];
	}
	*ret_key = key;
	*ret_seq_off = off + header + 4;
	return 0;
}

void packet_map_quote(struct packet *p, uint32_t seq_off, uint32_t seq_delta)
{
	struct frame *f = p->frame;
	uint32_t csum_off = p->l4_off + PACKET_ICMP_CSUM_OFF;
	uint32_t from = frame_get32(f, seq_off), to = from - seq_delta;

	frame_put32(f, seq_off, to);
	if (!packet_needs_csum(p))
		frame_put16(f, csum_off,
		            checksum_replace32(frame_get16(f, csum_off), from, to,
		                               (seq_off - p->l4_off) & 1));
}
