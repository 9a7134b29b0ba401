/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The rate of dirty pages between checkpoints: theory of operation
 *
 * Checkpoints tell exactly what was written to, but afterwards: an epoch that is compared may last
 * for seconds, and a VM that begins to write makes the next checkpoint, its pause and its commit as
 * large as it likes. QEMU's calc-dirty-rate looks in between. It hashes pages chosen at random,
 * twice, some time apart (the window), and says MiB a second of those that changed. So it works
 * under every accelerator, touches no dirty log, and a page that is written to often within the
 * window counts once, as it does in an epoch as long as that.
 *
 * When. A sample takes a processor some ms, however long its window is, and those of an epoch that
 * ends soon are of no use. So one is asked for when the last cut is an interval ago, and again an
 * interval later; none while a checkpoint is in flight. The window is as long as the interval, one
 * second at most: then samples follow each other, nothing that is written between them has to be
 * guessed, and a VM that writes 16 MiB at once is not taken for one that writes 160 a second. In a
 * large memory, of which few pages are looked at, it is no less than a tenth of a ms for each MiB.
 * One that a cut falls into tells of both epochs and of the pause, and is thrown away.
 *
 * How much. A sample says how fast the VM has written since it was asked for, or since the last
 * one; behind the last one it writes as fast as that says. Between a cut and the
 * first sample behind it, it has written as fast as both that and the one before say at least: what
 * began in between is not guessed. The sum counts a page again that an earlier window
 * has had already; what it is worth is learnt from the checkpoint that ends the epoch, which tells
 * how many there really were: the next sums are taken times that share. A VM that writes to the
 * same 8 MiB over and over has one checkpoint too early, and the share then says that it does. When
 * the VM writes at more than twice the rate at which the share was seen it does something else, and
 * the share is forgotten. No sum is more than the memory.
 *
 * A limit that is not less than the memory is none.
 */
#include "colo-proxy/core/dirty_rate.h"

#include <errno.h>

#define SECOND        1000000000ull
#define PAGES_PER_MIB 256u
#define WHOLE         1000u /* per mille */
#define SHARE_MIN     (WHOLE / 64)
#define LEARN_FROM    PAGES_PER_MIB /* less than a MiB says nothing about the share */
#define FAILURES_MAX  3u
#define LOOKED_AT     2048u /* pages of a sample: one is 128 KiB of a VM of 256 MiB */
#define PER_GIB_MIN   128u  /* QEMU's limits */
#define PER_GIB_MAX   16384u
#define WINDOW_MIN_MS 100u
#define WINDOW_MAX_MS 1000u

static uint64_t between(uint64_t value, uint64_t least, uint64_t most)
{
	return value < least ? least : value > most ? most : value;
}

/* As much of an interval as can be: what is not looked at has to be guessed. */
uint64_t dirty_rate_window_ms(uint64_t memory_mib, uint64_t interval_ns)
{
	uint64_t least = between(memory_mib / 10, WINDOW_MIN_MS, WINDOW_MAX_MS);

	return between(interval_ns / 1000000, least, WINDOW_MAX_MS);
}

uint64_t dirty_rate_pages_per_gib(uint64_t memory_mib)
{
	return between(LOOKED_AT * 1024ull / (memory_mib ? memory_mib : 1), PER_GIB_MIN,
	               PER_GIB_MAX);
}

void dirty_rate_init(struct dirty_rate *d, const struct dirty_rate_params *params)
{
	*d = (struct dirty_rate){.params = *params, .share = WHOLE};
}

void dirty_rate_begin(struct dirty_rate *d, uint64_t now)
{
	d->on = true;
	d->off = d->in_flight = d->known = false;
	d->asked = d->spoilt = false;
	d->failures = 0;
	d->rate = d->rate_at = d->expected = 0;
	d->share = WHOLE;
	d->cut_at = now;
}

void dirty_rate_end(struct dirty_rate *d)
{
	d->on = d->known = d->asked = false;
}

