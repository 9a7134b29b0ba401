/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_TESTS_TCP_BUILDER_H
#define COLO_TESTS_TCP_BUILDER_H

/*
 * Makes the frames that the tests of the comparison feed it: TCP segments, UDP datagrams and
 * others, Ethernet and IPv4 or IPv6 with correct checksums. Everything aborts when memory is out.
 */
#include <stdlib.h>
#include <string.h>

#include "colo-proxy/core/checksum.h"
#include "colo-proxy/core/frame.h"
#include "colo-proxy/core/packet.h"

#define BUILD_VM_IP   0x0a000001u
#define BUILD_PEER_IP 0x0a000002u
#define BUILD_IP6_NET                                                                              \
	0xfd00cafeu /* first 32 bits; 0 until the last ones, which are those of IPv4 */

/* NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding): in the order of reading */
struct build_tcp {
	bool from_peer, ipv6;
	bool extended;               /* IPv6: with hop-by-hop and destination options */
	uint16_t vm_port, peer_port; /* 0: 80 and 1000 */
	uint32_t seq, ack;
	uint16_t flags; /* ACK is not implied */
	uint16_t window, urgent;
	const uint8_t *data;
	uint32_t len;
	bool has_ts;
	uint32_t tsval, tsecr;
	uint16_t mss; /* 0: none */
	bool has_wscale, sack_permitted, fastopen;
	uint8_t wscale;
	bool has_sack;
	uint32_t sack_left, sack_right;
	uint16_t gso_size; /* 0: not a superframe */
};

static inline void build_put16(uint8_t *at, uint32_t v)
{
	at[0] = (uint8_t)(v >> 8);
	at[1] = (uint8_t)v;
}

static inline void build_put32(uint8_t *at, uint32_t v)
{
	build_put16(at, v >> 16);
	build_put16(at + 2, v & 0xffff);
}

#define BUILD_EXT_LEN 16u

/* Hop-by-hop options (router alert) and destination options (padding) in front of `proto`. */
static inline void build_extensions(uint8_t *at, uint8_t proto)
{
	static const uint8_t bytes[BUILD_EXT_LEN] = {60, 0, 5, 2, 0, 0, 1, 0,
	                                             0,  0, 1, 4, 0, 0, 0, 0};

	memcpy(at, bytes, sizeof(bytes));
	at[8] = proto;
}

/* A frame with Ethernet and IPv6 header, extension headers, and `l4_len` zero bytes behind. */
static inline struct frame *build_ipv6(bool from_peer, bool extended, uint8_t proto,
                                       uint32_t l4_len)
{
	uint32_t ext = extended ? BUILD_EXT_LEN : 0;
	struct frame *f = frame_new(54 + ext + l4_len);
	uint8_t *ip;

	if (!f)
		abort();
	f->len = 54 + ext + l4_len;
	memset(f->data, 0, f->len);
	f->data[5] = from_peer ? 1 : 2;
	f->data[11] = from_peer ? 2 : 1;
	build_put16(f->data + 12, 0x86dd);
	ip = f->data + 14;
	ip[0] = 0x60;
	build_put16(ip + 4, ext + l4_len);
	ip[6] = extended ? 0 : proto;
	ip[7] = 64;
	build_put32(ip + 8, BUILD_IP6_NET);
	build_put32(ip + 20, from_peer ? BUILD_PEER_IP : BUILD_VM_IP);
	build_put32(ip + 24, BUILD_IP6_NET);
	build_put32(ip + 36, from_peer ? BUILD_VM_IP : BUILD_PEER_IP);
	if (extended)
		build_extensions(ip + 40, proto);
	return f;
}

/* The key of the flow between the two, as the VM sees it. */
static inline struct flow_key build_key(bool ipv6, uint8_t proto, uint8_t kind, uint16_t vm_port,
                                        uint16_t peer_port)
{
	struct flow_key key = {
	        .vm_ip = BUILD_VM_IP,
	        .peer_ip = BUILD_PEER_IP,
	        .vm_port = vm_port,
	        .peer_port = peer_port,
	        .proto = proto,
	        .kind = kind,
	};

	if (ipv6) {
		key.flags = FLOW_IPV6;
		key.vm_net[0] = key.peer_net[0] = BUILD_IP6_NET;
	}
	return key;
}

