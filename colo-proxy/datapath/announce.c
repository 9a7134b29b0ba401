/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/announce.h"

#include <errno.h>
#include <linux/if_ether.h>
#include <string.h>

#define ARP_BYTES    28u
#define NA_BYTES     32u /* RFC 4861 section 4.4: 24, and the target link-layer address option: 8 */
#define IPV6_BYTES   40u
#define RARP_REQUEST 3u
#define ARP_REQUEST  1u

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static struct frame *ethernet(const uint8_t to[6], const uint8_t mac[6], unsigned type,
                              size_t payload)
{
	size_t len = ETH_HLEN + payload < ETH_ZLEN ? ETH_ZLEN : ETH_HLEN + payload;
	struct frame *f = frame_new(len);

	if (!f)
		return NULL;
	memset(f->data, 0, len);
	memcpy(f->data, to, ETH_ALEN);
	memcpy(f->data + ETH_ALEN, mac, ETH_ALEN);
	put16(f->data + 12, type);
	f->len = (uint32_t)len;
	return f;
}

/* RFC 826's layout, which RFC 903 shares. */
static struct frame *arp(const uint8_t mac[6], unsigned type, unsigned operation,
                         const struct in_addr *address)
{
	static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	struct frame *f = ethernet(broadcast, mac, type, ARP_BYTES);
	uint8_t *at;

	if (!f)
		return NULL;
	at = f->data + ETH_HLEN;
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

static struct frame *neighbour(const uint8_t mac[6], const struct in6_addr *address)
{
	static const uint8_t all_nodes[6] = {0x33, 0x33, 0, 0, 0, 1};
	struct frame *f = ethernet(all_nodes, mac, ETH_P_IPV6, IPV6_BYTES + NA_BYTES);
	uint8_t *ip;
	uint8_t *na;

	if (!f)
		return NULL;
	ip = f->data + ETH_HLEN;
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

int announce_build(const uint8_t mac[6], const struct in_addr *ipv4, size_t ipv4_count,
                   const struct in6_addr *ipv6, size_t ipv6_count, struct frame **ret_list)
{
	size_t count = 1 + ipv4_count + ipv6_count;
	struct frame *list = NULL;
	struct frame **end = &list;

	for (size_t i = 0; i < count; i++) {
		if (i == 0)
			*end = arp(mac, ETH_P_RARP, RARP_REQUEST, NULL);
		else if (i <= ipv4_count)
			*end = arp(mac, ETH_P_ARP, ARP_REQUEST, &ipv4[i - 1]);
		else
			*end = neighbour(mac, &ipv6[i - 1 - ipv4_count]);
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
