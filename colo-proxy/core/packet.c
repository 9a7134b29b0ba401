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
 * What a frame is, and whether that is compared, is looked up in the table of protocols.c at each
 * header: tags and EtherType here, then the IP protocol, then UDP ports or the ICMPv6 type.
 *
 * Invariants
 *  - ip_off + ip_len <= l4_off, l4_off + l4_len <= frame->len, payload inside [l4_off, l4_off +
 *    l4_len). Ethernet padding is outside of all of them.
 *  - ts_off and sack_off, when not 0, and the whole option behind them lie inside the TCP header.
 *  - after a rewrite the view equals what packet_parse() would give for the new bytes.
 *
 * Limits: payload of ICMP errors (a quoted header) is not looked into. A fragment is told as one;
 * fragments.c makes whole packets of them. IPv6 extension headers that the comparison has no use
 * for are skipped, whatever options they have (RFC 8200 section 4.2): a client that drops the
 * packet because of one makes of it the loss of a packet.
 */
#include "colo-proxy/core/membership.h"
#include "colo-proxy/core/packet_private.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#define ETHERTYPE_IPV4    0x0800u
#define ETHERTYPE_VLAN    0x8100u
#define ETHERTYPE_SERVICE 0x88a8u
#define ETHERTYPE_IPV6    0x86ddu
#define TAG_LEN           4u
#define MAX_TAGS          2u

#define IPV4_MIN_LEN   20u
#define IPV4_MORE_FRAG 0x2000u
#define IPV4_FRAG_OFF  0x1fffu
#define PROTO_ICMP     1u
#define PROTO_ICMP6    58u

/* Extension headers (RFC 8200 section 4). */
#define NEXT_HOP_BY_HOP  0u
#define NEXT_ROUTING     43u
#define NEXT_FRAGMENT    44u
#define NEXT_DESTINATION 60u
#define FRAGMENT_LEN     8u
#define OPTION_PAD1      0u
#define OPTION_JUMBO     0xc2u /* RFC 2675 */
#define OPTION_HOME      0xc9u /* RFC 6275 section 6.3: the checksum is for another source */

#define UDP_LEN  8u
#define ICMP_LEN 8u
#define ARP_LEN  28u

bool packet_csum_start_ok(const struct packet *p, uint32_t csum_off)
{
	const struct frame *f = p->frame;

	if (!packet_needs_csum(p))
		return true;
	if (f->start == FRAME_AT_IP && !f->linked) /* told that it is partial, but not where */
		return csum_off != 0;
	return csum_off != 0 && le16toh(f->vnet.csum_start) == p->l4_off &&
	       le16toh(f->vnet.csum_offset) == csum_off;
}

/* The class of what has been read whole, unless its row says otherwise, or the NIC is asked to
 * change other bytes of it. */
static void set_class(struct packet *p, enum packet_class class, uint32_t csum_off)
{
	if (protocols[p->protocol].treatment == TREAT_COMMIT)
		packet_set_other(p, PACKET_WHY_IP_PROTOCOL);
	else if (!packet_csum_start_ok(p, csum_off))
		packet_set_other(p, PACKET_WHY_CSUM_START);
	else
		p->class = (uint8_t) class;
}

static void parse_udp(struct packet *p)
{
	const struct frame *f = p->frame;
	uint32_t off = p->l4_off;

	if (p->l4_len < UDP_LEN) {
		packet_set_other(p, PACKET_WHY_UDP_HEADER);
		return;
	}
	p->udp.sport = frame_get16(f, off);
	p->udp.dport = frame_get16(f, off + 2);
	if (frame_get16(f, off + 4) != p->l4_len) {
		packet_set_other(p, PACKET_WHY_UDP_HEADER);
		return;
	}
	p->protocol = (uint8_t)protocol_of_udp(p->udp.sport, p->udp.dport);
	p->payload_off = off + UDP_LEN;
	p->payload_len = p->l4_len - UDP_LEN;
	if (packet_is_udp_superframe(p) && !f->vnet.gso_size)
		packet_set_other(p, PACKET_WHY_UDP_SEGMENTS);
	else
		set_class(p, PACKET_UDP, PACKET_UDP_CSUM_OFF);
}

