/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What `colo-proxy stats` and `status` show of the node. */
#include <stdio.h>
#include <string.h>

#include "colo-proxy/node/node_private.h"

static const uint8_t class_in_stats[PACKET_CLASS_COUNT] = {
        [PACKET_OTHER] = STATS_OTHER,      [PACKET_TCP] = STATS_TCP, [PACKET_UDP] = STATS_UDP,
        [PACKET_ICMP] = STATS_ICMP,        [PACKET_ARP] = STATS_ARP, [PACKET_WHOLE] = STATS_OTHER,
        [PACKET_MEMBERSHIP] = STATS_OTHER,
};

static void count_add(struct stats_count *sum, uint64_t packets, uint64_t bytes)
{
	sum->packets += packets;
	sum->bytes += bytes;
}

/* Two classes share a line of the statistics: they are added up. */
static void fill_traffic(const struct node *node, const struct gate_stats *gate,
                         struct stats_snapshot *stats)
{
	struct hist all = {0}, shared[STATS_CLASSES] = {0};

	for (unsigned i = 0; i < PACKET_CLASS_COUNT; i++) {
		const struct gate_class_stats *from = &gate->by_class[i];
		struct stats_traffic *to = &stats->traffic[class_in_stats[i]];

		count_add(&to->held,
		          from->held_packets + from->unprotected_packets + from->bypassed_packets,
		          from->held_bytes + from->unprotected_bytes + from->bypassed_bytes);
		count_add(&to->matched, from->matched_packets, from->matched_bytes);
		count_add(&to->released_match, from->matched_packets, from->matched_bytes);
		count_add(&to->released_commit, from->committed_packets, from->committed_bytes);
		count_add(&to->released_unprotected, from->unprotected_packets,
		          from->unprotected_bytes);
		count_add(&to->released_bypass, from->bypassed_packets, from->bypassed_bytes);
		to->mismatched.packets += from->mismatched;
		to->late.packets += from->late;
		count_add(&to->held_now,
		          from->held_packets - from->matched_packets - from->committed_packets,
		          from->held_bytes - from->matched_bytes - from->committed_bytes);
		hist_merge(&shared[class_in_stats[i]], &node->hold_hist[i]);
		to->hold_us = hist_summary(&shared[class_in_stats[i]], 1000);
		hist_merge(&all, &node->hold_hist[i]);
	}
	stats->traffic[STATS_TOTAL].hold_us = hist_summary(&all, 1000);
}

static void fill_queues(struct node *node, const struct gate_stats *gate,
                        struct stats_snapshot *stats)
{
	const struct config *config = node->config;
	const struct input_log *log = node->is_primary ? &node->p.unsent : &node->s.log;

	stats->queues.packets = (struct stats_queue){gate->now_packets, gate->high_packets,
	                                             config->max_held_packets};
	stats->queues.bytes =
	        (struct stats_queue){gate->now_bytes, gate->high_bytes, config->max_held_bytes};
	stats->queues.flows =
	        (struct stats_queue){gate->now_flows, gate->high_flows, config->max_flows};
	stats->queues.input_bytes =
	        (struct stats_queue){log->bytes, log->high, config->max_input_log_bytes};
	if (node->link)
		stats->queues.link_bytes.now =
		        link_queued(node->link, LINK_FAST) + link_queued(node->link, LINK_BULK);
	stats->queues.link_bytes.limit = 2 * config->link_buffer_bytes;
	stats->queues.page_cache = codec_memory(node);
	stats->queues.kept_state = still_memory(node);
	stats->queues.replay = (struct stats_queue){node->replay_in.bytes, node->replay_in.high,
	                                            config->replay_bytes};
}

static const uint8_t cause_in_stats[CKPT_CAUSE_COUNT] = {
        [CKPT_INITIAL] = STATS_CAUSE_INITIAL, [CKPT_MISMATCH] = STATS_CAUSE_MISMATCH,
        [CKPT_LATE] = STATS_CAUSE_LATE,       [CKPT_UNCOMPARED] = STATS_CAUSE_UNCOMPARED,
        [CKPT_TIMER] = STATS_CAUSE_TIMER,     [CKPT_PRESSURE] = STATS_CAUSE_PRESSURE,
        [CKPT_COMMAND] = STATS_CAUSE_COMMAND, [CKPT_POLICY] = STATS_CAUSE_POLICY,
        [CKPT_DIRTY] = STATS_CAUSE_DIRTY,
};

/* ---- the last checkpoints ---- */

