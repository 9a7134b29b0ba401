/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/pacer.h"

#include <errno.h>
#include <glib.h>

#define MS 1000000ull

static struct pacer_params params(enum pacer_policy policy)
{
	return (struct pacer_params){
	        .policy = policy,
	        .latency_ns = 30 * MS,
	        .max_pause = 20,
	        .min_interval_ns = 5 * MS,
	        .longest_ns = 1000 * MS,
	};
}

/* One whole checkpoint, cut at `now`: pause, then the commit so long after the cut. */
static bool checkpoint(struct pacer *p, enum ckpt_cause cause, uint64_t now, uint64_t pause,
                       uint64_t pages, uint64_t commit)
{
	bool compares = pacer_cut(p, cause, now);

	pacer_captured(p, pause, pages);
	pacer_committed(p, now + commit);
	pacer_ready(p, now + commit);
	return compares;
}

static uint64_t due(const struct pacer *p, enum ckpt_cause expected)
{
	enum ckpt_cause cause;
	uint64_t at = pacer_due(p, &cause);

	g_assert_cmpuint(cause, ==, expected);
	return at;
}

static void test_names(void)
{
	for (unsigned i = 0; i < PACER_POLICY_COUNT; i++) {
		enum pacer_policy found;

		g_assert_cmpint(pacer_policy_parse(&found, pacer_policy_name(i)), ==, 0);
		g_assert_cmpuint(found, ==, i);
	}
	enum pacer_policy kept = PACER_AUTO;
	g_assert_cmpint(pacer_policy_parse(&kept, "remus"), ==, -EINVAL);
	g_assert_cmpuint(kept, ==, PACER_AUTO);
	g_assert_cmpstr(pacer_policy_name(PACER_POLICY_COUNT), ==, "unknown");
}

static void test_compare(void)
{
	struct pacer_params with = params(PACER_COMPARE);
	struct pacer p;

	pacer_init(&p, &with);
	g_assert_true(pacer_begin(&p, 100 * MS));
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, 1100 * MS);
	pacer_output(&p); /* may match: no reason */
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, 1100 * MS);
	g_assert_true(pacer_cut(&p, CKPT_MISMATCH, 200 * MS));
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, UINT64_MAX); /* one is in flight */
	pacer_captured(&p, 2 * MS, 10);
	pacer_committed(&p, 210 * MS);
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, UINT64_MAX);
	pacer_ready(&p, 220 * MS);
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, 1200 * MS);
	pacer_end(&p);
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, UINT64_MAX);
}

/* Whoever asks: a pause of 10 ms is at most a fifth of the time from one cut to the next. */
static void test_max_pause(void)
{
	struct pacer_params with = params(PACER_CONTINUOUS);
	struct pacer_change change = {.has_max_pause = true, .to.max_pause = 50};
	struct pacer p;

	pacer_init(&p, &with);
	pacer_begin(&p, 0);
	g_assert_cmpuint(pacer_earliest(&p), ==, 5 * MS);
	checkpoint(&p, CKPT_POLICY, 100 * MS, 10 * MS, 100, 12 * MS);
	g_assert_cmpuint(pacer_earliest(&p), ==, 150 * MS);
	g_assert_cmpuint(due(&p, CKPT_POLICY), ==, 150 * MS);
	pacer_paused(&p, 16 * MS); /* QEMU has seen more of it */
	g_assert_cmpuint(pacer_earliest(&p), ==, 180 * MS);
	pacer_paused(&p, MS);
	g_assert_cmpuint(pacer_earliest(&p), ==, 180 * MS);
	pacer_change(&p, &change, 160 * MS);
	g_assert_cmpuint(pacer_earliest(&p), ==, 132 * MS);
	/* One short pause does not make up for a long one before it. */
	checkpoint(&p, CKPT_POLICY, 200 * MS, 1 * MS, 100, 12 * MS);
	g_assert_cmpuint(pacer_earliest(&p), >, 202 * MS + 10 * MS);
	/* The host was suspended in it. */
	checkpoint(&p, CKPT_POLICY, 300 * MS, 3600 * 1000 * MS, 100, 12 * MS);
	g_assert_cmpuint(pacer_earliest(&p), ==, 1300 * MS);
}

