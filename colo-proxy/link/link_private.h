/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_LINK_LINK_PRIVATE_H
#define COLO_LINK_LINK_PRIVATE_H

#include <netdb.h>

#include "colo-proxy/link/conn.h"
#include "colo-proxy/link/link.h"
#include "colo-proxy/link/stripe.h"

/*
 * What link.c (the session), setup.c (how it comes up) and stripes.c (its further connections)
 * share. Nobody else includes this.
 */

#define MS 1000000ull

struct stripe_set;

struct link {
	struct loop *loop;
	const struct link_ops *ops;
	void *ctx;

	enum link_role role;
	bool encrypt;
	char *name, *address;
	uint16_t port;
	struct link_key key;
	uint8_t *caps;
	size_t caps_len;
	size_t limit[LINK_CHANNELS];
	uint32_t setup_ms, backoff_min_ms, backoff_max_ms, user_timeout_ms;
	struct transport_tls *tls;
	unsigned streams; /* that this side can have, at least 1 */

	bool up, closed;
	uint64_t session; /* of conns[] */
	unsigned agreed;  /* streams of the session; 0: not known yet */
	/* The session, or what is to become it; then the stripes are in `stripes`. */
	struct conn *conns[LINK_PLACES];
	struct stripe_set *stripes;
	struct stripe_set *leaving;
	struct stripe_bell bell; /* only with streams */
	struct loop_source bell_source;
	struct link_counters counters[LINK_CHANNELS];

	/* Primary. */
	struct loop_timer retry;
	uint32_t backoff_ms;
	char last_refusal[512];

	/* Secondary. */
	int listen_fd;
	struct loop_source listen_source;
	struct loop_timer listen_again;
	struct conn *candidates; /* oldest first */
	unsigned n_candidates;

	struct loop_timer turn, reaper;
	struct conn *dead;
};

/* ---- link.c ---- */

/* The connection is given up: closed now, freed at the end of the turn. NULL is allowed. */
void link_kill_conn(struct link *link, struct conn *c);
/* All of the session's, or of what was to become one. */
void link_kill_session(struct link *link);
/* Takes it out of the session and of the candidates. */
void link_unlink_conn(struct link *link, struct conn *c);
/* The primary tries again after the pause. */
void link_retry_later(struct link *link);
void link_report_refusal(struct link *link, const char *text);
/* Queues a message of the link's own. */
void link_put_own(struct conn *c, enum link_own_type type, const void *payload, size_t len);
/* The connection is of no more use: ends its session, its attempt or only itself. */
__attribute__((format(printf, 2, 3))) void link_conn_fail(struct conn *c, const char *fmt, ...);
/* A timer's: the connection has not done in time what it was to do. */
void link_deadline_passed(void *ctx, uint64_t now);
void link_update_events(struct conn *c);
/* The end of the loop's turn is to look at the session. */
void link_turn_soon(struct link *link);
/* Bytes have come, or have been taken: the rest of a message is due, or nothing is. */
void link_expect_rest(struct conn *c);
/* There may be room, messages to hand out, and more to read. */
void link_go_on(struct conn *c);
/* A message for the user. */
void link_deliver(struct conn *c, const struct link_header *h, const uint8_t *payload);
/* Writes, from the loop only: fails the connection by itself. */
void link_write_now(struct conn *c);
void link_read_now(struct conn *c);
/* The session is there, on both connections. */
void link_go_up(struct link *link, const struct link_hello *peer_hello);
/* A source's: the connection's socket has something to say. */
void link_conn_ready(void *ctx, uint32_t events);

/* ---- stripes.c ---- */

/* The event of the threads; for a link with streams. 0 or a negative errno. */
int link_stripes_init(struct link *link);
/* Waits for the threads. After link_stripes_stop(). */
void link_stripes_fini(struct link *link);
/* The connections that are set up leave the loop. 0; a negative errno: some may have, stop it. */
int link_stripes_start(struct link *link);
void link_stripes_stop(struct link *link);
/* Of the session: 0 without streams. */
unsigned link_stripes_count(const struct link *link);
size_t link_stripes_queued(const struct link *link);
uint64_t link_stripes_rate(const struct link *link);
/* A message and its marker; the caller keeps the limit. 0; -ENOMEM: nothing is queued. */
int link_stripes_send(struct link *link, uint8_t type, uint32_t epoch, const struct iovec *iov,
                      int iovcnt, uint32_t len);
/* A marker has come: the connection waits. */
void link_stripes_marker(struct conn *c, const struct link_header *h, const uint8_t *payload);
/* Hands out the message that it waits for. False: not now. */
bool link_stripes_take(struct conn *c);
/* All was handed out that could be: sets the deadline of what is waited for, and the events. */
void link_stripes_settle(struct conn *c);
/* That deadline has passed. */
void link_stripes_late(struct conn *c);

/* ---- setup.c ---- */

/* Timers': the primary's next attempt, the secondary's next look at its socket. */
void link_attempt(void *ctx, uint64_t now);
void link_listen_again(void *ctx, uint64_t now);
int link_resolve(const struct link *link, bool passive, struct addrinfo **ret);
int link_start_listen(struct link *link);
/* What comes of TCP's connect, of the TLS handshake, and the messages of a setup. */
void link_connected(struct conn *c);
void link_do_handshake(struct conn *c);
void link_on_hello(struct conn *c, const struct link_header *h, const uint8_t *payload);
void link_on_reply(struct conn *c, const struct link_header *h, const uint8_t *payload);
void link_on_proof(struct conn *c, const struct link_header *h, const uint8_t *payload);
void link_conn_done(struct conn *c, bool tell_peer);

#endif
