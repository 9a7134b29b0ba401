/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <glib.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "colo-proxy/loop/loop.h"

#define MS 1000000u

struct bench {
	struct loop *loop;
	struct loop_timer timers[4];
	struct loop_source sources[2];
	int fds[2];
	GString *log;
	uint64_t due[4];
	unsigned calls;
	struct loop_timer guard;
};

static void guard_fired(void *ctx, uint64_t now)
{
	g_error("the test did not end in 10 s");
}

static void bench_up(struct bench *b)
{
	memset(b, 0, sizeof(*b));
	g_assert_cmpint(loop_new(&b->loop), ==, 0);
	b->log = g_string_new(NULL);
	b->guard.fire = guard_fired;
	loop_timer_set(b->loop, &b->guard, loop_clock() + 120000ull * MS);
}

static void bench_down(struct bench *b)
{
	loop_free(b->loop);
	g_string_free(b->log, TRUE);
}

struct named {
	struct bench *b;
	unsigned index;
};

static void log_timer(void *ctx, uint64_t now)
{
	struct named *n = ctx;

	g_assert_cmpuint(now, >=, n->b->due[n->index]);
	g_assert_cmpuint(loop_clock(), >=, n->b->due[n->index]);
	g_assert_cmpuint(now, ==, loop_now(n->b->loop));
	g_string_append_c(n->b->log, (char)('a' + n->index));
	if (n->index == 3)
		loop_stop(n->b->loop);
}

static void turn_only(void *ctx, uint32_t events)
{
}

/* A source that is always ready keeps the loop turning: a timer fired early would show. */
static void test_timers_in_order_never_early(void)
{
	static const unsigned us[] = {900, 300, 300, 5000};
	struct named names[4];
	struct bench b;
	uint64_t start;
	unsigned i;

	bench_up(&b);
	b.fds[0] = eventfd(1, EFD_NONBLOCK);
	g_assert_cmpint(loop_add(b.loop, &b.sources[0], b.fds[0], EPOLLIN, turn_only, &b), ==, 0);
	start = loop_clock();
	for (i = 0; i < 4; i++) {
		names[i] = (struct named){&b, i};
		b.timers[i].fire = log_timer;
		b.timers[i].ctx = &names[i];
		b.due[i] = start + us[i] * 1000u;
		loop_timer_set(b.loop, &b.timers[i], b.due[i]);
	}
	g_assert_cmpint(loop_run(b.loop), ==, 0);
	g_assert_cmpstr(b.log->str, ==, "bcad");
	loop_del(b.loop, &b.sources[0]);
	close(b.fds[0]);
	bench_down(&b);
}

static void test_timer_moved_and_cleared(void)
{
	struct named names[4];
	struct bench b;
	uint64_t start;
	unsigned i;

	bench_up(&b);
	start = loop_clock();
	for (i = 0; i < 4; i++) {
		names[i] = (struct named){&b, i};
		b.timers[i].fire = log_timer;
		b.timers[i].ctx = &names[i];
		b.due[i] = start + MS;
		loop_timer_set(b.loop, &b.timers[i], b.due[i]);
	}
	loop_timer_clear(b.loop, &b.timers[1]);
	loop_timer_clear(b.loop, &b.timers[1]);
	g_assert_cmpuint(b.timers[1].at, ==, 0);
	b.due[3] = start + 3 * MS;
	loop_timer_set(b.loop, &b.timers[3], b.due[3]);
	b.due[2] = start + MS / 2;
	loop_timer_set(b.loop, &b.timers[2], b.due[2]);
	g_assert_cmpint(loop_run(b.loop), ==, 0);
	g_assert_cmpstr(b.log->str, ==, "cad");
	bench_down(&b);
}

/* Of two timers due in the same turn the first to fire takes back the other. */
static void clear_other(void *ctx, uint64_t now)
{
	struct named *n = ctx;

	n->b->calls++;
	loop_timer_clear(n->b->loop, &n->b->timers[1 - n->index]);
	loop_stop(n->b->loop);
}

static void test_timer_cleared_by_timer(void)
{
	struct named names[2];
	struct bench b;
	unsigned i;

	bench_up(&b);
	for (i = 0; i < 2; i++) {
		names[i] = (struct named){&b, i};
		b.timers[i].fire = clear_other;
		b.timers[i].ctx = &names[i];
		loop_timer_set(b.loop, &b.timers[i], 1);
	}
	g_assert_cmpint(loop_run(b.loop), ==, 0);
	g_assert_cmpuint(b.calls, ==, 1);
	bench_down(&b);
}

/* A timer that sets itself for now must not starve the sources. */
static void again(void *ctx, uint64_t now)
{
	struct bench *b = ctx;

	b->calls++;
	loop_timer_set(b->loop, &b->timers[0], now);
}

static void stop_when_ready(void *ctx, uint32_t events)
{
	struct bench *b = ctx;

	if (b->calls >= 3)
		loop_stop(b->loop);
}

static void make_ready(struct bench *b, unsigned i)
{
	b->fds[i] = eventfd(1, EFD_NONBLOCK);
	g_assert_cmpint(b->fds[i], >=, 0);
}

static void test_timer_at_now_turns(void)
{
	struct bench b;

	bench_up(&b);
	make_ready(&b, 0);
	g_assert_cmpint(loop_add(b.loop, &b.sources[0], b.fds[0], EPOLLIN, stop_when_ready, &b), ==,
	                0);
	b.timers[0].fire = again;
	b.timers[0].ctx = &b;
	loop_timer_set(b.loop, &b.timers[0], loop_now(b.loop));
	g_assert_cmpint(loop_run(b.loop), ==, 0);
	g_assert_cmpuint(b.calls, >=, 3);
	loop_del(b.loop, &b.sources[0]);
	close(b.fds[0]);
	bench_down(&b);
}

