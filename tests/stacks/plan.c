/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a seed decides: the conversation, how its sockets behave, and what the frames suffer. */
#include <stdio.h>
#include <string.h>

#include "tests/stacks/stacks.h"

/* ---- random numbers: splitmix64 ---- */

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

struct rng rng_of(uint64_t seed, uint64_t what)
{
	return (struct rng){mix(seed * 0x9e3779b97f4a7c15ull + mix(what))};
}

uint32_t rng_below(struct rng *rng, uint32_t below)
{
	rng->state += 0x9e3779b97f4a7c15ull;
	return below ? (uint32_t)((mix(rng->state) >> 32) % below) : 0;
}

bool rng_chance(struct rng *rng, uint32_t percent)
{
	return rng_below(rng, 100) < percent;
}

uint32_t rng_size(struct rng *rng, uint32_t max)
{
	uint32_t bits = 1;

	while ((max >> bits) && bits < 31)
		bits++;
	max = max < 1u << bits ? max : 1u << bits;
	bits = 1 + rng_below(rng, bits);
	bits = 1 + rng_below(rng, 1u << bits);
	return bits < max ? bits : max;
}

/* ---- the plan ---- */

const char *const hop_names[HOPS] = {
        "client-to-switch", "switch-to-PVM", "daemon-to-SVM",
        "PVM-to-gate",      "SVM-to-shadow", "gate-to-client",
};

static void make_steps(struct plan *plan, struct rng *rng)
{
	uint32_t most = rng_chance(rng, 80) ? 3000 : 40000;
	uint32_t count = 1 + rng_below(rng, STEPS - 1);

	if (plan->max_write[PVM] < 20 || plan->maxseg || plan->max_read[CLIENT])
		most = 600;
	for (uint32_t i = 0; i < count; i++) {
		plan->steps[i] = (struct step){
		        .by_vm = rng_chance(rng, 50),
		        .wait = rng_chance(rng, 60),
		        .len = rng_size(rng, most),
		};
	}
	plan->step_count = count;
	if (plan->ending == END_VM_RESETS || plan->ending == END_CLIENT_RESETS)
		plan->steps[plan->step_count++] =
		        (struct step){plan->ending == END_CLIENT_RESETS, true, 1};
	for (uint32_t i = 0; i < plan->step_count; i++)
		*(plan->steps[i].by_vm ? &plan->vm_total : &plan->client_total) +=
		        plan->steps[i].len;
}

static void make_ends(struct plan *plan, struct rng *rng)
{
	for (int i = 0; i < PLACES; i++) {
		plan->nodelay[i] = rng_chance(rng, 60);
		plan->max_write[i] = rng_chance(rng, 10) ? 8 : rng_chance(rng, 40) ? 700 : 65536;
		plan->rest[i] = rng_chance(rng, 30) ? 20 : 0;
		plan->max_read[i] = rng_chance(rng, 8) ? 400 : 0;
		plan->rcvbuf[i] = rng_chance(rng, 10) ? 2304 + rng_below(rng, 8000) : 0;
		plan->sndbuf[i] = rng_chance(rng, 10) ? 4608 + rng_below(rng, 8000) : 0;
		plan->iss[i] = rng_below(rng, UINT32_MAX);
		plan->ts[i] = rng_below(rng, UINT32_MAX);
		if (rng_chance(rng, 50))
			plan->iss[i] = (uint32_t) - (int32_t)rng_below(rng, 3000);
	}
	/* One application on both VMs; only their scheduling differs. */
	plan->nodelay[SVM] = plan->nodelay[PVM];
	plan->rcvbuf[SVM] = plan->rcvbuf[PVM];
	if (plan->max_write[PVM] == 8 || plan->max_write[SVM] == 8)
		plan->max_write[PVM] = plan->max_write[SVM] = 8;
	plan->maxseg = rng_chance(rng, 20) ? 88 + rng_below(rng, 1000) : 0;
	plan->svm_starts = rng_chance(rng, 50) ? rng_below(rng, 20000) : 0;
	for (int i = 0; i < OFFERS; i++)
		plan->offer[i] = rng_chance(rng, i == OFFER_ECN ? 30 : 85);
}

static void make_hops(struct plan *plan, struct rng *rng)
{
	static const uint8_t levels[] = {0, 0, 0, 3, 10, 20};
	bool calm = rng_chance(rng, 15);

	for (int i = 0; i < HOPS; i++) {
		struct handling *t = &plan->hop[i];

		if (calm)
			continue;
		t->drop = levels[rng_below(rng, 5)];
		t->duplicate = levels[rng_below(rng, 5)];
		t->cut = levels[rng_below(rng, 6)] * 4;
		t->join = levels[rng_below(rng, 6)] * 4;
		t->complete = rng_chance(rng, 50) ? 50 : 0;
		t->hold_back = levels[rng_below(rng, 6)];
		t->delay = rng_chance(rng, 50) ? rng_size(rng, 3000) : 0;
		t->far_delay = 100 + rng_size(rng, 8000);
	}
	plan->link_delay = rng_chance(rng, 70) ? rng_size(rng, 4000) : 0;
}

static void make_lie(struct plan *plan, struct rng *rng)
{
	plan->lie = (enum lie)rng_below(rng, LIE_END + 1);
	plan->liar = rng_chance(rng, 50) ? PVM : SVM;
	plan->lie_at = rng_below(rng, plan->vm_total);
	/* Often the last byte or the first. */
	if (rng_chance(rng, 15))
		plan->lie_at = 0;
	else if (rng_chance(rng, 15))
		plan->lie_at = plan->vm_total - 1;
}

