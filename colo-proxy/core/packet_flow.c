/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a packet is compared by: its flow's key, and of a datagram the digest; and the words. */
#include "colo-proxy/core/membership.h"
#include "colo-proxy/core/packet_private.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The inlined form has the state's layout without depending on the shared library's version. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#define ETHERTYPE_IPV4  0x0800u
#define ETHERTYPE_IPV6  0x86ddu
#define IPV4_NO_OPTIONS 0x45u
#define IPV4_LEN        20u
#define PROTO_TCP       6u
#define PROTO_UDP       17u

_Static_assert(sizeof(struct flow_key) == 44, "flow_key has no implicit padding");
_Static_assert(offsetof(struct flow_key, tag) == FLOW_KEY_NARROW, "what IPv4 needs is in front");
_Static_assert(sizeof(((struct packet_digest_key *)0)->secret) >= XXH3_SECRET_SIZE_MIN,
               "XXH3 needs a longer secret");

static void icmp_flow_key(const struct packet *p, bool from_vm, struct flow_key *key)
{
	bool six = p->version == 6;
	bool request = p->icmp.type == (six ? PACKET_ICMP6_ECHO_REQUEST : PACKET_ICMP_ECHO_REQUEST);
	bool reply = p->icmp.type == (six ? PACKET_ICMP6_ECHO_REPLY : PACKET_ICMP_ECHO_REPLY);

	if (!request && !reply) {
		key->kind = FLOW_ICMP;
		key->vm_port = p->icmp.type;
		key->peer_port = p->icmp.code;
	} else if (request == from_vm) {
		key->kind = FLOW_ECHO_BY_VM;
		key->vm_port = p->icmp.id;
	} else {
		key->kind = FLOW_ECHO_BY_PEER;
		key->peer_port = p->icmp.id;
	}
}

/* What only IPv6 and tagged packets have in their key. */
static void wide_flow_key(const struct packet *p, bool from_vm, struct flow_key *key)
{
	if (p->tag[0]) {
		key->flags |= FLOW_TAGGED;
		key->tag[0] = p->tag[0];
		key->tag[1] = p->tag[1];
	}
	if (p->version != 6)
		return;
	key->flags |= FLOW_IPV6;
	for (uint32_t i = 0; i < 3; i++) {
		uint32_t src = frame_get32(p->frame, p->ip_off + 8 + i * 4);
		uint32_t dst = frame_get32(p->frame, p->ip_off + 24 + i * 4);

		key->vm_net[i] = from_vm ? src : dst;
		key->peer_net[i] = from_vm ? dst : src;
	}
}

int packet_flow_key(const struct packet *p, enum packet_direction direction,
                    struct flow_key *ret_key)
{
	bool from_vm = direction == PACKET_FROM_VM;
	struct flow_key *key = ret_key;

	if (p->class == PACKET_OTHER)
		return -EINVAL;
	*key = (struct flow_key){
	        .vm_ip = from_vm ? p->src : p->dst,
	        .peer_ip = from_vm ? p->dst : p->src,
	        .proto = p->proto,
	};
	switch (p->class) {
	case PACKET_TCP:
		key->kind = FLOW_TCP;
		key->vm_port = from_vm ? p->tcp.sport : p->tcp.dport;
		key->peer_port = from_vm ? p->tcp.dport : p->tcp.sport;
		break;
	case PACKET_UDP:
		key->kind = FLOW_UDP;
		key->vm_port = from_vm ? p->udp.sport : p->udp.dport;
		key->peer_port = from_vm ? p->udp.dport : p->udp.sport;
		break;
	case PACKET_ICMP:
		icmp_flow_key(p, from_vm, key);
		break;
	case PACKET_ARP:
		key->kind = FLOW_ARP;
		key->vm_ip = from_vm ? p->arp.spa : p->arp.tpa;
		key->peer_ip = from_vm ? p->arp.tpa : p->arp.spa;
		key->peer_port = p->arp.op;
		break;
	case PACKET_MEMBERSHIP:
		key->kind = FLOW_MEMBERSHIP;
		break;
	default: /* PACKET_WHOLE */
		key->kind = p->version ? FLOW_MESSAGE : FLOW_FRAME;
		key->peer_port = p->version ? 0 : protocols[p->protocol].number[0].from;
		break;
	}
	if (p->version == 6 || p->tag[0])
		wide_flow_key(p, from_vm, key);
	if (p->class == PACKET_MEMBERSHIP)
		membership_key_of_group(key, key); /* wherever this version's go */
	return 0;
}

static void guess_addresses(const struct frame *f, uint32_t off, bool from_vm, bool six,
                            struct flow_key *key)
{
	uint32_t src = off + (six ? 8 : 12), dst = src + (six ? 16 : 4);
	uint32_t vm = from_vm ? src : dst, peer = from_vm ? dst : src;

