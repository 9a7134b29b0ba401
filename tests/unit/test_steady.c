/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Time that was seen passing (core/steady.h), and the age of flows by it. */
#include "colo-proxy/core/steady.h"

#include <glib.h>

#include "colo-proxy/core/shadow.h"

#define MS   1000000ull
#define SEC  (1000 * MS)
#define HOUR (3600 * SEC)
#define STEP (300 * MS)

static void test_passes(void)
{
	struct steady steady;

	steady_init(&steady, 77 * SEC, STEP);
	g_assert_cmpuint(steady_now(&steady, 77 * SEC), ==, 77 * SEC);
	for (uint64_t i = 1; i <= 100; i++)
		g_assert_cmpuint(steady_now(&steady, 77 * SEC + i * 100 * MS), ==,
		                 77 * SEC + i * 100 * MS);
	/* A reading from before the last one: other calls of the same turn. */
	g_assert_cmpuint(steady_now(&steady, 80 * SEC), ==, 87 * SEC);
	g_assert_cmpuint(steady_now(&steady, 87 * SEC + MS), ==, 87 * SEC + MS);
}

static void test_leaps(void)
{
	struct steady steady;
	uint64_t clock = 5 * SEC;

	steady_init(&steady, clock, STEP);
	clock += 2 * HOUR;
	g_assert_cmpuint(steady_now(&steady, clock), ==, 5 * SEC + STEP);
	g_assert_cmpuint(steady_now(&steady, clock), ==, 5 * SEC + STEP);
	g_assert_cmpuint(steady_now(&steady, clock + MS), ==, 5 * SEC + STEP + MS);
}

static void ignore_digest(void *ctx, uint32_t lineage, const struct digest *digest)
{
}

static void ignore_refeed(void *ctx, const struct flow_key *key, uint32_t seq)
{
}

static const struct shadow_ops ops = {.digest = ignore_digest, .refeed = ignore_refeed};

/* A survivor goes on mapping the numbers of a connection that has closed, for its last segments. */
static void test_survivors_connection(void)
{
	struct packet_digest_key secret = {0};
	struct natmap_entry entry = {
	        .key = {.vm_ip = 1,
	                .peer_ip = 2,
	                .vm_port = 80,
	                .peer_port = 2000,
	                .proto = 6,
	                .kind = FLOW_TCP},
	        .seq_delta = 1000,
	        .fin_in = true,
	        .fin_out = true,
	};
	struct natmap map = {0};
	struct steady steady;
	struct shadow *shadow;
	uint64_t clock = 100 * SEC;

	g_assert_cmpint(shadow_new(&shadow, 16, &secret, &ops, NULL), ==, 0);
	steady_init(&steady, clock, STEP);
	g_assert_cmpint(natmap_add(&map, &entry, 1), ==, 0);
	g_assert_cmpuint(shadow_map_adopt(shadow, &map, steady_now(&steady, clock)), ==, 0);
	shadow_takeover(shadow, steady_now(&steady, clock));
	clock += HOUR;
	g_assert_cmpuint(shadow_expire(shadow, steady_now(&steady, clock)), ==, 1);
	for (uint64_t end = clock + 61 * SEC; clock < end; clock += 100 * MS)
		steady_now(&steady, clock);
	g_assert_cmpuint(shadow_expire(shadow, steady_now(&steady, clock)), ==, 0);
	natmap_clear(&map);
	shadow_free(shadow);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/steady/passes", test_passes);
	g_test_add_func("/steady/leaps", test_leaps);
	g_test_add_func("/steady/survivors-connection", test_survivors_connection);
	return g_test_run();
}
