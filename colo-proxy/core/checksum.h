/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_CHECKSUM_H
#define COLO_CORE_CHECKSUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The Internet checksum (RFC 1071) and its incremental update (RFC 1624). Every value here is the
 * number that the field holds in network order, read big endian: a checksum field at `p` is
 * (p[0] << 8 | p[1]).
 */

/*
 * Adds `len` bytes to an unfolded sum. `sum` is 0 or an earlier result over an even number of
 * bytes. Holds for at least 2^47 bytes.
 */
uint64_t checksum_add(uint64_t sum, const void *data, size_t len);

/* Folds an unfolded sum to 16 bits, not complemented. */
uint16_t checksum_fold(uint64_t sum);

/* The unfolded sum of the IPv4 pseudo header (RFC 9293 section 3.1); addresses in host order. */
uint64_t checksum_ipv4_pseudo(uint32_t src, uint32_t dst, uint8_t proto, uint32_t l4_len);

/* The same of IPv6 (RFC 8200 section 8.1); addresses: source and destination as in the header. */
uint64_t checksum_ipv6_pseudo(const uint8_t addresses[32], uint8_t proto, uint32_t l4_len);

/*
 * The checksum after a 32-bit field changed from `from` to `to` (RFC 1624 equation 3). `odd` says
 * that the field starts at an odd offset from where the checksum starts counting; a field there
 * covers halves of three 16-bit words, and its part of the sum is the byte-swapped one (RFC 1071
 * section 2 B). For a checksum that was right before, the result is exactly what a full
 * computation gives, also in its choice between 0x0000 and 0xffff.
 */
uint16_t checksum_replace32(uint16_t checksum, uint32_t from, uint32_t to, bool odd);

#endif
