/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * The goal is a view that the comparison can trust: what it says is what the client's stack will
 * make of the frame. Therefore the parser gives up (PACKET_OTHER) whenever two readers could
 * disagree: lengths that do not fit, options that appear twice, a checksum offload request that
 * would overwrite other bytes than the checksum. A packet that is PACKET_OTHER costs a checkpoint;
 * a packet that is read wrongly could cost the client's data.
 *
 * Invariants
 *  - ip_off + ip_len <= l4_off, l4_off + l4_len <= frame->len, payload inside [l4_off, l4_off +
 *    l4_len). Ethernet padding is outside of all of them.
 *  - ts_off and sack_off, when not 0, and the whole option behind them lie inside the TCP header.
 *  - after a rewrite the view equals what packet_parse() would give for the new bytes.
 *
 * Limits: IPv4 only. Payload of ICMP errors (a quoted header) is not looked into.
 */
#include "colo-proxy/core/packet.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The inlined form has the state's layout without depending on the shared library's version. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "colo-proxy/core/checksum.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4 /* virtio 1.2; kernel headers from 6.2 on */
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define ETH_LEN         14u
#define ETHERTYPE_MIN   0x0600u /* below: an 802.3 length */
#define ETHERTYPE_IPV4  0x0800u
#define ETHERTYPE_ARP   0x0806u
#define ETHERTYPE_VLAN  0x8100u
#define ETHERTYPE_QINQ  0x88a8u
#define ETHERTYPE_QINQ1 0x9100u /* pre-standard stacked tags */
#define ETHERTYPE_IPV6  0x86ddu

#define IPV4_MIN_LEN   20u
#define IPV4_MORE_FRAG 0x2000u
#define IPV4_FRAG_OFF  0x1fffu
#define PROTO_ICMP     1u
#define PROTO_TCP      6u
#define PROTO_UDP      17u

#define TCP_MIN_LEN  20u
#define TCP_CSUM_OFF 16u
#define UDP_LEN      8u
#define UDP_CSUM_OFF 6u
#define ICMP_LEN     8u
#define ARP_LEN      28u

#define OPT_END             0
#define OPT_NOP             1
#define OPT_MSS             2
#define OPT_WSCALE          3
#define OPT_SACK_PERMITTED  4
#define OPT_SACK            5
#define OPT_TIMESTAMP       8
#define OPT_MD5             19
#define OPT_AO              29
#define OPT_FASTOPEN        34
#define OPT_EXPERIMENT      254
#define EXPERIMENT_FASTOPEN 0xf989u /* RFC 7413 appendix, RFC 6994 */

_Static_assert(sizeof(struct flow_key) == 16, "flow_key has no implicit padding");
_Static_assert(sizeof(((struct packet_digest_key *)0)->secret) >= XXH3_SECRET_SIZE_MIN,
               "XXH3 needs a longer secret");

static uint16_t get16(const struct frame *f, uint32_t off)
{
	return (uint16_t)(f->data[off] << 8 | f->data[off + 1]);
}

static uint32_t get32(const struct frame *f, uint32_t off)
{
	return (uint32_t)get16(f, off) << 16 | get16(f, off + 2);
}

static void put16(struct frame *f, uint32_t off, uint16_t v)
{
	f->data[off] = (uint8_t)(v >> 8);
	f->data[off + 1] = (uint8_t)v;
}

static void put32(struct frame *f, uint32_t off, uint32_t v)
{
	put16(f, off, (uint16_t)(v >> 16));
	put16(f, off + 2, (uint16_t)v);
}

static void set_other(struct packet *p, enum packet_why why)
{
	p->class = PACKET_OTHER;
	p->why = (uint8_t)why;
}

static bool needs_csum(const struct packet *p)
{
	return p->frame->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
}

/* Whether the checksum that the vnet header may ask for is the transport header's own. */
static bool csum_start_ok(const struct packet *p, uint32_t csum_off)
{
	const struct frame *f = p->frame;

	if (!needs_csum(p))
		return true;
	if (f->start == FRAME_AT_IP) /* nfqueue tells that it is partial, but not where */
		return csum_off != 0;
	return csum_off != 0 && le16toh(f->vnet.csum_start) == p->l4_off &&
	       le16toh(f->vnet.csum_offset) == csum_off;
}

