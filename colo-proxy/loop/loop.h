/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_LOOP_LOOP_H
#define COLO_LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>

/*
 * The data thread's event loop: epoll with nanosecond timers. One thread only; the one call that
 * other threads may make is loop_post().
 *
 * The clock is read once for each turn; loop_now() is that reading (CLOCK_BOOTTIME, ns: a host that
 * was suspended must see that it stood still, or it would go on speaking for a VM that its peer has
 * taken over meanwhile).
 */

struct loop;

/* A file descriptor under watch. The owner embeds it and keeps it alive until loop_del(). */
struct loop_source {
	int fd;
	uint32_t events;
	void (*ready)(void *ctx, uint32_t events); /* events: EPOLLIN, EPOLLOUT, EPOLLHUP, ... */
	void *ctx;
	bool added;
};

/* A one-shot timer. The owner embeds it, sets fire and ctx, and keeps it alive while armed. */
struct loop_timer {
	uint64_t at; /* ns, loop_clock(); 0: not armed */
	void (*fire)(void *ctx, uint64_t now);
	void *ctx;
	struct loop_timer *next;
};

/* Returns 0 or a negative errno. */
int loop_new(struct loop **ret_loop);
void loop_free(struct loop *loop);

/* Watches fd for `events` (EPOLLIN | EPOLLOUT, level triggered). 0 or a negative errno. */
int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
             void (*ready)(void *ctx, uint32_t events), void *ctx);
/* Changes what is waited for; no system call when nothing changes. */
int loop_set_events(struct loop *loop, struct loop_source *source, uint32_t events);
/* Stops watching; does not close the descriptor. Safe inside a callback, also on other sources. */
void loop_del(struct loop *loop, struct loop_source *source);

/* Arms (again) a timer for the absolute time `at`. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at);
void loop_timer_clear(struct loop *loop, struct loop_timer *timer);

/* The time of this turn. */
uint64_t loop_now(const struct loop *loop);
/* The time now; for measuring inside a turn. */
uint64_t loop_clock(void);

/* Runs `fn(arg)` in the loop's thread at its next turn. Any thread. 0 or -ENOMEM. */
int loop_post(struct loop *loop, void (*fn)(void *arg), void *arg);

/* Turns until loop_stop(). Returns 0 or a negative errno of epoll itself. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

#endif
