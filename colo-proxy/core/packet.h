/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_PACKET_H
#define COLO_CORE_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "colo-proxy/core/frame.h"
#include "colo-proxy/core/protocols.h"

/*
 * A bounds-checked view of a frame, and the in-place rewriting that sequence mapping needs.
 *
 * packet_parse() sorts every frame into a class. What is not understood completely is
 * PACKET_OTHER, with the reason; nobody compares or rewrites such a packet. Offsets count from
 * frame->data and lie, with the field's whole width, inside the length that the IP header tells,
 * which lies inside the frame. The view points into the frame and lives no longer than it.
 *
 * All numbers in the view, addresses too, are in host order.
 */

enum packet_class {
	PACKET_OTHER,      /* not comparable: see enum packet_why */
	PACKET_TCP,        /* TCP over IPv4 or IPv6 */
	PACKET_UDP,        /* UDP over IPv4 or IPv6 */
	PACKET_ICMP,       /* ICMP over IPv4, ICMPv6 over IPv6 */
	PACKET_ARP,        /* ARP for IPv4 over Ethernet */
	PACKET_WHOLE,      /* compared as it is: other IGMP messages, LLDP and STP frames */
	PACKET_MEMBERSHIP, /* a report of IGMP or MLD: see membership.h */
};

/*
 * Why a packet is not compared although its protocol may be. All but the last three make it
 * PACKET_OTHER; those are of PACKET_TCP, which can be mapped but not compared.
 * packet_why_name() gives the words, packet_why_text() the reason behind it.
 */
enum packet_why {
	PACKET_WHY_NONE,        /* it is not: the class is another one */
	PACKET_WHY_LLC,         /* 802.3 length field instead of an EtherType, and no STP */
	PACKET_WHY_ETHERTYPE,   /* an EtherType that is none of the others */
	PACKET_WHY_VLAN,        /* more than two VLAN tags, or half of one */
	PACKET_WHY_IP_HEADER,   /* version, header length or total length do not fit the frame */
	PACKET_WHY_BIG_TCP,     /* IPv4 total length 0, IPv6 jumbo payload */
	PACKET_WHY_FRAGMENT,    /* a fragment by itself; or reassembled: of TCP */
	PACKET_WHY_IP_OPTIONS,  /* IPv6 header that changes who the checksum is for: routing with
	                           segments left, home address */
	PACKET_WHY_IP_PROTOCOL, /* an IP protocol that is held for commit, or unknown */
	PACKET_WHY_TCP_HEADER,  /* shorter than its header, or a bad data offset */
	PACKET_WHY_TCP_OPTIONS, /* an option list that overruns, a known option of another length,
	                           or a second timestamp or SACK option */
	PACKET_WHY_TCP_AUTH,    /* MD5 (RFC 2385) or TCP-AO (RFC 5925): cannot be rewritten */
	PACKET_WHY_UDP_HEADER, /* UDP length does not equal the IP payload (RFC 9868 surplus too) */
	PACKET_WHY_ICMP_HEADER,  /* shorter than its header */
	PACKET_WHY_ARP,          /* truncated, or not for IPv4 over Ethernet */
	PACKET_WHY_CSUM_START,   /* the vnet header asks for a checksum at another place than the
	                            transport header's: the bytes on the wire would not be these */
	PACKET_WHY_UDP_SEGMENTS, /* a UDP superframe of unknown segment size (NFQUEUE does not
	                           tell it): which datagrams it is cut into is not known */
	PACKET_WHY_MEMBERSHIP,   /* a report of IGMP or MLD that says more than its words */
	PACKET_WHY_TCP_FASTOPEN, /* RFC 7413, cookie or cookie request */
	PACKET_WHY_TCP_SYN_DATA, /* data in a SYN */
	PACKET_WHY_TCP_URGENT,   /* RFC 9293 section 3.8.5, RFC 6093 */
	PACKET_WHY_COUNT,
};

enum packet_direction {
	PACKET_FROM_VM,
	PACKET_TO_VM,
};

