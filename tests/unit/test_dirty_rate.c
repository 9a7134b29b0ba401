/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/dirty_rate.h"

#include <errno.h>
#include <glib.h>

#define MS  1000000ull
#define MIB 256ull /* pages */

static struct dirty_rate fresh(uint64_t memory_mib, uint64_t limit_mib)
{
	struct dirty_rate_params params = {1000 * MS, memory_mib, limit_mib};
	struct dirty_rate d;

	dirty_rate_init(&d, &params);
	g_assert_cmpuint(dirty_rate_due(&d), ==, UINT64_MAX);
	dirty_rate_begin(&d, 0);
	return d;
}

/* Asked at its time, answered a window later. */
static void sample(struct dirty_rate *d, uint64_t mib_per_s, uint64_t at)
{
	g_assert_cmpuint(dirty_rate_due(d), <=, at);
	dirty_rate_asked(d, at);
	g_assert_cmpuint(dirty_rate_due(d), ==, UINT64_MAX);
	g_assert_cmpint(dirty_rate_sampled(d, mib_per_s, at + 100 * MS), ==, 0);
}

static void cut(struct dirty_rate *d, uint64_t now, uint64_t pages)
{
	dirty_rate_cut(d, now);
	g_assert_cmpuint(dirty_rate_due(d), ==, UINT64_MAX);
	dirty_rate_captured(d, pages);
	g_assert_cmpuint(dirty_rate_due(d), ==, UINT64_MAX);
	dirty_rate_ready(d);
}

static void test_when(void)
{
	struct dirty_rate d = fresh(256, 64);

	g_assert_cmpuint(dirty_rate_due(&d), ==, 1000 * MS);
	cut(&d, 900 * MS, 10);
	g_assert_cmpuint(dirty_rate_due(&d), ==, 1900 * MS);
	sample(&d, 1, 1900 * MS);
	g_assert_cmpuint(dirty_rate_due(&d), ==, 2900 * MS);
	cut(&d, 2500 * MS, 10);
	g_assert_cmpuint(dirty_rate_due(&d), ==, 3500 * MS);
	dirty_rate_end(&d);
	g_assert_cmpuint(dirty_rate_due(&d), ==, UINT64_MAX);

	d = fresh(256, 64);
	d.params.interval_ns = 0;
	g_assert_cmpuint(dirty_rate_due(&d), ==, UINT64_MAX);
}

/* What it writes from the first sample on, as each one says of the time in front of it. */
static void test_sum(void)
{
	struct dirty_rate d = fresh(256, 64);

	g_assert_cmpuint(dirty_rate_expected(&d, 900 * MS), ==, 0);
	g_assert_cmpuint(dirty_rate_full_at(&d), ==, UINT64_MAX);
	sample(&d, 0, 1000 * MS);
	g_assert_cmpuint(dirty_rate_expected(&d, 5000 * MS), ==, 0);
	g_assert_cmpuint(dirty_rate_full_at(&d), ==, UINT64_MAX);
	sample(&d, 20, 2000 * MS); /* 1 s of it, up to 2.1 s */
	g_assert_cmpuint(dirty_rate_expected(&d, 2100 * MS), ==, 20 * MIB);
	g_assert_cmpuint(dirty_rate_expected(&d, 3100 * MS), ==, 40 * MIB);
	g_assert_cmpuint(dirty_rate_full_at(&d), ==, 4300 * MS);
	sample(&d, 40, 3000 * MS);
	g_assert_cmpuint(dirty_rate_expected(&d, 3100 * MS), ==, 60 * MIB);
	g_assert_cmpuint(dirty_rate_full_at(&d), ==, 3200 * MS);
	g_assert_cmpuint(dirty_rate_expected(&d, 60000 * MS), ==, 256 * MIB); /* all there is */
	sample(&d, 40, 4000 * MS);
	g_assert_cmpuint(dirty_rate_full_at(&d), ==, 4100 * MS); /* it is over already */
	cut(&d, 4200 * MS, 200 * MIB); /* more than was seen: nothing to learn */
	g_assert_cmpuint(dirty_rate_expected(&d, 5000 * MS), ==, 0);
	g_assert_cmpuint(dirty_rate_full_at(&d), ==, UINT64_MAX);
	/* In front of the first sample of an epoch: 1 s, at no more than it was before. */
	sample(&d, 10, 5200 * MS);
	g_assert_cmpuint(dirty_rate_expected(&d, 5300 * MS), ==, 11 * MIB);
	cut(&d, 6000 * MS, 200 * MIB);
	sample(&d, 40, 7000 * MS);
	g_assert_cmpuint(dirty_rate_expected(&d, 7100 * MS), ==, 14 * MIB);
	g_assert_cmpuint(d.samples, ==, 6);
}

static void test_no_limit(void)
{
	struct dirty_rate none = fresh(256, 0), all = fresh(256, 256);

	sample(&none, 250, 1000 * MS);
	g_assert_cmpuint(dirty_rate_full_at(&none), ==, UINT64_MAX);
	g_assert_cmpuint(dirty_rate_expected(&none, 3000 * MS), ==, 256 * MIB);
	sample(&all, 250, 1000 * MS);
	g_assert_cmpuint(dirty_rate_full_at(&all), ==, UINT64_MAX);
}