static void test_continuous(void)
{
	struct pacer_params with = params(PACER_CONTINUOUS);
	struct pacer p;

	with.rest_ns = 40 * MS;
	pacer_init(&p, &with);
	g_assert_false(pacer_begin(&p, 0));
	g_assert_cmpuint(due(&p, CKPT_POLICY), ==, 5 * MS); /* ends lineage 0 at once */
	g_assert_false(checkpoint(&p, CKPT_POLICY, 5 * MS, MS, 10, 3 * MS));
	g_assert_cmpuint(due(&p, CKPT_POLICY), ==, 48 * MS);
	with.rest_ns = 5000 * MS; /* beyond the longest epoch */
	pacer_change(&p, &(struct pacer_change){.has_rest = true, .to = with}, 9 * MS);
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, 1005 * MS);
}

static void test_on_output(void)
{
	struct pacer_params with = params(PACER_ON_OUTPUT);
	struct pacer p;

	pacer_init(&p, &with);
	g_assert_false(pacer_begin(&p, 0));
	checkpoint(&p, CKPT_POLICY, 10 * MS, MS, 10, 3 * MS);
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, 1010 * MS);
	pacer_output(&p);
	g_assert_cmpuint(due(&p, CKPT_POLICY), ==, 15 * MS);
	g_assert_false(pacer_cut(&p, CKPT_POLICY, 20 * MS));
	pacer_captured(&p, MS, 10);
	pacer_output(&p); /* of the new epoch, while the checkpoint is on its way */
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, UINT64_MAX);
	pacer_committed(&p, 23 * MS);
	pacer_ready(&p, 23 * MS);
	g_assert_cmpuint(due(&p, CKPT_POLICY), ==, 25 * MS);
}

/* A quiet guest: the epoch and its commit together are as long as the latency allows. */
static void test_epoch_length(void)
{
	struct pacer_params with = params(PACER_EPOCH);
	struct pacer_change longer = {.has_latency = true, .to.latency_ns = 100 * MS};
	struct pacer p;
	uint64_t now = 10 * MS;

	pacer_init(&p, &with);
	g_assert_false(pacer_begin(&p, 0));
	for (int i = 0; i < 20; i++, now += 25 * MS)
		checkpoint(&p, CKPT_POLICY, now, MS, 10, 4 * MS);
	g_assert_cmpuint(pacer_epoch_length(&p), ==, 26 * MS);
	g_assert_cmpuint(due(&p, CKPT_POLICY), ==, now - 25 * MS + 26 * MS);
	pacer_change(&p, &longer, now);
	g_assert_cmpuint(pacer_epoch_length(&p), ==, 96 * MS);
}

/* Twice the pages in the same time, and each costs something: shorter epochs. */
static void test_epoch_follows_dirty_rate(void)
{
	struct pacer_params with = params(PACER_EPOCH);
	struct pacer p;
	uint64_t now = 10 * MS, quiet, busy;

	pacer_init(&p, &with);
	pacer_begin(&p, 0);
	for (int i = 0; i < 40; i++, now += 20 * MS)
		checkpoint(&p, CKPT_POLICY, now, MS, 100, 4 * MS);
	for (int i = 0; i < 8; i++, now += 20 * MS)
		checkpoint(&p, CKPT_POLICY, now, MS, 1000, 9 * MS);
	quiet = pacer_epoch_length(&p);
	g_assert_cmpuint(quiet, <, 26 * MS);
	for (int i = 0; i < 8; i++, now += 20 * MS)
		checkpoint(&p, CKPT_POLICY, now, MS, 4000, 24 * MS);
	busy = pacer_epoch_length(&p);
	g_assert_cmpuint(busy, <, quiet);
	/* The commit of an epoch so long, at 4000 pages in 20 ms, fits with it into 30 ms. */
	g_assert_cmpuint(busy + 4 * MS + busy * (20 * MS) / (20 * MS), <, 36 * MS);
	/* The pause's limit goes before it. */
	checkpoint(&p, CKPT_POLICY, now, 40 * MS, 4000, 60 * MS);
	g_assert_cmpuint(pacer_epoch_length(&p), >=, 200 * MS);
}

