/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The flow table against plain lists, over random operations and times; the bound of its search for
 * a victim, and what goes first. FLOW_TABLE_SEED=n replays one run. */
#include "colo-proxy/core/flow_table.h"

#include <glib.h>
#include <string.h>

struct item {
	struct flow_entry entry;
	uint32_t number; /* given by init */
	bool pinned;
};

static uint32_t made;
static GArray *gone; /* the numbers that fini has seen */

static void item_init(struct flow_entry *entry)
{
	struct item *item = (struct item *)entry;

	g_assert_cmpuint(item->number, ==, 0);
	item->number = ++made;
}

static void item_fini(void *ctx, struct flow_entry *entry)
{
	const struct item *item = (const struct item *)entry;

	g_assert_true(ctx == &made);
	g_array_append_val(gone, item->number);
}

static bool item_may_go(const struct flow_entry *entry, enum flow_going why)
{
	return !((const struct item *)entry)->pinned;
}

static const struct flow_table_ops ops = {
        .size = sizeof(struct item),
        .init = item_init,
        .fini = item_fini,
        .may_go = item_may_go,
};

static struct flow_key key_of(uint32_t i)
{
	return (struct flow_key){
	        .vm_ip = 0x0a000001,
	        .peer_ip = 0x0a000100 + i / 7,
	        .vm_port = 80,
	        .peer_port = (uint16_t)(1000 + i % 7),
	        .proto = 6,
	        .kind = FLOW_TCP,
	};
}

/* The model: what the table must hold, by state, the front of each queue first. Times are counted
 * in the table's stamps. */
#define STAMP_NS (1ull << 20)

struct known {
	uint32_t key, number;
	bool pinned;
	uint32_t used, queued;
};

struct model {
	GRand *rand;
	GArray *known[FLOW_STATE_COUNT];
	uint32_t max, keys, count, high, now;
	enum flow_state look;
	uint64_t evicted, expired;
	struct packet_digest_key secret;
	struct flow_table table;
};

static uint64_t model_now(const struct model *m)
{
	return m->now * STAMP_NS;
}

static struct known *at(GArray *queue, guint i)
{
	return &g_array_index(queue, struct known, i);
}

static struct known *model_find(struct model *m, uint32_t key, enum flow_state *ret_state,
                                guint *ret_at)
{
	for (int state = 1; state < FLOW_STATE_COUNT; state++) {
		for (guint i = 0; i < m->known[state]->len; i++) {
			if (at(m->known[state], i)->key != key)
				continue;
			*ret_state = (enum flow_state)state;
			*ret_at = i;
			return at(m->known[state], i);
		}
	}
	return NULL;
}

static void model_requeue(struct model *m, enum flow_state from, guint i, enum flow_state to)
{
	struct known known = *at(m->known[from], i);

	known.queued = m->now;
	g_array_remove_index(m->known[from], i);
	g_array_append_val(m->known[to], known);
}

/* Takes the flow out; the table must have ended it, in this order. */
static void model_gone(struct model *m, enum flow_state state, guint i)
{
	g_assert_cmpuint(gone->len, >, 0);
	g_assert_cmpuint(g_array_index(gone, uint32_t, 0), ==, at(m->known[state], i)->number);
	g_array_remove_index(gone, 0);
	g_array_remove_index(m->known[state], i);
	m->count--;
}

static bool model_evict(struct model *m)
{
	for (int state = 1; state < FLOW_STATE_COUNT; state++) {
		GArray *queue = m->known[state];

		for (guint i = 0; i < FLOW_TABLE_TRIES && queue->len; i++) {
			const struct known *front = at(queue, 0);
			bool stays =
			        state > FLOW_DATAGRAM
			                ? m->now - front->used <= FLOW_TABLE_SPARE_NS / STAMP_NS
			                : state == FLOW_DATAGRAM && front->used > front->queued;

			if (!stays && !at(queue, 0)->pinned) {
				model_gone(m, (enum flow_state)state, 0);
				m->evicted++;
				return true;
			}
			model_requeue(m, (enum flow_state)state, 0, (enum flow_state)state);
		}
	}
	return false;
}

static void model_expire(struct model *m)
{
	enum flow_state state = m->look;
	GArray *queue = m->known[state];
	uint32_t limit = (uint32_t)(flow_state_idle_ns(state) / STAMP_NS);

	m->look = state + 1 < FLOW_STATE_COUNT ? state + 1 : FLOW_CLOSED;
	for (guint i = 0; i < 8 && queue->len && m->now - at(queue, 0)->queued > limit; i++) {
		if (m->now - at(queue, 0)->used > limit && !at(queue, 0)->pinned) {
			model_gone(m, state, 0);
			m->expired++;
		} else {
			model_requeue(m, state, 0, state);
		}
	}
}