void figures_captured(struct node *node)
{
	struct primary *p = &node->p;
	struct history_entry entry = {
	        .epoch = p->ckpt.epoch,
	        .cause = cause_in_stats[p->taken_cause],
	        .when_ns = node_realtime(),
	        .asked_at = p->asked_at,
	        .requested_at = p->ckpt.requested_at,
	        .replied_at = p->replied_at,
	        .sent_at = p->ckpt.stopped_at,
	        .first_at = p->ckpt.first_at,
	        .captured_at = p->ckpt.captured_at,
	        .reading_ns = p->reading_ns + (loop_clock() - p->read_at),
	        .pages = node->pages_last,
	        .plain_bytes = p->ckpt.buf.len,
	};

	history_add(&node->history, &entry);
}

void figures_paused(struct node *node, uint64_t stopped_at, uint64_t pause_ns)
{
	history_paused(&node->history, stopped_at, pause_ns);
}

void figures_committed(struct node *node, uint64_t commit_ns)
{
	struct history_entry *entry = history_find(&node->history, node->p.ckpt.epoch);

	hist_add(&node->commit_hist, commit_ns);
	if (entry)
		entry->commit_ns = commit_ns;
}

void figures_loaded(struct node *node, uint64_t load_ns)
{
	struct history_entry *entry = history_find(&node->history, node->p.ckpt.epoch);

	hist_add(&node->load_hist, load_ns);
	if (entry)
		entry->load_ns = load_ns;
}

void figures_encoded(struct node *node)
{
	struct history_entry *entry = history_find(&node->history, node->p.ckpt.epoch);

	if (!entry)
		return;
	entry->bytes = node->bytes_last;
	entry->encode_ns = node->codec.encode_ns;
}

void figures_stock(struct node *node, enum ckpt_cause cause, uint64_t stopped_at, uint64_t pause_ns)
{
	/* QEMU holds the VM until the other one has loaded: that is its commit. */
	struct history_entry entry = {
	        .cause = cause_in_stats[cause],
	        .when_ns = node_realtime(),
	        .stopped_at = stopped_at,
	        .resumed_at = stopped_at + pause_ns,
	        .commit_ns = pause_ns,
	};

	history_add(&node->history, &entry);
}

/* ---- statistics ---- */

static void fill_checkpoints(const struct node *node, struct stats_snapshot *stats)
{
	uint64_t protected_ns = node->p.protected_ns;

	if (node->p.protected_at)
		protected_ns += loop_clock() - node->p.protected_at;
	for (unsigned i = 0; i < CKPT_CAUSE_COUNT; i++)
		stats->checkpoints.cause[cause_in_stats[i]] = node->by_cause[i];
	stats->checkpoints.pause_us = hist_summary(&node->pause_hist, 1000);
	stats->checkpoints.commit_us = hist_summary(&node->commit_hist, 1000);
	stats->checkpoints.load_us = hist_summary(&node->load_hist, 1000);
	stats->checkpoints.catchup_us = hist_summary(&node->catchup_hist, 1000);
	stats->checkpoints.pages = (struct stats_last){node->pages_last, node->pages_total};
	stats->checkpoints.bytes = (struct stats_last){node->bytes_last, node->bytes_total};
	stats->checkpoints.plain_bytes = (struct stats_last){node->plain_last, node->plain_total};
	stats->checkpoints.encode_us = hist_summary(&node->encode_hist, 1000);
	if (node->codec.pool)
		stats->checkpoints.encode_threads = encode_pool_threads(node->codec.pool);
	stats->encoding.zero = node->codec.total.zero;
	stats->encoding.unchanged = node->codec.total.unchanged;
	stats->encoding.delta = node->codec.total.delta;
	stats->encoding.compressed = node->codec.total.compressed;
	stats->encoding.whole = node->codec.total.whole;
	stats->encoding.agreed = node->codec.total.agreed;
	stats->encoding.holes = node->codec.total.holes;
	if (protected_ns)
		stats->checkpoints.paused_permille = node->p.paused_ns * 1000 / protected_ns;
}

static void fill_dirty(const struct node *node, struct stats_snapshot *stats)
{
	const struct dirty_rate *d = &node->dirty;
	uint64_t now = loop_clock();

	stats->dirty.samples = d->samples;
	stats->dirty.refused = d->refused;
	stats->dirty.rate = d->rate * PAGE_CACHE_PAGE;
	stats->dirty.age_ms = d->rate_at ? (now - d->rate_at) / MS : 0;
	stats->dirty.expected_bytes = dirty_rate_expected(d, now) * PAGE_CACHE_PAGE;
}

static struct stats_count replay_figure(const struct replay_count *count)
{
	return (struct stats_count){count->packets, count->bytes};
}

