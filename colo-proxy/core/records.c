/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/records.h"

#include <assert.h>
#include <string.h>

#include "colo-proxy/core/hash_long.h"

/* For few bytes the call would cost as much as the hash. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#define SHORT_LEN 240u /* up to there XXH3 has no use for wide vectors */

static const char *const cause_names[] = {
        "initial",  "mismatch", "late",   "uncompared", "timer",
        "pressure", "command",  "policy", "dirty",
};
static_assert(sizeof(cause_names) / sizeof(cause_names[0]) == CKPT_CAUSE_COUNT,
              "one name for each cause");

const char *ckpt_cause_name(enum ckpt_cause cause)
{
	return (unsigned)cause < CKPT_CAUSE_COUNT ? cause_names[cause] : "unknown";
}

void digest_stream(const struct packet_digest_key *key, const uint8_t *bytes, size_t len,
                   uint8_t ret_hash[16])
{
	XXH128_canonical_t canonical;

	if (len > SHORT_LEN) {
		hash_long(key, bytes, len, ret_hash);
		return;
	}
	XXH128_canonicalFromHash(
	        &canonical, XXH3_128bits_withSecret(bytes, len, key->secret, sizeof(key->secret)));
	memcpy(ret_hash, canonical.digest, 16);
}

void digest_syn(const struct packet_digest_key *key, const struct packet_tcp *tcp,
                uint8_t ret_hash[16])
{
	const uint8_t bound[] = {
	        'S',
	        'Y',
	        'N',
	        (uint8_t)(tcp->mss >> 8),
	        (uint8_t)tcp->mss,
	        tcp->has_wscale,
	        tcp->has_wscale ? tcp->wscale : 0,
	        tcp->has_sack_permitted,
	        tcp->ts_off != 0,
	};

	digest_stream(key, bound, sizeof(bound), ret_hash);
}

enum packet_why digest_tcp_exempt(const struct packet *packet)
{
	const struct packet_tcp *tcp = &packet->tcp;

	if (tcp->has_fastopen)
		return PACKET_WHY_TCP_FASTOPEN;
	if ((tcp->flags & PACKET_SYN) && packet->payload_len)
		return PACKET_WHY_TCP_SYN_DATA;
	if (tcp->flags & PACKET_URG)
		return PACKET_WHY_TCP_URGENT;
	return PACKET_WHY_NONE;
}