/* One option of the list, `len` bytes with kind and length. */
static enum packet_why parse_option(struct packet *p, uint32_t off, uint8_t kind, uint8_t len)
{
	const struct frame *f = p->frame;
	struct packet_tcp *tcp = &p->tcp;

	switch (kind) {
	case OPT_MSS:
		if (len != 4)
			return PACKET_WHY_TCP_OPTIONS;
		tcp->mss = get16(f, off + 2);
		break;
	case OPT_WSCALE:
		if (len != 3)
			return PACKET_WHY_TCP_OPTIONS;
		tcp->has_wscale = true;
		tcp->wscale = f->data[off + 2];
		break;
	case OPT_SACK_PERMITTED:
		if (len != 2)
			return PACKET_WHY_TCP_OPTIONS;
		tcp->has_sack_permitted = true;
		break;
	case OPT_SACK:
		if (len < 10 || (len - 2) % 8 || tcp->sack_off)
			return PACKET_WHY_TCP_OPTIONS;
		tcp->sack_off = off + 2;
		tcp->sack_count = (uint8_t)((len - 2) / 8);
		break;
	case OPT_TIMESTAMP:
		if (len != 10 || tcp->ts_off)
			return PACKET_WHY_TCP_OPTIONS;
		tcp->ts_off = off + 2;
		tcp->tsval = get32(f, off + 2);
		tcp->tsecr = get32(f, off + 6);
		break;
	case OPT_MD5:
	case OPT_AO:
		tcp->has_auth = true;
		break;
	case OPT_FASTOPEN:
		tcp->has_fastopen = true;
		break;
	case OPT_EXPERIMENT:
		if (len >= 4 && get16(f, off + 2) == EXPERIMENT_FASTOPEN)
			tcp->has_fastopen = true;
		break;
	default:
		break;
	}
	return PACKET_WHY_NONE;
}

static enum packet_why parse_options(struct packet *p, uint32_t off, uint32_t end)
{
	const uint8_t *data = p->frame->data;

	while (off < end && data[off] != OPT_END) {
		enum packet_why why;

		if (data[off] == OPT_NOP) {
			off++;
			continue;
		}
		if (end - off < 2 || data[off + 1] < 2 || data[off + 1] > end - off)
			return PACKET_WHY_TCP_OPTIONS;
		why = parse_option(p, off, data[off], data[off + 1]);
		if (why != PACKET_WHY_NONE)
			return why;
		off += data[off + 1];
	}
	return p->tcp.has_auth ? PACKET_WHY_TCP_AUTH : PACKET_WHY_NONE;
}

static void parse_tcp(struct packet *p)
{
	const struct frame *f = p->frame;
	uint32_t off = p->l4_off;
	uint32_t header;
	uint16_t word;
	enum packet_why why;

	if (p->l4_len < TCP_MIN_LEN) {
		set_other(p, PACKET_WHY_TCP_HEADER);
		return;
	}
	word = get16(f, off + 12);
	header = (word >> 12) * 4u;
	p->tcp.sport = get16(f, off);
	p->tcp.dport = get16(f, off + 2);
	p->tcp.seq = get32(f, off + 4);
	p->tcp.ack = get32(f, off + 8);
	p->tcp.flags = word & 0x0fff;
	p->tcp.window = get16(f, off + 14);
	p->tcp.urgent = get16(f, off + 18);
	if (header < TCP_MIN_LEN || header > p->l4_len) {
		set_other(p, PACKET_WHY_TCP_HEADER);
		return;
	}
	p->payload_off = off + header;
	p->payload_len = p->l4_len - header;
	why = parse_options(p, off + TCP_MIN_LEN, off + header);
	if (why == PACKET_WHY_NONE && !csum_start_ok(p, TCP_CSUM_OFF))
		why = PACKET_WHY_CSUM_START;
	if (why != PACKET_WHY_NONE)
		set_other(p, why);
	else
		p->class = PACKET_TCP;
}