static void fill_replay(const struct node *node, struct stats_snapshot *stats)
{
	stats->replay.sent = replay_figure(&node->replay_out.sent);
	stats->replay.left_out = replay_figure(&node->replay_out.left_out);
	stats->replay.kept = replay_figure(&node->replay_in.kept);
	stats->replay.not_kept = replay_figure(&node->replay_in.not_kept);
	stats->replay.replayed = replay_figure(&node->replay_in.replayed);
	stats->replay.too_old = replay_figure(&node->replay_in.too_old);
}

static void fill_stats(struct node *node, struct stats_snapshot *stats)
{
	struct gate_stats gate = {0};
	struct hold_counters hold = {0};

	memset(stats, 0, sizeof(*stats));
	stats->at_ns = loop_clock();
	stats->since_ns = node->since_ns;
	if (node->gate)
		gate_get_stats(node->gate, &gate);
	if (node->hold)
		hold_get_counters(node->hold, &hold);
	fill_traffic(node, &gate, stats);
	fill_queues(node, &gate, stats);
	fill_checkpoints(node, stats);
	fill_dirty(node, stats);
	fill_replay(node, stats);
	stats->comparison.lag_us = gate.lag_ns / 1000;
	stats->comparison.late_wait_us = gate.late_wait_ns / 1000;
	stats->comparison.ranges_cut = gate.ranges_cut;
	stats->comparison.frames_cut = gate.frames_cut;
	stats->kernel_drops = hold.kernel_dropped;
	stats->link.rtt_us = node->rtt_ns / 1000;
	stats->link.streams = node->link ? link_streams(node->link) : 0;
	for (enum link_channel channel = LINK_FAST; node->link && channel < LINK_CHANNELS;
	     channel++) {
		struct link_counters counters;

		link_counters(node->link, channel, &counters);
		stats->link.bytes_sent += counters.sent_bytes;
		stats->link.bytes_received += counters.received_bytes;
	}
	stats->input.copied = (struct stats_count){node->copied_packets, node->copied_bytes};
	stats->input.injected = (struct stats_count){node->s.injected, node->s.injected_bytes};
	stats->input.dropped.packets = node->p.unsent.dropped + node->s.log.dropped;
	node_last_divergence(node, stats->last_divergence, sizeof(stats->last_divergence));
	stats_sum(stats);
}

static void fill_status(struct node *node, struct status_snapshot *status)
{
	const struct config *config = node->config;
	struct gate_stats gate;

	memset(status, 0, sizeof(*status));
	snprintf(status->name, sizeof(status->name), "%s", config->name);
	snprintf(status->role, sizeof(status->role), "%s",
	         node->is_primary ? "primary" : "secondary");
	snprintf(status->state, sizeof(status->state), "%s", role_state_name(node->role.state));
	status->is_protected =
	        node->role.state == ROLE_PROTECTED || node->role.state == ROLE_STANDBY;
	status->epoch =
	        node->is_primary && node->gate ? gate_epoch(node->gate) : node->s.primary_epoch;
	status->lineage = node->is_primary ? node->peer_lineage : node->s.lineage;
	status->committed = node->committed_epoch;
	snprintf(status->peer, sizeof(status->peer), "%s", node->peer);
	status->peer_alive = node->link && link_is_up(node->link);
	if (node->gate && gate_is_protected(node->gate)) {
		gate_get_stats(node->gate, &gate);
		status->lag_us = gate.lag_ns / 1000;
		status->late_wait_us = gate.late_wait_ns / 1000;
	}
	snprintf(status->datapath, sizeof(status->datapath), "%s",
	         node->hold ? node->hold->ops->name : "none");
	snprintf(status->comparator, sizeof(status->comparator), "%s",
	         node_proxies(node)                                   ? "proxy"
	         : node->config->comparator == CONFIG_COMPARATOR_QEMU ? "qemu"
	                                                              : "none");
	status->since_ns = node->state_realtime;
	snprintf(status->last_event, sizeof(status->last_event), "%s", node->last_event);
	snprintf(status->message, sizeof(status->message), "%s", node->message);
	if (policy_count(&config->flows, POLICY_BYPASS))
		snprintf(status->warning, sizeof(status->warning),
		         "%u of the rules in [flows] bypass: what they fit leaves unprotected",
		         policy_count(&config->flows, POLICY_BYPASS));
	node_last_divergence(node, status->last_divergence, sizeof(status->last_divergence));
	policy_status(node, &status->policy);
	status->takeover = node->takeover;
	status->takeover.discarded = node->discarded_packets;
}

static void do_snapshot(void *arg)
{
	struct node_job *job = arg;

	fill_stats(job->node, &job->stats);
	fill_status(job->node, &job->status);
	if (job->max_history)
		job->history_count =
		        history_copy(&job->node->history, job->history, job->max_history);
	job->done(job, true, "");
}

void node_snapshot(struct node *node, struct node_job *job)
{
	node_post_job(node, job, do_snapshot);
}
