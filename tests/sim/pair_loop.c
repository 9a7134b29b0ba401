/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * loop.h in virtual time: turns are events of the world, descriptors are the models'. A loop's
 * clock is its host's, which is not the world's, and may stand still or leap (pair_fault.c).
 */
#include <errno.h>
#include <sys/epoll.h>

#include "colo-proxy/loop/timer_list.h"
#include "tests/sim/pair.h"

#define SOURCES 16u

struct post {
	struct post *next;
	void (*fn)(void *arg);
	void *arg;
};

struct loop {
	struct host *host;
	uint64_t now;
	struct timer_list timers;
	struct loop_source *source[SOURCES], *batch[SOURCES];
	uint32_t events[SOURCES], n, batch_n;
	struct post *posts, **posts_tail;
};

uint64_t loop_clock(void)
{
	return here ? host_clock(here) : world->now;
}

uint64_t loop_now(const struct loop *loop)
{
	return loop->now;
}

int loop_new(struct loop **ret_loop)
{
	struct loop *loop = g_new0(struct loop, 1);

	loop->host = here;
	loop->now = host_clock(here);
	loop->posts_tail = &loop->posts;
	here->loop = loop;
	*ret_loop = loop;
	return 0;
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	while (loop->posts) {
		struct post *post = loop->posts;

		loop->posts = post->next;
		free(post);
	}
	loop->host->loop = NULL;
	g_free(loop);
}

int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
             void (*ready)(void *ctx, uint32_t events), void *ctx)
{
	g_assert(loop->n < SOURCES);
	*source = (struct loop_source){
	        .fd = fd, .events = events, .ready = ready, .ctx = ctx, .added = true};
	loop->source[loop->n++] = source;
	loop_wake(loop->host);
	return 0;
}

int loop_set_events(struct loop *loop, struct loop_source *source, uint32_t events)
{
	if (!source->added)
		return -ENOENT;
	source->events = events;
	loop_wake(loop->host);
	return 0;
}

void loop_del(struct loop *loop, struct loop_source *source)
{
	if (!source->added)
		return;
	source->added = false;
	for (uint32_t i = 0; i < loop->n; i++) {
		if (loop->source[i] == source) {
			loop->source[i] = loop->source[--loop->n];
			break;
		}
	}
	for (uint32_t i = 0; i < loop->batch_n; i++) {
		if (loop->batch[i] == source)
			loop->batch[i] = NULL;
	}
}

void loop_timer_clear(struct loop *loop, struct loop_timer *timer)
{
	timer_list_clear(&loop->timers, timer);
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at)
{
	timer_list_set(&loop->timers, timer, at);
}

int loop_post(struct loop *loop, void (*fn)(void *arg), void *arg)
{
	struct post *post = g_new(struct post, 1);

	*post = (struct post){NULL, fn, arg};
	*loop->posts_tail = post;
	loop->posts_tail = &post->next;
	loop_wake(loop->host);
	return 0;
}

int loop_run(struct loop *loop)
{
	(void)loop;
	return -ENOSYS;
}

void loop_stop(struct loop *loop)
{
	(void)loop;
}

void loop_wake(struct host *host)
{
	uint64_t when = world->now + rnd_ns(2 * US, 60 * US);

	if (host->loop && when < host->turn_at)
		host->turn_at = when;
}

/* When the host's clock will show that, by the world's time. */
static uint64_t when_it_is(const struct host *host, uint64_t at_clock)
{
	uint64_t now = host_clock(host);

	return at_clock > now ? world->now + (at_clock - now) : world->now;
}

uint64_t loop_next(const struct host *host)
{
	uint64_t next = host->turn_at, link;

	if (!host->loop || !host->node)
		return NEVER;
	if (host->loop->timers.armed) {
		uint64_t due = when_it_is(host, host->loop->timers.armed->at);

		next = due < next ? due : next;
	}
	link = link_next(host);
	if (link < next)
		next = link;
	return next < host->stalled_until ? host->stalled_until : next;
}

static void run_posts(struct loop *loop)
{
	struct post *post = loop->posts;

	loop->posts = NULL;
	loop->posts_tail = &loop->posts;
	while (post) {
		struct post *next = post->next;

		post->fn(post->arg);
		free(post);
		post = next;
	}
}

/* A daemon that dies: what was posted is freed by running it, without effect (acts()). */
void loop_end(struct host *host)
{
	while (host->loop->posts)
		run_posts(host->loop);
}

static uint32_t ready(const struct loop *loop, const struct loop_source *source)
{
	return fd_poll(loop->host, source->fd) & (source->events | EPOLLERR | EPOLLHUP);
}

static void call_sources(struct loop *loop)
{
	uint32_t first = loop->n ? rnd(loop->n) : 0;

	loop->batch_n = 0;
	for (uint32_t i = 0; i < loop->n; i++) {
		struct loop_source *source = loop->source[(first + i) % loop->n];
		uint32_t events = ready(loop, source);

		if (!events)
			continue;
		loop->events[loop->batch_n] = events;
		loop->batch[loop->batch_n++] = source;
	}
	for (uint32_t i = 0; i < loop->batch_n; i++) {
		struct loop_source *source = loop->batch[i];
		uint32_t events;

		if (!source)
			continue;
		events = loop->events[i] & (source->events | EPOLLERR | EPOLLHUP);
		if (events)
			source->ready(source->ctx, events);
	}
	loop->batch_n = 0;
}

void loop_turn(struct host *host)
{
	struct loop *loop = host->loop;

	host->turn_at = NEVER;
	loop->now = host_clock(host);
	run_posts(loop);
	link_turn(host);
	call_sources(loop);
	timer_list_fire(&loop->timers, loop->now);
	link_turn_end(host);
	if (host->slow_ns)
		host->stalled_until = world->now + rnd_ns(0, host->slow_ns);
	for (uint32_t i = 0; i < loop->n; i++) {
		if (ready(loop, loop->source[i])) {
			loop_wake(host);
			break;
		}
	}
}
