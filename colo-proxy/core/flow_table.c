/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Goal: a flow is found with one cache miss for its slot and one for itself, however many there
 * are; what is forgotten, and when, costs no scan and no more than a constant at a time; and a
 * flood of new flows pushes out other new flows, not those that are in use.
 *
 * Memory: entries lie in one array, which the kernel backs with pages (huge ones if it may) as they
 * are used; numbers from 1 on stand for pointers. Slots are an open-addressed hash table with
 * linear probing, at most two thirds full, of a 32-bit tag and a number: only the entry
 * with the right tag is looked at. Removal shifts back what follows, so that there are no
 * tombstones. An entry begins with a line of the processor's cache, and its user says which of its
 * lines a packet needs: each one that is not there already costs as much as a hundred instructions.
 *
 * Order: each state has a queue. A flow enters it at its end when it comes into the state. Using
 * it writes a stamp and moves nothing: at one million flows the neighbours in a list by last use
 * would be two more cache misses for each packet. Instead the flow at the front, when it is its
 * turn and it has been used, goes to the end. So a queue is sorted by `queued`, an idle flow is
 * found between one and two times its limit, and nothing behind a front that entered too late to
 * be due needs to be looked at.
 *
 * A stamp is a time in units of 2^20 ns (1.05 ms), modulo 2^32; differences are right up to 26
 * days, and the longest limit is five.
 */
#include "colo-proxy/core/flow_table.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* Short keys: the call would cost as much as the hash. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#define MIN_SLOTS   256u
#define NEAR_BYTES  (512u << 10) /* what a processor's own cache surely holds */
#define HUGE_PAGE   (2u << 20)
#define STAMP_SHIFT 20
#define LOOKS       8u /* at a queue, for each flow that is made */
#define SECOND      1000000000ull

/* RFC 5382 section 5: at least two hours and four minutes for open connections, four minutes for
 * those that open or close; Linux (conntrack) keeps open ones for five days. A server sends its
 * last SYN-ACK 31 s after the first and forgets the connection 32 s later (Linux). */
static const uint64_t idle_limits[FLOW_STATE_COUNT] = {
        [FLOW_CLOSED] = 60 * SECOND,     [FLOW_OPENING] = 64 * SECOND,
        [FLOW_DATAGRAM] = 120 * SECOND,  [FLOW_CLOSING] = 240 * SECOND,
        [FLOW_OPENED] = 432000 * SECOND,
};

uint64_t flow_state_idle_ns(enum flow_state state)
{
	return idle_limits[state];
}

static uint32_t stamp_of(uint64_t ns)
{
	return (uint32_t)(ns >> STAMP_SHIFT);
}

/* More time than `state` allows has gone by since `then`. */
static bool is_due(uint32_t now, uint32_t then, enum flow_state state)
{
	return (int32_t)(now - then) > (int32_t)stamp_of(idle_limits[state]);
}

static struct flow_entry *entry_at(const struct flow_table *table, uint32_t number)
{
	return (struct flow_entry *)(table->entries + (size_t)(number - 1) * table->stride);
}

static uint32_t number_of(const struct flow_table *table, const struct flow_entry *entry)
{
	return (uint32_t)((size_t)((const uint8_t *)entry - table->entries) / table->stride) + 1;
}

/* ---- queues ---- */

static void enqueue(struct flow_table *table, uint32_t number, uint32_t stamp)
{
	struct flow_entry *entry = entry_at(table, number);
	struct flow_queue *queue = &table->queue[entry->state];

	entry->queued = stamp;
	entry->newer = 0;
	entry->older = queue->newest;
	*(queue->newest ? &entry_at(table, queue->newest)->newer : &queue->oldest) = number;
	queue->newest = number;
}

static void dequeue(struct flow_table *table, const struct flow_entry *entry)
{
	struct flow_queue *queue = &table->queue[entry->state];

	*(entry->older ? &entry_at(table, entry->older)->newer : &queue->oldest) = entry->newer;
	*(entry->newer ? &entry_at(table, entry->newer)->older : &queue->newest) = entry->older;
}

static void requeue(struct flow_table *table, uint32_t number, uint32_t stamp)
{
	dequeue(table, entry_at(table, number));
	enqueue(table, number, stamp);
}

/* ---- slots ---- */

static uint32_t hash_of(const struct flow_table *table, const struct flow_key *key)
{
	return (uint32_t)XXH3_64bits_withSecret(key, flow_key_len(key), table->secret->secret,
	                                        sizeof(table->secret->secret));
}