static void parse_udp(struct packet *p)
{
	const struct frame *f = p->frame;
	uint32_t off = p->l4_off;

	if (p->l4_len < UDP_LEN) {
		set_other(p, PACKET_WHY_UDP_HEADER);
		return;
	}
	p->udp.sport = get16(f, off);
	p->udp.dport = get16(f, off + 2);
	if (get16(f, off + 4) != p->l4_len) {
		set_other(p, PACKET_WHY_UDP_HEADER);
		return;
	}
	p->payload_off = off + UDP_LEN;
	p->payload_len = p->l4_len - UDP_LEN;
	if (csum_start_ok(p, UDP_CSUM_OFF))
		p->class = PACKET_UDP;
	else
		set_other(p, PACKET_WHY_CSUM_START);
}

static void parse_icmp(struct packet *p)
{
	const struct frame *f = p->frame;
	uint32_t off = p->l4_off;

	if (p->l4_len < ICMP_LEN) {
		set_other(p, PACKET_WHY_ICMP_HEADER);
		return;
	}
	p->icmp.type = f->data[off];
	p->icmp.code = f->data[off + 1];
	if (p->icmp.type == PACKET_ICMP_ECHO_REQUEST || p->icmp.type == PACKET_ICMP_ECHO_REPLY)
		p->icmp.id = get16(f, off + 4);
	p->payload_off = off + ICMP_LEN;
	p->payload_len = p->l4_len - ICMP_LEN;
	if (csum_start_ok(p, 0))
		p->class = PACKET_ICMP;
	else
		set_other(p, PACKET_WHY_CSUM_START);
}

/* The IPv4 header; PACKET_WHY_NONE when the transport header can be looked at. */
static enum packet_why parse_ipv4_header(struct packet *p)
{
	const struct frame *f = p->frame;
	uint32_t off = p->ip_off;
	uint32_t room = f->len - off;
	uint32_t header, total;

	if (room < IPV4_MIN_LEN || f->data[off] >> 4 != 4)
		return PACKET_WHY_IP_HEADER;
	header = (f->data[off] & 0x0fu) * 4u;
	total = get16(f, off + 2);
	p->proto = f->data[off + 9];
	p->src = get32(f, off + 12);
	p->dst = get32(f, off + 16);
	if (total == 0)
		return PACKET_WHY_BIG_TCP;
	if (header < IPV4_MIN_LEN || total < header || total > room)
		return PACKET_WHY_IP_HEADER;
	p->ip_len = header;
	p->l4_off = off + header;
	p->l4_len = total - header;
	if (get16(f, off + 6) & (IPV4_MORE_FRAG | IPV4_FRAG_OFF))
		return PACKET_WHY_FRAGMENT;
	return PACKET_WHY_NONE;
}

static void parse_ipv4(struct packet *p)
{
	enum packet_why why = parse_ipv4_header(p);

	if (why != PACKET_WHY_NONE)
		set_other(p, why);
	else if (p->proto == PROTO_TCP)
		parse_tcp(p);
	else if (p->proto == PROTO_UDP)
		parse_udp(p);
	else if (p->proto == PROTO_ICMP)
		parse_icmp(p);
	else
		set_other(p, PACKET_WHY_IP_PROTOCOL);
}

/* RFC 826 with Ethernet (hardware type 1) and IPv4 addresses. */
static void parse_arp(struct packet *p)
{
	const struct frame *f = p->frame;
	uint32_t off = ETH_LEN;

	if (f->len - off < ARP_LEN || get32(f, off) != (1u << 16 | ETHERTYPE_IPV4) ||
	    f->data[off + 4] != 6 || f->data[off + 5] != 4) {
		set_other(p, PACKET_WHY_ARP);
		return;
	}
	if (!csum_start_ok(p, 0)) {
		set_other(p, PACKET_WHY_CSUM_START);
		return;
	}
	p->l4_off = p->payload_off = off;
	p->l4_len = p->payload_len = ARP_LEN;
	p->arp.op = get16(f, off + 6);
	memcpy(p->arp.sha, f->data + off + 8, 6);
	p->arp.spa = get32(f, off + 14);
	memcpy(p->arp.tha, f->data + off + 18, 6);
	p->arp.tpa = get32(f, off + 24);
	p->class = PACKET_ARP;
}

