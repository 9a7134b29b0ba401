/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_RECENT_H
#define COLO_CORE_RECENT_H

#include <stdint.h>

#include "colo-proxy/core/evidence.h"
#include "colo-proxy/core/frame.h"
#include "colo-proxy/core/records.h"

/*
 * What the SVM has said of late, kept on the secondary in case the primary asks for it: a ring of
 * frames, bounded in bytes and in number. Keeping a frame costs no copy and no look at it; only an
 * ask does. Frames go in as the SVM said them, with what makes them the PVM's numbers.
 */

#define RECENT_MAX_FRAMES 4096u

struct recent;

/* Keeps at most max_bytes of frames (what they take in memory). 0 or -ENOMEM. */
int recent_new(struct recent **ret_recent, uint64_t max_bytes);

/* Frees the ring; it must be empty (recent_evict() with all). NULL is allowed. */
void recent_free(struct recent *recent);

/* How the numbers of a TCP segment become the PVM's; zero for others. */
struct recent_map {
	uint32_t seq_delta, ts_delta;
};

/* Takes the frame. The caller takes back, with recent_evict(), what is beyond the limits. */
void recent_keep(struct recent *recent, struct frame *frame, uint32_t lineage,
                 struct recent_map map, uint64_t now);

/* The oldest frame if the ring is beyond its limits, or, with all, if there is one; else NULL. */
struct frame *recent_evict(struct recent *recent, bool all);

/* What the primary asks for. */
enum ask_kind {
	ASK_SAID,   /* the packets that this digest was made of */
	ASK_NEWEST, /* the newest packets of the digest's flow */
	ASK_KIND_COUNT,
};

struct ask {
	uint32_t id;
	uint8_t kind; /* enum ask_kind */
	struct digest digest;
};

/*
 * Copies of the packets that are asked for, of this lineage, oldest first, in the PVM's numbers;
 * at_ns is how long ago they were said. key: as in gate_new(). Fills ret_side, which is the
 * caller's to clear; count is 0 when they are not here (any more).
 */
void recent_find(const struct recent *recent, const struct packet_digest_key *key, uint32_t lineage,
                 const struct ask *ask, uint64_t now, struct evidence_side *ret_side);

/*
 * The answer to a range that is asked for in two: fills in the hashes of cut->whole in front of
 * cut->at and from there on. 0; -ENOENT: the bytes are not here (any more), or cannot be cut there.
 */
int recent_cut(const struct recent *recent, const struct packet_digest_key *key, uint32_t lineage,
               struct digest_cut *cut);

#endif