void plan_make(struct plan *plan, uint64_t seed)
{
	struct rng r = rng_of(seed, 'p'), *rng = &r, r6;
	uint32_t kind = rng_below(rng, 100);

	*plan = (struct plan){.urgent_at = NEVER};
	plan->kind = kind < 50 ? KIND_HONEST : kind < 75 ? KIND_LIE : KIND_CRASH;
	plan->ending = (enum ending)rng_below(rng, END_CLIENT_RESETS + 1);
	if (plan->kind == KIND_HONEST && rng_chance(rng, 4))
		plan->ending = END_REFUSED;
	plan->vm_opens = plan->ending != END_REFUSED && rng_chance(rng, 30);
	r6 = rng_of(seed, '6'); /* of its own, so that both families have all kinds of plans */
	plan->six = rng_chance(&r6, 50);
	make_ends(plan, rng);
	make_steps(plan, rng);
	make_hops(plan, rng);
	if (plan->kind == KIND_LIE && plan->vm_total)
		make_lie(plan, rng);
	else if (plan->kind == KIND_LIE)
		plan->kind = KIND_HONEST;
	plan->checkpoints = rng_chance(rng, 30);
	if (plan->kind == KIND_CRASH)
		plan->crash_after = rng_size(rng, 60);
}

void plan_describe(const struct plan *plan, char *text, size_t len)
{
	static const char *const kinds[] = {"honest", "lie", "crash"};
	static const char *const endings[] = {"the VM closes first", "the client closes first",
	                                      "both close",          "the VM resets",
	                                      "the client resets",   "refused"};
	static const char *const lies[] = {"flips", "omits", "doubles", "ends before"};
	size_t n = (size_t)snprintf(
	        text, len, "%s, IPv%d, %s opens, %s; VM %u bytes, client %u%s", kinds[plan->kind],
	        plan->six ? 6 : 4, plan->vm_opens ? "the VM" : "the client", endings[plan->ending],
	        plan->vm_total, plan->client_total, plan->checkpoints ? ", checkpoints" : "");

	if (plan->kind == KIND_LIE && n < len)
		n += (size_t)snprintf(text + n, len - n, "; the %s %s byte %u",
		                      place_names[plan->liar], lies[plan->lie], plan->lie_at);
	for (int i = 0; i < HOPS && n < len; i++) {
		const struct handling *t = &plan->hop[i];

		n += (size_t)snprintf(text + n, len - n,
		                      "\n  %-16s drop %u%% twice %u%% cut %u%% join %u%% late %u%% "
		                      "delay %u us",
		                      hop_names[i], t->drop, t->duplicate, t->cut, t->join,
		                      t->hold_back, t->delay);
	}
}

/* ---- streams ---- */

static bool lies(const struct plan *plan, enum place place)
{
	return plan->kind == KIND_LIE && plan->liar == place;
}

/* How many bytes the place says for the `honest` first ones of the stream. */
static uint32_t told(const struct plan *plan, enum place place, uint32_t honest)
{
	if (!lies(plan, place) || honest <= plan->lie_at)
		return honest;
	switch (plan->lie) {
	case LIE_OMIT:
		return honest - 1;
	case LIE_INSERT:
		return honest + 1;
	case LIE_END:
		return plan->lie_at;
	default:
		return honest;
	}
}

uint32_t plan_total(const struct plan *plan, enum place place)
{
	return place == CLIENT ? plan->client_total : told(plan, place, plan->vm_total);
}

static uint8_t honest_byte(uint64_t seed, enum place place, uint32_t at)
{
	uint64_t x = (seed << 20) + at / 8 + ((uint64_t)(place == CLIENT) << 63);

	return (uint8_t)(mix(x) >> (at % 8 * 8));
}

uint8_t plan_byte(const struct plan *plan, uint64_t seed, enum place place, uint32_t at)
{
	if (!lies(plan, place) || at < plan->lie_at)
		return honest_byte(seed, place, at);
	switch (plan->lie) {
	case LIE_FLIP:
		return honest_byte(seed, place, at) ^ (at == plan->lie_at);
	case LIE_OMIT:
		return honest_byte(seed, place, at + 1);
	case LIE_INSERT:
		return honest_byte(seed, place, at ? at - 1 : 0);
	default:
		return honest_byte(seed, place, at);
	}
}

uint32_t plan_allowed(const struct plan *plan, enum place place, uint32_t heard)
{
	bool vm = place != CLIENT;
	uint32_t mine = 0, theirs = 0;

	for (uint32_t i = 0; i < plan->step_count; i++) {
		const struct step *step = &plan->steps[i];

		if (step->by_vm != vm)
			theirs += step->len;
		else if (step->wait && heard < (vm ? theirs : told(plan, PVM, theirs)))
			break;
		else
			mine += step->len;
	}
	return told(plan, place, mine);
}

uint32_t plan_difference(const struct plan *plan, uint64_t seed)
{
	uint32_t pvm = plan_total(plan, PVM), svm = plan_total(plan, SVM);
	uint32_t least = pvm < svm ? pvm : svm;

	if (plan->kind != KIND_LIE)
		return NEVER;
	for (uint32_t at = plan->lie_at ? plan->lie_at - 1 : 0; at < least; at++) {
		if (plan_byte(plan, seed, PVM, at) != plan_byte(plan, seed, SVM, at))
			return at;
	}
	return pvm == svm ? NEVER : least;
}