static void parse_ethertype(struct packet *p)
{
	switch (p->ethertype) {
	case ETHERTYPE_IPV4:
		parse_ipv4(p);
		break;
	case ETHERTYPE_ARP:
		parse_arp(p);
		break;
	case ETHERTYPE_IPV6:
		set_other(p, PACKET_WHY_IPV6);
		break;
	case ETHERTYPE_VLAN:
	case ETHERTYPE_QINQ:
	case ETHERTYPE_QINQ1:
		set_other(p, PACKET_WHY_VLAN);
		break;
	default:
		set_other(p, p->ethertype < ETHERTYPE_MIN ? PACKET_WHY_LLC : PACKET_WHY_ETHERTYPE);
		break;
	}
}

int packet_parse(struct packet *ret_packet, struct frame *f)
{
	struct packet p = {.frame = f};

	if (f->start == FRAME_AT_IP) {
		if (f->len < 1)
			return -EBADMSG;
		p.ethertype = f->data[0] >> 4 == 6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4;
	} else {
		if (f->len < ETH_LEN)
			return -EBADMSG;
		p.ethertype = get16(f, 12);
		p.ip_off = ETH_LEN;
	}
	parse_ethertype(&p);
	*ret_packet = p;
	return 0;
}

const char *packet_why_name(enum packet_why why)
{
	static const char *const names[PACKET_WHY_COUNT] = {
	        [PACKET_WHY_NONE] = "comparable",
	        [PACKET_WHY_LLC] = "802.3 length field",
	        [PACKET_WHY_ETHERTYPE] = "unknown EtherType",
	        [PACKET_WHY_VLAN] = "VLAN tag",
	        [PACKET_WHY_IPV6] = "IPv6",
	        [PACKET_WHY_IP_HEADER] = "bad IPv4 header",
	        [PACKET_WHY_BIG_TCP] = "IPv4 total length 0",
	        [PACKET_WHY_FRAGMENT] = "IPv4 fragment",
	        [PACKET_WHY_IP_PROTOCOL] = "unknown IP protocol",
	        [PACKET_WHY_TCP_HEADER] = "bad TCP header",
	        [PACKET_WHY_TCP_OPTIONS] = "bad TCP options",
	        [PACKET_WHY_TCP_AUTH] = "TCP MD5 or AO option",
	        [PACKET_WHY_UDP_HEADER] = "bad UDP length",
	        [PACKET_WHY_ICMP_HEADER] = "short ICMP message",
	        [PACKET_WHY_ARP] = "ARP not for IPv4 over Ethernet",
	        [PACKET_WHY_CSUM_START] = "checksum offload at another place",
	};

	return (unsigned)why < PACKET_WHY_COUNT ? names[why] : "unknown reason";
}

const uint8_t *packet_payload(const struct packet *p, uint32_t *ret_len)
{
	if (p->class == PACKET_OTHER) {
		*ret_len = 0;
		return NULL;
	}
	*ret_len = p->payload_len;
	return p->frame->data + p->payload_off;
}

uint32_t packet_seq_len(const struct packet *p)
{
	if (p->class != PACKET_TCP)
		return 0;
	return p->payload_len + !!(p->tcp.flags & PACKET_SYN) + !!(p->tcp.flags & PACKET_FIN);
}

void packet_sack(const struct packet *p, uint32_t i, uint32_t *ret_left, uint32_t *ret_right)
{
	*ret_left = get32(p->frame, p->tcp.sack_off + i * 8);
	*ret_right = get32(p->frame, p->tcp.sack_off + i * 8 + 4);
}