/* TCP flags as in the header (RFC 9293 section 3.1). */
#define PACKET_FIN 0x01u
#define PACKET_SYN 0x02u
#define PACKET_RST 0x04u
#define PACKET_PSH 0x08u
#define PACKET_ACK 0x10u
#define PACKET_URG 0x20u
#define PACKET_ECE 0x40u
#define PACKET_CWR 0x80u

#define PACKET_ICMP_ECHO_REPLY    0u
#define PACKET_ICMP_ECHO_REQUEST  8u
#define PACKET_ICMP6_ECHO_REQUEST 128u
#define PACKET_ICMP6_ECHO_REPLY   129u

#define PACKET_MAX_SACK 4u /* 40 bytes of options hold no more (RFC 2018 section 3) */

struct packet_tcp {
	uint16_t sport, dport;
	uint32_t seq, ack;
	uint16_t flags; /* the low 12 bits of the word: 8 flags, AE and the reserved bits */
	uint16_t window;
	uint16_t urgent;
	uint16_t mss;            /* 0: option absent */
	uint8_t wscale;          /* valid when has_wscale */
	uint8_t sack_count;      /* blocks, at most PACKET_MAX_SACK */
	bool has_wscale;         /* RFC 7323 */
	bool has_sack_permitted; /* RFC 2018 */
	bool has_fastopen; /* RFC 7413, cookie or cookie request, also the experimental kind */
	bool has_auth;     /* MD5 or AO; the class is PACKET_OTHER then */
	uint32_t ts_off;   /* offset of TSval, TSecr 4 behind it; 0: no timestamp option */
	uint32_t tsval, tsecr;
	uint32_t sack_off; /* offset of the first block's left edge; 0: no SACK option */
};

struct packet_udp {
	uint16_t sport, dport;
};

struct packet_icmp {
	uint8_t type, code;
	uint16_t id; /* of echo request and reply, else 0 */
};

struct packet_arp {
	uint16_t op; /* 1 request, 2 reply */
	uint8_t sha[6], tha[6];
	uint32_t spa, tpa;
};

/* Where the bytes of a fragment belong (RFC 791 section 3.1, RFC 8200 section 4.5). */
struct packet_fragment {
	uint32_t id;
	uint16_t off; /* in bytes */
	bool more;
};

struct packet {
	struct frame *frame;
	uint8_t class;                     /* enum packet_class */
	uint8_t why;                       /* enum packet_why */
	uint8_t protocol;                  /* enum protocol_id: the row that decided */
	uint8_t version;                   /* 4, 6; 0 when not IP */
	uint8_t proto;                     /* IP protocol number, 0 when not IP */
	uint16_t ethertype;                /* behind the tags; of FRAME_AT_IP: from the version */
	uint16_t tag[2];                   /* VLAN tags, the outer one first: see PACKET_TAG */
	uint32_t src, dst;                 /* IPv4; of IPv6 the last 32 bits */
	uint32_t ip_off, ip_len;           /* IP header; its length with options and extensions */
	uint32_t l4_off;                   /* TCP, UDP, ICMP, IGMP header; the ARP body */
	uint32_t l4_len;                   /* bytes of it with payload, by the IP header's length */
	uint32_t payload_off, payload_len; /* behind the TCP, UDP or 8-byte ICMP header */
	union {
		struct packet_tcp tcp;
		struct packet_udp udp;
		struct packet_icmp icmp;
		struct packet_arp arp;
		struct packet_fragment fragment; /* PACKET_OTHER, PACKET_WHY_FRAGMENT */
	};
};

/* A VLAN tag in 16 bits: the identifier, and which EtherType carries it. 0: no tag. Priority and
 * DEI are not part of it. */
#define PACKET_TAG_VID      0x0fffu
#define PACKET_TAG_CUSTOMER 0x1000u /* 0x8100 */
#define PACKET_TAG_SERVICE  0x2000u /* 0x88a8 */
#define PACKET_TAG_STACKED  0x3000u /* 0x9100 */

