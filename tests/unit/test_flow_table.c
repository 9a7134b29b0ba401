/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The flow table against a list, over random operations, and the bound of its search for a victim.
 * FLOW_TABLE_SEED=n replays one run. */
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

static bool item_may_go(const struct flow_entry *entry)
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

/* The model: what the table must hold, from the oldest use to the newest. */
struct known {
	uint32_t key, number;
	bool pinned;
};

struct model {
	GRand *rand;
	GArray *known;
	uint32_t max, keys, high;
	uint64_t evicted;
	struct packet_digest_key secret;
	struct flow_table table;
};

static struct known *model_find(struct model *m, uint32_t key, uint32_t *ret_at)
{
	for (guint i = 0; i < m->known->len; i++) {
		struct known *known = &g_array_index(m->known, struct known, i);

		if (known->key == key) {
			*ret_at = i;
			return known;
		}
	}
	return NULL;
}

static void model_use(struct model *m, uint32_t at)
{
	struct known known = g_array_index(m->known, struct known, at);

	g_array_remove_index(m->known, at);
	g_array_append_val(m->known, known);
}

/* Takes the flow out; the table must have ended the same one. */
static void model_gone(struct model *m, uint32_t at)
{
	uint32_t number = g_array_index(m->known, struct known, at).number;

	g_assert_cmpuint(gone->len, ==, 1);
	g_assert_cmpuint(g_array_index(gone, uint32_t, 0), ==, number);
	g_array_set_size(gone, 0);
	g_array_remove_index(m->known, at);
}

static bool model_evict(struct model *m)
{
	for (guint i = 0; i < m->known->len && i < FLOW_TABLE_TRIES; i++) {
		if (g_array_index(m->known, struct known, i).pinned)
			continue;
		model_gone(m, i);
		m->evicted++;
		return true;
	}
	return false;
}

static void check_same(struct model *m)
{
	const struct flow_entry *older = NULL, *entry = m->table.oldest;

	g_assert_cmpuint(gone->len, ==, 0);
	g_assert_cmpuint(m->table.count, ==, m->known->len);
	g_assert_cmpuint(m->table.high, ==, m->high);
	g_assert_cmpuint(m->table.evicted, ==, m->evicted);
	for (guint i = 0; i < m->known->len; i++) {
		const struct known *known = &g_array_index(m->known, struct known, i);
		struct flow_key key = key_of(known->key);

		g_assert_nonnull(entry);
		g_assert_cmpuint(((const struct item *)entry)->number, ==, known->number);
		g_assert_cmpmem(&entry->key, sizeof(key), &key, sizeof(key));
		g_assert_true(entry->older == older);
		older = entry;
		entry = entry->newer;
	}
	g_assert_null(entry);
	g_assert_true(m->table.newest == older);
}

static void do_get(struct model *m, uint32_t key)
{
	struct flow_key k = key_of(key);
	uint32_t at = 0, before = made;
	struct item *item = (struct item *)flow_table_get(&m->table, &k);
	const struct known *known = model_find(m, key, &at);

	if (known) {
		g_assert_nonnull(item);
		g_assert_cmpuint(item->number, ==, known->number);
		g_assert_cmpuint(made, ==, before);
		model_use(m, at);
		return;
	}
	if (m->known->len >= m->max && !model_evict(m)) {
		g_assert_null(item);
		return;
	}
	g_assert_nonnull(item);
	g_assert_cmpuint(item->number, ==, before + 1);
	item->pinned = g_rand_int_range(m->rand, 0, 4) == 0;
	g_array_append_val(m->known,
	                   ((struct known){.key = key, .number = made, .pinned = item->pinned}));
	m->high = MAX(m->high, m->known->len);
}

static void do_look(struct model *m, uint32_t key, bool use)
{
	struct flow_key k = key_of(key);
	uint32_t at;
	struct flow_entry *entry =
	        use ? flow_table_find(&m->table, &k) : flow_table_peek(&m->table, &k);
	struct known *known = model_find(m, key, &at);

	g_assert_true((entry != NULL) == (known != NULL));
	if (!known)
		return;
	g_assert_cmpuint(((struct item *)entry)->number, ==, known->number);
	known->pinned = ((struct item *)entry)->pinned = g_rand_boolean(m->rand);
	if (use)
		model_use(m, at);
}

