/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_SEQ_H
#define COLO_CORE_SEQ_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Sequence-number arithmetic modulo 2^32 (RFC 9293 section 3.4; timestamps: RFC 7323 section 5.2).
 * Comparisons hold while the two numbers are less than 2^31 apart. This is the only place that
 * compares sequence numbers; everything else calls these.
 */

/* The signed distance from b to a: positive when a is later. */
static inline int32_t seq_diff(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b);
}

static inline bool seq_lt(uint32_t a, uint32_t b)
{
	return seq_diff(a, b) < 0;
}

static inline bool seq_leq(uint32_t a, uint32_t b)
{
	return seq_diff(a, b) <= 0;
}

static inline bool seq_gt(uint32_t a, uint32_t b)
{
	return seq_diff(a, b) > 0;
}

static inline bool seq_geq(uint32_t a, uint32_t b)
{
	return seq_diff(a, b) >= 0;
}

static inline uint32_t seq_max(uint32_t a, uint32_t b)
{
	return seq_gt(a, b) ? a : b;
}

static inline uint32_t seq_min(uint32_t a, uint32_t b)
{
	return seq_lt(a, b) ? a : b;
}

#endif