	for (uint32_t i = 0; six && i < 3; i++) {
		key->vm_net[i] = frame_get32(f, vm + i * 4);
		key->peer_net[i] = frame_get32(f, peer + i * 4);
	}
	key->vm_ip = frame_get32(f, vm + (six ? 12 : 0));
	key->peer_ip = frame_get32(f, peer + (six ? 12 : 0));
}

int packet_flow_guess(const struct frame *f, enum packet_direction direction,
                      struct flow_key *ret_key)
{
	bool from_vm = direction == PACKET_FROM_VM, six;
	uint32_t off = f->start == FRAME_AT_ETHERNET ? PACKET_ETH_LEN : 0, ports;
	uint8_t proto;

	if (f->len < off + PACKET_IPV6_LEN + 4)
		return -EINVAL; /* shorter than any TCP over IPv4, and than few UDP */
	six = f->data[off] >> 4 == 6;
	if ((!six && f->data[off] != IPV4_NO_OPTIONS) ||
	    (off && frame_get16(f, 12) != (six ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4)))
		return -EINVAL;
	proto = f->data[off + (six ? 6 : 9)];
	if (proto != PROTO_TCP && proto != PROTO_UDP)
		return -EINVAL;
	ports = off + (six ? PACKET_IPV6_LEN : IPV4_LEN);
	*ret_key = (struct flow_key){
	        .vm_port = frame_get16(f, from_vm ? ports : ports + 2),
	        .peer_port = frame_get16(f, from_vm ? ports + 2 : ports),
	        .proto = proto,
	        .kind = proto == PROTO_TCP ? FLOW_TCP : FLOW_UDP,
	        .flags = six ? FLOW_IPV6 : 0,
	};
	guess_addresses(f, off, from_vm, six, ret_key);
	return 0;
}

const uint8_t *packet_ipv6_src(const struct packet *p)
{
	return p->frame->data + p->ip_off + 8;
}

const uint8_t *packet_ipv6_dst(const struct packet *p)
{
	return p->frame->data + p->ip_off + 24;
}

int packet_digest_datagram(const struct packet *p, const struct packet_digest_key *key,
                           uint8_t ret_digest[PACKET_DIGEST_LEN])
{
	const struct frame *f = p->frame;
	const uint8_t *l4 = f->data + p->l4_off;
	XXH3_state_t state = {0};
	XXH128_canonical_t canonical;

	if (XXH3_128bits_reset_withSecret(&state, key->secret, sizeof(key->secret)) != XXH_OK)
		return -EINVAL;
	switch (p->class) {
	case PACKET_UDP:
		if (packet_is_udp_superframe(p)) {
			const uint8_t *size = (const uint8_t *)&f->vnet.gso_size;

			XXH3_128bits_update(&state, "gso", 3);
			XXH3_128bits_update(&state, size, sizeof(f->vnet.gso_size));
		}
		XXH3_128bits_update(&state, f->data + p->payload_off, p->payload_len);
		break;
	case PACKET_ICMP: /* type and code, then what is behind the checksum */
		XXH3_128bits_update(&state, l4, 2);
		XXH3_128bits_update(&state, l4 + 4, p->l4_len - 4);
		break;
	case PACKET_ARP:
		XXH3_128bits_update(&state, l4, p->l4_len);
		break;
	case PACKET_WHOLE: /* a frame: from its first byte */
		if (p->version)
			XXH3_128bits_update(&state, l4, p->l4_len);
		else
			XXH3_128bits_update(&state, f->data, p->l4_off + p->l4_len);
		break;
	default:
		return -EINVAL;
	}
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
	memcpy(ret_digest, canonical.digest, PACKET_DIGEST_LEN);
	return 0;
}

/* ---- words ---- */

#define ADDRESS_LEN 48u

static const char *ipv4_text(uint32_t address, char buf[ADDRESS_LEN])
{
	snprintf(buf, ADDRESS_LEN, "%u.%u.%u.%u", address >> 24, address >> 16 & 255,
	         address >> 8 & 255, address & 255);
	return buf;
}

/* With brackets, as a port follows. */
static const char *ipv6_text(const uint8_t address[16], char buf[ADDRESS_LEN])
{
	size_t len;

	buf[0] = '[';
	if (!inet_ntop(AF_INET6, address, buf + 1, ADDRESS_LEN - 2))
		buf[1] = '\0';
	len = strlen(buf);
	buf[len] = ']';
	buf[len + 1] = '\0';
	return buf;
}

static const char *src_text(const struct packet *p, char buf[ADDRESS_LEN])
{
	return p->version == 6 ? ipv6_text(packet_ipv6_src(p), buf) : ipv4_text(p->src, buf);
}

