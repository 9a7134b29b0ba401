/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_DIRTY_RATE_H
#define COLO_CORE_DIRTY_RATE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * How much the VM has written to since the last checkpoint, from samples that QEMU takes. See
 * dirty_rate.c for how. No I/O and no clock: times (ns) go in.
 */

struct dirty_rate_params {
	uint64_t interval_ns; /* from a cut, or a sample, to the next sample; 0: none is taken */
	uint64_t memory_mib;
	uint64_t limit_mib; /* written to since the cut: then a checkpoint is wanted; 0: never */
};

struct dirty_rate {
	struct dirty_rate_params params;
	bool on;        /* protected */
	bool off;       /* QEMU cannot, until protection begins anew */
	bool in_flight; /* a checkpoint */
	bool asked;     /* a sample is being taken */
	bool spoilt;    /* a cut came in between */
	bool known;     /* there is a sample of this epoch */
	uint64_t cut_at, asked_at;
	uint64_t rate, rate_at; /* pages a second, of the last sample, and when it came; 0: none */
	uint64_t written, upto; /* pages by the samples of this epoch, up to that time */
	uint64_t expected,
	        span;        /* the last cut's: pages by the samples, 0: none; ns of its epoch */
	uint64_t share;      /* per mille of those that a checkpoint had */
	uint64_t share_rate; /* pages a second when that was seen */
	uint32_t failures;   /* in a row */
	uint64_t samples, refused;
};

/* A sample for a VM of that size: how long it takes, ms, and how many pages of a GiB are looked at
 * (QEMU: qapi/migration.json, calc-dirty-rate). */
uint64_t dirty_rate_window_ms(uint64_t memory_mib, uint64_t interval_ns);
uint64_t dirty_rate_pages_per_gib(uint64_t memory_mib);

void dirty_rate_init(struct dirty_rate *d, const struct dirty_rate_params *params);

/* Protection begins, with a QEMU that has not been asked yet, or is over. */
void dirty_rate_begin(struct dirty_rate *d, uint64_t now);
void dirty_rate_end(struct dirty_rate *d);

/* A checkpoint is cut; it has so many pages; it is loaded. */
void dirty_rate_cut(struct dirty_rate *d, uint64_t now);
void dirty_rate_captured(struct dirty_rate *d, uint64_t pages);
void dirty_rate_ready(struct dirty_rate *d);

/* When the next sample is to be asked for; UINT64_MAX: none. */
uint64_t dirty_rate_due(const struct dirty_rate *d);
/* It is asked for now. */
void dirty_rate_asked(struct dirty_rate *d, uint64_t now);

/*
 * QEMU's answer. 0, also when it is of no use because a checkpoint came in between. -ERANGE: more
 * than that VM has of memory was written to in that time, which counts as a failure. -EINVAL:
 * nothing was asked for.
 */
int dirty_rate_sampled(struct dirty_rate *d, uint64_t mib_per_s, uint64_t now);
/* There is none; `for_good` when there will be none. Whether that was the last attempt. */
bool dirty_rate_failed(struct dirty_rate *d, bool for_good);

/* Pages that a checkpoint cut now is expected to have; 0 as long as nothing is known. */
uint64_t dirty_rate_expected(const struct dirty_rate *d, uint64_t now);

/* When the limit is reached, as far as is known; UINT64_MAX: not by now, or there is none. */
uint64_t dirty_rate_full_at(const struct dirty_rate *d);

#endif
