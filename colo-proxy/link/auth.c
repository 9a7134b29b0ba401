/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/link/auth.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>

#define LABEL_TLS   "colo-proxy link tls 1"
#define LABEL_HELLO "colo-proxy link hello 1"

static int derive(const struct link_key *key, const char *label, uint8_t ret[LINK_DERIVED_LEN])
{
	if (gnutls_hmac_fast(GNUTLS_MAC_SHA256, key->bytes, key->len, label, strlen(label), ret))
		return -EIO;
	return 0;
}

int link_auth_tls_key(const struct link_key *key, uint8_t ret[LINK_DERIVED_LEN])
{
	return derive(key, LABEL_TLS, ret);
}

static void mac_counted(gnutls_hmac_hd_t mac, int *error, const uint8_t *bytes, size_t len)
{
	uint8_t n[4] = {(uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8),
	                (uint8_t)len};

	*error |= gnutls_hmac(mac, n, sizeof(n));
	*error |= gnutls_hmac(mac, bytes, len);
}

int link_auth_proof(const struct link_key *key, enum link_role prover, enum link_channel channel,
                    const struct link_transcript *transcript, uint8_t ret[LINK_PROOF_LEN])
{
	uint8_t who[2] = {(uint8_t)prover, (uint8_t)channel};
	uint8_t derived[LINK_DERIVED_LEN];
	gnutls_hmac_hd_t mac;
	int error = derive(key, LABEL_HELLO, derived);

	if (error)
		return error;
	error = gnutls_hmac_init(&mac, GNUTLS_MAC_SHA256, derived, sizeof(derived));
	explicit_bzero(derived, sizeof(derived));
	if (error)
		return -EIO;
	error = gnutls_hmac(mac, who, sizeof(who));
	mac_counted(mac, &error, transcript->hello, transcript->hello_len);
	mac_counted(mac, &error, transcript->reply, transcript->reply_len);
	gnutls_hmac_deinit(mac, ret);
	return error ? -EIO : 0;
}

bool link_auth_verify(const struct link_key *key, enum link_role prover, enum link_channel channel,
                      const struct link_transcript *transcript, const uint8_t *proof)
{
	uint8_t want[LINK_PROOF_LEN];

	return !link_auth_proof(key, prover, channel, transcript, want) &&
	       !gnutls_memcmp(want, proof, sizeof(want));
}

int link_auth_random(void *ret, size_t len)
{
	return gnutls_rnd(GNUTLS_RND_RANDOM, ret, len) ? -EIO : 0;
}
