/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/announce.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <string.h>

#include "colo-proxy/core/packet.h"

#define ARP_BYTES    28u
#define NA_BYTES     32u /* RFC 4861 section 4.4: 24, and the target link-layer address option: 8 */
#define IPV6_BYTES   40u
#define RARP_REQUEST 3u
#define ARP_REQUEST  1u
#define TAG_BYTES    4u
#define NS_PER_MS    1000000ull
#define FAST_NS      (200 * NS_PER_MS)
#define AGEING_NS    (300000 * NS_PER_MS)

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

/* Writes the tags behind the addresses; returns where the type belongs. */
static uint8_t *put_tags(uint8_t *at, const uint16_t tag[2])
{
	for (int i = 0; i < 2 && tag[i]; i++, at += TAG_BYTES) {
		unsigned kind = tag[i] & ~PACKET_TAG_VID;

		put16(at, kind == PACKET_TAG_CUSTOMER  ? ETH_P_8021Q
		          : kind == PACKET_TAG_SERVICE ? ETH_P_8021AD
		                                       : ETH_P_QINQ1);
		put16(at + 2, tag[i] & PACKET_TAG_VID);
	}
	return at;
}

/* A frame of zeros with its head, *ret_payload is behind that. NULL: no memory. */
static struct frame *ethernet(const uint8_t to[6], const uint8_t mac[6], const uint16_t tag[2],
                              unsigned type, size_t payload, uint8_t **ret_payload)
{
	size_t len = ETH_HLEN + payload < ETH_ZLEN ? ETH_ZLEN : ETH_HLEN + payload;
	struct frame *f;
	uint8_t *at;

	len += TAG_BYTES * (!!tag[0] + (tag[0] && tag[1]));
	f = frame_new(len);
	if (!f)
		return NULL;
	memset(f->data, 0, len);
	memcpy(f->data, to, ETH_ALEN);
	memcpy(f->data + ETH_ALEN, mac, ETH_ALEN);
	at = put_tags(f->data + 2 * ETH_ALEN, tag);
	put16(at, type);
	f->len = (uint32_t)len;
	*ret_payload = at + 2;
	return f;
}

/* RFC 826's layout, which RFC 903 shares. */
static struct frame *arp(const uint8_t mac[6], const uint16_t tag[2], unsigned type,
                         unsigned operation, const struct in_addr *address)
{
	static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	uint8_t *at;
	struct frame *f = ethernet(broadcast, mac, tag, type, ARP_BYTES, &at);

	if (!f)
		return NULL;
	put16(at, 1); /* Ethernet */
	put16(at + 2, ETH_P_IP);
	at[4] = ETH_ALEN;
	at[5] = sizeof(struct in_addr);
	put16(at + 6, operation);
	memcpy(at + 8, mac, ETH_ALEN);
	if (address) {
		memcpy(at + 14, address, sizeof(*address));
		memcpy(at + 24, address, sizeof(*address)); /* target hardware address: zero */
	} else {
		memcpy(at + 18, mac, ETH_ALEN);
	}
	return f;
}

/* RFC 4443 section 2.3: over the pseudo-header (RFC 8200 section 8.1) and the message. */
static unsigned icmp6_checksum(const uint8_t *ip, size_t len)
{
	uint32_t sum = (uint32_t)len + IPPROTO_ICMPV6;

	for (size_t i = 8; i < IPV6_BYTES + len; i += 2)
		sum += (uint32_t)ip[i] << 8 | ip[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum & 0xffff;
}

static struct frame *neighbour(const uint8_t mac[6], const uint16_t tag[2],
                               const struct in6_addr *address)
{
	static const uint8_t all_nodes[6] = {0x33, 0x33, 0, 0, 0, 1};
	uint8_t *ip;
	uint8_t *na;
	struct frame *f = ethernet(all_nodes, mac, tag, ETH_P_IPV6, IPV6_BYTES + NA_BYTES, &ip);

	if (!f)
		return NULL;
	na = ip + IPV6_BYTES;
	ip[0] = 0x60;
	put16(ip + 4, NA_BYTES);
	ip[6] = IPPROTO_ICMPV6;
	ip[7] = 255;
	memcpy(ip + 8, address, sizeof(*address));
	ip[24] = 0xff; /* ff02::1 */
	ip[25] = 0x02;
	ip[39] = 0x01;
	na[0] = 136;
	na[4] = 0x20; /* override */
	memcpy(na + 8, address, sizeof(*address));
	na[24] = 2; /* target link-layer address */
	na[25] = 1; /* in units of 8 bytes */
	memcpy(na + 26, mac, ETH_ALEN);
	put16(na + 2, icmp6_checksum(ip, NA_BYTES));
	return f;
}

/* The i-th frame. */
static struct frame *make(const struct announce *what, uint32_t i)
{
	static const uint16_t untagged[2];

	if (i == 0)
		return arp(what->mac, untagged, ETH_P_RARP, RARP_REQUEST, NULL);
	i--;
	if (i < what->vlan_count)
		return arp(what->mac, what->vlan[i], ETH_P_RARP, RARP_REQUEST, NULL);
	i -= what->vlan_count;
	if (i < what->ipv4_count)
		return arp(what->mac, what->ipv4[i].tag, ETH_P_ARP, ARP_REQUEST,
		           &what->ipv4[i].address);
	i -= what->ipv4_count;
	return neighbour(what->mac, what->ipv6[i].tag, &what->ipv6[i].address);
}

int announce_build(const struct announce *what, struct frame **ret_list)
{
	uint32_t count = 1 + what->vlan_count + what->ipv4_count + what->ipv6_count;
	struct frame *list = NULL;
	struct frame **end = &list;

	for (uint32_t i = 0; i < count; i++) {
		*end = make(what, i);
		if (!*end)
			goto fail;
		end = &(*end)->next;
	}
	*ret_list = list;
	return (int)count;
fail:
	while (list) {
		struct frame *next = list->next;

		frame_free(list);
		list = next;
	}
	return -ENOMEM;
}

uint64_t announce_wait_ns(uint32_t sent)
{
	uint64_t wait = FAST_NS, all = 0;

	for (uint32_t i = 1; i < sent; i++) {
		all += wait;
		if (i >= ANNOUNCE_FAST)
			wait *= 2;
	}
	return all < AGEING_NS ? wait : 0;
}
