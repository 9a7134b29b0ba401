/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_LAG_H
#define COLO_CORE_LAG_H

#include <stdbool.h>
#include <stdint.h>

/*
 * How far the SVM is behind the PVM, and how long to wait for it before it counts as late: lag.c
 * says how. Pure: times are nanoseconds and never go back.
 */
struct lag {
	uint64_t floor_ns, ceiling_ns; /* of the time to wait */
	uint64_t smoothed_ns, variance_ns;
	uint64_t highest_ns; /* in the interval that is being measured */
	uint64_t began;      /* the interval; valid with `measuring` */
	uint32_t intervals;  /* that were measured; saturates */
	uint8_t backoff;     /* the time to wait is doubled so often */
	bool measuring;
};

/* No measurement yet. A ceiling below the floor counts as the floor: the time is fixed then. */
void lag_init(struct lag *lag, uint64_t floor_ns, uint64_t ceiling_ns);

/* The SVM has said something this long after the PVM, or before it (0). */
void lag_measured(struct lag *lag, uint64_t lag_ns, uint64_t now);

/* It was waited for in vain: a checkpoint for lateness has been asked for. */
void lag_gave_up(struct lag *lag);

/* How long to wait now. */
uint64_t lag_wait_ns(const struct lag *lag);

#endif