static void check_same(struct model *m)
{
	uint32_t count = 0;

	g_assert_cmpuint(gone->len, ==, 0);
	g_assert_cmpuint(m->table.count, ==, m->count);
	g_assert_cmpuint(m->table.high, ==, m->high);
	g_assert_cmpuint(m->table.evicted, ==, m->evicted);
	g_assert_cmpuint(m->table.expired, ==, m->expired);
	for (int state = 1; state < FLOW_STATE_COUNT; state++) {
		uint32_t number = m->table.queue[state].oldest, older = 0;

		for (guint i = 0; i < m->known[state]->len; i++) {
			const struct known *known = at(m->known[state], i);
			const struct flow_entry *entry = flow_table_from(&m->table, number);
			struct flow_key key = key_of(known->key);

			g_assert_cmpuint(number, !=, 0);
			g_assert_cmpuint(flow_table_number(&m->table, entry), ==, number);
			g_assert_cmpuint(((const struct item *)entry)->number, ==, known->number);
			g_assert_cmpmem(&entry->key, sizeof(key), &key, sizeof(key));
			g_assert_cmpuint(entry->state, ==, (unsigned)state);
			g_assert_cmpuint(entry->used, ==, known->used);
			g_assert_cmpuint(entry->older, ==, older);
			g_assert_true(flow_table_peek(&m->table, &key) == entry);
			older = number;
			number = entry->newer;
			count++;
		}
		g_assert_cmpuint(number, ==, 0);
		g_assert_cmpuint(m->table.queue[state].newest, ==, older);
	}
	g_assert_cmpuint(count, ==, m->count);
	for (struct flow_entry *e = flow_table_next(&m->table, NULL); e;
	     e = flow_table_next(&m->table, e))
		count--;
	g_assert_cmpuint(count, ==, 0);
}

static void do_get(struct model *m, uint32_t key)
{
	struct flow_key k = key_of(key);
	enum flow_state state;
	guint where;
	uint32_t before = made;
	struct item *item = (struct item *)flow_table_get(&m->table, &k, model_now(m));
	struct known *known = model_find(m, key, &state, &where), fresh;

	if (known) {
		g_assert_nonnull(item);
		g_assert_cmpuint(item->number, ==, known->number);
		g_assert_cmpuint(made, ==, before);
		known->used = m->now;
		return;
	}
	model_expire(m);
	if (m->count >= m->max && !model_evict(m)) {
		g_assert_null(item);
		return;
	}
	g_assert_nonnull(item);
	g_assert_cmpuint(item->number, ==, before + 1);
	item->pinned = g_rand_int_range(m->rand, 0, 4) == 0;
	fresh = (struct known){key, made, item->pinned, m->now, m->now};
	g_array_append_val(m->known[FLOW_OPENING], fresh);
	m->count++;
	m->high = MAX(m->high, m->count);
}

static void do_look(struct model *m, uint32_t key, bool use)
{
	struct flow_key k = key_of(key);
	enum flow_state state, to;
	guint where;
	struct flow_entry *entry =
	        use ? flow_table_find(&m->table, &k, model_now(m)) : flow_table_peek(&m->table, &k);
	struct known *known = model_find(m, key, &state, &where);

	g_assert_true((entry != NULL) == (known != NULL));
	if (!known)
		return;
	g_assert_cmpuint(((struct item *)entry)->number, ==, known->number);
	known->pinned = ((struct item *)entry)->pinned = g_rand_boolean(m->rand);
	if (!use)
		return;
	known->used = m->now;
	to = (enum flow_state)g_rand_int_range(m->rand, 1, FLOW_STATE_COUNT);
	flow_table_set_state(&m->table, entry, to, model_now(m));
	if (to != state)
		model_requeue(m, state, where, to);
}

static void do_remove(struct model *m, uint32_t key)
{
	struct flow_key k = key_of(key);
	struct flow_entry *entry = flow_table_peek(&m->table, &k);
	enum flow_state state;
	guint where;
	const struct known *known = model_find(m, key, &state, &where);

	g_assert_true((entry != NULL) == (known != NULL));
	if (!known)
		return;
	flow_table_remove(&m->table, entry);
	model_gone(m, state, where);
}

