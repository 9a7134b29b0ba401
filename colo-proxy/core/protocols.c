/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/protocols.h"

#include <assert.h>

#define ETHERTYPE_MIN 0x0600u /* below: an 802.3 length */

/* The most frequent ones stand first among those of their layer: they are looked for in order. */
const struct protocol protocols[PROTOCOL_COUNT] = {
        [PROTOCOL_IPV4] = {"IPv4",
                           LAYER_LINK,
                           TREAT_INSIDE,
                           {{0x0800, 0x0800}},
                           "by its protocol; header, options, TTL and DSCP are not compared"},
        [PROTOCOL_IPV6] = {"IPv6",
                           LAYER_LINK,
                           TREAT_INSIDE,
                           {{0x86dd, 0x86dd}},
                           "by what follows the extension headers, which are not compared"},
        [PROTOCOL_VLAN] = {"802.1Q tag",
                           LAYER_LINK,
                           TREAT_INSIDE,
                           {{0x8100, 0x8100}},
                           "by what it carries; up to two tags are part of the flow"},
        [PROTOCOL_PROVIDER_VLAN] =
                {"802.1ad tag", LAYER_LINK, TREAT_INSIDE, {{0x88a8, 0x88a8}}, "as 802.1Q"},
        [PROTOCOL_STACKED_VLAN] =
                {"QinQ before 802.1ad", LAYER_LINK, TREAT_INSIDE, {{0x9100, 0x9100}}, "as 802.1Q"},
        [PROTOCOL_ARP] = {"ARP",
                          LAYER_LINK,
                          TREAT_DATAGRAM,
                          {{0x0806, 0x0806}},
                          "the 28 bytes for IPv4 over Ethernet"},
        [PROTOCOL_LLDP] =
                {"LLDP", LAYER_LINK, TREAT_DATAGRAM, {{0x88cc, 0x88cc}}, "the whole frame"},
        [PROTOCOL_STP] = {"STP",
                          LAYER_LLC,
                          TREAT_DATAGRAM,
                          {{0x4242, 0x4242}},
                          "the whole frame without padding; also RSTP and MSTP"},
        [PROTOCOL_LLC] = {"other 802.3", LAYER_LLC, TREAT_COMMIT, {{0}}, "unknown"},
        [PROTOCOL_ETHERTYPE] = {"other EtherTypes", LAYER_LINK, TREAT_COMMIT, {{0}}, "unknown"},

        [PROTOCOL_TCP] = {"TCP",
                          LAYER_IP,
                          TREAT_STREAM,
                          {{6, 6}},
                          "bytes, SYN, FIN and RST by offset; no acknowledgement beyond the SVM's"},
        [PROTOCOL_UDP] = {"UDP",
                          LAYER_IP,
                          TREAT_DATAGRAM,
                          {{17, 17}},
                          "payload, and segment size of an offload superframe"},
        [PROTOCOL_ICMP] =
                {"ICMP", LAYER_IP, TREAT_DATAGRAM, {{1, 1}}, "the message without its checksum"},
        [PROTOCOL_ICMP6] = {"ICMPv6",
                            LAYER_IP,
                            TREAT_DATAGRAM,
                            {{58, 58}},
                            "the message without its checksum"},
        [PROTOCOL_IGMP] =
                {"IGMP", LAYER_IP, TREAT_DATAGRAM, {{2, 2}}, "the message, unless a report"},
        [PROTOCOL_SCTP] = {"SCTP",
                           LAYER_IP,
                           TREAT_COMMIT,
                           {{132, 132}},
                           "each VM has tags and numbers of its own, and nothing maps them"},
        [PROTOCOL_IPSEC] = {"ESP, AH",
                            LAYER_IP,
                            TREAT_COMMIT,
                            {{50, 51}},
                            "what is encrypted or signed is not looked into"},
        [PROTOCOL_IP] = {"other IP protocols", LAYER_IP, TREAT_COMMIT, {{0}}, "unknown"},

        [PROTOCOL_DHCP] = {"DHCPv4",
                           LAYER_UDP,
                           TREAT_DATAGRAM,
                           {{67, 68}},
                           "as UDP; a transaction number that differs costs a checkpoint"},
        [PROTOCOL_DHCP6] = {"DHCPv6", LAYER_UDP, TREAT_DATAGRAM, {{546, 547}}, "as DHCPv4"},
        [PROTOCOL_NDP] = {"NDP",
                          LAYER_ICMP6,
                          TREAT_DATAGRAM,
                          {{133, 137}},
                          "as ICMPv6; a nonce (RFC 3971) that differs costs a checkpoint"},
        [PROTOCOL_MLD_REPORT] = {"MLD report",
                                 LAYER_ICMP6,
                                 TREAT_GROUPS,
                                 {{131, 132}, {143, 143}},
                                 "as IGMP report"},
        [PROTOCOL_MLD_QUERY] =
                {"MLD query", LAYER_ICMP6, TREAT_DATAGRAM, {{130, 130}}, "as ICMPv6"},
        [PROTOCOL_IGMP_REPORT] = {"IGMP report",
                                  LAYER_IGMP,
                                  TREAT_GROUPS,
                                  {{0x12, 0x12}, {0x16, 0x17}, {0x22, 0x22}},
                                  "what it says of each group: filter mode and sources"},
};

