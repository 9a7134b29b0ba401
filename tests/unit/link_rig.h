/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_TESTS_LINK_RIG_H
#define COLO_TESTS_LINK_RIG_H

#include <glib.h>
#include <stdbool.h>

#include "colo-proxy/loop/loop.h"

/*
 * How the link's tests wait. Both sides are in one process and on one loop, which callbacks stop,
 * so that the test looks whether what it waits for has come. `t` has a loop and a guard, a timer.
 */

#define MS 1000000ull

static void guard_fired(void *ctx, uint64_t now)
{
	g_error("nothing more happened for " G_STRINGIFY(PATIENCE_S) " s");
}

/* Turns the loop until the condition holds. */
#define UNTIL(t, cond)                                                                             \
	do {                                                                                       \
		loop_timer_set((t)->loop, &(t)->guard, loop_clock() + PATIENCE_S * 1000 * MS);     \
		while (!(cond))                                                                    \
			g_assert_cmpint(loop_run((t)->loop), ==, 0);                               \
	} while (0)

static void tick(void *ctx, uint64_t now)
{
	loop_stop(ctx);
}

/* For so long, and at least one turn. */
static void loop_turn_for(struct loop *loop, unsigned ms)
{
	uint64_t end = loop_clock() + ms * MS;
	struct loop_timer timer = {.fire = tick, .ctx = loop};

	do {
		loop_timer_set(loop, &timer, end);
		g_assert_cmpint(loop_run(loop), ==, 0);
	} while (loop_clock() < end);
	loop_timer_clear(loop, &timer);
}

static const bool in_clear = false, under_tls = true;

static bool encrypted(const void *data)
{
	return *(const bool *)data;
}

#endif