static void do_clear(struct model *m)
{
	flow_table_clear(&m->table);
	g_assert_cmpuint(gone->len, ==, m->count);
	g_array_set_size(gone, 0);
	for (int state = 1; state < FLOW_STATE_COUNT; state++)
		g_array_set_size(m->known[state], 0);
	m->count = 0;
}

/* More than fit, of keys that are there and of others, some of them in a row: nothing changes. Then
 * some are asked for in this order, once or more often, and what was seen ahead may be gone, or be
 * another flow's, by then. */
static void do_ahead(struct model *m, uint32_t key)
{
	struct flow_ahead ahead = {0};

	for (uint32_t i = 0; i < FLOW_AHEAD_MAX + 2; i++) {
		struct flow_key k = key_of(key + i);

		for (int times = g_rand_int_range(m->rand, 1, 4); times; times--)
			flow_ahead_add(&m->table, &ahead, &k);
	}
	g_assert_cmpuint(ahead.count, ==, FLOW_AHEAD_MAX);
	flow_ahead_go(&m->table, &ahead);
	g_assert_cmpuint(ahead.count, ==, 0);
	for (uint32_t i = 0; i < 8; i++) {
		int what = g_rand_int_range(m->rand, 0, 200);

		if (what == 0)
			do_clear(m);
		else if (what < 40)
			do_remove(m, key + i);
		for (int times = g_rand_int_range(m->rand, 1, 4); times; times--) {
			if (what % 2)
				do_look(m, key + i, true);
			else if (what % 3)
				do_get(m, key + i);
		}
	}
}

static void one_step(struct model *m)
{
	uint32_t key = (uint32_t)g_rand_int_range(m->rand, 0, (gint32)m->keys);
	int what = g_rand_int_range(m->rand, 0, 1000);

	if (what % 3 == 0) /* mostly a few milliseconds, seldom more than what is idle */
		m->now += (uint32_t)g_rand_int_range(m->rand, 0, what % 50 ? 5 : 150000);
	if (what % 10 == 0)
		do_ahead(m, key);
	if (what < 550)
		do_get(m, key);
	else if (what < 800)
		do_look(m, key, true);
	else if (what < 850)
		do_look(m, key, false);
	else if (what < 930)
		do_remove(m, key);
	else if (what < 999) {
		flow_table_expire(&m->table, model_now(m));
		model_expire(m);
	} else
		do_clear(m);
	check_same(m);
}

static void one_round(GRand *rand)
{
	struct model m = {.rand = rand, .now = g_rand_int(rand) / 2, .look = FLOW_CLOSED};

	/* Above 170 entries the slots are as full as they get. */
	m.max = (uint32_t)g_rand_int_range(rand, 1, g_rand_boolean(rand) ? 40 : 340);
	m.keys = m.max + (uint32_t)g_rand_int_range(rand, 0, (gint32)m.max * 2 + 2);
	for (int state = 1; state < FLOW_STATE_COUNT; state++)
		m.known[state] = g_array_new(FALSE, FALSE, sizeof(struct known));
	for (size_t i = 0; i < sizeof(m.secret.secret); i++)
		m.secret.secret[i] = (uint8_t)g_rand_int(rand);
	g_assert_cmpint(flow_table_init(&m.table, m.max, &m.secret, &ops, &made), ==, 0);
	for (unsigned i = 0; i < 1500; i++)
		one_step(&m);
	flow_table_fini(&m.table);
	g_assert_cmpuint(gone->len, ==, m.count);
	g_array_set_size(gone, 0);
	for (int state = 1; state < FLOW_STATE_COUNT; state++)
		g_array_free(m.known[state], TRUE);
}

static void test_against_lists(void)
{
	const char *given = g_getenv("FLOW_TABLE_SEED");
	guint32 seed = given ? (guint32)g_ascii_strtoull(given, NULL, 0) : g_random_int();
	GRand *rand = g_rand_new_with_seed(seed);

	g_test_message("FLOW_TABLE_SEED=%u", seed);
	for (unsigned round = 0; round < 40; round++)
		one_round(rand);
	g_rand_free(rand);
}

