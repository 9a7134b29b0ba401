/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_STEADY_H
#define COLO_CORE_STEADY_H

#include <stdint.h>

/*
 * A clock for the age of flows: only time that was seen passing counts. The host's clock leaps when
 * the host was suspended, or is a VM that was stopped; connections are no older for that, and their
 * clients still wait. Its owner reads the clock more often than `step_ns`, by a timer of its own; a
 * step that is longer counts as one of that length. What must know that this side stood still (who
 * may speak) asks the host's clock instead.
 */
struct steady {
	uint64_t clock;   /* the host's, when it was read last */
	uint64_t now;     /* this one's */
	uint64_t step_ns; /* the longest step that counts */
};

/* Begins with what the host's clock shows. */
void steady_init(struct steady *steady, uint64_t clock, uint64_t step_ns);

/* The time, where the host's clock shows `clock`. Never goes back. */
uint64_t steady_now(struct steady *steady, uint64_t clock);

#endif