/*
 * What tells one flow from another, seen from the VM so that both directions have the same key.
 * Every byte is set. flow_key_equal() compares, flow_key_len() says how many bytes tell the key:
 * those of IPv4 without tags are the first 16, so that the usual case costs no more.
 *
 * TCP, UDP: addresses and ports. ICMP echo: the identifier stands at the requester's port, the
 * other port is 0; a request and its reply have the same key. Other ICMP: vm_port is the type,
 * peer_port the code. ARP: sender and target address, peer_port is the operation. IGMP: addresses.
 * LLDP, STP: peer_port is the EtherType or the SAPs. Membership reports: those from one address are
 * one flow, to the address of version 3 of IGMP, or 2 of MLD; each group is a flow of its own,
 * whose words are compared, but in which no packet is held.
 */
enum flow_kind {
	FLOW_TCP = 1,
	FLOW_UDP,
	FLOW_ECHO_BY_VM,
	FLOW_ECHO_BY_PEER,
	FLOW_ICMP,
	FLOW_ARP,
	FLOW_MESSAGE, /* IP, compared as a whole */
	FLOW_FRAME,   /* Ethernet, compared as a whole */
	FLOW_MEMBERSHIP,
	FLOW_GROUP,
};

#define FLOW_IPV6   1u /* the addresses have 128 bits */
#define FLOW_TAGGED 2u /* there is at least one VLAN tag */

struct flow_key {
	uint32_t vm_ip, peer_ip; /* IPv4; of IPv6 the last 32 bits */
	uint16_t vm_port, peer_port;
	uint8_t proto; /* IP protocol, 0 for ARP and frames */
	uint8_t kind;  /* enum flow_kind */
	uint8_t flags; /* 0: all that follows is zero */
	uint8_t zero;
	uint16_t tag[2];                 /* as in struct packet */
	uint32_t vm_net[3], peer_net[3]; /* IPv6: the first 96 bits, in order */
};

#define FLOW_KEY_NARROW 16u

static inline size_t flow_key_len(const struct flow_key *key)
{
	return key->flags ? sizeof(*key) : FLOW_KEY_NARROW;
}

static inline bool flow_key_equal(const struct flow_key *a, const struct flow_key *b)
{
	return memcmp(a, b, FLOW_KEY_NARROW) == 0 && (!a->flags || memcmp(a, b, sizeof(*a)) == 0);
}

#define FLOW_KEY_TEXT_LEN 160u

/* "tcp [fd00::1]:80 - 10.0.0.2:1234 vlan 5" with the VM first; always terminated. Returns buf. */
const char *flow_key_text(const struct flow_key *key, char *buf, size_t len);

/* Secret of the datagram digests, the same on both hosts, random bytes. */
struct packet_digest_key {
	uint8_t secret[192];
};

#define PACKET_DIGEST_LEN 16u

/*
 * Fills *ret_packet from the frame, which must outlive it. 0, or -EBADMSG (nothing written) when
 * the frame is too short to have an EtherType or IP version; no network device emits such a frame.
 *
 * Checksums are not verified: the receiver does that, and rewriting keeps a wrong one wrong.
 */
int packet_parse(struct packet *ret_packet, struct frame *f);

/* The words for an enum packet_why, and what it means for the packet; never NULL. */
const char *packet_why_name(enum packet_why why);
const char *packet_why_text(enum packet_why why);

/* The addresses of a packet of version 6: 16 bytes in its frame, the destination behind the source.
 */
const uint8_t *packet_ipv6_src(const struct packet *p);
const uint8_t *packet_ipv6_dst(const struct packet *p);

/* The payload and its length in *ret_len; NULL and 0 for PACKET_OTHER. ARP: the 28-byte body. */
const uint8_t *packet_payload(const struct packet *p, uint32_t *ret_len);

/* Sequence space that a TCP packet takes: payload, SYN and FIN (RFC 9293 section 3.4). */
uint32_t packet_seq_len(const struct packet *p);

/* SACK block i < sack_count as it stands in the frame. */
void packet_sack(const struct packet *p, uint32_t i, uint32_t *ret_left, uint32_t *ret_right);

/* The flow's key. 0, or -EINVAL (nothing written) for PACKET_OTHER. */
int packet_flow_key(const struct packet *p, enum packet_direction direction,
                    struct flow_key *ret_key);

