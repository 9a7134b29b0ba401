/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The histogram's quantiles against a sorted array, and its edges. */
#include "colo-proxy/core/hist.h"
#include "colo-proxy/core/stats.h"

#include <glib.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Any magnitude up to 2^40, so that every octave is met. */
static uint64_t random_value(GRand *rand)
{
	uint64_t value = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);

	return value >> g_rand_int_range(rand, 24, 64);
}

static void check_quantile(const struct hist *hist, const uint64_t *sorted, size_t n, unsigned pm)
{
	size_t rank = (n * pm + 999) / 1000;
	uint64_t exact = sorted[rank ? rank - 1 : 0];
	uint64_t got = hist_quantile(hist, pm);

	g_assert_cmpuint(got, >=, exact);
	g_assert_cmpuint(got, <=, exact + exact / HIST_SUB);
}

static void test_against_sort(void)
{
	static const unsigned permilles[] = {0, 1, 10, 250, 500, 900, 990, 999, 1000};
	GRand *rand = g_rand_new_with_seed((guint32)g_test_rand_int());
	struct hist *hist = g_new0(struct hist, 1);

	for (unsigned round = 0; round < 300; round++) {
		size_t n = (size_t)g_rand_int_range(rand, 1, 2000);
		uint64_t *values = g_new(uint64_t, n);

		hist_reset(hist);
		for (size_t i = 0; i < n; i++) {
			values[i] = random_value(rand);
			hist_add(hist, values[i]);
		}
		qsort(values, n, sizeof(*values), by_value);
		for (size_t i = 0; i < G_N_ELEMENTS(permilles); i++)
			check_quantile(hist, values, n, permilles[i]);
		g_assert_cmpuint(hist->max, ==, values[n - 1]);
		g_assert_cmpuint(hist->min, ==, values[0]);
		g_assert_cmpuint(hist->count, ==, n);
		g_free(values);
	}
	g_free(hist);
	g_rand_free(rand);
}

/* Each value alone is reported as itself: the bucket's edge never exceeds the maximum. */
static void test_single_values(void)
{
	struct hist *hist = g_new0(struct hist, 1);

	for (unsigned bit = 0; bit < 64; bit++) {
		for (int delta = -1; delta <= 1; delta++) {
			uint64_t value = (1ull << bit) + (uint64_t)(int64_t)delta;

			hist_reset(hist);
			hist_add(hist, value);
			g_assert_cmpuint(hist_quantile(hist, 500), ==, value);
			g_assert_cmpuint(hist_quantile(hist, 1000), ==, value);
		}
	}
	g_free(hist);
}

static void test_merge(void)
{
	GRand *rand = g_rand_new_with_seed((guint32)g_test_rand_int());
	struct hist *a = g_new0(struct hist, 1);
	struct hist *b = g_new0(struct hist, 1);
	struct hist *all = g_new0(struct hist, 1);

	for (unsigned i = 0; i < 5000; i++) {
		uint64_t value = random_value(rand);

		hist_add(i % 3 ? a : b, value);
		hist_add(all, value);
	}
	hist_merge(a, b);
	g_assert_cmpmem(a, sizeof(*a), all, sizeof(*all));
	hist_reset(b);
	hist_merge(a, b);
	g_assert_cmpmem(a, sizeof(*a), all, sizeof(*all));
	hist_merge(b, all);
	g_assert_cmpmem(b, sizeof(*b), all, sizeof(*all));
	g_free(a);
	g_free(b);
	g_free(all);
	g_rand_free(rand);
}

static void test_summary(void)
{
	struct hist *hist = g_new0(struct hist, 1);
	struct hist_summary summary = hist_summary(hist, 1000);

	g_assert_cmpuint(summary.count + summary.p50 + summary.p99 + summary.max, ==, 0);
	for (uint64_t i = 1; i <= 100; i++)
		hist_add(hist, i);
	summary = hist_summary(hist, 1);
	g_assert_cmpuint(summary.count, ==, 100);
	g_assert_cmpuint(summary.p50, ==, 50);
	g_assert_cmpuint(summary.p99, ==, 99);
	g_assert_cmpuint(summary.max, ==, 100);
	/* Rounded up: a pause of 100 ns is not shown as none. */
	summary = hist_summary(hist, 1000);
	g_assert_cmpuint(summary.p50, ==, 1);
	g_assert_cmpuint(summary.max, ==, 1);
	g_free(hist);
}

static void test_saturation(void)
{
	struct hist *hist = g_new0(struct hist, 1);

	hist_add(hist, UINT64_MAX);
	hist_add(hist, UINT64_MAX);
	g_assert_cmpuint(hist->sum, ==, UINT64_MAX);
	g_assert_cmpuint(hist_quantile(hist, 1), ==, UINT64_MAX);
	hist->bucket[3] = UINT32_MAX;
	hist_add(hist, 3);
	g_assert_cmpuint(hist->bucket[3], ==, UINT32_MAX);
	g_free(hist);
}

static void test_stats_sum(void)
{
	struct stats_snapshot *stats = g_new0(struct stats_snapshot, 1);

	stats->traffic[STATS_TOTAL].held.packets = 99;
	stats->traffic[STATS_TOTAL].hold_us.p50 = 7;
	stats->traffic[STATS_TCP].held.packets = 3;
	stats->traffic[STATS_OTHER].held.packets = 4;
	stats->traffic[STATS_ARP].discarded.bytes = 5;
	stats->checkpoints.cause[STATS_CAUSE_LATE] = 2;
	stats->checkpoints.cause[STATS_CAUSE_INITIAL] = 1;
	stats_sum(stats);
	stats_sum(stats);
	g_assert_cmpuint(stats->traffic[STATS_TOTAL].held.packets, ==, 7);
	g_assert_cmpuint(stats->traffic[STATS_TOTAL].discarded.bytes, ==, 5);
	g_assert_cmpuint(stats->traffic[STATS_TOTAL].hold_us.p50, ==, 7);
	g_assert_cmpuint(stats->checkpoints.total, ==, 3);
	for (unsigned i = 0; i < STATS_CLASSES; i++)
		g_assert_nonnull(stats_class_name(i));
	for (unsigned i = 0; i < STATS_CAUSES; i++)
		g_assert_nonnull(stats_cause_name(i));
	g_assert_cmpstr(stats_class_name(STATS_TOTAL), ==, "total");
	g_assert_cmpstr(stats_cause_name(STATS_CAUSE_COMMAND), ==, "command");
	g_assert_cmpstr(stats_cause_name((enum stats_cause)77), ==, "?");
	g_free(stats);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/hist/against-sort", test_against_sort);
	g_test_add_func("/hist/single-values", test_single_values);
	g_test_add_func("/hist/merge", test_merge);
	g_test_add_func("/hist/summary", test_summary);
	g_test_add_func("/hist/saturation", test_saturation);
	g_test_add_func("/stats/sum", test_stats_sum);
	return g_test_run();
}