/* Asks for the lines of an entry at once, which would otherwise be missed one after the other. */
static void prefetch_entry(const struct flow_table *table, const struct flow_entry *entry)
{
	const uint8_t *at = (const uint8_t *)entry;

	for (uint32_t lines = table->lines; lines; lines >>= 1, at += FLOW_LINE) {
		if (lines & 1)
			__builtin_prefetch(at, 1);
	}
}

bool flow_ahead_pays(const struct flow_table *table)
{
	return (uint64_t)table->count * table->stride > NEAR_BYTES;
}

void flow_ahead_add(const struct flow_table *table, struct flow_ahead *ahead,
                    const struct flow_key *key)
{
	uint32_t hash;

	if (ahead->count == FLOW_AHEAD_MAX || (ahead->count && flow_key_equal(&ahead->last, key)))
		return;
	ahead->last = *key;
	hash = hash_of(table, key);
	__builtin_prefetch(&table->slots[hash & table->slot_mask]);
	ahead->hash[ahead->count++] = hash;
}

/*
 * Reads from each line of the entry that a packet needs. Nobody waits for the bytes, so that many
 * such reads are on their way at once, as with prefetches; but those may be dropped when the page's
 * translation has to be looked for, too (with a million flows on an AMD EPYC under KVM, 55 of the
 * 235 ns that the shadow takes for a packet).
 */
static void read_ahead(const struct flow_table *table, const struct flow_entry *entry)
{
	const volatile uint8_t *at = (const uint8_t *)entry;

	for (uint32_t lines = table->lines; lines; lines >>= 1, at += FLOW_LINE) {
		if (lines & 1)
			(void)*at;
	}
}

void flow_ahead_go(struct flow_table *table, struct flow_ahead *ahead)
{
	table->expected_count = table->expected_at = 0;
	for (uint32_t k = 0; k < ahead->count; k++) {
		uint32_t hash = ahead->hash[k], i = hash & table->slot_mask;
		struct flow_entry *entry;

		while (table->slots[i].entry && table->slots[i].tag != hash)
			i = (i + 1) & table->slot_mask;
		if (!table->slots[i].entry)
			continue;
		entry = entry_at(table, table->slots[i].entry);
		__builtin_prefetch(entry);
		table->expected[table->expected_count++] = entry;
	}
	ahead->count = 0;
	/* By themselves: where a slot is waited for, nothing behind it is asked for either. */
	for (uint32_t k = 0; k < table->expected_count; k++)
		read_ahead(table, table->expected[k]);
}

void flow_ahead_frames(struct flow_table *table, const struct frame *list,
                       enum packet_direction direction)
{
	struct flow_ahead ahead = {0};

	if (!flow_ahead_pays(table))
		return;
	for (const struct frame *frame = list; frame && ahead.count < FLOW_AHEAD_MAX;
	     frame = frame->next) {
		struct flow_key key;

		if (packet_flow_guess(frame, direction, &key) == 0)
			flow_ahead_add(table, &ahead, &key);
	}
	flow_ahead_go(table, &ahead);
}

static struct flow_entry *find(const struct flow_table *table, const struct flow_key *key,
                               uint32_t hash)
{
	for (uint32_t i = hash & table->slot_mask; table->slots[i].entry;
	     i = (i + 1) & table->slot_mask) {
		struct flow_entry *entry;

		if (table->slots[i].tag != hash)
			continue;
		entry = entry_at(table, table->slots[i].entry);
		prefetch_entry(table, entry);
		if (flow_key_equal(&entry->key, key))
			return entry;
	}
	return NULL;
}

/* The last one found of those that were looked ahead for, or one of the two behind it, if its key
 * is this one: neither hash nor slot is needed. By now it may be out of use, or another flow's. */
static struct flow_entry *find_expected(struct flow_table *table, const struct flow_key *key)
{
	uint32_t at = table->expected_at;

	for (uint32_t i = at; i < table->expected_count && i < at + 3; i++) {
		struct flow_entry *entry = table->expected[i];

		if (entry->state != FLOW_UNUSED && flow_key_equal(&entry->key, key)) {
			table->expected_at = i;
			return entry;
		}
	}
	return NULL;
}

static void take_slot(struct flow_table *table, uint32_t hash, uint32_t number)
{
	uint32_t i = hash & table->slot_mask;

	while (table->slots[i].entry)
		i = (i + 1) & table->slot_mask;
	table->slots[i] = (struct flow_slot){hash, number};
}