/* A change takes effect with a checkpoint, as soon as one may be, and not within an epoch. */
static void test_change(void)
{
	struct pacer_params with = params(PACER_COMPARE);
	struct pacer_change to_epoch = {.has_policy = true, .to.policy = PACER_EPOCH};
	struct pacer_change to_compare = {.has_policy = true, .to.policy = PACER_COMPARE};
	struct pacer p;

	pacer_init(&p, &with);
	pacer_begin(&p, 0);
	checkpoint(&p, CKPT_TIMER, 100 * MS, MS, 10, 3 * MS);
	pacer_change(&p, &to_epoch, 150 * MS);
	g_assert_true(p.compares);
	g_assert_cmpuint(due(&p, CKPT_POLICY), ==, 105 * MS);
	g_assert_false(checkpoint(&p, CKPT_POLICY, 151 * MS, MS, 10, 3 * MS));
	pacer_change(&p, &to_compare, 160 * MS);
	g_assert_false(p.compares);
	g_assert_cmpuint(due(&p, CKPT_POLICY), ==, 156 * MS);
	g_assert_true(checkpoint(&p, CKPT_POLICY, 161 * MS, MS, 10, 3 * MS));
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, 1161 * MS);
}

/* It is asked for before the epoch is to end, by what asking took; half of the epoch at most. */
static void test_epoch_asked_for(void)
{
	struct pacer_params with = params(PACER_EPOCH);
	uint64_t length, cut = 100 * MS;
	struct pacer p;

	pacer_init(&p, &with);
	pacer_begin(&p, 0);
	checkpoint(&p, CKPT_POLICY, cut, MS, 10, 3 * MS);
	length = pacer_epoch_length(&p);
	g_assert_cmpuint(length, >, 10 * MS);
	g_assert_cmpuint(due(&p, CKPT_POLICY), ==, cut + length);
	pacer_asked(&p, 3 * MS);
	g_assert_cmpuint(due(&p, CKPT_POLICY), ==, cut + length - 3 * MS);
	g_assert_cmpuint(pacer_epoch_length(&p), ==, length);
	for (int i = 0; i < 40; i++)
		pacer_asked(&p, 1000 * MS);
	g_assert_cmpuint(due(&p, CKPT_POLICY), ==, cut + length - length / 2);
}

/*
 * Epochs of seconds, in which the VM writes to the same pages again and again, say little about
 * short ones; QEMU's sample of a short time does, if it is of late.
 */
static void test_epoch_begins_with_sample(void)
{
	struct pacer_params with = params(PACER_COMPARE);
	struct pacer_change to_epoch = {.has_policy = true, .to.policy = PACER_EPOCH};
	uint64_t lengths[3];

	for (int i = 0; i < 3; i++) {
		uint64_t now = 3000 * MS;
		struct pacer p;

		with.longest_ns = 10000 * MS;
		pacer_init(&p, &with);
		pacer_begin(&p, 0);
		checkpoint(&p, CKPT_TIMER, now, MS, 10, 4 * MS);
		for (int j = 0; j < 3; j++) {
			now += 3000 * MS;
			checkpoint(&p, CKPT_TIMER, now, MS, 2000, 54 * MS);
		}
		if (i > 0) /* 2000 pages, written to 40,000 times a second */
			pacer_sampled(&p, 40000, now + 100 * MS);
		now += i == 1 ? 11000 * MS : 3000 * MS;
		pacer_change(&p, &to_epoch, now);
		checkpoint(&p, CKPT_POLICY, now, MS, 2000, 54 * MS);
		lengths[i] = pacer_epoch_length(&p);
	}
	/* Within 30 ms: 4 ms, and 25 us for each page: 26 ms of epoch and pages, one to one. */
	g_assert_cmpuint(lengths[0], >, 20 * MS);
	g_assert_cmpuint(lengths[1], >, 20 * MS); /* too old */
	g_assert_cmpuint(lengths[2], <, 14 * MS);
	g_assert_cmpuint(lengths[2], >, 10 * MS);
}