static void icmp_flow_key(const struct packet *p, bool from_vm, struct flow_key *key)
{
	bool request = p->icmp.type == PACKET_ICMP_ECHO_REQUEST;

	if (!request && p->icmp.type != PACKET_ICMP_ECHO_REPLY) {
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

int packet_flow_key(const struct packet *p, enum packet_direction direction,
                    struct flow_key *ret_key)
{
	bool from_vm = direction == PACKET_FROM_VM;
	struct flow_key key = {
	        .vm_ip = from_vm ? p->src : p->dst,
	        .peer_ip = from_vm ? p->dst : p->src,
	        .proto = p->proto,
	};

	switch (p->class) {
	case PACKET_TCP:
		key.kind = FLOW_TCP;
		key.vm_port = from_vm ? p->tcp.sport : p->tcp.dport;
		key.peer_port = from_vm ? p->tcp.dport : p->tcp.sport;
		break;
	case PACKET_UDP:
		key.kind = FLOW_UDP;
		key.vm_port = from_vm ? p->udp.sport : p->udp.dport;
		key.peer_port = from_vm ? p->udp.dport : p->udp.sport;
		break;
	case PACKET_ICMP:
		icmp_flow_key(p, from_vm, &key);
		break;
	case PACKET_ARP:
		key.kind = FLOW_ARP;
		key.vm_ip = from_vm ? p->arp.spa : p->arp.tpa;
		key.peer_ip = from_vm ? p->arp.tpa : p->arp.spa;
		key.peer_port = p->arp.op;
		break;
	default:
		return -EINVAL;
	}
	*ret_key = key;
	return 0;
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
		if ((f->vnet.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_UDP_L4) {
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
	default:
		return -EINVAL;
	}
	XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
	memcpy(ret_digest, canonical.digest, PACKET_DIGEST_LEN);
	return 0;
}

/* Writes a 32-bit field of the TCP header and keeps the checksum in step. */
static void replace32(struct packet *p, uint32_t off, uint32_t to)
{
	struct frame *f = p->frame;
	uint32_t csum_off = p->l4_off + TCP_CSUM_OFF;
	uint32_t from = get32(f, off);

	if (from == to)
		return;
	put32(f, off, to);
	if (!needs_csum(p))
		put16(f, csum_off,
		      checksum_replace32(get16(f, csum_off), from, to, (off - p->l4_off) & 1));
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

		replace32(p, off, get32(p->frame, off) - seq_delta);
	}
	if (p->tcp.ts_off && p->tcp.tsecr) {
		p->tcp.tsecr -= ts_delta;
		replace32(p, p->tcp.ts_off + 4, p->tcp.tsecr);
	}
}

void packet_set_ack(struct packet *p, uint32_t ack)
{
	if (p->class != PACKET_TCP || !(p->tcp.flags & PACKET_ACK))
		return;
	p->tcp.ack = ack;
	replace32(p, p->l4_off + 8, ack);
}

uint16_t packet_l4_checksum(const struct packet *p)
{
	const uint8_t *l4 = p->frame->data + p->l4_off;
	uint32_t csum_off;
	uint64_t sum = 0;

	switch (p->class) {
	case PACKET_TCP:
		csum_off = TCP_CSUM_OFF;
		break;
	case PACKET_UDP:
		csum_off = UDP_CSUM_OFF;
		break;
	case PACKET_ICMP:
		csum_off = 2;
		break;
	default:
		return 0;
	}
	if (p->class != PACKET_ICMP)
		sum = checksum_ipv4_pseudo(p->src, p->dst, p->proto, p->l4_len);
	sum = checksum_add(sum, l4, csum_off);
	sum = checksum_add(sum, l4 + csum_off + 2, p->l4_len - csum_off - 2);
	return (uint16_t)~checksum_fold(sum);
}

#define IP_FMT      "%u.%u.%u.%u"
#define IP_ARGS(ip) (ip) >> 24, ((ip) >> 16) & 255, ((ip) >> 8) & 255, (ip)&255

static void describe_tcp(const struct packet *p, char *buf, size_t len)
{
	static const char letters[] = "FSRP.UEW";
	const struct packet_tcp *tcp = &p->tcp;
	char flags[sizeof(letters)];
	uint32_t i, n = 0;

	for (i = 0; i < sizeof(letters) - 1; i++) {
		if (tcp->flags & 1u << i)
			flags[n++] = letters[i];
	}
	flags[n] = '\0';
	snprintf(buf, len, "tcp " IP_FMT ":%u > " IP_FMT ":%u seq %u ack %u len %u [%s]",
	         IP_ARGS(p->src), tcp->sport, IP_ARGS(p->dst), tcp->dport, tcp->seq, tcp->ack,
	         p->payload_len, flags);
}

const char *packet_describe(const struct packet *p, char *buf, size_t len)
{
	switch (p->class) {
	case PACKET_TCP:
		describe_tcp(p, buf, len);
		break;
	case PACKET_UDP:
		snprintf(buf, len, "udp " IP_FMT ":%u > " IP_FMT ":%u len %u", IP_ARGS(p->src),
		         p->udp.sport, IP_ARGS(p->dst), p->udp.dport, p->payload_len);
		break;
	case PACKET_ICMP:
		snprintf(buf, len, "icmp " IP_FMT " > " IP_FMT " type %u code %u id %u len %u",
		         IP_ARGS(p->src), IP_ARGS(p->dst), p->icmp.type, p->icmp.code, p->icmp.id,
		         p->payload_len);
		break;
	case PACKET_ARP:
		snprintf(buf, len, "arp " IP_FMT " > " IP_FMT " op %u", IP_ARGS(p->arp.spa),
		         IP_ARGS(p->arp.tpa), p->arp.op);
		break;
	default:
		snprintf(buf, len, "other (%s) ethertype 0x%04x proto %u len %u",
		         packet_why_name(p->why), p->ethertype, p->proto, p->frame->len);
		break;
	}
	return buf;
}

/* Sets the lengths and checksums of a TCP packet whose payload has been cut. */
static void refit(struct frame *f, const struct packet *was, uint32_t payload_len)
{
	uint32_t l4_len = was->payload_off - was->l4_off + payload_len;
	struct packet now;

	put16(f, was->ip_off + 2, (uint16_t)(was->ip_len + l4_len));
	put16(f, was->ip_off + 10, 0);
	put16(f, was->ip_off + 10,
	      (uint16_t)~checksum_fold(checksum_add(0, f->data + was->ip_off, was->ip_len)));
	f->len = was->payload_off + payload_len;
	/* The guest may have counted payload in; a length beyond the frame makes it invalid. */
	if (f->vnet.hdr_len > was->payload_off)
		f->vnet.hdr_len = (uint16_t)was->payload_off;
	if (f->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE && payload_len <= f->vnet.gso_size) {
		f->vnet.gso_type = VIRTIO_NET_HDR_GSO_NONE;
		f->vnet.gso_size = 0;
	}
	if (f->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		put16(f, was->l4_off + TCP_CSUM_OFF,
		      checksum_fold(checksum_ipv4_pseudo(was->src, was->dst, was->proto, l4_len)));
	else if (packet_parse(&now, f) == 0)
		put16(f, was->l4_off + TCP_CSUM_OFF, packet_l4_checksum(&now));
}

int packet_split(struct packet *p, uint32_t prefix, struct frame **ret_first)
{
	struct frame *rest = p->frame;
	struct packet was = *p;
	struct frame *first;

	if (p->class != PACKET_TCP || prefix == 0 || prefix >= p->payload_len ||
	    (p->tcp.flags & PACKET_SYN) || rest->start != FRAME_AT_ETHERNET)
		return -EINVAL;
	first = frame_new(p->payload_off + prefix);
	if (!first)
		return -ENOMEM;
	first->vnet = rest->vnet;
	first->origin = rest->origin;
	memcpy(first->data, rest->data, p->payload_off + prefix);
	first->data[p->l4_off + 13] &= (uint8_t) ~(PACKET_FIN | PACKET_PSH);
	refit(first, &was, prefix);

	memmove(rest->data + prefix, rest->data, p->payload_off);
	rest->data += prefix;
	rest->room -= prefix;
	put32(rest, was.l4_off + 4, was.tcp.seq + prefix);
	rest->data[was.l4_off + 13] &= (uint8_t)~PACKET_CWR;
	refit(rest, &was, was.payload_len - prefix);
	packet_parse(p, rest);
	*ret_first = first;
	return 0;
}