/* With FLOW_TABLE_TRIES pinned flows in front, the one behind them is found the next time. */
static void test_bounded_search(void)
{
	struct packet_digest_key secret = {{1}};
	struct flow_table table;
	uint32_t max = FLOW_TABLE_TRIES + 1;
	struct flow_key key;

	g_assert_cmpint(flow_table_init(&table, max, &secret, &ops, &made), ==, 0);
	for (uint32_t i = 0; i < max; i++) {
		key = key_of(i);
		((struct item *)flow_table_get(&table, &key, 0))->pinned = i < FLOW_TABLE_TRIES;
	}
	key = key_of(max);
	g_assert_null(flow_table_get(&table, &key, 0));
	g_assert_cmpuint(table.count, ==, max);
	g_assert_nonnull(flow_table_get(&table, &key, 0));
	key = key_of(FLOW_TABLE_TRIES);
	g_assert_null(flow_table_peek(&table, &key));
	g_assert_cmpuint(table.evicted, ==, 1);
	flow_table_fini(&table);
	g_array_set_size(gone, 0);
}

/* A full table gives up what is closed before what opens, and that before all others. */
static void test_what_goes_first(void)
{
	static const enum flow_state order[] = {FLOW_CLOSED, FLOW_OPENING, FLOW_DATAGRAM,
	                                        FLOW_CLOSING, FLOW_OPENED};
	struct packet_digest_key secret = {{1}};
	struct flow_table table;
	struct flow_entry *entry;
	struct flow_key key;

	g_assert_cmpint(flow_table_init(&table, 5, &secret, &ops, &made), ==, 0);
	for (uint32_t i = 0; i < 5; i++) {
		key = key_of(i);
		entry = flow_table_get(&table, &key, STAMP_NS);
		flow_table_set_state(&table, entry, order[4 - i], STAMP_NS);
	}
	for (uint32_t i = 0; i < 5; i++) {
		key = key_of(100 + i);
		entry = flow_table_get(&table, &key, STAMP_NS * 2 + FLOW_TABLE_SPARE_NS);
		((struct item *)entry)->pinned = true;
		key = key_of(4 - i);
		g_assert_null(flow_table_peek(&table, &key));
	}
	g_assert_cmpuint(table.evicted, ==, 5);
	flow_table_fini(&table);
	g_array_set_size(gone, 0);
}

/* Each state has its limit: kept until then, gone at the latest after twice as long. */
static void test_expiry(void)
{
	struct packet_digest_key secret = {{1}};
	struct flow_key key = key_of(1);

	for (int state = 1; state < FLOW_STATE_COUNT; state++) {
		uint64_t limit = flow_state_idle_ns((enum flow_state)state),
		         start = 12345 * STAMP_NS;
		struct flow_table table;
		struct flow_entry *entry;

		g_assert_cmpint(flow_table_init(&table, 5, &secret, &ops, &made), ==, 0);
		entry = flow_table_get(&table, &key, start);
		flow_table_set_state(&table, entry, (enum flow_state)state, start);
		g_assert_nonnull(flow_table_find(&table, &key, start + limit / 2));
		for (int i = 0; i < FLOW_STATE_COUNT; i++)
			flow_table_expire(&table, start + limit + limit / 2 - 2 * STAMP_NS);
		g_assert_cmpuint(table.count, ==, 1);
		for (int i = 0; i < FLOW_STATE_COUNT; i++)
			flow_table_expire(&table, start + limit / 2 + 2 * limit + 4 * STAMP_NS);
		g_assert_cmpuint(table.count, ==, 0);
		g_assert_cmpuint(table.expired, ==, 1);
		flow_table_fini(&table);
	}
	g_array_set_size(gone, 0);
}

/* A table that was never made, or is already gone. */
static void test_fini_of_nothing(void)
{
	struct packet_digest_key secret = {{1}};
	struct flow_table table = {0};

	flow_table_fini(&table);
	g_assert_cmpint(flow_table_init(&table, 0, &secret, &ops, &made), ==, 0);
	flow_table_fini(&table);
	flow_table_fini(&table);
	g_assert_cmpuint(gone->len, ==, 0);
}

int main(int argc, char **argv)
{
	int r;

	g_test_init(&argc, &argv, NULL);
	gone = g_array_new(FALSE, FALSE, sizeof(uint32_t));
	g_test_add_func("/flow_table/against-lists", test_against_lists);
	g_test_add_func("/flow_table/bounded-search", test_bounded_search);
	g_test_add_func("/flow_table/what-goes-first", test_what_goes_first);
	g_test_add_func("/flow_table/expiry", test_expiry);
	g_test_add_func("/flow_table/fini-of-nothing", test_fini_of_nothing);
	r = g_test_run();
	g_array_free(gone, TRUE);
	return r;
}
