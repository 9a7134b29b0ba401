/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_LINK_TRANSPORT_H
#define COLO_LINK_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "colo-proxy/link/auth.h"

/*
 * One TCP connection of the link, in clear or under TLS 1.3, nonblocking. Inside the link only.
 *
 * TLS: pre-shared key with (EC)DHE, so that a stolen key does not open recorded traffic;
 * AES-128-GCM, since GnuTLS ties an external key to SHA-256; no session tickets.
 */

struct transport_tls; /* credentials, shared by the connections of a link */

int transport_tls_new(struct transport_tls **ret_tls, const struct link_key *key, bool server);
void transport_tls_free(struct transport_tls *tls);

/* What has been received ahead of the TLS library, which asks for a header and a body in turn. */
struct transport_ahead {
	uint8_t *buf;
	size_t at, end;
	bool drained; /* the socket was empty: the next reading would say so and is saved */
};

/* Under TLS it must stay where it was opened. */
struct transport {
	int fd;
	void *session; /* gnutls_session_t, NULL in clear */
	size_t unsent; /* of a TLS record that the socket has not taken whole */
	struct transport_ahead ahead;
};

/* Makes the socket options that the link wants; 0 or a negative errno. */
int transport_socket_options(int fd, uint32_t user_timeout_ms);

/* Bytes per second that the peer has acknowledged lately, as the kernel estimates it (TCP_INFO,
 * tcpi_delivery_rate); 0: not known. */
uint64_t transport_rate(int fd);

/* Takes over fd, also on failure. tls NULL: in clear. 0 or a negative errno. */
int transport_open(struct transport *t, int fd, const struct transport_tls *tls, bool server);
void transport_close(struct transport *t);

/* 1 when done, 0 when to be called again (see *ret_write), negative errno with words. */
int transport_handshake(struct transport *t, bool *ret_write, char *err, size_t errlen);

/* Bytes read; 0 at the end of the stream; -EAGAIN; another negative errno with words. */
ssize_t transport_read(struct transport *t, uint8_t *buf, size_t len, char *err, size_t errlen);
/* Bytes written; -EAGAIN (call again with the same bytes first); negative errno with words. */
ssize_t transport_write(struct transport *t, const uint8_t *buf, size_t len, char *err,
                        size_t errlen);
/* Whether bytes have left the socket, so that no event will tell of them. */
bool transport_pending(const struct transport *t);

#endif
