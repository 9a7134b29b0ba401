/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/hist.h"

#include <string.h>

/* The bucket of a value: its top HIST_SUB_BITS + 1 bits, counted from zero. */
static unsigned bucket_of(uint64_t value)
{
	unsigned shift;

	if (value < HIST_SUB)
		return (unsigned)value;
	if (value >> HIST_BITS)
		return HIST_BUCKETS - 1;
	shift = 63u - (unsigned)__builtin_clzll(value) - HIST_SUB_BITS;
	return (shift << HIST_SUB_BITS) + (unsigned)(value >> shift);
}

/* The largest value that falls into a bucket. */
static uint64_t bucket_top(unsigned bucket)
{
	unsigned shift;

	if (bucket < 2 * HIST_SUB)
		return bucket;
	shift = (bucket >> HIST_SUB_BITS) - 1;
	return (((uint64_t)(bucket & (HIST_SUB - 1)) + HIST_SUB + 1) << shift) - 1;
}

void hist_reset(struct hist *hist)
{
	memset(hist, 0, sizeof(*hist));
}

static uint64_t add_saturated(uint64_t a, uint64_t b)
{
	uint64_t sum;

	return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

void hist_add(struct hist *hist, uint64_t value)
{
	uint32_t *bucket = &hist->bucket[bucket_of(value)];

	if (*bucket != UINT32_MAX)
		(*bucket)++;
	if (!hist->count || value < hist->min)
		hist->min = value;
	if (value > hist->max)
		hist->max = value;
	hist->count++;
	hist->sum = add_saturated(hist->sum, value);
}

void hist_merge(struct hist *hist, const struct hist *from)
{
	if (!from->count)
		return;
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		uint32_t sum;

		if (__builtin_add_overflow(hist->bucket[i], from->bucket[i], &sum))
			sum = UINT32_MAX;
		hist->bucket[i] = sum;
	}
	if (!hist->count || from->min < hist->min)
		hist->min = from->min;
	if (from->max > hist->max)
		hist->max = from->max;
	hist->count += from->count;
	hist->sum = add_saturated(hist->sum, from->sum);
}

/* ceil(count * permille / 1000) without overflow, at least 1. */
static uint64_t rank_of(uint64_t count, unsigned permille)
{
	uint64_t rank = count / 1000 * permille + (count % 1000 * permille + 999) / 1000;

	return rank ? rank : 1;
}

uint64_t hist_quantile(const struct hist *hist, unsigned permille)
{
	uint64_t rank;
	uint64_t seen = 0;

	if (!hist->count)
		return 0;
	rank = rank_of(hist->count, permille > 1000 ? 1000 : permille);
	for (unsigned i = 0; i < HIST_BUCKETS - 1; i++) {
		seen += hist->bucket[i];
		if (seen >= rank)
			return bucket_top(i) < hist->max ? bucket_top(i) : hist->max;
	}
	return hist->max;
}

struct hist_summary hist_summary(const struct hist *hist, uint64_t divisor)
{
	struct hist_summary summary = {
	        .count = hist->count,
	        .p50 = hist_quantile(hist, 500),
	        .p99 = hist_quantile(hist, 990),
	        .max = hist->max,
	};

	summary.p50 = summary.p50 / divisor + (summary.p50 % divisor != 0);
	summary.p99 = summary.p99 / divisor + (summary.p99 % divisor != 0);
	summary.max = summary.max / divisor + (summary.max % divisor != 0);
	return summary;
}
