/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_LINK_STRIPE_H
#define COLO_LINK_STRIPE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "colo-proxy/link/conn.h"

/*
 * A stripe: a connection of the session that carries messages of the bulk channel, in both
 * directions, in a thread of its own, since what limits a connection is the thread that encrypts.
 * Inside the link only; stripes.c has what the session does with them. Every call is for the loop's
 * thread.
 */

#define STRIPE_LEAST    (16u << 10) /* bytes of payload: smaller ones stay on the bulk connection */
#define STRIPE_IN_LIMIT (512u << 10) /* bytes received and not taken: then it reads no more */
/*
 * What a stripe may hold of what it has received: the decoder's buffer, of two largest frames, and
 * the messages, with one above the limit. What it has to send its user counts (stripe_queued()).
 */
#define STRIPE_MEMORY (4u << 20)

/* What the threads tell the loop's thread with; they outlive neither it nor its descriptor. */
struct stripe_bell {
	int fd;           /* eventfd(2) */
	atomic_bool room; /* ring whenever a message has been written */
};

struct stripe_message {
	struct stripe_message *next;
	struct link_header h;
	uint8_t frame[]; /* header and payload */
};

struct stripe;

/*
 * Starts the thread, with all signals blocked. The connection is set up, out of the loop, and has
 * nothing left to write; it is the stripe's if this returns 0, else a negative errno.
 */
int stripe_new(struct stripe **ret_stripe, struct conn *c, struct stripe_bell *bell);
/* The connection ends at once, the thread soon; does not wait. The bell rings when it has. */
void stripe_stop(struct stripe *stripe);
/* Whether stripe_free() would not wait. */
bool stripe_gone(struct stripe *stripe);
/* Stops it and waits for the thread: for no longer than a piece of 128 KiB. NULL is allowed. */
void stripe_free(struct stripe *stripe);

/*
 * Queues a message; the caller keeps the limit. *ret_sequence is what its marker has to say.
 * 0 or -ENOMEM.
 */
int stripe_send(struct stripe *stripe, uint8_t type, uint32_t epoch, const struct iovec *iov,
                int iovcnt, uint32_t len, uint64_t *ret_sequence);
/* Bytes queued and not yet taken by the socket, to a message. */
size_t stripe_queued(struct stripe *stripe);

/* The oldest message received, the caller's to free(3); NULL: none, the bell will ring. */
struct stripe_message *stripe_take(struct stripe *stripe);
/* Bytes received so far. */
uint64_t stripe_received(struct stripe *stripe);
/* What it ended with: 0: it has not; else a negative errno, with words. */
int stripe_error(struct stripe *stripe, char *err, size_t errlen);
/* transport_rate() */
uint64_t stripe_rate(const struct stripe *stripe);
const char *stripe_peer(const struct stripe *stripe);

#endif
