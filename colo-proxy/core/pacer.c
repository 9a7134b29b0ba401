/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pacer: theory of operation
 *
 * One mechanism (release by match or by commit) and a policy that says when a checkpoint is taken.
 * The gate asks for one when it has a reason (difference, pressure), the operator may; the pacer
 * says how early anybody may have the next one, and when the policy itself wants it.
 *
 * Pause. With a pause of p and at most the share m of the time paused, cuts are p / m apart at
 * least. The pause is the larger one of the last and the mean: one slow checkpoint delays the next,
 * by the longest epoch at most. So a pause in which the host stood still, or its clock leapt by
 * hours, is forgotten after a few checkpoints and not after a few hours.
 *
 * epoch. Output of an epoch waits for its end and for the commit of what ends it, T + commit at
 * most. A commit costs something fixed, and something for each page that the epoch has written to:
 * commit(T) = fixed + rate * T * per_page. So the longest T with T + commit(T) <= latency is
 * (latency - fixed) / (1 + rate * per_page). Rate, fixed and per_page are measured, and so is the
 * time from asking to the cut: it is asked for that much before the epoch is to end. The pause's
 * limit goes before the latency's. The rate is that of epochs about as long: in one that is much
 * longer, pages that are written to again and again count once, so that it shows the least that the
 * rate can be. That is all that an epoch of seconds, ended by a change of the policy, would tell;
 * so QEMU's own sample of a shorter time (dirty_rate.h) is begun with, where there is one.
 *
 * Size. Whatever the policy: when the VM has written to as much as one checkpoint is to have, as
 * far as samples tell, one is due (CKPT_DIRTY).
 *
 * auto. While it compares, it notes of each epoch whether a difference ended it, and how long
 * output waited. When the last four, or most of the last eight, were ended so, and output waited
 * longer than it would if nobody compared (half of the shortest interval, and a commit of what is
 * written to in that time, which is less than what an epoch of seconds has), it stops
 * comparing; then it takes a checkpoint when there is output, as on-output does. Only comparing
 * shows whether comparing pays, so after a while it tries again: if four epochs of the trial are
 * ended by differences and output waits no less than it did, it gives that up for twice the time.
 * Both ways ask for a quarter more or less than the other's cost: the hysteresis. A cost is the
 * mean time that output was held, stretched by the share of time that the VM stood still: what a
 * client that waits for its answer sees.
 *
 * Invariants: whether an epoch is compared never changes within it. Nothing is due while a
 * checkpoint is in flight.
 */
#include "colo-proxy/core/pacer.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SECOND      1000000000ull
#define EPOCHS_SEEN 8u            /* bits of pacer.differed */
#define MOST        6u            /* of them */
#define IN_A_ROW    4u            /* these alone decide, too */
#define FRESH       (10 * SECOND) /* a sample that is no older says what the VM does */
#define MUCH_LONGER 4u            /* than latency_ns: such an epoch is no measure for short ones */
#define BACKOFF_MIN (1 * SECOND)
#define BACKOFF_MAX (60 * SECOND)

static const char *const names[] = {"compare", "epoch", "on-output", "continuous", "auto"};
static_assert(sizeof(names) / sizeof(names[0]) == PACER_POLICY_COUNT, "a name for each policy");

const char *pacer_policy_name(enum pacer_policy policy)
{
	return (unsigned)policy < PACER_POLICY_COUNT ? names[policy] : "unknown";
}

int pacer_policy_parse(enum pacer_policy *ret_policy, const char *name)
{
	for (unsigned i = 0; i < PACER_POLICY_COUNT; i++) {
		if (strcmp(names[i], name) == 0) {
			*ret_policy = (enum pacer_policy)i;
			return 0;
		}
	}
	return -EINVAL;
}

