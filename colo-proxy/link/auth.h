/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_LINK_AUTH_H
#define COLO_LINK_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/link/hello.h"
#include "colo-proxy/link/link.h"

/*
 * What the key file's key is used for. Two keys are derived from it, HMAC-SHA256(key, label):
 *
 *	"colo-proxy link tls 1"		the pre-shared key of TLS 1.3
 *	"colo-proxy link hello 1"	the key of the proofs
 *
 * A proof is HMAC-SHA256(hello key, role of the prover (u8), channel (u8), length (u32 BE) and
 *bytes of the HELLO, length (u32 BE) and bytes of the HELLO_REPLY up to its proof). Both nonces are
 *in it, so it cannot be replayed, and the role keeps it from being reflected.
 */

#define LINK_DERIVED_LEN 32u

/* 0, or -EIO when the library cannot. */
int link_auth_tls_key(const struct link_key *key, uint8_t ret[LINK_DERIVED_LEN]);

struct link_transcript {
	uint8_t hello[LINK_MAX_OWN], reply[LINK_MAX_OWN];
	size_t hello_len, reply_len;
};

int link_auth_proof(const struct link_key *key, enum link_role prover, enum link_channel channel,
                    const struct link_transcript *transcript, uint8_t ret[LINK_PROOF_LEN]);
/* Whether `proof` is what link_auth_proof() gives; takes the same time either way. */
bool link_auth_verify(const struct link_key *key, enum link_role prover, enum link_channel channel,
                      const struct link_transcript *transcript, const uint8_t *proof);

/* Random bytes for nonces and session ids. 0 or -EIO. */
int link_auth_random(void *ret, size_t len);

#endif