/* As much as one checkpoint is to have: whatever the policy, and not before one may be. */
static void test_full(void)
{
	struct pacer_params with = params(PACER_COMPARE);
	struct pacer p;

	pacer_init(&p, &with);
	pacer_begin(&p, 0);
	pacer_full(&p, 700 * MS);
	g_assert_cmpuint(due(&p, CKPT_DIRTY), ==, 700 * MS);
	pacer_full(&p, 2 * MS);
	g_assert_cmpuint(due(&p, CKPT_DIRTY), ==, 5 * MS);
	pacer_full(&p, 1001 * MS);
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, 1000 * MS);
	pacer_full(&p, 10 * MS);
	pacer_cut(&p, CKPT_DIRTY, 10 * MS);
	pacer_captured(&p, MS, 10);
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, UINT64_MAX);
	pacer_committed(&p, 12 * MS);
	pacer_ready(&p, 12 * MS);
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, 1010 * MS); /* it was of the last epoch */
	pacer_full(&p, 700 * MS);
	pacer_end(&p);
	pacer_begin(&p, 2000 * MS);
	g_assert_cmpuint(due(&p, CKPT_TIMER), ==, 3000 * MS);

	with = params(PACER_ON_OUTPUT);
	pacer_init(&p, &with);
	pacer_begin(&p, 0);
	checkpoint(&p, CKPT_POLICY, 10 * MS, MS, 10, 3 * MS);
	pacer_full(&p, 700 * MS);
	g_assert_cmpuint(due(&p, CKPT_DIRTY), ==, 700 * MS);
	pacer_output(&p);
	g_assert_cmpuint(due(&p, CKPT_POLICY), ==, 15 * MS);
}

struct run {
	struct pacer p;
	uint64_t now;
};

/* One epoch of `auto`, `length` long, in which output was held for so long. */
static void epoch(struct run *run, uint64_t length, enum ckpt_cause cause, uint64_t held)
{
	for (int i = 0; i < 4; i++)
		pacer_released(&run->p, held);
	pacer_output(&run->p);
	run->now += length;
	checkpoint(&run->p, cause, run->now, MS, 20, 3 * MS);
}

static void begin_auto(struct run *run)
{
	struct pacer_params with = params(PACER_AUTO);

	with.min_interval_ns = 20 * MS;
	pacer_init(&run->p, &with);
	g_assert_true(pacer_begin(&run->p, 0));
	run->now = 0;
}

static void test_auto_stays(void)
{
	struct run run;

	begin_auto(&run);
	for (int i = 0; i < 40; i++) /* alike: longest-epoch and pressure */
		epoch(&run, 1000 * MS, i % 2 ? CKPT_TIMER : CKPT_PRESSURE, MS / 2);
	g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_COMPARE);
	for (int i = 0; i < 40; i++) /* a Date that differs once a second: hardly anything waits */
		epoch(&run, 1000 * MS, CKPT_MISMATCH, MS / 2);
	g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_COMPARE);
	begin_auto(&run);
	for (int i = 0; i < 40; i++) /* output waits, but not because of differences */
		epoch(&run, 25 * MS, i % 4 ? CKPT_PRESSURE : CKPT_MISMATCH, 30 * MS);
	g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_COMPARE);
}

static void lose(struct run *run)
{
	for (int i = 0; i < 4; i++) {
		g_assert_cmpuint(pacer_in_force(&run->p), ==, PACER_COMPARE);
		epoch(run, 30 * MS, CKPT_MISMATCH, 25 * MS);
	}
}

/* Six of eight, of which four never follow each other. */
static void test_auto_leaves_for_most(void)
{
	static const bool differs[] = {true, true, true, false, true, true, false, true};
	struct run run;

	begin_auto(&run);
	for (size_t i = 0; i < G_N_ELEMENTS(differs); i++) {
		g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_COMPARE);
		epoch(&run, 30 * MS, differs[i] ? CKPT_MISMATCH : CKPT_TIMER, 25 * MS);
	}
	g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_ON_OUTPUT);
}

