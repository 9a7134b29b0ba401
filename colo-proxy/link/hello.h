/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_LINK_HELLO_H
#define COLO_LINK_HELLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Payloads of HELLO (primary to secondary) and HELLO_REPLY (back). Pure. Big endian:
 *
 *	offset	size
 *	     0	   2	protocol version, 7; a peer with another one reads no further
 *	     2	   1	role: 1 primary, 2 secondary
 *	     3	   1	encryption of this connection: 0 none, 1 TLS
 *	     4	   1	streams that this side can have, 1 to 8; the smaller number is the session's
 *	     5	   3	0
 *	     8	   8	session id, not 0; the reply repeats it
 *	    16	  32	nonce
 *	    48	   2	length N of the name, 1 to 128
 *	    50	   2	length C of the capabilities, 0 to 1024
 *	    52	   N	VM name
 *	  52+N	   C	capabilities
 *	52+N+C	  32	HELLO_REPLY only: proof, see auth.h
 */

#define LINK_PROTOCOL    7u
#define LINK_NONCE_LEN   32u
#define LINK_PROOF_LEN   32u
#define LINK_HELLO_FIXED 52u

struct link_hello {
	uint8_t role;
	bool encrypted;
	uint8_t streams;
	uint64_t session;
	uint8_t nonce[LINK_NONCE_LEN];
	const char *name; /* not terminated */
	size_t name_len;
	const uint8_t *caps;
	size_t caps_len;
	const uint8_t *proof; /* NULL in a HELLO */
};

/* Writes a HELLO, or a HELLO_REPLY up to its proof; LINK_MAX_OWN bytes are room enough. Its length.
 */
size_t link_hello_encode(uint8_t *out, const struct link_hello *hello);

/*
 * Reads one; pointers in *ret_hello go into payload. -EPROTONOSUPPORT for another protocol version,
 * -EPROTO for anything malformed, with words.
 */
int link_hello_parse(const uint8_t *payload, size_t len, bool reply, struct link_hello *ret_hello,
                     char *err, size_t errlen);

/* Whether the peer is the other half of this VM: 0, or -EPERM with words. */
int link_hello_check(const struct link_hello *mine, const struct link_hello *theirs, char *err,
                     size_t errlen);

/* Copies text for a person, without control characters; at most outlen - 1 bytes. */
void link_hello_text(char *out, size_t outlen, const uint8_t *text, size_t len);

#endif