static bool is_echo(const struct packet *p)
{
	if (p->version == 6)
		return p->icmp.type == PACKET_ICMP6_ECHO_REQUEST ||
		       p->icmp.type == PACKET_ICMP6_ECHO_REPLY;
	return p->icmp.type == PACKET_ICMP_ECHO_REQUEST || p->icmp.type == PACKET_ICMP_ECHO_REPLY;
}

static void parse_report(struct packet *p)
{
	if (membership_is_clear(p))
		p->class = PACKET_MEMBERSHIP;
	else
		packet_set_other(p, PACKET_WHY_MEMBERSHIP);
}

/* Both have type, code and checksum; the checksum of ICMPv6 is one that a NIC can complete. */
static void parse_icmp(struct packet *p)
{
	const struct frame *f = p->frame;
	uint32_t off = p->l4_off;

	if (p->l4_len < ICMP_LEN) {
		packet_set_other(p, PACKET_WHY_ICMP_HEADER);
		return;
	}
	p->icmp.type = f->data[off];
	p->icmp.code = f->data[off + 1];
	if (is_echo(p))
		p->icmp.id = frame_get16(f, off + 4);
	if (p->version == 6)
		p->protocol = (uint8_t)protocol_of_icmp6(p->icmp.type);
	p->payload_off = off + ICMP_LEN;
	p->payload_len = p->l4_len - ICMP_LEN;
	if (protocols[p->protocol].treatment == TREAT_GROUPS)
		parse_report(p);
	else
		set_class(p, PACKET_ICMP, p->version == 6 ? PACKET_ICMP_CSUM_OFF : 0);
}

static void parse_igmp(struct packet *p)
{
	p->payload_off = p->l4_off;
	p->payload_len = p->l4_len;
	if (p->l4_len)
		p->protocol = (uint8_t)protocol_of_igmp(p->frame->data[p->l4_off]);
	if (protocols[p->protocol].treatment == TREAT_GROUPS)
		parse_report(p);
	else
		set_class(p, PACKET_WHOLE, 0);
}

/* What stands behind the IP header, at l4_off. */
static void parse_transport(struct packet *p)
{
	p->protocol = (uint8_t)protocol_of_ip(p->proto);
	switch (protocols[p->protocol].treatment) {
	case TREAT_STREAM:
		packet_parse_tcp(p);
		return;
	case TREAT_DATAGRAM:
		break;
	default:
		packet_set_other(p, PACKET_WHY_IP_PROTOCOL);
		return;
	}
	if (p->protocol == PROTOCOL_UDP) {
		parse_udp(p);
	} else if ((p->protocol == PROTOCOL_ICMP && p->version == 4) ||
	           (p->protocol == PROTOCOL_ICMP6 && p->version == 6)) {
		parse_icmp(p);
	} else if (p->protocol == PROTOCOL_IGMP && p->version == 4) {
		parse_igmp(p);
	} else { /* of the other IP */
		p->protocol = PROTOCOL_IP;
		packet_set_other(p, PACKET_WHY_IP_PROTOCOL);
	}
}

/* The IPv4 header; PACKET_WHY_NONE when the transport header can be looked at. */
static enum packet_why parse_ipv4_header(struct packet *p)
{
	const struct frame *f = p->frame;
	uint32_t off = p->ip_off;
	uint32_t room = f->len - off;
	uint32_t header, total;
	uint16_t word;

	if (room < IPV4_MIN_LEN || f->data[off] >> 4 != 4)
		return PACKET_WHY_IP_HEADER;
	header = (f->data[off] & 0x0fu) * 4u;
	total = frame_get16(f, off + 2);
	p->version = 4;
	p->proto = f->data[off + 9];
	p->src = frame_get32(f, off + 12);
	p->dst = frame_get32(f, off + 16);
	if (total == 0)
		return PACKET_WHY_BIG_TCP;
	if (header < IPV4_MIN_LEN || total < header || total > room)
		return PACKET_WHY_IP_HEADER;
	p->ip_len = header;
	p->l4_off = off + header;
	p->l4_len = total - header;
	word = frame_get16(f, off + 6);
	if (word & (IPV4_MORE_FRAG | IPV4_FRAG_OFF)) {
		p->fragment.id = frame_get16(f, off + 4);
		p->fragment.off = (uint16_t)((word & IPV4_FRAG_OFF) * 8u);
		p->fragment.more = word & IPV4_MORE_FRAG;
		return PACKET_WHY_FRAGMENT;
	}
	return PACKET_WHY_NONE;
}

