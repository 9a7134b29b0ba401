/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/stats.h"

#include <string.h>

static const char *const class_names[STATS_CLASSES] = {
        [STATS_TCP] = "tcp", [STATS_UDP] = "udp",     [STATS_ICMP] = "icmp",
        [STATS_ARP] = "arp", [STATS_OTHER] = "other", [STATS_TOTAL] = "total",
};

static const char *const cause_names[STATS_CAUSES] = {
        [STATS_CAUSE_INITIAL] = "initial", [STATS_CAUSE_MISMATCH] = "mismatch",
        [STATS_CAUSE_LATE] = "late",       [STATS_CAUSE_UNCOMPARED] = "uncompared",
        [STATS_CAUSE_TIMER] = "timer",     [STATS_CAUSE_PRESSURE] = "pressure",
        [STATS_CAUSE_COMMAND] = "command", [STATS_CAUSE_POLICY] = "policy",
        [STATS_CAUSE_DIRTY] = "dirty",
};

const char *stats_class_name(enum stats_class class)
{
	return (unsigned)class < STATS_CLASSES ? class_names[class] : "?";
}

const char *stats_cause_name(enum stats_cause cause)
{
	return (unsigned)cause < STATS_CAUSES ? cause_names[cause] : "?";
}

static void count_add(struct stats_count *sum, const struct stats_count *count)
{
	sum->packets += count->packets;
	sum->bytes += count->bytes;
}

void stats_sum(struct stats_snapshot *stats)
{
	struct hist_summary hold_us = stats->traffic[STATS_TOTAL].hold_us;
	struct stats_traffic sum;

	memset(&sum, 0, sizeof(sum));
	for (unsigned i = 0; i < STATS_TOTAL; i++) {
		const struct stats_traffic *class = &stats->traffic[i];

		count_add(&sum.held, &class->held);
		count_add(&sum.matched, &class->matched);
		count_add(&sum.mismatched, &class->mismatched);
		count_add(&sum.late, &class->late);
		count_add(&sum.released_match, &class->released_match);
		count_add(&sum.released_commit, &class->released_commit);
		count_add(&sum.released_unprotected, &class->released_unprotected);
		count_add(&sum.released_bypass, &class->released_bypass);
		count_add(&sum.discarded, &class->discarded);
		count_add(&sum.held_now, &class->held_now);
	}
	sum.hold_us = hold_us;
	stats->traffic[STATS_TOTAL] = sum;

	stats->checkpoints.total = 0;
	for (unsigned i = 0; i < STATS_CAUSES; i++)
		stats->checkpoints.total += stats->checkpoints.cause[i];
}
