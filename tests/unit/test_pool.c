/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Pieces that are given back are used again, up to as many as the pool keeps. */
#include <glib.h>
#include <string.h>

#include "colo-proxy/core/pool.h"

#define SIZE 100u
#define KEEP 4u

static void test_pool(void)
{
	struct pool pool = {.size = SIZE, .keep = KEEP};
	void *pieces[2 * KEEP];

	pool_put(&pool, NULL);
	g_assert_cmpuint(pool.kept, ==, 0);
	for (int round = 0; round < 3; round++) {
		for (unsigned i = 0; i < G_N_ELEMENTS(pieces); i++) {
			pieces[i] = pool_get(&pool);
			g_assert_nonnull(pieces[i]);
			memset(pieces[i], (int)i, SIZE);
		}
		g_assert_cmpuint(pool.kept, ==, 0);
		for (unsigned i = 0; i < G_N_ELEMENTS(pieces); i++) {
			/* No two of them share a byte. */
			for (unsigned k = 0; k < SIZE; k++)
				g_assert_cmpuint(((uint8_t *)pieces[i])[k], ==, i);
			pool_put(&pool, pieces[i]);
			g_assert_cmpuint(pool.kept, <=, KEEP);
		}
	}
	pool_fini(&pool);
	g_assert_null(pool.first);
	g_assert_cmpuint(pool.kept, ==, 0);
	pool_fini(&pool);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/pool/keeps", test_pool);
	return g_test_run();
}
