/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/checksum.h"

uint64_t checksum_add(uint64_t sum, const void *data, size_t len)
{
	const uint8_t *p = data;
	size_t i;

	for (i = 0; i + 1 < len; i += 2)
		sum += (uint32_t)p[i] << 8 | p[i + 1];
	if (i < len)
		sum += (uint32_t)p[i] << 8;
	return sum;
}

uint16_t checksum_fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

uint64_t checksum_ipv4_pseudo(uint32_t src, uint32_t dst, uint8_t proto, uint32_t l4_len)
{
	return (uint64_t)(src >> 16) + (src & 0xffff) + (dst >> 16) + (dst & 0xffff) + proto +
	       (l4_len >> 16) + (l4_len & 0xffff);
}

uint64_t checksum_ipv6_pseudo(const uint8_t addresses[32], uint8_t proto, uint32_t l4_len)
{
	return checksum_add(proto + (l4_len >> 16) + (l4_len & 0xffff), addresses, 32);
}

uint16_t checksum_replace32(uint16_t checksum, uint32_t from, uint32_t to, bool odd)
{
	uint16_t change = checksum_fold((uint64_t)(uint16_t) ~(from >> 16) + (uint16_t)~from +
	                                (to >> 16) + (to & 0xffff));

	if (odd)
		change = (uint16_t)(change << 8 | change >> 8);
	return (uint16_t)~checksum_fold((uint64_t)(uint16_t)~checksum + change);
}
