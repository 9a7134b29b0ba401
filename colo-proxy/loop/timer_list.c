/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/loop/timer_list.h"

#include <stdlib.h>

static bool take_out(struct loop_timer **list, struct loop_timer *timer)
{
	for (; *list; list = &(*list)->next) {
		if (*list == timer) {
			*list = timer->next;
			return true;
		}
	}
	return false;
}

void timer_list_clear(struct timer_list *list, struct loop_timer *timer)
{
	if (!timer->at)
		return;
	if (!take_out(&list->armed, timer))
		take_out(&list->due, timer);
	timer->at = 0;
	timer->next = NULL;
}

void timer_list_set(struct timer_list *list, struct loop_timer *timer, uint64_t at)
{
	struct loop_timer **pos;

	timer_list_clear(list, timer);
	timer->at = at ? at : 1;
	for (pos = &list->armed; *pos && (*pos)->at <= timer->at; pos = &(*pos)->next)
		;
	timer->next = *pos;
	*pos = timer;
}

/* Moves the timers that are due at `now` from the head of the list to `due`. */
static void split_due(struct timer_list *list, uint64_t now)
{
	struct loop_timer **end = &list->armed;

	while (*end && (*end)->at <= now)
		end = &(*end)->next;
	if (end == &list->armed)
		return;
	list->due = list->armed;
	list->armed = *end;
	*end = NULL;
}

void timer_list_fire(struct timer_list *list, uint64_t now)
{
	split_due(list, now);
	while (list->due) {
		struct loop_timer *timer = list->due;

		list->due = timer->next;
		timer->next = NULL;
		timer->at = 0;
		timer->fire(timer->ctx, now);
	}
}
