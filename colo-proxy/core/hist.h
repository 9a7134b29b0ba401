/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_HIST_H
#define COLO_CORE_HIST_H

#include <stdint.h>

/*
 * A log-linear histogram of fixed size. Values below 32 have a bucket each; above, every power of
 * two is cut into 32 buckets, so that a quantile is at most 1/32 (3.1 %) too high and never too
 * low. Values from 2^HIST_BITS on share the last bucket; the maximum is kept exactly. Any unit:
 * what is recorded is what comes out (nanoseconds up to 18 minutes keep their resolution).
 *
 * No allocation; an all-zero struct is an empty histogram. Adding costs a few instructions.
 */

#define HIST_SUB_BITS 5u
#define HIST_SUB      (1u << HIST_SUB_BITS)
#define HIST_BITS     40u
#define HIST_BUCKETS  ((HIST_BITS - HIST_SUB_BITS + 1u) * HIST_SUB)

struct hist {
	uint64_t count;
	uint64_t sum; /* saturates */
	uint64_t max;
	uint64_t min;
	uint32_t bucket[HIST_BUCKETS]; /* saturate */
};

/* What is shown of a histogram. All zero when nothing was recorded. */
struct hist_summary {
	uint64_t count;
	uint64_t p50;
	uint64_t p99;
	uint64_t max;
};

void hist_reset(struct hist *hist);
void hist_add(struct hist *hist, uint64_t value);

/* Adds everything in `from`. */
void hist_merge(struct hist *hist, const struct hist *from);

/*
 * The value that `permille` of 1000 recorded values do not exceed: the upper edge of the bucket of
 * rank ceil(count * permille / 1000), at most the maximum. permille above 1000 counts as 1000.
 * 0 when empty.
 */
uint64_t hist_quantile(const struct hist *hist, unsigned permille);

/* p50, p99 and max, each divided by `divisor` (1000: from ns to us) and rounded up. */
struct hist_summary hist_summary(const struct hist *hist, uint64_t divisor);

#endif