/* Frees the slot, and moves what would not be found any more into the gap. */
static void free_slot(struct flow_table *table, uint32_t hash, uint32_t number)
{
	uint32_t mask = table->slot_mask, gap = hash & mask;

	while (table->slots[gap].entry != number)
		gap = (gap + 1) & mask;
	for (uint32_t i = (gap + 1) & mask; table->slots[i].entry; i = (i + 1) & mask) {
		uint32_t home = table->slots[i].tag & mask;

		if (((i - home) & mask) < ((i - gap) & mask))
			continue; /* its home is behind the gap */
		table->slots[gap] = table->slots[i];
		gap = i;
	}
	table->slots[gap] = (struct flow_slot){0};
}

/* ---- making room ---- */

/* Datagrams have no state: what was used since it was looked at last stays. A connection that
 * talks is not given up for one that may be no more than a SYN. */
static bool is_spare(const struct flow_entry *entry, uint32_t stamp)
{
	if (entry->state == FLOW_DATAGRAM)
		return (int32_t)(entry->used - entry->queued) <= 0;
	return entry->state < FLOW_DATAGRAM || stamp - entry->used > stamp_of(FLOW_TABLE_SPARE_NS);
}

static bool evict_from(struct flow_table *table, enum flow_state state, uint32_t stamp)
{
	for (uint32_t i = 0; i < FLOW_TABLE_TRIES && table->queue[state].oldest; i++) {
		uint32_t number = table->queue[state].oldest;
		struct flow_entry *entry = entry_at(table, number);

		if (is_spare(entry, stamp) && table->ops->may_go(entry, FLOW_GOES_EVICTED)) {
			flow_table_remove(table, entry);
			table->evicted++;
			return true;
		}
		requeue(table, number, stamp);
	}
	return false;
}

static bool evict_one(struct flow_table *table, uint32_t stamp)
{
	for (enum flow_state state = FLOW_CLOSED; state < FLOW_STATE_COUNT; state++) {
		if (evict_from(table, state, stamp))
			return true;
	}
	return false;
}

void flow_table_expire(struct flow_table *table, uint64_t now)
{
	enum flow_state state = table->look;
	struct flow_queue *queue = &table->queue[state];
	uint32_t stamp = stamp_of(now);

	table->look = state + 1 < FLOW_STATE_COUNT ? state + 1 : FLOW_CLOSED;
	for (uint32_t i = 0; i < LOOKS && queue->oldest; i++) {
		uint32_t number = queue->oldest;
		struct flow_entry *entry = entry_at(table, number);

		if (!is_due(stamp, entry->queued, state))
			return;
		if (is_due(stamp, entry->used, state) &&
		    table->ops->may_go(entry, FLOW_GOES_IDLE)) {
			flow_table_remove(table, entry);
			table->expired++;
		} else {
			requeue(table, number, stamp);
		}
	}
}

/* ---- the table ---- */

