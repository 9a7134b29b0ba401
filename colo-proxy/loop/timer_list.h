/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_LOOP_TIMER_LIST_H
#define COLO_LOOP_TIMER_LIST_H

#include "colo-proxy/loop/loop.h"

/*
 * A loop's timers, without I/O and clock. A sorted list: the data thread has a dozen, and most are
 * set for soon. Timers of the same time fire in the order in which they were set.
 */
struct timer_list {
	struct loop_timer *armed; /* sorted by time */
	struct loop_timer *due;   /* of this turn, not yet fired */
};

void timer_list_set(struct timer_list *list, struct loop_timer *timer, uint64_t at);
void timer_list_clear(struct timer_list *list, struct loop_timer *timer);

/* Calls those that are due. One that another one clears is not called any more, and one that is set
 * meanwhile waits for the next time, whatever it is set for. */
void timer_list_fire(struct timer_list *list, uint64_t now);

#endif
