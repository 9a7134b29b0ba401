/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "colo-proxy/link/link_private.h"
#include "colo-proxy/link/stripe.h"

/*
 * A session's stripes. A large message of the bulk channel goes to the stripe that has least to
 * send; where it would have been on the bulk connection there is a MARKER, which names the stripe
 * and the message. So the bulk connection has the order of all, each stripe that of its own, and
 * there is nothing to sort: the receiver takes the marker, and then nothing more of the channel
 * (conn.waits) until that stripe has that message.
 *
 * The bulk connection is the session's, also with its failures: a stripe's error, a marker that is
 * wrong, a message that does not come, end it as an error of the bulk connection does.
 *
 * The threads of a session that has ended may be in a piece of work: nobody waits for them. They
 * ring when they are through, and are freed then (`leaving`), or by link_free().
 */

#define TURN_BUDGET (128u << 10) /* bytes handed out before the other sources have their turn */

struct stripe_set {
	struct stripe_set *next; /* leaving */
	struct stripe *stripes[LINK_STREAMS_MAX];
	unsigned n, last;
	struct link_marker marker; /* what the bulk connection waits for */
	bool armed;                /* its deadline is that of the marker */
	uint64_t seen;             /* stripe_received() then */
	size_t taken;              /* bytes, in this turn or before */
};

static void free_set(struct stripe_set *set)
{
	for (unsigned i = 0; i < set->n; i++)
		stripe_free(set->stripes[i]);
	free(set);
}

static bool is_gone(struct stripe_set *set)
{
	for (unsigned i = 0; i < set->n; i++) {
		if (!stripe_gone(set->stripes[i]))
			return false;
	}
	return true;
}

static void reap_leaving(struct link *link)
{
	struct stripe_set **pos = &link->leaving;

	while (*pos) {
		struct stripe_set *set = *pos;

		if (!is_gone(set)) {
			pos = &set->next;
			continue;
		}
		*pos = set->next;
		free_set(set);
	}
}

/* Whether one has ended, and the session with it. */
static bool find_error(struct link *link)
{
	char err[200];

	for (unsigned i = 0; i < link->stripes->n; i++) {
		if (!stripe_error(link->stripes->stripes[i], err, sizeof(err)))
			continue;
		/* A peer that ends the session has said why before it closed this connection. */
		link_read_now(link->conns[LINK_FAST]);
		if (link->up)
			link_conn_fail(link->conns[LINK_BULK], "stream %u: %s", i + 1, err);
		return true;
	}
	return false;
}

/* A thread has something to say: an error, room, a message that was waited for, its end. */
static void bell_rang(void *ctx, uint32_t events)
{
	struct link *link = ctx;
	uint64_t count;

	(void)events;
	if (read(link->bell.fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		link->ops->refused(link->ctx, "the event of the streams cannot be read");
	reap_leaving(link);
	if (!link->up || !link->stripes || find_error(link))
		return;
	link_go_on(link->conns[LINK_BULK]);
}

int link_stripes_init(struct link *link)
{
	link->bell.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (link->bell.fd < 0)
		return -errno;
	return loop_add(link->loop, &link->bell_source, link->bell.fd, EPOLLIN, bell_rang, link);
}

void link_stripes_fini(struct link *link)
{
	while (link->leaving) {
		struct stripe_set *set = link->leaving;

		link->leaving = set->next;
		free_set(set);
	}
	loop_del(link->loop, &link->bell_source);
	if (link->bell.fd >= 0)
		close(link->bell.fd);
	link->bell.fd = -1;
}

/* The connection leaves the loop for a thread. */
static int start_stripe(struct link *link, unsigned i)
{
	struct conn *c = link->conns[LINK_CHANNELS + i];
	int r;

	if (conn_queued(c) > 0)
		return -EBUSY; /* its READY: some bytes on a new connection */
	loop_del(link->loop, &c->source);
	loop_timer_clear(link->loop, &c->deadline);
	r = stripe_new(&link->stripes->stripes[i], c, &link->bell);
	if (r < 0)
		return r;
	link->conns[LINK_CHANNELS + i] = NULL;
	link->stripes->n++;
	return 0;
}

int link_stripes_start(struct link *link)
{
	int r = 0;

	atomic_store(&link->bell.room, false);
	link->stripes = calloc(1, sizeof(*link->stripes));
	if (!link->stripes)
		return -ENOMEM;
	for (unsigned i = 0; i < link->agreed && r == 0; i++)
		r = start_stripe(link, i);
	return r;
}

void link_stripes_stop(struct link *link)
{
	struct stripe_set *set = link->stripes;

	if (!set)
		return;
	link->stripes = NULL;
	for (unsigned i = 0; i < set->n; i++)
		stripe_stop(set->stripes[i]);
	set->next = link->leaving;
	link->leaving = set;
}

unsigned link_stripes_count(const struct link *link)
{
	return link->stripes ? link->stripes->n : 0;
}

size_t link_stripes_queued(const struct link *link)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < link_stripes_count(link); i++)
		bytes += stripe_queued(link->stripes->stripes[i]);
	return bytes;
}

