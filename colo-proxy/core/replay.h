/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_REPLAY_H
#define COLO_CORE_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/frame.h"
#include "colo-proxy/core/packet.h"

/*
 * Output that is said again by whoever takes over, because nothing else would: see replay.c. The
 * primary's half says what crosses the link along with a checkpoint, the secondary's keeps it until
 * it has left the primary.
 *
 * No I/O, no clock. Times are ns of any clock that does not leap.
 */

struct replay_count {
	uint64_t packets, bytes; /* bytes of frames */
};

/* What a frame counts for a limit: its bytes, from the Ethernet header on, and what says so much on
 * the link. */
#define REPLAY_FRAME_COST 16u

static inline uint64_t replay_cost(const struct frame *frame)
{
	return frame->len + (frame->linked ? FRAME_LINK : 0) + REPLAY_FRAME_COST;
}

/* Whether the packet is lost for good when this host dies: TCP is sent again by the stack of the
 * VM that goes on, whole or in fragments. */
bool replay_wants(const struct packet *packet);

/* ---- the primary's half ---- */

struct replay_out {
	uint64_t limit;     /* for what the secondary keeps, in replay_cost(); 0: nothing is sent */
	uint32_t epoch;     /* of the newest checkpoint that was cut */
	uint32_t released;  /* what waited for the commits up to this one has left */
	bool gathered;      /* of the checkpoint: all that it needs was added */
	uint64_t of_newest; /* what the secondary keeps of this checkpoint, */
	uint64_t of_older;  /* ... and of those before that have not left */
	struct frame *first; /* copies that wait for the link, oldest first */
	struct frame *last;
	struct replay_count sent; /* or about to be; since the daemon began, like the next */
	struct replay_count left_out;
};

/* Protection begins with epoch 0, or has ended: nothing is kept for anybody. Counters go on. */
void replay_out_begin(struct replay_out *out, uint64_t limit);

/* C(epoch) was cut. What waits for the link of the one before never left: that was given up. */
void replay_out_cut(struct replay_out *out, uint32_t epoch);

/* Adds a copy of a frame that C(epoch) is to say again. -ENOSPC above the limit, -EINVAL when no
 * other host can say it (FRAME_AT_IP and not linked), -ENOMEM: it is left out, and counted. */
int replay_out_add(struct replay_out *out, const struct frame *frame);

/* The link has taken the first of those that wait. */
void replay_out_sent(struct replay_out *out);

/* All that waited for C(epoch) and those before has left this host. True: the secondary keeps some
 * of it, and is to hear that. */
bool replay_out_released(struct replay_out *out, uint32_t epoch);

/* ---- the secondary's half ---- */

struct replay_kept;

struct replay_in {
	uint64_t limit;     /* of what is kept, in replay_cost() */
	uint64_t bytes;     /* that are kept, likewise */
	uint64_t high;      /* the most that they were */
	uint32_t epoch;     /* of the checkpoint that arrives, or has arrived last */
	uint32_t committed; /* the newest that is whole */
	struct replay_kept *first, *last;
	struct replay_kept *whole_last; /* up to here the checkpoints are whole; NULL: none is */
	struct replay_count kept;       /* since the daemon began, like the next */
	struct replay_count not_kept;   /* there was no room */
	struct replay_count replayed;
	struct replay_count too_old;
};

/* Empties it, a new copy of the VM begins or this one is over. Counters go on. */
void replay_in_begin(struct replay_in *in, uint64_t limit);

/* C(epoch) begins to arrive. What came of one that did not become whole is forgotten. */
void replay_in_ckpt(struct replay_in *in, uint32_t epoch);

/* Takes a frame of the checkpoint that arrives. 0; -ENOSPC or -ENOMEM: it is freed, and counted. */
int replay_in_add(struct replay_in *in, struct frame *frame, uint64_t now);

/* The checkpoint that arrives is whole. */
void replay_in_commit(struct replay_in *in);

/* What waited for C(epoch) and those before has left. 0, or -EPROTO: that one is not whole. */
int replay_in_released(struct replay_in *in, uint32_t epoch);

/*
 * At a takeover: the next frame to say, oldest first, of whole checkpoints only; the caller's.
 * NULL: there is no more. What has waited for longer than REPLAY_MAX_AGE_NS is left out, and
 * counted.
 */
#define REPLAY_MAX_AGE_NS 120000000000ull
struct frame *replay_in_take(struct replay_in *in, uint64_t now);

#endif
