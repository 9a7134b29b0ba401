/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/loop/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "colo-proxy/loop/timer_list.h"

/*
 * One turn: wait, read the clock, call the sources that are ready, then the timers that are due.
 * So a timer set for loop_now() in a source's callback fires at the end of the same turn, and one
 * set for loop_now() in a timer's callback fires in the next turn, without waiting in between.
 *
 * Deletion: the events of the turn that are not yet delivered are in `batch`; loop_del() blanks
 * those of its source. Timers that are due are in a list of their own before any of them fires, and
 * loop_timer_clear() looks in both (timer_list.h). So neither is called after it was taken back.
 *
 * Posted calls that have not run when the loop is freed are dropped; their arguments belong to
 * whoever posted them.
 */

#define BATCH 64

struct post {
	struct post *next;
	void (*fn)(void *arg);
	void *arg;
};

struct loop {
	int epoll_fd;
	uint64_t now;
	bool stop;
	struct timer_list timers;
	struct epoll_event batch[BATCH];
	int batch_at, batch_len;
	struct loop_source wake;
	int wake_fd;
	pthread_mutex_t lock; /* of the two below */
	struct post *posts;
	struct post **posts_tail;
};

uint64_t loop_clock(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t loop_now(const struct loop *loop)
{
	return loop->now;
}

static struct post *take_posts(struct loop *loop)
{
	struct post *list;

	pthread_mutex_lock(&loop->lock);
	list = loop->posts;
	loop->posts = NULL;
	loop->posts_tail = &loop->posts;
	pthread_mutex_unlock(&loop->lock);
	return list;
}

static void run_posts(void *ctx, uint32_t events)
{
	struct loop *loop = ctx;
	uint64_t count;
	struct post *post;

	/* Emptied before the list is taken: a post in between wakes the loop once more. */
	while (read(loop->wake_fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
	post = take_posts(loop);
	while (post) {
		struct post *next = post->next;

		post->fn(post->arg);
		free(post);
		post = next;
	}
}

int loop_new(struct loop **ret_loop)
{
	struct loop *loop = calloc(1, sizeof(*loop));
	int err;

	if (!loop)
		return -ENOMEM;
	loop->epoll_fd = loop->wake_fd = -1;
	loop->posts_tail = &loop->posts;
	err = -pthread_mutex_init(&loop->lock, NULL);
	if (err) {
		free(loop);
		return err;
	}
	loop->now = loop_clock();
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		goto fail_errno;
	loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_fd < 0)
		goto fail_errno;
	err = loop_add(loop, &loop->wake, loop->wake_fd, EPOLLIN, run_posts, loop);
	if (err)
		goto fail;
	*ret_loop = loop;
	return 0;

fail_errno:
	err = -errno;
fail:
	loop_free(loop);
	return err;
}

void loop_free(struct loop *loop)
{
	struct post *post;

	if (!loop)
		return;
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	post = take_posts(loop);
	while (post) {
		struct post *next = post->next;

		free(post);
		post = next;
	}
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
             void (*ready)(void *ctx, uint32_t events), void *ctx)
{
	struct epoll_event ev = {.events = events, .data.ptr = source};

	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -errno;
	source->fd = fd;
	source->events = events;
	source->ready = ready;
	source->ctx = ctx;
	source->added = true;
	return 0;
}

int loop_set_events(struct loop *loop, struct loop_source *source, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = source};

	if (!source->added)
		return -ENOENT;
	if (source->events == events)
		return 0;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &ev) < 0)
		return -errno;
	source->events = events;
	return 0;
}

void loop_del(struct loop *loop, struct loop_source *source)
{
	int i;

	if (!source->added)
		return;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
	source->added = false;
	for (i = loop->batch_at; i < loop->batch_len; i++) {
		if (loop->batch[i].data.ptr == source)
			loop->batch[i].data.ptr = NULL;
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
	struct post *post = malloc(sizeof(*post));
	uint64_t one = 1;
	bool first;

	if (!post)
		return -ENOMEM;
	post->next = NULL;
	post->fn = fn;
	post->arg = arg;
	pthread_mutex_lock(&loop->lock);
	first = !loop->posts;
	*loop->posts_tail = post;
	loop->posts_tail = &post->next;
	/* The counter cannot overflow: one write for each list that is taken. */
	while (first && write(loop->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_mutex_unlock(&loop->lock);
	return 0;
}

static void call_sources(struct loop *loop)
{
	while (loop->batch_at < loop->batch_len) {
		struct epoll_event *ev = &loop->batch[loop->batch_at++];
		struct loop_source *source = ev->data.ptr;
		uint32_t events;

		if (!source)
			continue;
		/* What another callback of this turn has stopped waiting for is not delivered. */
		events = ev->events & (source->events | EPOLLERR | EPOLLHUP);
		if (events)
			source->ready(source->ctx, events);
	}
	loop->batch_at = loop->batch_len = 0;
}

static int wait_events(struct loop *loop)
{
	struct timespec timeout, *wait = NULL;
	int n;

	if (loop->timers.armed) {
		uint64_t now = loop_clock();
		uint64_t left = loop->timers.armed->at > now ? loop->timers.armed->at - now : 0;

		timeout.tv_sec = (time_t)(left / 1000000000u);
		timeout.tv_nsec = (long)(left % 1000000000u);
		wait = &timeout;
	}
	n = epoll_pwait2(loop->epoll_fd, loop->batch, BATCH, wait, NULL);
	if (n < 0 && errno != EINTR)
		return -errno;
	loop->batch_at = 0;
	loop->batch_len = n > 0 ? n : 0;
	loop->now = loop_clock();
	return 0;
}

int loop_run(struct loop *loop)
{
	int slack = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
	int err = 0;

	/* The default slack of 50 us would be added to every timer. */
	prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
	while (!loop->stop) {
		err = wait_events(loop);
		if (err)
			break;
		call_sources(loop);
		timer_list_fire(&loop->timers, loop->now);
	}
	loop->stop = false;
	if (slack > 0)
		prctl(PR_SET_TIMERSLACK, (unsigned long)slack, 0, 0, 0);
	return err;
}

void loop_stop(struct loop *loop)
{
	loop->stop = true;
}