static void mean_add(struct pacer_mean *mean, uint64_t sample)
{
	mean->value = mean->known ? mean->value - mean->value / 4 + sample / 4 : sample;
	mean->known = true;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* ---- what is done ---- */

enum pacer_policy pacer_in_force(const struct pacer *pacer)
{
	if (pacer->params.policy != PACER_AUTO)
		return pacer->params.policy;
	return pacer->epochs ? PACER_ON_OUTPUT : PACER_COMPARE;
}

const char *pacer_why(const struct pacer *pacer)
{
	return pacer->why;
}

static bool wants_comparison(const struct pacer *pacer)
{
	return pacer_in_force(pacer) == PACER_COMPARE;
}

static uint64_t shortest_interval(const struct pacer *pacer)
{
	uint64_t pause = max_u64(pacer->last_pause, pacer->pause.value);
	uint64_t apart = pause * 100 / pacer->params.max_pause;

	apart = apart < pacer->params.longest_ns ? apart : pacer->params.longest_ns;
	return max_u64(apart, pacer->params.min_interval_ns);
}

uint64_t pacer_earliest(const struct pacer *pacer)
{
	return pacer->cut_at + shortest_interval(pacer);
}

uint64_t pacer_epoch_length(const struct pacer *pacer)
{
	const struct pacer_params *params = &pacer->params;
	uint64_t fixed = pacer->commit.known ? pacer->fixed : params->latency_ns / 4;
	uint64_t room = params->latency_ns > fixed ? params->latency_ns - fixed : 0;
	/* ns of commit that a second of the epoch brings. */
	uint64_t slope = pacer->rate.value * pacer->per_page.value;
	uint64_t length = (uint64_t)((double)room * (double)SECOND / (double)(SECOND + slope));

	length = max_u64(length, shortest_interval(pacer));
	return length < params->longest_ns ? length : params->longest_ns;
}

/* Of an epoch: half of it at most is left to what asking takes. */
static uint64_t asked_after(const struct pacer *pacer, uint64_t length)
{
	return length - (pacer->lead.value < length / 2 ? pacer->lead.value : length / 2);
}

/* The sample, if there is one of late. */
static bool has_sample(const struct pacer *pacer, uint64_t now)
{
	return pacer->sampled_at && now - pacer->sampled_at <= FRESH;
}

uint64_t pacer_due(const struct pacer *pacer, enum ckpt_cause *ret_cause)
{
	uint64_t longest = pacer->cut_at + pacer->params.longest_ns;
	uint64_t due = longest;

	*ret_cause = CKPT_TIMER;
	if (!pacer->on || pacer->in_flight)
		return UINT64_MAX;
	if (!pacer->settled || pacer->compares != wants_comparison(pacer)) {
		*ret_cause = CKPT_POLICY;
		return pacer_earliest(pacer);
	}
	switch (pacer_in_force(pacer)) {
	case PACER_EPOCH:
		due = pacer->cut_at + asked_after(pacer, pacer_epoch_length(pacer));
		break;
	case PACER_ON_OUTPUT:
		due = pacer->output ? pacer->cut_at : longest;
		break;
	case PACER_CONTINUOUS:
		due = pacer->ready_at + pacer->params.rest_ns;
		break;
	default:
		break;
	}
	if (due < longest)
		*ret_cause = CKPT_POLICY;
	else
		due = longest;
	if (pacer->full_at < due) {
		*ret_cause = CKPT_DIRTY;
		due = pacer->full_at;
	}
	return max_u64(due, pacer_earliest(pacer));
}

/* ---- auto ---- */

static bool is_difference(enum ckpt_cause cause)
{
	return cause == CKPT_MISMATCH || cause == CKPT_LATE || cause == CKPT_UNCOMPARED;
}

/* What output would wait if nothing was compared, before that has been measured. */
static uint64_t expected_cost(const struct pacer *pacer, uint64_t now)
{
	uint64_t interval = shortest_interval(pacer), commit = pacer->commit.value;

	if (has_sample(pacer, now)) {
		double pages = (double)pacer->sampled * (double)interval / (double)SECOND;
		uint64_t small = pacer->fixed + (uint64_t)(pages * (double)pacer->per_page.value);

		commit = small < commit ? small : commit;
	}
	return interval / 2 + commit;
}

static void begin_phase(struct pacer *pacer, bool epochs, bool trial, uint64_t now)
{
	pacer->epochs = epochs;
	pacer->trial = trial;
	pacer->differed = 0;
	pacer->looked_at = 0;
	pacer->held_sum = pacer->held_count = 0;
	if (epochs) {
		pacer->try_at = now + pacer->backoff;
		pacer->cost_epochs.known = false;
	} else {
		pacer->cost_compare.known = false;
	}
}

static unsigned bits(uint8_t byte)
{
	return (unsigned)__builtin_popcount(byte);
}

/* Whether comparing has not paid, as far as it was looked at. */
static bool compare_is_lost(const struct pacer *pacer, uint64_t other)
{
	uint8_t row = (1u << IN_A_ROW) - 1;
	unsigned differed = bits(pacer->differed);
	bool lost = pacer->looked_at >= EPOCHS_SEEN && differed >= MOST;

	if (pacer->looked_at >= IN_A_ROW)
		lost |= pacer->trial ? differed >= IN_A_ROW : (pacer->differed & row) == row;
	return lost && pacer->cost_compare.known && pacer->cost_compare.value / 5 * 4 > other;
}

static void stop_comparing(struct pacer *pacer, uint64_t now)
{
	unsigned differed = bits(pacer->differed), looked = pacer->looked_at;
	uint64_t cost = pacer->cost_compare.value;

	if (pacer->trial)
		pacer->backoff =
		        pacer->backoff * 2 < BACKOFF_MAX ? pacer->backoff * 2 : BACKOFF_MAX;
	begin_phase(pacer, true, false, now);
	snprintf(pacer->why, sizeof(pacer->why),
	         "%u of %u epochs ended by a difference, output waited %.1f ms; next try in %.0f s",
	         differed, looked, (double)cost / 1e6, (double)pacer->backoff / 1e9);
}

/* An epoch that was compared is over. */
static void judge_compare(struct pacer *pacer, uint64_t now)
{
	uint64_t other = pacer->trial && pacer->cost_epochs.value ? pacer->cost_epochs.value
	                                                          : expected_cost(pacer, now);

	if (compare_is_lost(pacer, other)) {
		stop_comparing(pacer, now);
		return;
	}
	if (!pacer->trial || pacer->looked_at < EPOCHS_SEEN)
		return;
	/* The trial was worth it. */
	pacer->trial = false;
	pacer->backoff = BACKOFF_MIN;
	snprintf(pacer->why, sizeof(pacer->why), "comparing pays again");
}

static void judge(struct pacer *pacer, enum ckpt_cause cause, uint64_t now)
{
	struct pacer_mean *cost = pacer->epochs ? &pacer->cost_epochs : &pacer->cost_compare;
	uint64_t length = now - pacer->cut_at, pause = pacer->last_pause;

	if (pacer->held_count && length > pause) {
		uint64_t held = pacer->held_sum / pacer->held_count;

		mean_add(cost,
		         (uint64_t)((double)held * (double)length / (double)(length - pause)));
		pacer->held_sum = pacer->held_count = 0;
	}
	if (pacer->epochs) {
		if (now >= pacer->try_at) {
			begin_phase(pacer, false, true, now);
			snprintf(pacer->why, sizeof(pacer->why), "trying whether comparing pays");
		}
		return;
	}
	if (!pacer->compares)
		return; /* the first one that is compared has yet to begin */
	pacer->differed = (uint8_t)(pacer->differed << 1 | is_difference(cause));
	if (pacer->looked_at < EPOCHS_SEEN)
		pacer->looked_at++;
	judge_compare(pacer, now);
}

/* ---- what happens ---- */

static void begin_auto(struct pacer *pacer, uint64_t now)
{
	pacer->backoff = BACKOFF_MIN;
	pacer->cost_epochs.value = 0;
	begin_phase(pacer, false, false, now);
	pacer->why[0] = 0;
}

void pacer_init(struct pacer *pacer, const struct pacer_params *params)
{
	*pacer = (struct pacer){.params = *params, .full_at = UINT64_MAX};
	begin_auto(pacer, 0);
}

void pacer_change(struct pacer *pacer, const struct pacer_change *change, uint64_t now)
{
	struct pacer_params *params = &pacer->params;

	if (change->has_latency)
		params->latency_ns = change->to.latency_ns;
	if (change->has_rest)
		params->rest_ns = change->to.rest_ns;
	if (change->has_max_pause)
		params->max_pause = change->to.max_pause;
	if (!change->has_policy || change->to.policy == params->policy)
		return;
	params->policy = change->to.policy;
	begin_auto(pacer, now);
	/* What short epochs were like, some time ago, is worth less than a look at what is now. */
	if (has_sample(pacer, now))
		pacer->rate = (struct pacer_mean){pacer->sampled, true};
}

bool pacer_begin(struct pacer *pacer, uint64_t now)
{
	pacer->on = true;
	pacer->in_flight = pacer->output = false;
	pacer->cut_at = pacer->ready_at = now;
	pacer->full_at = UINT64_MAX;
	pacer->sampled_at = 0;
	pacer->last_pause = pacer->last_pages = 0;
	begin_auto(pacer, now);
	pacer->compares = wants_comparison(pacer);
	/* The SVM runs in lineage 0 whatever the policy: the first checkpoint ends that. */
	pacer->settled = pacer->compares;
	return pacer->compares;
}

void pacer_end(struct pacer *pacer)
{
	pacer->on = false;
}

void pacer_asked(struct pacer *pacer, uint64_t ago_ns)
{
	mean_add(&pacer->lead, ago_ns);
}

bool pacer_cut(struct pacer *pacer, enum ckpt_cause cause, uint64_t now)
{
	pacer->length = now - pacer->cut_at;
	pacer->full_at = UINT64_MAX;
	if (pacer->params.policy == PACER_AUTO)
		judge(pacer, cause, now);
	pacer->compares = wants_comparison(pacer);
	pacer->settled = true;
	pacer->in_flight = true;
	pacer->output = false;
	pacer->cut_at = now;
	return pacer->compares;
}

static void learn_rate(struct pacer *pacer, uint64_t pages)
{
	uint64_t rate;

	if (!pacer->length)
		return;
	rate = (uint64_t)((double)pages * (double)SECOND / (double)pacer->length);
	if (pacer->rate.known && pacer->length > MUCH_LONGER * pacer->params.latency_ns &&
	    rate < pacer->rate.value)
		return;
	mean_add(&pacer->rate, rate);
}

void pacer_captured(struct pacer *pacer, uint64_t pause_ns, uint64_t pages)
{
	pacer->last_pause = pause_ns;
	pacer->last_pages = pages;
	mean_add(&pacer->pause, pause_ns);
	learn_rate(pacer, pages);
}

void pacer_paused(struct pacer *pacer, uint64_t pause_ns)
{
	pacer->last_pause = max_u64(pacer->last_pause, pause_ns);
}

void pacer_committed(struct pacer *pacer, uint64_t now)
{
	uint64_t commit = now - pacer->cut_at;

	/* The least that was seen of late is what no page is to blame for. */
	if (!pacer->commit.known || commit < pacer->fixed)
		pacer->fixed = commit;
	else
		pacer->fixed += (commit - pacer->fixed) / 64;
	mean_add(&pacer->commit, commit);
	if (pacer->last_pages)
		mean_add(&pacer->per_page, (commit - pacer->fixed) / pacer->last_pages);
}

void pacer_ready(struct pacer *pacer, uint64_t now)
{
	pacer->in_flight = false;
	pacer->ready_at = now;
}

void pacer_sampled(struct pacer *pacer, uint64_t pages_per_s, uint64_t now)
{
	pacer->sampled = pages_per_s;
	pacer->sampled_at = now;
}

void pacer_full(struct pacer *pacer, uint64_t at)
{
	pacer->full_at = at;
}

void pacer_output(struct pacer *pacer)
{
	pacer->output = true;
}

void pacer_released(struct pacer *pacer, uint64_t held_ns)
{
	pacer->held_sum += held_ns;
	pacer->held_count++;
}