static void test_auto_leaves_and_tries(void)
{
	struct run run;

	begin_auto(&run);
	lose(&run);
	g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_ON_OUTPUT);
	g_assert_false(run.p.compares);
	g_assert_cmpstr(pacer_why(&run.p), !=, "");
	for (uint64_t until = run.now + 990 * MS; run.now < until;) {
		g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_ON_OUTPUT);
		epoch(&run, 25 * MS, CKPT_POLICY, 15 * MS);
	}
	g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_COMPARE); /* the trial */
	g_assert_true(run.p.compares);
	for (int i = 0; i < 4; i++) {
		g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_COMPARE);
		epoch(&run, 30 * MS, CKPT_LATE, 25 * MS);
	}
	g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_ON_OUTPUT);
	g_assert_cmpuint(run.p.backoff, ==, 2000 * MS);
	for (uint64_t until = run.now + 1990 * MS; run.now < until;) {
		g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_ON_OUTPUT);
		epoch(&run, 25 * MS, CKPT_POLICY, 15 * MS);
	}
	/* Now both say the same: it stays. */
	for (int i = 0; i < 20; i++)
		epoch(&run, 200 * MS, CKPT_TIMER, MS);
	g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_COMPARE);
	g_assert_cmpuint(run.p.backoff, ==, 1000 * MS);
}

/* A little better or worse than the other is no reason. */
static void test_auto_hysteresis(void)
{
	struct run run;

	begin_auto(&run);
	for (int i = 0; i < 40; i++) { /* expected without comparing: 20 / 2 + 3 */
		epoch(&run, 30 * MS, CKPT_MISMATCH, 15 * MS);
		g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_COMPARE);
	}
	for (int i = 0; i < 10; i++)
		epoch(&run, 30 * MS, CKPT_MISMATCH, 18 * MS);
	g_assert_cmpuint(pacer_in_force(&run.p), ==, PACER_ON_OUTPUT);
}

/* What output would wait without comparing is a commit of what a short epoch has, not of this. */
static void test_auto_with_sample(void)
{
	for (int sampled = 0; sampled < 2; sampled++) {
		bool left = false;
		struct run run;

		begin_auto(&run);
		epoch(&run, 900 * MS, CKPT_TIMER, MS);
		for (int i = 0; i < 8; i++) {
			if (sampled)
				pacer_sampled(&run.p, 2000, run.now + 500 * MS);
			pacer_released(&run.p, 40 * MS);
			run.now += 900 * MS;
			checkpoint(&run.p, CKPT_MISMATCH, run.now, MS, 4000, 60 * MS);
			left |= pacer_in_force(&run.p) == PACER_ON_OUTPUT;
		}
		g_assert_cmpint(left, ==, sampled);
	}
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/pacer/names", test_names);
	g_test_add_func("/pacer/compare", test_compare);
	g_test_add_func("/pacer/max-pause", test_max_pause);
	g_test_add_func("/pacer/continuous", test_continuous);
	g_test_add_func("/pacer/on-output", test_on_output);
	g_test_add_func("/pacer/epoch-length", test_epoch_length);
	g_test_add_func("/pacer/epoch-follows-dirty-rate", test_epoch_follows_dirty_rate);
	g_test_add_func("/pacer/change", test_change);
	g_test_add_func("/pacer/epoch-asked-for", test_epoch_asked_for);
	g_test_add_func("/pacer/epoch-begins-with-sample", test_epoch_begins_with_sample);
	g_test_add_func("/pacer/full", test_full);
	g_test_add_func("/pacer/auto-with-sample", test_auto_with_sample);
	g_test_add_func("/pacer/auto-stays", test_auto_stays);
	g_test_add_func("/pacer/auto-leaves-for-most", test_auto_leaves_for_most);
	g_test_add_func("/pacer/auto-leaves-and-tries", test_auto_leaves_and_tries);
	g_test_add_func("/pacer/auto-hysteresis", test_auto_hysteresis);
	return g_test_run();
}