static void do_remove(struct model *m, uint32_t key)
{
	struct flow_key k = key_of(key);
	struct flow_entry *entry = flow_table_peek(&m->table, &k);
	uint32_t at = 0;
	const struct known *known = model_find(m, key, &at);

	g_assert_true((entry != NULL) == (known != NULL));
	if (!known)
		return;
	flow_table_remove(&m->table, entry);
	model_gone(m, at);
}

static void do_clear(struct model *m)
{
	flow_table_clear(&m->table);
	g_assert_cmpuint(gone->len, ==, m->known->len);
	g_array_set_size(gone, 0);
	g_array_set_size(m->known, 0);
}

static void one_step(struct model *m)
{
	uint32_t key = (uint32_t)g_rand_int_range(m->rand, 0, (gint32)m->keys);
	int what = g_rand_int_range(m->rand, 0, 1000);

	if (what < 600)
		do_get(m, key);
	else if (what < 800)
		do_look(m, key, true);
	else if (what < 900)
		do_look(m, key, false);
	else if (what < 999)
		do_remove(m, key);
	else
		do_clear(m);
	check_same(m);
}

static void one_round(GRand *rand)
{
	struct model m = {.rand = rand};

	/* Above 256 entries, the least number of buckets, most buckets hold more than one. */
	m.max = (uint32_t)g_rand_int_range(rand, 1, g_rand_boolean(rand) ? 40 : 400);
	m.keys = m.max + (uint32_t)g_rand_int_range(rand, 0, (gint32)m.max * 2 + 2);
	m.known = g_array_new(FALSE, FALSE, sizeof(struct known));
	for (size_t i = 0; i < sizeof(m.secret.secret); i++)
		m.secret.secret[i] = (uint8_t)g_rand_int(rand);
	g_assert_cmpint(flow_table_init(&m.table, m.max, &m.secret, &ops, &made), ==, 0);
	for (unsigned i = 0; i < 2000; i++)
		one_step(&m);
	flow_table_fini(&m.table);
	g_assert_cmpuint(gone->len, ==, m.known->len);
	g_array_set_size(gone, 0);
	g_array_free(m.known, TRUE);
}

static void test_against_list(void)
{
	const char *given = g_getenv("FLOW_TABLE_SEED");
	guint32 seed = given ? (guint32)g_ascii_strtoull(given, NULL, 0) : g_random_int();
	GRand *rand = g_rand_new_with_seed(seed);

	g_test_message("FLOW_TABLE_SEED=%u", seed);
	for (unsigned round = 0; round < 40; round++)
		one_round(rand);
	g_rand_free(rand);
}

/* With FLOW_TABLE_TRIES pinned flows in front, the one behind them is not found. */
static void test_bounded_search(void)
{
	struct packet_digest_key secret = {{1}};
	struct flow_table table;
	uint32_t max = FLOW_TABLE_TRIES + 1;
	struct flow_key key;

	g_assert_cmpint(flow_table_init(&table, max, &secret, &ops, &made), ==, 0);
	for (uint32_t i = 0; i < max; i++) {
		key = key_of(i);
		((struct item *)flow_table_get(&table, &key))->pinned = i < FLOW_TABLE_TRIES;
	}
	key = key_of(max);
	g_assert_null(flow_table_get(&table, &key));
	g_assert_cmpuint(table.count, ==, max);
	((struct item *)table.oldest->newer)->pinned = false;
	g_assert_nonnull(flow_table_get(&table, &key));
	key = key_of(1);
	g_assert_null(flow_table_peek(&table, &key));
	g_assert_cmpuint(table.evicted, ==, 1);
	flow_table_fini(&table);
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
	g_test_add_func("/flow_table/against-list", test_against_list);
	g_test_add_func("/flow_table/bounded-search", test_bounded_search);
	g_test_add_func("/flow_table/fini-of-nothing", test_fini_of_nothing);
	r = g_test_run();
	g_array_free(gone, TRUE);
	return r;
}
