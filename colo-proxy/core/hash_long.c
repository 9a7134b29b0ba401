/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/hash_long.h"

#include <string.h>
#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h>
#endif

void hash_long(const struct packet_digest_key *key, const uint8_t *bytes, size_t len,
               uint8_t ret_hash[PACKET_DIGEST_LEN])
{
	XXH128_hash_t hash = XXH3_128bits_withSecret(bytes, len, key->secret, sizeof(key->secret));
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, hash);
	memcpy(ret_hash, canonical.digest, PACKET_DIGEST_LEN);
}