/* One region, entries in front of slots, that begins where a huge page may. */
static int get_memory(struct flow_table *table)
{
	size_t entries = (size_t)table->max * table->stride;
	size_t len = entries + ((size_t)table->slot_mask + 1) * sizeof(struct flow_slot);
	size_t align = len < HUGE_PAGE ? 0 : HUGE_PAGE;
	uint8_t *memory = mmap(NULL, len + align, PROT_READ | PROT_WRITE,
	                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return -ENOMEM;
	table->memory = memory;
	table->memory_len = len + align;
	if (align) {
		memory += (align - (uintptr_t)memory % align) % align;
		(void)madvise(memory, len, MADV_HUGEPAGE); /* a kernel without them will do */
	}
	table->entries = memory;
	table->slots = (struct flow_slot *)(memory + entries);
	return 0;
}

int flow_table_init(struct flow_table *table, uint32_t max, const struct packet_digest_key *secret,
                    const struct flow_table_ops *ops, void *ctx)
{
	struct flow_table made = {
	        .ops = ops,
	        .ctx = ctx,
	        .secret = secret,
	        .stride = (uint32_t)(ops->size + FLOW_LINE - 1) / FLOW_LINE * FLOW_LINE,
	        .lines = ops->lines,
	        .look = FLOW_CLOSED,
	        .max = max,
	};
	uint64_t slots = MIN_SLOTS;
	int r;

	while (slots < max + (uint64_t)max / 2)
		slots *= 2;
	made.slot_mask = (uint32_t)(slots - 1);
	r = get_memory(&made);
	if (r == 0)
		*table = made;
	return r;
}

void flow_table_fini(struct flow_table *table)
{
	if (!table->slots)
		return;
	flow_table_clear(table);
	munmap(table->memory, table->memory_len);
	table->slots = NULL;
}

struct flow_entry *flow_table_peek(const struct flow_table *table, const struct flow_key *key)
{
	return find(table, key, hash_of(table, key));
}

struct flow_entry *flow_table_find(struct flow_table *table, const struct flow_key *key,
                                   uint64_t now)
{
	struct flow_entry *entry = find_expected(table, key);

	if (!entry)
		entry = flow_table_peek(table, key);
	if (entry)
		entry->used = stamp_of(now);
	return entry;
}

/* The number of an entry that is in no use. */
static uint32_t take_number(struct flow_table *table)
{
	uint32_t number = table->unused;

	if (!number)
		return ++table->made;
	table->unused = entry_at(table, number)->newer;
	return number;
}

static struct flow_entry *make(struct flow_table *table, const struct flow_key *key, uint32_t hash,
                               uint64_t now)
{
	uint32_t stamp = stamp_of(now), number;
	struct flow_entry *entry;

	flow_table_expire(table, now);
	if (table->count >= table->max && !evict_one(table, stamp))
		return NULL;
	number = take_number(table);
	entry = entry_at(table, number);
	memset(entry, 0, table->ops->size);
	entry->key = *key;
	entry->used = stamp;
	entry->state = key->kind == FLOW_TCP ? FLOW_OPENING : FLOW_DATAGRAM;
	take_slot(table, hash, number);
	enqueue(table, number, stamp);
	table->count++;
	if (table->count > table->high)
		table->high = table->count;
	if (table->ops->init)
		table->ops->init(entry);
	return entry;
}

static struct flow_entry *find_or_make(struct flow_table *table, const struct flow_key *key,
                                       uint64_t now)
{
	uint32_t hash = hash_of(table, key);
	struct flow_entry *entry = find(table, key, hash);

	if (!entry)
		return make(table, key, hash, now);
	entry->used = stamp_of(now);
	return entry;
}

struct flow_entry *flow_table_get(struct flow_table *table, const struct flow_key *key,
                                  uint64_t now)
{
	struct flow_entry *entry = find_expected(table, key);

	if (!entry)
		return find_or_make(table, key, now);
	entry->used = stamp_of(now);
	return entry;
}

void flow_table_set_state(struct flow_table *table, struct flow_entry *entry, enum flow_state state,
                          uint64_t now)
{
	if (entry->state == state)
		return;
	dequeue(table, entry);
	entry->state = state;
	entry->used = stamp_of(now);
	enqueue(table, number_of(table, entry), entry->used);
}

uint64_t flow_table_idle_ns(const struct flow_entry *entry, uint64_t now)
{
	return (uint64_t)(stamp_of(now) - entry->used) << STAMP_SHIFT;
}

void flow_table_use(struct flow_entry *entry, uint64_t now)
{
	entry->used = stamp_of(now);
}

struct flow_entry *flow_table_from(const struct flow_table *table, uint32_t number)
{
	for (number = number ? number : 1; number <= table->made; number++) {
		if (entry_at(table, number)->state != FLOW_UNUSED)
			return entry_at(table, number);
	}
	return NULL;
}

uint32_t flow_table_number(const struct flow_table *table, const struct flow_entry *entry)
{
	return entry ? number_of(table, entry) : 0;
}

struct flow_entry *flow_table_next(const struct flow_table *table, const struct flow_entry *entry)
{
	return flow_table_from(table, flow_table_number(table, entry) + 1);
}

void flow_table_remove(struct flow_table *table, struct flow_entry *entry)
{
	uint32_t number = number_of(table, entry);

	assert(entry->state != FLOW_UNUSED);
	free_slot(table, hash_of(table, &entry->key), number);
	dequeue(table, entry);
	table->count--;
	if (table->ops->fini)
		table->ops->fini(table->ctx, entry);
	entry->state = FLOW_UNUSED;
	entry->newer = table->unused;
	table->unused = number;
}

void flow_table_clear(struct flow_table *table)
{
	if (!table->count)
		return;
	if (table->ops->fini_all) {
		table->ops->fini_all(table->ctx);
	} else if (table->ops->fini) {
		for (struct flow_entry *entry = flow_table_next(table, NULL); entry;
		     entry = flow_table_next(table, entry))
			table->ops->fini(table->ctx, entry);
	}
	memset(table->slots, 0, ((size_t)table->slot_mask + 1) * sizeof(struct flow_slot));
	memset(table->queue, 0, sizeof(table->queue));
	table->count = table->made = table->unused = table->expected_count = 0;
}