static uint64_t memory_pages(const struct dirty_rate *d)
{
	return d->params.memory_mib * PAGES_PER_MIB;
}

/* By the samples alone: pages count as often as they were seen. */
static double sum(const struct dirty_rate *d, uint64_t now)
{
	double behind = now > d->upto ? (double)(now - d->upto) / (double)SECOND : 0;

	return d->known ? (double)d->written + (double)d->rate * behind : 0;
}

void dirty_rate_cut(struct dirty_rate *d, uint64_t now)
{
	d->expected = (uint64_t)sum(d, now);
	d->in_flight = true;
	d->known = false;
	d->spoilt = d->asked;
	d->cut_at = now;
}

void dirty_rate_captured(struct dirty_rate *d, uint64_t pages)
{
	if (d->expected < LEARN_FROM)
		return;
	d->share = between(pages * WHOLE / d->expected, SHARE_MIN, WHOLE);
	d->share_rate = d->rate;
	d->expected = 0;
}

void dirty_rate_ready(struct dirty_rate *d)
{
	d->in_flight = false;
}

uint64_t dirty_rate_due(const struct dirty_rate *d)
{
	uint64_t since = d->asked_at > d->cut_at ? d->asked_at : d->cut_at;

	if (!d->on || d->off || d->in_flight || d->asked || d->params.interval_ns == 0)
		return UINT64_MAX;
	return since + d->params.interval_ns;
}

void dirty_rate_asked(struct dirty_rate *d, uint64_t now)
{
	d->asked = true;
	d->spoilt = false;
	d->asked_at = now;
}

/* At the first sample of an epoch; d->rate is still the one before that. */
static void begin_sum(struct dirty_rate *d, uint64_t rate)
{
	uint64_t unseen = d->asked_at - d->cut_at;

	if (d->known)
		return;
	d->known = true;
	if (rate > d->rate)
		rate = d->rate;
	d->written = (uint64_t)((double)rate * (double)unseen / (double)SECOND);
	d->upto = d->asked_at;
}

int dirty_rate_sampled(struct dirty_rate *d, uint64_t mib_per_s, uint64_t now)
{
	uint64_t window = dirty_rate_window_ms(d->params.memory_mib, d->params.interval_ns);
	uint64_t most = d->params.memory_mib * 1000 / window + 1;

	if (!d->on || !d->asked)
		return -EINVAL;
	d->asked = false;
	if (mib_per_s > most) {
		d->refused++;
		return -ERANGE;
	}
	d->failures = 0;
	if (d->spoilt)
		return 0;
	begin_sum(d, mib_per_s * PAGES_PER_MIB);
	d->samples++;
	d->rate = mib_per_s * PAGES_PER_MIB;
	d->rate_at = now;
	if (d->rate > 2 * d->share_rate)
		d->share = WHOLE;
	d->written = (uint64_t)sum(d, now);
	d->upto = now;
	return 0;
}

bool dirty_rate_failed(struct dirty_rate *d, bool for_good)
{
	if (!d->on || d->off)
		return false;
	d->asked = false;
	d->failures++;
	d->off = for_good || d->failures >= FAILURES_MAX;
	return d->off;
}

uint64_t dirty_rate_expected(const struct dirty_rate *d, uint64_t now)
{
	double pages = sum(d, now) * (double)d->share / WHOLE;
	uint64_t all = memory_pages(d);

	return pages < (double)all ? (uint64_t)pages : all;
}

uint64_t dirty_rate_full_at(const struct dirty_rate *d)
{
	uint64_t limit = d->params.limit_mib * PAGES_PER_MIB;
	double left;

	if (!d->on || !d->known || limit == 0 || limit >= memory_pages(d))
		return UINT64_MAX;
	left = (double)limit * WHOLE / (double)d->share - (double)d->written;
	if (left <= 0)
		return d->upto;
	if (d->rate == 0)
		return UINT64_MAX;
	left = left / (double)d->rate * (double)SECOND;
	/* Centuries are never. */
	return left < 1e18 ? d->upto + (uint64_t)left : UINT64_MAX;
}