static bool has_number(const struct protocol *row, uint16_t number)
{
	for (unsigned i = 0; i < PROTOCOL_RANGES && row->number[i].to; i++) {
		if (number >= row->number[i].from && number <= row->number[i].to)
			return true;
	}
	return false;
}

/* The row from `first` to before `other` that has the number, else `other`. */
static enum protocol_id find(enum protocol_id first, enum protocol_id end, enum protocol_id other,
                             uint16_t number)
{
	for (enum protocol_id id = first; id < end; id++) {
		if (has_number(&protocols[id], number))
			return id;
	}
	return other;
}

enum protocol_id protocol_of_link(uint16_t ethertype, uint16_t saps)
{
	if (ethertype < ETHERTYPE_MIN)
		return find(PROTOCOL_STP, PROTOCOL_LLC, PROTOCOL_LLC, saps);
	return find(PROTOCOL_IPV4, PROTOCOL_STP, PROTOCOL_ETHERTYPE, ethertype);
}

enum protocol_id protocol_of_ip(uint8_t number)
{
	return find(PROTOCOL_TCP, PROTOCOL_IP, PROTOCOL_IP, number);
}

enum protocol_id protocol_of_udp(uint16_t sport, uint16_t dport)
{
	enum protocol_id id = find(PROTOCOL_DHCP, PROTOCOL_NDP, PROTOCOL_UDP, dport);

	return id == PROTOCOL_UDP ? find(PROTOCOL_DHCP, PROTOCOL_NDP, PROTOCOL_UDP, sport) : id;
}

enum protocol_id protocol_of_icmp6(uint8_t type)
{
	return find(PROTOCOL_NDP, PROTOCOL_IGMP_REPORT, PROTOCOL_ICMP6, type);
}

enum protocol_id protocol_of_igmp(uint8_t type)
{
	return find(PROTOCOL_IGMP_REPORT, PROTOCOL_COUNT, PROTOCOL_IGMP, type);
}

const char *treatment_name(enum treatment treatment)
{
	static const char *const names[TREAT_COUNT] = {
	        [TREAT_INSIDE] = "inside", [TREAT_STREAM] = "stream", [TREAT_DATAGRAM] = "datagram",
	        [TREAT_GROUPS] = "groups", [TREAT_COMMIT] = "commit",
	};

	return (unsigned)treatment < TREAT_COUNT ? names[treatment] : "unknown";
}

const char *protocol_layer_name(enum protocol_layer layer)
{
	static const char *const names[LAYER_COUNT] = {
	        [LAYER_LINK] = "ethertype", [LAYER_LLC] = "llc",     [LAYER_IP] = "ip",
	        [LAYER_UDP] = "udp",        [LAYER_ICMP6] = "icmp6", [LAYER_IGMP] = "igmp",
	};

	return (unsigned)layer < LAYER_COUNT ? names[layer] : "unknown";
}