/* It writes to the same 16 MiB again and again: fewer and fewer checkpoints, until it does more. */
static void test_again_and_again(void)
{
	struct dirty_rate d = fresh(256, 64);
	uint64_t now = 0, length = 0;

	for (int i = 0; i < 5; i++) {
		uint64_t full;

		for (uint64_t at = now + 1000 * MS;; at += 1000 * MS) {
			full = dirty_rate_full_at(&d);
			if (full <= at)
				break;
			sample(&d, 50, at);
		}
		if (i == 0)
			g_assert_cmpuint(full - now, ==, 2280 * MS); /* 64, at 50 a second */
		else if (i < 4)
			g_assert_cmpuint(full - now, >, 2 * length);
		else
			g_assert_cmpuint(full - now, ==, length); /* a 64th is the least */
		length = full - now;
		now = full;
		cut(&d, now, 16 * MIB);
	}
	sample(&d, 101, now + 1000 * MS);
	g_assert_cmpuint(dirty_rate_full_at(&d), <=, now + 1700 * MS);
}

/* A checkpoint cut in between, and answers that cannot be. */
static void test_refused(void)
{
	struct dirty_rate d = fresh(256, 64);

	g_assert_cmpint(dirty_rate_sampled(&d, 10, 0), ==, -EINVAL);
	dirty_rate_asked(&d, 1000 * MS);
	cut(&d, 1050 * MS, 10);
	g_assert_cmpuint(dirty_rate_due(&d), ==, UINT64_MAX); /* there is one under way */
	g_assert_cmpint(dirty_rate_sampled(&d, 200, 1100 * MS), ==, 0);
	g_assert_cmpuint(dirty_rate_full_at(&d), ==, UINT64_MAX);
	g_assert_cmpuint(d.samples, ==, 0);
	g_assert_cmpuint(dirty_rate_due(&d), ==, 2050 * MS);
	dirty_rate_asked(&d, 2050 * MS);
	g_assert_cmpint(dirty_rate_sampled(&d, 258, 2150 * MS), ==, -ERANGE);
	g_assert_cmpuint(d.refused, ==, 1);
	g_assert_cmpuint(dirty_rate_expected(&d, 2150 * MS), ==, 0);
	g_assert_cmpint(dirty_rate_sampled(&d, 10, 2150 * MS), ==, -EINVAL); /* twice */
	sample(&d, 257, 3050 * MS);
}

static void test_failed(void)
{
	struct dirty_rate d = fresh(256, 64);

	dirty_rate_asked(&d, 1000 * MS);
	g_assert_false(dirty_rate_failed(&d, false));
	g_assert_cmpuint(dirty_rate_due(&d), ==, 2000 * MS);
	dirty_rate_asked(&d, 2000 * MS);
	g_assert_false(dirty_rate_failed(&d, false));
	sample(&d, 1, 3000 * MS); /* not in a row */
	for (int i = 0; i < 3; i++) {
		g_assert_cmpuint(dirty_rate_due(&d), <, UINT64_MAX);
		dirty_rate_asked(&d, dirty_rate_due(&d));
		g_assert_cmpint(dirty_rate_failed(&d, false), ==, i == 2);
	}
	g_assert_cmpuint(dirty_rate_due(&d), ==, UINT64_MAX);
	g_assert_false(dirty_rate_failed(&d, false)); /* said once */
	dirty_rate_end(&d);
	dirty_rate_begin(&d, 10000 * MS); /* with another QEMU */
	g_assert_cmpuint(dirty_rate_due(&d), ==, 11000 * MS);
	dirty_rate_asked(&d, 11000 * MS);
	g_assert_true(dirty_rate_failed(&d, true));
	g_assert_cmpuint(dirty_rate_due(&d), ==, UINT64_MAX);
}

static void test_windows(void)
{
	static const struct {
		uint64_t memory, interval_ms, window, pages;
	} cases[] = {
	        {16, 1, 100, 16384},      {256, 400, 400, 8192},      {1024, 50, 102, 2048},
	        {4096, 1000, 1000, 512},  {4096, 300, 409, 512},      {16384, 100, 1000, 128},
	        {256, 60000, 1000, 8192}, {1048576, 1000, 1000, 128},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		g_assert_cmpuint(dirty_rate_window_ms(cases[i].memory, cases[i].interval_ms * MS),
		                 ==, cases[i].window);
		g_assert_cmpuint(dirty_rate_pages_per_gib(cases[i].memory), ==, cases[i].pages);
	}
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/dirty-rate/when", test_when);
	g_test_add_func("/dirty-rate/sum", test_sum);
	g_test_add_func("/dirty-rate/no-limit", test_no_limit);
	g_test_add_func("/dirty-rate/again-and-again", test_again_and_again);
	g_test_add_func("/dirty-rate/refused", test_refused);
	g_test_add_func("/dirty-rate/failed", test_failed);
	g_test_add_func("/dirty-rate/windows", test_windows);
	return g_test_run();
}