/* The options of a hop-by-hop or destination header, [at, end). */
static enum packet_why parse_ipv6_options(const struct frame *f, uint32_t at, uint32_t end)
{
	while (at < end) {
		uint8_t type = f->data[at];

		if (type == OPTION_PAD1) {
			at++;
			continue;
		}
		if (type == OPTION_JUMBO)
			return PACKET_WHY_BIG_TCP;
		if (type == OPTION_HOME)
			return PACKET_WHY_IP_OPTIONS;
		if (end - at < 2 || f->data[at + 1] > end - at - 2)
			return PACKET_WHY_IP_HEADER;
		at += 2 + f->data[at + 1];
	}
	return PACKET_WHY_NONE;
}

/* The fragment header at l4_off: PACKET_WHY_FRAGMENT unless it is all of a packet (RFC 6946). */
static enum packet_why parse_ipv6_fragment(struct packet *p)
{
	const struct frame *f = p->frame;
	uint16_t word;

	if (p->l4_len < FRAGMENT_LEN)
		return PACKET_WHY_IP_HEADER;
	p->proto = f->data[p->l4_off];
	word = frame_get16(f, p->l4_off + 2);
	p->fragment.id = frame_get32(f, p->l4_off + 4);
	p->fragment.off = word & 0xfff8u;
	p->fragment.more = word & 1;
	p->l4_off += FRAGMENT_LEN;
	p->l4_len -= FRAGMENT_LEN;
	p->ip_len += FRAGMENT_LEN;
	return p->fragment.off || p->fragment.more ? PACKET_WHY_FRAGMENT : PACKET_WHY_NONE;
}

/* The extension header at l4_off, of the kind that p->proto names; sets proto to the next one. */
static enum packet_why parse_ipv6_extension(struct packet *p)
{
	const struct frame *f = p->frame;
	uint32_t off = p->l4_off, len;
	uint8_t kind = p->proto;

	if (kind == NEXT_FRAGMENT)
		return parse_ipv6_fragment(p);
	if (p->l4_len < 8)
		return PACKET_WHY_IP_HEADER;
	len = (f->data[off + 1] + 1u) * 8u;
	if (len > p->l4_len)
		return PACKET_WHY_IP_HEADER;
	p->proto = f->data[off];
	p->l4_off += len;
	p->l4_len -= len;
	p->ip_len += len;
	if (kind == NEXT_ROUTING) /* the checksum is for the last segment's address */
		return f->data[off + 3] ? PACKET_WHY_IP_OPTIONS : PACKET_WHY_NONE;
	return parse_ipv6_options(f, off + 2, off + len);
}

static bool is_extension(uint8_t proto)
{
	return proto == NEXT_HOP_BY_HOP || proto == NEXT_ROUTING || proto == NEXT_FRAGMENT ||
	       proto == NEXT_DESTINATION;
}

static enum packet_why parse_ipv6_header(struct packet *p)
{
	const struct frame *f = p->frame;
	uint32_t off = p->ip_off;
	uint32_t room = f->len - off;
	enum packet_why why = PACKET_WHY_NONE;
	uint32_t len;

