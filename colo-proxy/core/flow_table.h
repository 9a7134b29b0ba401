/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_FLOW_TABLE_H
#define COLO_CORE_FLOW_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "colo-proxy/core/packet.h"

/*
 * A bounded hash table of flows in the order of their last use, for the gate and the shadow.
 *
 * The hash is keyed with the secret, so that nobody outside can choose flows that share a bucket.
 * The user's struct starts with a struct flow_entry; the table allocates and frees it. A full table
 * gives up the flow that was unused for longest among those that the user lets go; it looks at the
 * FLOW_TABLE_TRIES oldest only, so that making a flow takes bounded time.
 */

#define FLOW_TABLE_TRIES 16u

struct flow_entry {
	struct flow_entry *bucket_next;
	struct flow_entry *older, *newer; /* by last use */
	struct flow_key key;
};

struct flow_table_ops {
	size_t size;                            /* of the user's struct */
	void (*init)(struct flow_entry *entry); /* all but the entry is zero; NULL: that will do */
	/* Frees what the entry owns, and forgets it; the memory is the table's. NULL: nothing. */
	void (*fini)(void *ctx, struct flow_entry *entry);
	bool (*may_go)(const struct flow_entry *entry); /* in favour of a new one */
};

/* The user reads, and does not write, oldest, newest, count, high and evicted. */
struct flow_table {
	const struct flow_table_ops *ops;
	void *ctx;
	const struct packet_digest_key *secret;
	struct flow_entry **buckets;
	struct flow_entry *oldest, *newest;
	uint32_t bucket_mask;
	uint32_t max, count, high;
	uint64_t evicted;
};

/* An empty table for at most `max` flows. Ops and secret must outlive it. 0 or -ENOMEM. */
int flow_table_init(struct flow_table *table, uint32_t max, const struct packet_digest_key *secret,
                    const struct flow_table_ops *ops, void *ctx);

/* Removes every flow and frees the table's memory. A zeroed table is allowed. */
void flow_table_fini(struct flow_table *table);

/* The flow of a key, or NULL; peek leaves the order of use alone. */
struct flow_entry *flow_table_find(struct flow_table *table, const struct flow_key *key);
struct flow_entry *flow_table_peek(const struct flow_table *table, const struct flow_key *key);

/* The flow of a key, made if need be; NULL when none of the oldest may go or memory is out. */
struct flow_entry *flow_table_get(struct flow_table *table, const struct flow_key *key);

/* Removes and frees one flow, or all. */
void flow_table_remove(struct flow_table *table, struct flow_entry *entry);
void flow_table_clear(struct flow_table *table);

#endif