/* Set in a source's callback for now: fires in the same turn, after the sources. */
static void note_turn(void *ctx, uint64_t now)
{
	struct bench *b = ctx;

	g_assert_cmpuint(now, ==, b->due[0]);
	loop_stop(b->loop);
}

static void set_for_now(void *ctx, uint32_t events)
{
	struct bench *b = ctx;

	b->due[0] = loop_now(b->loop);
	loop_timer_set(b->loop, &b->timers[0], b->due[0]);
	loop_del(b->loop, &b->sources[0]);
}

static void test_timer_ends_turn(void)
{
	struct bench b;

	bench_up(&b);
	make_ready(&b, 0);
	g_assert_cmpint(loop_add(b.loop, &b.sources[0], b.fds[0], EPOLLIN, set_for_now, &b), ==, 0);
	b.timers[0].fire = note_turn;
	b.timers[0].ctx = &b;
	g_assert_cmpint(loop_run(b.loop), ==, 0);
	close(b.fds[0]);
	bench_down(&b);
}

static void del_both(void *ctx, uint32_t events)
{
	struct bench *b = ctx;

	b->calls++;
	loop_del(b->loop, &b->sources[0]);
	loop_del(b->loop, &b->sources[1]);
	/* What an owner does next: the memory is gone. */
	memset(b->sources, 0xff, sizeof(b->sources));
	loop_stop(b->loop);
}

static void test_source_deleted_by_source(void)
{
	struct bench b;
	unsigned i;

	bench_up(&b);
	for (i = 0; i < 2; i++) {
		make_ready(&b, i);
		g_assert_cmpint(loop_add(b.loop, &b.sources[i], b.fds[i], EPOLLIN, del_both, &b),
		                ==, 0);
	}
	g_assert_cmpint(loop_run(b.loop), ==, 0);
	g_assert_cmpuint(b.calls, ==, 1);
	close(b.fds[0]);
	close(b.fds[1]);
	bench_down(&b);
}

/* The first of two ready sources mutes the other; only one is called in this turn. */
static void mute_other(void *ctx, uint32_t events)
{
	struct named *n = ctx;

	n->b->calls++;
	g_assert_cmpint(loop_set_events(n->b->loop, &n->b->sources[1 - n->index], 0), ==, 0);
	loop_stop(n->b->loop);
}

static void test_source_muted_by_source(void)
{
	struct named names[2];
	struct bench b;
	unsigned i;

	bench_up(&b);
	for (i = 0; i < 2; i++) {
		names[i] = (struct named){&b, i};
		make_ready(&b, i);
		g_assert_cmpint(
		        loop_add(b.loop, &b.sources[i], b.fds[i], EPOLLIN, mute_other, &names[i]),
		        ==, 0);
	}
	g_assert_cmpint(loop_run(b.loop), ==, 0);
	g_assert_cmpuint(b.calls, ==, 1);
	for (i = 0; i < 2; i++) {
		loop_del(b.loop, &b.sources[i]);
		close(b.fds[i]);
	}
	bench_down(&b);
}

static void test_source_errors(void)
{
	struct loop_source source = {0};
	struct bench b;

	bench_up(&b);
	g_assert_cmpint(loop_set_events(b.loop, &source, EPOLLIN), ==, -ENOENT);
	loop_del(b.loop, &source);
	g_assert_cmpint(loop_add(b.loop, &source, -1, EPOLLIN, stop_when_ready, &b), ==, -EBADF);
	g_assert_false(source.added);
	bench_down(&b);
}

#define POSTS 20000u

struct posting {
	struct bench *b;
	pthread_t loop_thread;
	unsigned next;
};

struct posted {
	struct posting *p;
	unsigned n;
};

static void posted_call(void *arg)
{
	struct posted *call = arg;

	g_assert_true(pthread_equal(pthread_self(), call->p->loop_thread));
	g_assert_cmpuint(call->n, ==, call->p->next);
	if (++call->p->next == POSTS)
		loop_stop(call->p->b->loop);
	g_free(call);
}

static void *post_all(void *arg)
{
	struct posting *p = arg;
	unsigned i;

	for (i = 0; i < POSTS; i++) {
		struct posted *call = g_new(struct posted, 1);

		*call = (struct posted){p, i};
		g_assert_cmpint(loop_post(p->b->loop, posted_call, call), ==, 0);
	}
	return NULL;
}

static void test_post_from_thread(void)
{
	struct posting p = {0};
	struct bench b;
	pthread_t thread;

	bench_up(&b);
	p.b = &b;
	p.loop_thread = pthread_self();
	g_assert_cmpint(pthread_create(&thread, NULL, post_all, &p), ==, 0);
	g_assert_cmpint(loop_run(b.loop), ==, 0);
	pthread_join(thread, NULL);
	g_assert_cmpuint(p.next, ==, POSTS);
	bench_down(&b);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/loop/timers-in-order-never-early", test_timers_in_order_never_early);
	g_test_add_func("/loop/timer-moved-and-cleared", test_timer_moved_and_cleared);
	g_test_add_func("/loop/timer-cleared-by-timer", test_timer_cleared_by_timer);
	g_test_add_func("/loop/timer-at-now-turns", test_timer_at_now_turns);
	g_test_add_func("/loop/timer-ends-turn", test_timer_ends_turn);
	g_test_add_func("/loop/source-deleted-by-source", test_source_deleted_by_source);
	g_test_add_func("/loop/source-muted-by-source", test_source_muted_by_source);
	g_test_add_func("/loop/source-errors", test_source_errors);
	g_test_add_func("/loop/post-from-thread", test_post_from_thread);
	return g_test_run();
}