/*
 * The key, read without parsing: of a frame without tags that is TCP or UDP behind a plain IPv4
 * or IPv6 header. A guess for looking ahead: nothing is checked but that the bytes are
 * there. 0, or -EINVAL (nothing written) for other frames.
 */
int packet_flow_guess(const struct frame *f, enum packet_direction direction,
                      struct flow_key *ret_key);

/*
 * The keyed digest (XXH3, 128 bits, canonical byte order) over what two VMs' datagrams must have
 * in common besides the flow (rule R2). UDP: the payload. ICMP: the whole message without its
 * checksum. ARP: the 28-byte body. A UDP segmentation-offload superframe (several datagrams) has
 * its segment size in the digest: the same bytes cut otherwise are other datagrams.
 * 0, or -EINVAL (nothing written) for other classes.
 */
int packet_digest_datagram(const struct packet *p, const struct packet_digest_key *key,
                           uint8_t ret_digest[PACKET_DIGEST_LEN]);

/*
 * Sequence mapping (rule R7) of a TCP packet in place; nothing happens to other classes. Frame and
 * view change together. The TCP checksum is updated incrementally (RFC 1624), unless the vnet
 * header has VIRTIO_NET_HDR_F_NEEDS_CSUM: the field holds the pseudo header's sum then, which
 * covers none of these fields.
 *
 * Out, VM to client: seq += seq_delta, TSval += ts_delta.
 *
 * In, client to VM, and only if ACK is set (without it the fields mean nothing: SYN, bare RST):
 * ack -= seq_delta, both edges of every SACK block -= seq_delta (D-SACK, RFC 2883, included),
 * TSecr -= ts_delta. A TSecr of 0 stays: stacks send and read it as "none".
 */
void packet_map_out(struct packet *p, uint32_t seq_delta, uint32_t ts_delta);
void packet_map_in(struct packet *p, uint32_t seq_delta, uint32_t ts_delta);

/* Replaces the acknowledgement number of a TCP packet that has ACK set; else nothing happens. */
void packet_set_ack(struct packet *p, uint32_t ack);

/* Replaces the echoed timestamp of a TCP packet that has the option; else nothing happens. */
void packet_set_tsecr(struct packet *p, uint32_t tsecr);

/*
 * An ICMP error that quotes a TCP segment of the VM's: the quoted segment's flow and where its
 * sequence number stands. 0, or -EINVAL (nothing written) for anything else.
 */
int packet_quote(const struct packet *p, struct flow_key *ret_key, uint32_t *ret_seq_off);

/* Maps the number that packet_quote() has found into the VM's: -= seq_delta, checksum in step. */
void packet_map_quote(struct packet *p, uint32_t seq_off, uint32_t seq_delta);

/*
 * Cuts the first `prefix` bytes of payload off a TCP packet into a packet of their own, as
 * segmentation would have: the new frame, with the same header, is the caller's; the frame of `p`
 * keeps the rest, and its view is read again. FIN and PSH stay with the rest. CWR goes with the
 * first part when the guest has it so (VIRTIO_NET_HDR_GSO_ECN, RFC 3168 section 6.1.2), and else
 * with both, as a part of AccECN's counter (RFC 9768 section 3.2.2). Of a packet whose Ethernet
 * header is known (frame.linked) both parts are FRAME_AT_ETHERNET. 0; -EINVAL (nothing changed)
 * when p is not TCP with more payload than prefix > 0, starts with a SYN, or is FRAME_AT_IP and not
 * linked; -ENOMEM.
 */
int packet_split(struct packet *p, uint32_t prefix, struct frame **ret_first);

/*
 * The transport checksum that TCP, UDP or ICMP should have, computed over every byte; 0 for other
 * classes. (A computed 0 is returned as 0 for UDP too.)
 */
uint16_t packet_l4_checksum(const struct packet *p);

/*
 * One line about the packet for a log, without payload, always terminated:
 * "tcp 10.0.0.1:80 > 10.0.0.2:1234 seq 1 ack 2 len 3 [P.]". Returns buf.
 */
const char *packet_describe(const struct packet *p, char *buf, size_t len);

#endif
