/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_LINK_LINK_H
#define COLO_LINK_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "colo-proxy/link/codec.h"
#include "colo-proxy/loop/loop.h"

/*
 * The replication link between the two daemons of one VM: a session of two TCP connections, one
 * for each channel, so that a checkpoint never delays a heartbeat. The secondary listens; the
 * primary connects, and connects again when a session ends. docs/link-protocol.md has the wire
 * format.
 *
 * Messages of one channel arrive in order, none twice and none missing, or the session ends. There
 * is no order between the channels. What was queued or in flight when a session ends is lost.
 *
 * One thread, the loop's. With streams (below), large messages of the bulk channel go by more
 * connections, each with a thread of its own inside the link; their order stays (stripe.h).
 */

struct link;

enum link_role {
	LINK_PRIMARY = 1,   /* connects */
	LINK_SECONDARY = 2, /* listens */
};

#define LINK_NAME_MAX 128u  /* bytes of a VM's name */
#define LINK_CAPS_MAX 1024u /* bytes of capabilities */
#define LINK_KEY_MIN  32u   /* bytes of a key */
#define LINK_KEY_MAX  256u

struct link_key {
	uint8_t bytes[LINK_KEY_MAX];
	size_t len;
};

/*
 * Reads a key file: hexadecimal digits, white space between them is skipped; at least LINK_KEY_MIN
 * bytes; a regular file that others can neither read nor write. 0 or a negative errno with words.
 */
int link_key_read(const char *path, struct link_key *ret_key, char *err, size_t errlen);
/* Makes the bytes unreadable. */
void link_key_wipe(struct link_key *key);

struct link_params {
	enum link_role role;
	const char *vm_name;        /* must be the same on both sides; 1 to LINK_NAME_MAX bytes */
	const char *address;        /* numeric, IPv4 or IPv6: where to connect to or to listen on */
	uint16_t port;              /* 0 (secondary): any, see link_port() */
	const struct link_key *key; /* proves who the peer is, with and without encryption */
	bool encrypt;               /* TLS 1.3; false: authenticated at the start, then in clear */
	const void *caps;           /* what to tell the peer in its up() */
	size_t caps_len;            /* at most LINK_CAPS_MAX */
	/*
	 * 2 to LINK_STREAMS_MAX: so many more connections for large messages of the bulk channel,
	 * with a thread each, or as many as the peer can have, if that is less; 0, 1: none.
	 */
	unsigned int streams;
	/* 0 stands for the default of what follows. */
	size_t queue_limit[LINK_CHANNELS]; /* bytes; 4 MiB; at least two largest frames */
	uint32_t setup_ms;                 /* from connect or accept to the session: 5000 */
	uint32_t backoff_min_ms;           /* first pause between attempts: 100 */
	uint32_t backoff_max_ms;           /* longest; the pause doubles: 400 */
	uint32_t user_timeout_ms;          /* TCP_USER_TIMEOUT (RFC 5482): 10000 */
};

struct link_peer {
	uint64_t session; /* id, chosen anew by the primary for each session; never 0 */
	char address[64]; /* numeric, with the port of the fast connection */
	const uint8_t *caps;
	size_t caps_len;
};

/*
 * Called from the loop only, never from inside link_send() or link_flush(). link_send(),
 * link_flush(), link_pause(), link_drop() and link_close() may be called in them; link_free() not.
 */
struct link_ops {
	/* A session is up on both sides, both channels. What peer points to lasts for this call. */
	void (*up)(void *ctx, const struct link_peer *peer);
	/* The session that was up is over, and why. Once for each up(). */
	void (*down)(void *ctx, const char *reason);
	/* A message; type >= LINK_TYPE_USER; the payload is valid during the call, any alignment.
	 */
	void (*message)(void *ctx, enum link_channel channel, uint8_t type, uint32_t epoch,
	                const uint8_t *payload, size_t len);
	/* After a link_send() said -EAGAIN: the queue has drained to half its limit. */
	void (*room)(void *ctx, enum link_channel channel);
	/*
	 * An attempt to set up a session failed: who, and why. On the secondary also what strangers
	 * send to the port; the caller limits its logging. The primary reports a reason again only
	 * when it has changed.
	 */
	void (*refused)(void *ctx, const char *text);
};

/*
 * Listens, or starts to connect with the loop's next turn. What params points to is copied. ops
 * must last as long as the link. 0, or a negative errno with words in err.
 */
int link_new(struct link **ret_link, struct loop *loop, const struct link_params *params,
             const struct link_ops *ops, void *ctx, char *err, size_t errlen);
/* Ends without a word to the peer and without down(). NULL is allowed. */
void link_free(struct link *link);

/*
 * Queues one message; it is written at the end of the loop's turn, or when enough has gathered.
 * 0; -EAGAIN when the channel's queue is full (nothing is queued, room() will tell); -ENOTCONN
 * when there is no session; -EMSGSIZE above link_max_payload(); -EINVAL for a type or channel that
 * is not the user's.
 */
int link_send(struct link *link, enum link_channel channel, uint8_t type, uint32_t epoch,
              const struct iovec *iov, int iovcnt);
/* Writes now what the sockets take. */
void link_flush(struct link *link);
/* Bytes queued here and not yet taken by the socket, headers included. */
size_t link_queued(const struct link *link, enum link_channel channel);

/* What a channel has carried lately, bytes per second; 0: not known (transport_rate()). */
uint64_t link_rate(const struct link *link, enum link_channel channel);

/*
 * Stops (or goes on) handing out messages of a channel; the sender's queue fills up then. The
 * sender's TCP_USER_TIMEOUT runs while nothing is read, so pauses must be short against it. A new
 * session starts with nothing paused.
 */
void link_pause(struct link *link, enum link_channel channel, bool pause);

/* Ends the session, if there is one, with down() before it returns; another may follow. */
void link_drop(struct link *link, const char *reason);
/* Ends the session likewise, and neither listens nor connects any more. */
void link_close(struct link *link, const char *reason);

bool link_is_up(const struct link *link);
/* Connections that large messages of the bulk channel take: 1, the channel's own, or the session's
 * streams. 0: no session. */
unsigned int link_streams(const struct link *link);
/* Where the secondary listens. */
uint16_t link_port(const struct link *link);

struct link_counters {
	uint64_t sent_messages, sent_bytes;         /* accepted by link_send(); bytes of payload */
	uint64_t received_messages, received_bytes; /* given to message() */
};

/* Since link_new(). */
void link_counters(const struct link *link, enum link_channel channel, struct link_counters *ret);

#endif