uint64_t link_stripes_rate(const struct link *link)
{
	uint64_t rate = 0;

	for (unsigned i = 0; i < link_stripes_count(link); i++)
		rate += stripe_rate(link->stripes->stripes[i]);
	return rate;
}

/* The one with least to send; of several that have the same, the next one. */
static unsigned pick(struct stripe_set *set)
{
	unsigned best = 0;
	size_t least = SIZE_MAX;

	for (unsigned i = 1; i <= set->n; i++) {
		unsigned k = (set->last + i) % set->n;
		size_t queued = stripe_queued(set->stripes[k]);

		if (queued < least) {
			least = queued;
			best = k;
		}
	}
	return best;
}

int link_stripes_send(struct link *link, uint8_t type, uint32_t epoch, const struct iovec *iov,
                      int iovcnt, uint32_t len)
{
	struct stripe_set *set = link->stripes;
	struct link_marker marker = {.len = len, .stripe = (uint8_t)pick(set)};
	uint8_t payload[LINK_MARKER_LEN];
	int r = stripe_send(set->stripes[marker.stripe], type, epoch, iov, iovcnt, len,
	                    &marker.sequence);

	if (r < 0)
		return r;
	set->last = marker.stripe;
	link_marker_pack(payload, &marker);
	link_put_own(link->conns[LINK_BULK], LINK_MARKER, payload, sizeof(payload));
	return 0;
}

void link_stripes_marker(struct conn *c, const struct link_header *h, const uint8_t *payload)
{
	struct stripe_set *set = c->link->stripes;
	struct link_marker marker;
	char err[160];

	if (!set) {
		link_conn_fail(c, "a marker, and the session has one stream");
		return;
	}
	if (link_marker_unpack(payload, h->len, set->n, &marker, err, sizeof(err))) {
		link_conn_fail(c, "%s", err);
		return;
	}
	set->marker = marker;
	c->waits = true;
}

bool link_stripes_take(struct conn *c)
{
	struct link *link = c->link;
	struct stripe_set *set = link->stripes;
	struct stripe_message *m;

	if (set->taken >= TURN_BUDGET) {
		set->taken = 0;
		link_turn_soon(link);
		return false;
	}
	m = stripe_take(set->stripes[set->marker.stripe]);
	if (!m)
		return false;
	if (!link_marker_names(&set->marker, &m->h)) {
		link_conn_fail(c, "stream %u has another message than its marker names",
		               set->marker.stripe + 1u);
		free(m);
		return false;
	}
	c->waits = false;
	set->taken += m->h.len;
	link_deliver(c, &m->h, m->frame + LINK_HEADER_LEN);
	free(m);
	return true;
}

static void arm(struct conn *c)
{
	struct link *link = c->link;
	struct stripe_set *set = link->stripes;

	set->armed = true;
	set->seen = stripe_received(set->stripes[set->marker.stripe]);
	loop_timer_set(link->loop, &c->deadline, loop_now(link->loop) + link->user_timeout_ms * MS);
}

void link_stripes_settle(struct conn *c)
{
	struct stripe_set *set = c->link->stripes;

	if (!set || c->state != CONN_UP || c->channel != LINK_BULK)
		return;
	if (c->waits && !set->armed) {
		arm(c);
	} else if (!c->waits && set->armed) {
		set->armed = false;
		link_expect_rest(c);
	}
	link_update_events(c);
}

void link_stripes_late(struct conn *c)
{
	struct link *link = c->link;
	struct stripe_set *set = link->stripes;

	if (c->paused || stripe_received(set->stripes[set->marker.stripe]) != set->seen)
		arm(c);
	else
		link_conn_fail(c, "a message has not come on stream %u, nothing has within %u ms",
		               set->marker.stripe + 1u, link->user_timeout_ms);
}
