/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Events in the order of their time, and the hops that a frame passes: at each one the seed's own
 * random numbers decide whether it is dropped, doubled, cut, joined with the one before, held back
 * behind later ones, or only delayed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "colo-proxy/core/packet.h"
#include "tests/stacks/stacks.h"

#define MAX_PIECES 6u

/* ---- events: a binary heap ---- */

static struct event **heap;
static uint32_t used, room;
static uint64_t serial;

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static bool before(const struct event *a, const struct event *b)
{
	return a->at != b->at ? a->at < b->at : a->serial < b->serial;
}

static void *must(void *memory)
{
	if (!memory)
		abort();
	return memory;
}

static void sift_down(uint32_t at)
{
	for (;;) {
		uint32_t least = at, child = at * 2 + 1;
		struct event *swap;

		for (uint32_t i = child; i < used && i < child + 2; i++) {
			if (before(heap[i], heap[least]))
				least = i;
		}
		if (least == at)
			return;
		swap = heap[at];
		heap[at] = heap[least];
		heap[least] = swap;
		at = least;
	}
}

struct event *event_add(struct run *run, enum event_kind kind, uint64_t at)
{
	struct event *event = must(calloc(1, sizeof(*event)));
	uint32_t i;

	*event = (struct event){.at = at, .serial = serial, .run = run, .kind = kind};
	serial++;
	if (used == room) {
		room = room ? room * 2 : 1024;
		heap = must(realloc(heap, room * sizeof(struct event *)));
	}
	for (i = used++; i && before(event, heap[(i - 1) / 2]); i = (i - 1) / 2)
		heap[i] = heap[(i - 1) / 2];
	heap[i] = event;
	run->events++;
	return event;
}

uint64_t event_next(void)
{
	return used ? heap[0]->at : UINT64_MAX;
}

struct event *event_due(uint64_t now)
{
	struct event *first = used ? heap[0] : NULL;

	if (!first || first->at > now)
		return NULL;
	heap[0] = heap[--used];
	sift_down(0);
	first->run->events--;
	return first;
}

void event_free(struct event *event)
{
	frame_free(event->frame);
	free(event->message);
	free(event);
}

void event_clear(void)
{
	while (used) {
		heap[--used]->run->events--;
		event_free(heap[used]);
	}
	free(heap);
	heap = NULL;
	room = 0;
}

/* ---- hops ---- */

void *link_take(const struct run *run)
{
	struct event *first = NULL;
	void *message;

	for (uint32_t i = 0; i < used; i++) {
		struct event *event = heap[i];

		if (event->run == run && event->kind == EVENT_TO_S && event->message &&
		    (!first || before(event, first)))
			first = event;
	}
	if (!first)
		return NULL;
	message = first->message;
	first->message = NULL; /* the event stays, and does nothing */
	return message;
}

/* The event of a frame in this hop that comes first; NULL: there is none. */
static struct event *first_in(const struct run *run, enum hop hop)
{
	struct event *first = NULL;

	for (uint32_t i = 0; i < used; i++) {
		struct event *event = heap[i];

		if (event->run == run && event->kind == EVENT_FRAME && event->value == hop &&
		    event->frame && (!first || before(event, first)))
			first = event;
	}
	return first;
}

void hop_flush(struct run *run, enum hop hop, bool lose)
{
	struct event *event;

	run->hop[hop].joinable = NULL;
	while ((event = first_in(run, hop))) {
		struct frame *frame = event->frame;

		event->frame = NULL; /* the event stays, and does nothing */
		if (lose)
			frame_free(frame);
		else
			run_passed(run, hop, frame);
	}
}

static void send_on(struct run *run, enum hop hop, struct frame *frame, uint64_t now)
{
	const struct handling *t = &run->plan.hop[hop];
	struct hop_state *state = &run->hop[hop];
	struct event *event;
	uint64_t at = now + rng_below(&state->rng, t->delay + 1) * 1000ull;

	if (rng_chance(&state->rng, t->hold_back)) {
		/* Overtaken by those behind it. */
		at += t->far_delay * 1000ull;
		state->joinable = NULL;
	} else {
		at = at > state->last ? at : state->last;
		state->last = at;
	}
	event = event_add(run, EVENT_FRAME, at);
	event->value = hop;
	event->frame = frame;
	if (at == state->last)
		state->joinable = event; /* nothing is behind it */
}

static bool join(struct run *run, enum hop hop, const struct segment *s)
{
	struct hop_state *state = &run->hop[hop];
	struct segment waiting;
	struct frame *both;

	if (!state->joinable || !rng_chance(&state->rng, run->plan.hop[hop].join) ||
	    !segment_parse(&waiting, state->joinable->frame))
		return false;
	both = segment_join(&waiting, s);
	if (!both)
		return false;
	frame_free(state->joinable->frame);
	state->joinable->frame = both;
	frame_free(s->frame);
	return true;
}

/* Where the next piece of the segment ends. */
static uint32_t next_cut(struct rng *rng, const struct segment *s, uint32_t from, bool wire)
{
	uint32_t left = s->len - from, size = s->frame->vnet.gso_size;

	if (wire)
		return left < size ? left : size;
	return rng_chance(rng, 30) ? 1 + rng_below(rng, left < 4 ? left : 4)
	                           : 1 + rng_below(rng, left);
}

static bool cut(struct run *run, enum hop hop, const struct segment *s, uint64_t now)
{
	struct rng *rng = &run->hop[hop].rng;
	bool wire = s->frame->vnet.gso_type && rng_chance(rng, 50); /* as a network card does */
	uint32_t from = 0;

	if (s->len < 2 || (s->flags & (PACKET_SYN | PACKET_RST | PACKET_URG)) ||
	    !rng_chance(rng, run->plan.hop[hop].cut))
		return false;
	for (uint32_t n = 0; from < s->len; n++) {
		uint32_t len = next_cut(rng, s, from, wire);

		if (!wire && n == MAX_PIECES - 1)
			len = s->len - from;
		send_on(run, hop, must(segment_part(s, from, len, rng_chance(rng, 50))), now);
		from += len;
	}
	frame_free(s->frame);
	return true;
}

void hop_take(struct run *run, enum hop hop, struct frame *frame)
{
	const struct handling *t = &run->plan.hop[hop];
	struct rng *rng = &run->hop[hop].rng;
	uint64_t now = now_ns();
	struct segment s;

	if (!segment_parse(&s, frame)) {
		frame_free(frame);
		return;
	}
	if (rng_chance(rng, t->drop)) {
		run_trace(run, "dropped", frame);
		frame_free(frame);
		return;
	}
	if (rng_chance(rng, t->complete))
		segment_complete(&s);
	if (rng_chance(rng, t->duplicate))
		send_on(run, hop, must(frame_copy(frame)), now);
	if (!join(run, hop, &s) && !cut(run, hop, &s, now))
		send_on(run, hop, frame, now);
}
