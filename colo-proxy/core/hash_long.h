/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_HASH_LONG_H
#define COLO_CORE_HASH_LONG_H

#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/packet.h"

/* XXH3 (128 bits, canonical byte order) of many bytes, with the widest vectors that the processor
 * has. A file of its own, since XXH_INLINE_ALL, which is for few bytes, excludes them. */
void hash_long(const struct packet_digest_key *key, const uint8_t *bytes, size_t len,
               uint8_t ret_hash[PACKET_DIGEST_LEN]);

#endif