	if (room < PACKET_IPV6_LEN || f->data[off] >> 4 != 6)
		return PACKET_WHY_IP_HEADER;
	len = frame_get16(f, off + 4);
	p->version = 6;
	p->proto = f->data[off + 6];
	p->src = frame_get32(f, off + 20);
	p->dst = frame_get32(f, off + 36);
	if (len > room - PACKET_IPV6_LEN)
		return PACKET_WHY_IP_HEADER;
	p->ip_len = PACKET_IPV6_LEN;
	p->l4_off = off + PACKET_IPV6_LEN;
	p->l4_len = len;
	if (len == 0 && p->proto == NEXT_HOP_BY_HOP)
		return PACKET_WHY_BIG_TCP;
	/* Each takes 8 bytes or more, so that this ends. */
	while (why == PACKET_WHY_NONE && is_extension(p->proto))
		why = parse_ipv6_extension(p);
	return why;
}

static void parse_ip(struct packet *p)
{
	enum packet_why why =
	        p->protocol == PROTOCOL_IPV4 ? parse_ipv4_header(p) : parse_ipv6_header(p);

	if (why != PACKET_WHY_NONE)
		packet_set_other(p, why);
	else
		parse_transport(p);
}

/* RFC 826 with Ethernet (hardware type 1) and IPv4 addresses. */
static void parse_arp(struct packet *p)
{
	const struct frame *f = p->frame;
	uint32_t off = p->ip_off;

	if (f->len - off < ARP_LEN || frame_get32(f, off) != (1u << 16 | ETHERTYPE_IPV4) ||
	    f->data[off + 4] != 6 || f->data[off + 5] != 4) {
		packet_set_other(p, PACKET_WHY_ARP);
		return;
	}
	p->l4_off = p->payload_off = off;
	p->l4_len = p->payload_len = ARP_LEN;
	p->arp.op = frame_get16(f, off + 6);
	memcpy(p->arp.sha, f->data + off + 8, 6);
	p->arp.spa = frame_get32(f, off + 14);
	memcpy(p->arp.tha, f->data + off + 18, 6);
	p->arp.tpa = frame_get32(f, off + 24);
	set_class(p, PACKET_ARP, 0);
}

/* A frame that is compared as it is. One with a length (802.3) ends there, what follows is padding;
 * `ethertype` is that length then. */
static void parse_frame(struct packet *p)
{
	uint32_t room = p->frame->len - p->ip_off;

	p->l4_off = p->payload_off = p->ip_off;
	p->l4_len = p->payload_len = p->protocol == PROTOCOL_STP ? p->ethertype : room;
	if (p->l4_len > room)
		packet_set_other(p, PACKET_WHY_LLC);
	else
		set_class(p, PACKET_WHOLE, 0);
}

/* Notes one tag and goes on to the EtherType behind it. False: too many, or cut off. */
static bool parse_tag(struct packet *p)
{
	const struct frame *f = p->frame;
	uint16_t kind = p->ethertype == ETHERTYPE_VLAN      ? PACKET_TAG_CUSTOMER
	                : p->ethertype == ETHERTYPE_SERVICE ? PACKET_TAG_SERVICE
	                                                    : PACKET_TAG_STACKED;
	uint32_t slot = p->tag[0] ? 1 : 0;

	if (p->tag[MAX_TAGS - 1] || f->len - p->ip_off < TAG_LEN)
		return false;
	p->tag[slot] = (uint16_t)(kind | (frame_get16(f, p->ip_off) & PACKET_TAG_VID));
	p->ethertype = frame_get16(f, p->ip_off + 2);
	p->ip_off += TAG_LEN;
	return true;
}

static enum protocol_id link_protocol(const struct packet *p)
{
	const struct frame *f = p->frame;

	return protocol_of_link(p->ethertype,
	                        f->len - p->ip_off >= 2 ? frame_get16(f, p->ip_off) : 0);
}

/* By EtherType, or what stands for it; p->ip_off is behind it. */
static void parse_link(struct packet *p)
{
	p->protocol = (uint8_t)link_protocol(p);
	while (p->protocol >= PROTOCOL_VLAN && p->protocol <= PROTOCOL_STACKED_VLAN) {
		if (!parse_tag(p)) {
			packet_set_other(p, PACKET_WHY_VLAN);
			return;
		}
		p->protocol = (uint8_t)link_protocol(p);
	}
	if (protocols[p->protocol].treatment == TREAT_COMMIT)
		packet_set_other(p, p->protocol == PROTOCOL_LLC ? PACKET_WHY_LLC
		                                                : PACKET_WHY_ETHERTYPE);
	else if (p->protocol == PROTOCOL_IPV4 || p->protocol == PROTOCOL_IPV6)
		parse_ip(p);
	else if (p->protocol == PROTOCOL_ARP)
		parse_arp(p);
	else
		parse_frame(p);
}