static const char *dst_text(const struct packet *p, char buf[ADDRESS_LEN])
{
	return p->version == 6 ? ipv6_text(packet_ipv6_dst(p), buf) : ipv4_text(p->dst, buf);
}

static void describe_tcp(const struct packet *p, char *buf, size_t len)
{
	static const char letters[] = "FSRP.UEW";
	const struct packet_tcp *tcp = &p->tcp;
	char flags[sizeof(letters)], src[ADDRESS_LEN], dst[ADDRESS_LEN];
	uint32_t i, n = 0;

	for (i = 0; i < sizeof(letters) - 1; i++) {
		if (tcp->flags & 1u << i)
			flags[n++] = letters[i];
	}
	flags[n] = '\0';
	snprintf(buf, len, "tcp %s:%u > %s:%u seq %u ack %u len %u [%s]", src_text(p, src),
	         tcp->sport, dst_text(p, dst), tcp->dport, tcp->seq, tcp->ack, p->payload_len,
	         flags);
}

const char *packet_describe(const struct packet *p, char *buf, size_t len)
{
	char src[ADDRESS_LEN], dst[ADDRESS_LEN];

	switch (p->class) {
	case PACKET_TCP:
		describe_tcp(p, buf, len);
		break;
	case PACKET_UDP:
		snprintf(buf, len, "udp %s:%u > %s:%u len %u", src_text(p, src), p->udp.sport,
		         dst_text(p, dst), p->udp.dport, p->payload_len);
		break;
	case PACKET_ICMP:
		snprintf(buf, len, "%s %s > %s type %u code %u id %u len %u",
		         p->version == 6 ? "icmpv6" : "icmp", src_text(p, src), dst_text(p, dst),
		         p->icmp.type, p->icmp.code, p->icmp.id, p->payload_len);
		break;
	case PACKET_ARP:
		snprintf(buf, len, "arp %s > %s op %u", ipv4_text(p->arp.spa, src),
		         ipv4_text(p->arp.tpa, dst), p->arp.op);
		break;
	case PACKET_MEMBERSHIP:
		snprintf(buf, len, "%s %s > %s type %u len %u", protocols[p->protocol].name,
		         src_text(p, src), dst_text(p, dst), p->frame->data[p->l4_off], p->l4_len);
		break;
	case PACKET_WHOLE:
		snprintf(buf, len, "%s len %u", protocols[p->protocol].name, p->l4_len);
		break;
	default:
		snprintf(buf, len, "other (%s) ethertype 0x%04x proto %u len %u",
		         packet_why_name(p->why), p->ethertype, p->proto, p->frame->len);
		break;
	}
	return buf;
}

static const char *key_address(const uint32_t net[3], uint32_t low, bool six, char buf[ADDRESS_LEN])
{
	uint32_t words[4] = {htonl(net[0]), htonl(net[1]), htonl(net[2]), htonl(low)};

	return six ? ipv6_text((const uint8_t *)words, buf) : ipv4_text(low, buf);
}

const char *flow_key_text(const struct flow_key *key, char *buf, size_t len)
{
	static const char *const kinds[] = {
	        [0] = "none",
	        [FLOW_TCP] = "tcp",
	        [FLOW_UDP] = "udp",
	        [FLOW_ECHO_BY_VM] = "echo by the VM",
	        [FLOW_ECHO_BY_PEER] = "echo",
	        [FLOW_ICMP] = "icmp",
	        [FLOW_ARP] = "arp",
	        [FLOW_MESSAGE] = "ip message",
	        [FLOW_FRAME] = "frame",
	        [FLOW_MEMBERSHIP] = "membership report",
	        [FLOW_GROUP] = "membership",
	};
	bool six = key->flags & FLOW_IPV6;
	char vm[ADDRESS_LEN], peer[ADDRESS_LEN], tags[32] = "";
	uint8_t kind = key->kind < sizeof(kinds) / sizeof(kinds[0]) ? key->kind : 0;

	if (key->tag[1])
		snprintf(tags, sizeof(tags), " vlan %u.%u", key->tag[0] & PACKET_TAG_VID,
		         key->tag[1] & PACKET_TAG_VID);
	else if (key->flags & FLOW_TAGGED)
		snprintf(tags, sizeof(tags), " vlan %u", key->tag[0] & PACKET_TAG_VID);
	snprintf(buf, len, "%s %s:%u - %s:%u%s", kinds[kind],
	         key_address(key->vm_net, key->vm_ip, six, vm), key->vm_port,
	         key_address(key->peer_net, key->peer_ip, six, peer), key->peer_port, tags);
	return buf;
}
