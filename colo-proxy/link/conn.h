/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_LINK_CONN_H
#define COLO_LINK_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "colo-proxy/link/auth.h"
#include "colo-proxy/link/codec.h"
#include "colo-proxy/link/transport.h"
#include "colo-proxy/loop/loop.h"

/*
 * One connection of the link: its frames out (a bounded buffer in front of the transport) and in
 * (the decoder). Inside the link only; link.c has the states.
 */

enum conn_state {
	CONN_CONNECTING, /* primary: TCP */
	CONN_TLS,
	CONN_HELLO, /* waits for HELLO (secondary), HELLO_REPLY (primary) */
	CONN_PROOF, /* secondary: waits for PROOF */
	CONN_READY, /* primary: waits for READY */
	CONN_WAIT,  /* done with the setup, the other connection is not; reads nothing */
	CONN_UP,
	CONN_DEAD, /* to be freed at the end of the turn */
};

struct conn {
	struct conn *next; /* candidates, or the dead */
	struct link *link;
	enum conn_state state;
	enum link_channel channel;
	struct transport transport;
	struct loop_source source;
	struct loop_timer deadline;
	char peer[64];

	struct link_decoder in;
	bool paused;
	bool waits; /* bulk: for the message of a stripe, which comes next (stripes.c) */

	uint8_t *out;
	size_t out_room, out_head, out_tail;
	uint64_t out_sequence, seed;
	size_t budget;  /* bytes that may still be written in this turn */
	bool blocked;   /* the socket is full, or a TLS record half written */
	bool want_room; /* somebody was told -EAGAIN */
	int error;      /* of writing; sticky, failure has the words */
	char failure[160];

	uint64_t session;
	unsigned streams; /* of the session, as this connection's hellos have it; 0: not yet */
	struct link_transcript transcript;
};

/* A connection without a transport; NULL when memory is out. */
struct conn *conn_new(struct link *link, int channel);
void conn_free(struct conn *c);

/* Room for a session: a queue of `limit` bytes and any frame coming in. 0 or -ENOMEM. */
int conn_grow(struct conn *c, size_t limit);

size_t conn_queued(const struct conn *c);
/* Queues a frame; there is room for it: the caller keeps the limit. len is that of the payload. */
void conn_put(struct conn *c, uint8_t type, uint32_t epoch, const struct iovec *iov, int iovcnt,
              uint32_t len);
/* Gives conn_write() its budget; from the loop, once for each turn. */
void conn_new_turn(struct conn *c);
/*
 * Writes what is queued, as far as the socket takes it and the turn's budget goes, so that one
 * connection does not hold up the loop: `blocked` says whether to wait for EPOLLOUT. 0, or a
 * negative errno with words in c->failure.
 */
int conn_write(struct conn *c);
/* Reads once: 1 when there may be more, 0 when not now, negative errno with words. */
int conn_read(struct conn *c, size_t *ret_len, char *err, size_t errlen);

#endif