int packet_parse(struct packet *ret_packet, struct frame *f)
{
	struct packet *p = ret_packet;

	if (f->len < (f->start == FRAME_AT_IP ? 1 : PACKET_ETH_LEN))
		return -EBADMSG;
	*p = (struct packet){.frame = f};
	if (f->start == FRAME_AT_IP) {
		p->ethertype = f->data[0] >> 4 == 6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4;
	} else {
		p->ethertype = frame_get16(f, 12);
		p->ip_off = PACKET_ETH_LEN;
	}
	parse_link(p);
	return 0;
}

struct why_words {
	const char *name, *text;
};

static const struct why_words whys[PACKET_WHY_COUNT] = {
        [PACKET_WHY_NONE] = {"comparable", "by its protocol"},
        [PACKET_WHY_LLC] = {"802.3 length field", "unknown; or a length beyond the frame"},
        [PACKET_WHY_ETHERTYPE] = {"unknown EtherType", "unknown"},
        [PACKET_WHY_VLAN] = {"more than two VLAN tags", "unknown; or half a tag"},
        [PACKET_WHY_IP_HEADER] = {"bad IP header", "lengths that do not fit"},
        [PACKET_WHY_BIG_TCP] = {"IP length 0", "jumbograms: the length is not in the IP header"},
        [PACKET_WHY_FRAGMENT] = {"IP fragment",
                                 "compared when whole; not of TCP, across a cut, with overlaps"},
        [PACKET_WHY_IP_OPTIONS] = {"IPv6 routing or home address",
                                   "the checksum is for another address than the header's"},
        [PACKET_WHY_IP_PROTOCOL] = {"unknown IP protocol", "see its row"},
        [PACKET_WHY_TCP_HEADER] = {"bad TCP header", "lengths that do not fit"},
        [PACKET_WHY_TCP_OPTIONS] = {"bad TCP options", "two readers could disagree"},
        [PACKET_WHY_TCP_AUTH] = {"TCP MD5 or AO option",
                                 "signed: after a takeover its numbers could not be mapped"},
        [PACKET_WHY_UDP_HEADER] = {"bad UDP length", "also options behind UDP (RFC 9868)"},
        [PACKET_WHY_ICMP_HEADER] = {"short ICMP message", "shorter than its header"},
        [PACKET_WHY_ARP] = {"ARP not for IPv4 over Ethernet", "unknown; or truncated"},
        [PACKET_WHY_CSUM_START] = {"checksum offload at another place",
                                   "the bytes on the wire would be other ones"},
        [PACKET_WHY_UDP_SEGMENTS] = {"UDP superframe, segments unknown",
                                     "NFQUEUE does not tell how it is cut into datagrams"},
        [PACKET_WHY_MEMBERSHIP] = {"unclear membership report",
                                   "says more than its words, or receivers would not take it"},
        [PACKET_WHY_TCP_FASTOPEN] = {"TCP Fast Open",
                                     "the cookie's secret and use are not part of the stream"},
        [PACKET_WHY_TCP_SYN_DATA] = {"data in a SYN", "said before the mapping is known"},
        [PACKET_WHY_TCP_URGENT] = {"urgent data",
                                   "readers disagree on which byte it is (RFC 6093)"},
};

const char *packet_why_name(enum packet_why why)
{
	return (unsigned)why < PACKET_WHY_COUNT ? whys[why].name : "unknown reason";
}

const char *packet_why_text(enum packet_why why)
{
	return (unsigned)why < PACKET_WHY_COUNT ? whys[why].text : "unknown reason";
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
	*ret_left = frame_get32(p->frame, p->tcp.sack_off + i * 8);
	*ret_right = frame_get32(p->frame, p->tcp.sack_off + i * 8 + 4);
}
