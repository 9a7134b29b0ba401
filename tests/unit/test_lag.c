/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The time to wait for a late SVM, as its lag is measured (lag.h). */
#include "colo-proxy/core/lag.h"

#include <glib.h>

#define MS      1000000ull
#define FLOOR   (50 * MS)
#define CEILING (800 * MS)

/* One sample in each interval of 100 ms, `count` times. */
static void measure(struct lag *lag, uint64_t *now, uint64_t sample, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		*now += 100 * MS;
		lag_measured(lag, sample, *now);
	}
}

static void test_prompt(void)
{
	struct lag lag;
	uint64_t now = 7 * MS;

	lag_init(&lag, FLOOR, CEILING);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, FLOOR);
	measure(&lag, &now, 0, 50);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, FLOOR);
	measure(&lag, &now, 3 * MS, 50);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, FLOOR);
}

/* RFC 6298 section 2, by hand: the samples 80, 160, 80 ms, each complete when the next one begins.
 */
static void test_formula(void)
{
	struct lag lag;
	uint64_t now = 0;

	lag_init(&lag, FLOOR, CEILING);
	measure(&lag, &now, 80 * MS, 1);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, 160 * MS); /* at once, twice */
	measure(&lag, &now, 160 * MS, 1);
	g_assert_cmpuint(lag.smoothed_ns, ==, 80 * MS);
	g_assert_cmpuint(lag.variance_ns, ==, 40 * MS);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, 320 * MS); /* twice 160 */
	measure(&lag, &now, 80 * MS, 1);
	g_assert_cmpuint(lag.smoothed_ns, ==, 90 * MS);
	g_assert_cmpuint(lag.variance_ns, ==, 50 * MS);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, 290 * MS);
}

/* Of many samples in an interval the longest counts, not the last. */
static void test_longest(void)
{
	struct lag lag;
	uint64_t now = 0;

	lag_init(&lag, FLOOR, CEILING);
	for (uint32_t i = 0; i < 50000; i++) {
		now += MS / 100;
		lag_measured(&lag, i % 5000 == 1 ? 120 * MS : 0, now);
	}
	g_assert_cmpuint(lag.smoothed_ns, >, 100 * MS);
	g_assert_cmpuint(lag_wait_ns(&lag), >=, 120 * MS);
}

static void test_slower_and_faster(void)
{
	struct lag lag;
	uint64_t now = 0;

	lag_init(&lag, FLOOR, CEILING);
	measure(&lag, &now, 300 * MS, 60);
	g_assert_cmpuint(lag_wait_ns(&lag), >=, 300 * MS);
	g_assert_cmpuint(lag_wait_ns(&lag), <=, 600 * MS);
	measure(&lag, &now, 10 * MS, 60);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, FLOOR);
}

static void test_ceiling(void)
{
	struct lag lag;
	uint64_t now = 0;

	lag_init(&lag, FLOOR, CEILING);
	measure(&lag, &now, UINT64_MAX, 3);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, CEILING);
	for (uint32_t i = 0; i < 100; i++)
		lag_gave_up(&lag);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, CEILING);
	lag_init(&lag, FLOOR, FLOOR / 2);
	measure(&lag, &now, 300 * MS, 3);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, FLOOR);
}

/* Nothing is measured of what is always given up: the time doubles all the same, and comes back. */
static void test_gave_up(void)
{
	struct lag lag;
	uint64_t now = 0;

	lag_init(&lag, FLOOR, CEILING);
	lag_gave_up(&lag);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, 2 * FLOOR);
	lag_gave_up(&lag);
	lag_gave_up(&lag);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, 8 * FLOOR);
	measure(&lag, &now, 0, 1);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, 8 * FLOOR); /* the interval is not over */
	measure(&lag, &now, 0, 1);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, 4 * FLOOR);
	measure(&lag, &now, 0, 9);
	g_assert_cmpuint(lag_wait_ns(&lag), ==, FLOOR);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/lag/prompt", test_prompt);
	g_test_add_func("/lag/formula", test_formula);
	g_test_add_func("/lag/longest", test_longest);
	g_test_add_func("/lag/slower-and-faster", test_slower_and_faster);
	g_test_add_func("/lag/ceiling", test_ceiling);
	g_test_add_func("/lag/gave-up", test_gave_up);
	return g_test_run();
}