/* The frame with a VLAN tag in front of its EtherType; the old one is freed. */
static inline struct frame *build_tagged(struct frame *f, uint16_t tpid, uint16_t tci)
{
	struct frame *tagged = frame_new(f->len + 4);

	if (!tagged)
		abort();
	tagged->vnet = f->vnet;
	tagged->origin = f->origin;
	tagged->len = f->len + 4;
	if (f->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		tagged->vnet.csum_start = (uint16_t)(f->vnet.csum_start + 4);
	memcpy(tagged->data, f->data, 12);
	build_put16(tagged->data + 12, tpid);
	build_put16(tagged->data + 14, tci);
	memcpy(tagged->data + 16, f->data + 12, f->len - 12);
	frame_free(f);
	return tagged;
}

/* A frame with Ethernet and IPv4 header and `l4_len` zero bytes behind. */
static inline struct frame *build_ipv4(bool from_peer, uint8_t proto, uint32_t l4_len)
{
	struct frame *f = frame_new(34 + l4_len);
	uint8_t *ip;

	if (!f)
		abort();
	f->len = 34 + l4_len;
	memset(f->data, 0, f->len);
	f->data[5] = from_peer ? 1 : 2;
	f->data[11] = from_peer ? 2 : 1;
	build_put16(f->data + 12, 0x0800);
	ip = f->data + 14;
	ip[0] = 0x45;
	build_put16(ip + 2, 20 + l4_len);
	ip[8] = 64;
	ip[9] = proto;
	build_put32(ip + 12, from_peer ? BUILD_PEER_IP : BUILD_VM_IP);
	build_put32(ip + 16, from_peer ? BUILD_VM_IP : BUILD_PEER_IP);
	build_put16(ip + 10, (uint16_t)~checksum_fold(checksum_add(0, ip, 20)));
	return f;
}

static inline uint32_t build_tcp_options(uint8_t *at, const struct build_tcp *t)
{
	uint32_t n = 0;

	if (t->mss) {
		at[n] = 2;
		at[n + 1] = 4;
		build_put16(at + n + 2, t->mss);
		n += 4;
	}
	if (t->has_wscale) {
		at[n] = 3;
		at[n + 1] = 3;
		at[n + 2] = t->wscale;
		n += 3;
	}
	if (t->sack_permitted) {
		at[n] = 4;
		at[n + 1] = 2;
		n += 2;
	}
	if (t->has_ts) {
		at[n] = 8;
		at[n + 1] = 10;
		build_put32(at + n + 2, t->tsval);
		build_put32(at + n + 6, t->tsecr);
		n += 10;
	}
	if (t->has_sack) {
		at[n] = 5;
		at[n + 1] = 10;
		build_put32(at + n + 2, t->sack_left);
		build_put32(at + n + 6, t->sack_right);
		n += 10;
	}
	if (t->fastopen) {
		at[n] = 34;
		at[n + 1] = 2;
		n += 2;
	}
	while (n % 4)
		at[n++] = 1;
	return n;
}

static inline struct frame *build_tcp(const struct build_tcp *t)
{
	uint8_t options[48];
	uint32_t opt_len = build_tcp_options(options, t);
	uint32_t l4_len = 20 + opt_len + t->len;
	struct frame *f = t->ipv6 ? build_ipv6(t->from_peer, t->extended, 6, l4_len)
	                          : build_ipv4(t->from_peer, 6, l4_len);
	uint8_t *tcp = f->data + f->len - l4_len;
	uint16_t vm_port = t->vm_port ? t->vm_port : 80;
	uint16_t peer_port = t->peer_port ? t->peer_port : 1000;
	struct packet p;

	build_put16(tcp, t->from_peer ? peer_port : vm_port);
	build_put16(tcp + 2, t->from_peer ? vm_port : peer_port);
	build_put32(tcp + 4, t->seq);
	build_put32(tcp + 8, t->ack);
	build_put16(tcp + 12, ((20 + opt_len) / 4) << 12 | t->flags);
	build_put16(tcp + 14, t->window ? t->window : 65535);
	build_put16(tcp + 18, t->urgent);
	memcpy(tcp + 20, options, opt_len);
	if (t->len)
		memcpy(tcp + 20 + opt_len, t->data, t->len);
	if (t->gso_size) {
		f->vnet.gso_type = t->ipv6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
		f->vnet.gso_size = t->gso_size;
	}
	if (packet_parse(&p, f) != 0)
		abort();
	build_put16(tcp + 16, packet_l4_checksum(&p));
	return f;
}

static inline struct frame *build_udp(bool from_peer, uint16_t vm_port, uint16_t peer_port,
                                      const void *data, uint32_t len)
{
	struct frame *f = build_ipv4(from_peer, 17, 8 + len);
	uint8_t *udp = f->data + 34;

	build_put16(udp, from_peer ? peer_port : vm_port);
	build_put16(udp + 2, from_peer ? vm_port : peer_port);
	build_put16(udp + 4, 8 + len);
	memcpy(udp + 8, data, len);
	return f;
}

static inline struct frame *build_udp6(bool from_peer, uint16_t vm_port, uint16_t peer_port,
                                       const void *data, uint32_t len)
{
	struct frame *f = build_ipv6(from_peer, false, 17, 8 + len);
	uint8_t *udp = f->data + 54;

	build_put16(udp, from_peer ? peer_port : vm_port);
	build_put16(udp + 2, from_peer ? vm_port : peer_port);
	build_put16(udp + 4, 8 + len);
	memcpy(udp + 8, data, len);
	return f;
}

/* One fragment of an IP packet without options: `len` bytes behind its header, from `off` on. */
static inline struct frame *build_fragment(const struct frame *whole, uint32_t id, uint32_t off,
                                           uint32_t len, bool more)
{
	bool six = whole->data[12] == 0x86;
	uint32_t head = six ? 54 : 34, gap = six ? 8 : 0;
	struct frame *f = frame_new(head + gap + len);
	uint8_t *ip;

	if (!f)
		abort();
	f->len = head + gap + len;
	memcpy(f->data, whole->data, head);
	memcpy(f->data + head + gap, whole->data + head + off, len);
	ip = f->data + 14;
	if (six) {
		build_put16(ip + 4, gap + len);
		ip[40] = ip[6];
		ip[6] = 44;
		ip[41] = 0;
		build_put16(ip + 42, off | more);
		build_put32(ip + 44, id);
	} else {
		build_put16(ip + 2, 20 + len);
		build_put16(ip + 4, id);
		build_put16(ip + 6, off / 8 | (more ? 0x2000 : 0));
	}
	return f;
}

static inline struct frame *build_echo(bool from_peer, bool request, uint16_t id, uint16_t seq)
{
	struct frame *f = build_ipv4(from_peer, 1, 16);

	f->data[34] = request ? 8 : 0;
	build_put16(f->data + 38, id);
	build_put16(f->data + 40, seq);
	return f;
}

static inline struct frame *build_arp(uint16_t op, uint32_t target)
{
	static const uint8_t head[8] = {0, 1, 8, 0, 6, 4};
	struct frame *f = frame_new(42);

	if (!f)
		abort();
	f->len = 42;
	memset(f->data, 0, f->len);
	memset(f->data, 0xff, 6);
	build_put16(f->data + 12, 0x0806);
	memcpy(f->data + 14, head, sizeof(head));
	build_put16(f->data + 20, op);
	build_put32(f->data + 28, BUILD_VM_IP);
	build_put32(f->data + 38, target);
	return f;
}

/* A frame of any EtherType. */
static inline struct frame *build_other(uint16_t ethertype)
{
	struct frame *f = frame_new(60);

	if (!f)
		abort();
	f->len = 60;
	memset(f->data, 0, f->len);
	build_put16(f->data + 12, ethertype);
	return f;
}

/* The frame as a hold hands it over that shows IP packets, and knows the header in front. */
static inline struct frame *build_linked(struct frame *f)
{
	f->data += FRAME_LINK;
	f->len -= FRAME_LINK;
	f->room -= FRAME_LINK;
	f->start = FRAME_AT_IP;
	f->linked = true;
	return f;
}

#endif
