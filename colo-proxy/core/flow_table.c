/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/flow_table.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define MIN_BUCKETS 256u
#define MAX_BUCKETS (1u << 20)

static struct flow_entry **bucket_of(const struct flow_table *table, const struct flow_key *key)
{
	uint64_t hash = XXH3_64bits_withSecret(key, flow_key_len(key), table->secret->secret,
	                                       sizeof(table->secret->secret));

	return &table->buckets[(uint32_t)hash & table->bucket_mask];
}

static void unlink_use(struct flow_table *table, struct flow_entry *entry)
{
	*(entry->older ? &entry->older->newer : &table->oldest) = entry->newer;
	*(entry->newer ? &entry->newer->older : &table->newest) = entry->older;
	entry->older = entry->newer = NULL;
}

static void push_newest(struct flow_table *table, struct flow_entry *entry)
{
	entry->older = table->newest;
	*(table->newest ? &table->newest->newer : &table->oldest) = entry;
	table->newest = entry;
}

static bool evict_one(struct flow_table *table)
{
	struct flow_entry *entry = table->oldest;

	for (uint32_t i = 0; entry && i < FLOW_TABLE_TRIES; i++, entry = entry->newer) {
		if (!table->ops->may_go(entry))
			continue;
		flow_table_remove(table, entry);
		table->evicted++;
		return true;
	}
	return false;
}

int flow_table_init(struct flow_table *table, uint32_t max, const struct packet_digest_key *secret,
                    const struct flow_table_ops *ops, void *ctx)
{
	uint32_t buckets = MIN_BUCKETS;
	struct flow_entry **memory;

	while (buckets < max && buckets < MAX_BUCKETS)
		buckets *= 2;
	memory = calloc(buckets, sizeof(struct flow_entry *));
	if (!memory)
		return -ENOMEM;
	*table = (struct flow_table){
	        .ops = ops,
	        .ctx = ctx,
	        .secret = secret,
	        .buckets = memory,
	        .bucket_mask = buckets - 1,
	        .max = max,
	};
	return 0;
}

void flow_table_fini(struct flow_table *table)
{
	flow_table_clear(table);
	free(table->buckets);
	table->buckets = NULL;
}

struct flow_entry *flow_table_peek(const struct flow_table *table, const struct flow_key *key)
{
	struct flow_entry *entry = *bucket_of(table, key);

	while (entry && !flow_key_equal(&entry->key, key))
		entry = entry->bucket_next;
	return entry;
}

struct flow_entry *flow_table_find(struct flow_table *table, const struct flow_key *key)
{
	struct flow_entry *entry = flow_table_peek(table, key);

	if (entry && entry != table->newest) {
		unlink_use(table, entry);
		push_newest(table, entry);
	}
	return entry;
}

struct flow_entry *flow_table_get(struct flow_table *table, const struct flow_key *key)
{
	struct flow_entry *entry = flow_table_find(table, key);
	struct flow_entry **bucket = bucket_of(table, key);

	if (entry)
		return entry;
	if (table->count >= table->max && !evict_one(table))
		return NULL;
	entry = calloc(1, table->ops->size);
	if (!entry)
		return NULL;
	entry->key = *key;
	entry->bucket_next = *bucket;
	*bucket = entry;
	push_newest(table, entry);
	table->count++;
	if (table->count > table->high)
		table->high = table->count;
	if (table->ops->init)
		table->ops->init(entry);
	return entry;
}

void flow_table_remove(struct flow_table *table, struct flow_entry *entry)
{
	struct flow_entry **at = bucket_of(table, &entry->key);

	while (*at != entry)
		at = &(*at)->bucket_next;
	*at = entry->bucket_next;
	unlink_use(table, entry);
	table->count--;
	if (table->ops->fini)
		table->ops->fini(table->ctx, entry);
	free(entry);
}

void flow_table_clear(struct flow_table *table)
{
	while (table->oldest) {
		assert(!table->oldest->older);
		flow_table_remove(table, table->oldest);
	}
}
