/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_FLOW_TABLE_H
#define COLO_CORE_FLOW_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/packet.h"

/*
 * A bounded table of flows for the gate and the shadow: flow_table.c says how. The hash is keyed
 * with the secret, so that nobody outside can choose flows that collide. The user's struct starts
 * with a struct flow_entry; the table owns its memory. Times are nanoseconds and never go back.
 */

/* How many flows of a state are looked at for one that can go, and how long a TCP connection must
 * have been silent for that, unless it has ended or only begins. */
#define FLOW_TABLE_TRIES    8u
#define FLOW_TABLE_SPARE_NS 10000000000ull

/*
 * What a flow is at, as its user sees it. In this order they go when the table is full; within a
 * state, about in the order of last use. flow_state_idle_ns() says after how long without use a
 * flow is forgotten (at the earliest; at the latest after twice that).
 */
enum flow_state {
	FLOW_UNUSED,   /* no flow */
	FLOW_CLOSED,   /* reset, or closed from both sides */
	FLOW_OPENING,  /* no more than a SYN or a SYN-ACK, or only the client has been heard */
	FLOW_DATAGRAM, /* not TCP */
	FLOW_CLOSING,  /* the VM has sent its FIN */
	FLOW_OPENED,   /* the VM has sent a segment that is no SYN */
	FLOW_STATE_COUNT,
};

enum flow_going {
	FLOW_GOES_IDLE,    /* nothing was heard of it for long enough */
	FLOW_GOES_EVICTED, /* in favour of a new one */
};

struct flow_entry {
	uint32_t older,
	        newer;   /* in the queue of its state, by number; newer: of unused ones, too */
	uint32_t used;   /* stamp of the last use */
	uint32_t queued; /* stamp of its entry into the queue */
	uint8_t state;   /* enum flow_state */
	struct flow_key key;
};

struct flow_table_ops {
	size_t size;                            /* of the user's struct */
	uint32_t lines;                         /* with which the table's begin */
	void (*init)(struct flow_entry *entry); /* all but the entry is zero; NULL: that will do */
	/* Frees what the entry owns, and forgets it; the memory is the table's. NULL: nothing. */
	void (*fini)(void *ctx, struct flow_entry *entry);
	/* Instead of fini() for each when all go at once; NULL: fini() for each. */
	void (*fini_all)(void *ctx);
	bool (*may_go)(const struct flow_entry *entry, enum flow_going why);
};

#define FLOW_LINE      64u /* bytes that come into the processor's cache at once */
#define FLOW_AHEAD_MAX 64u /* of a batch; more are not looked ahead for */

struct flow_ahead {
	uint32_t count;
	struct flow_key last;
	uint32_t hash[FLOW_AHEAD_MAX];
};

struct flow_slot {
	uint32_t tag;   /* of the key's hash */
	uint32_t entry; /* number, 0: free */
};

struct flow_queue {
	uint32_t oldest, newest;
};

/* The user reads, and does not write, max, count, high, evicted and expired; and writes `lines`:
 * bit i is set when a packet needs the line i of its entry, which begins with one. */
struct flow_table {
	const struct flow_table_ops *ops;
	void *ctx;
	const struct packet_digest_key *secret;
	struct flow_slot *slots;
	uint8_t *memory, *entries; /* number 1 first */
	size_t memory_len;
	uint32_t stride, slot_mask, lines;
	uint32_t made;   /* numbers up to this one have been in use */
	uint32_t unused; /* the first of those that are not any more */
	uint32_t look;   /* state whose queue is looked at next */
	struct flow_queue queue[FLOW_STATE_COUNT];
	struct flow_entry *expected[FLOW_AHEAD_MAX]; /* that were looked ahead for, in order */
	uint32_t expected_count, expected_at;        /* at: which of them was found last */
	uint32_t max, count, high;
	uint64_t evicted, expired;
};

/* An empty table for at most `max` flows. Ops and secret must outlive it. 0 or -ENOMEM. */
int flow_table_init(struct flow_table *table, uint32_t max, const struct packet_digest_key *secret,
                    const struct flow_table_ops *ops, void *ctx);

/* Removes every flow and frees the table's memory. A zeroed table is allowed. */
void flow_table_fini(struct flow_table *table);

/*
 * Looking ahead. Where the table is larger than the processor's cache, a look-up waits for memory
 * twice, for the slot and then for the entry. With the keys of some packets in hand, all of them
 * can be waited for at once: add each key, which asks for its slot, then go, which asks for the
 * entries. They are found faster, too, when they are then asked for in this order; some may be left
 * out, and others asked for in between. Changes nothing that is found; wrong or missing keys cost
 * time only.
 */
/* Whether it pays: what is in use is more than a cache holds. */
bool flow_ahead_pays(const struct flow_table *table);
void flow_ahead_add(const struct flow_table *table, struct flow_ahead *ahead,
                    const struct flow_key *key);
/* Begins a new batch, too. */
void flow_ahead_go(struct flow_table *table, struct flow_ahead *ahead);

/* All of that for the flows of these frames, linked by `next`, if it pays. */
void flow_ahead_frames(struct flow_table *table, const struct frame *list,
                       enum packet_direction direction);

/* The flow of a key, or NULL; find notes that it is used now. */
struct flow_entry *flow_table_find(struct flow_table *table, const struct flow_key *key,
                                   uint64_t now);
struct flow_entry *flow_table_peek(const struct flow_table *table, const struct flow_key *key);

/* The flow of a key, made (FLOW_OPENING or FLOW_DATAGRAM) if need be; NULL when it fits none: all
 * that were looked at must stay. */
struct flow_entry *flow_table_get(struct flow_table *table, const struct flow_key *key,
                                  uint64_t now);

/* Puts the flow into a state, and notes that it is used. Costs nothing when it is in it. */
void flow_table_set_state(struct flow_table *table, struct flow_entry *entry, enum flow_state state,
                          uint64_t now);

/* Forgets some of the flows that were idle for longer than their state allows, if there are any.
 * Making a flow does so, too: it is called to give room back while none are made. */
void flow_table_expire(struct flow_table *table, uint64_t now);

/* How long it was not used, to the millisecond. */
uint64_t flow_table_idle_ns(const struct flow_entry *entry, uint64_t now);
uint64_t flow_state_idle_ns(enum flow_state state);

/* Notes that it is used now, as find and get do. */
void flow_table_use(struct flow_entry *entry, uint64_t now);

/* All entries, by number: flow_table_next() is the next one after `entry` (NULL: the first), NULL
 * at the end. An entry may be removed once its next one is known. To go on another time,
 * flow_table_from() is the first one with at least the number; NULL has number 0. */
struct flow_entry *flow_table_next(const struct flow_table *table, const struct flow_entry *entry);
struct flow_entry *flow_table_from(const struct flow_table *table, uint32_t number);
uint32_t flow_table_number(const struct flow_table *table, const struct flow_entry *entry);

/* Removes one flow, or all. */
void flow_table_remove(struct flow_table *table, struct flow_entry *entry);
void flow_table_clear(struct flow_table *table);

#endif
