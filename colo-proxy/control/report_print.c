/* SPDX-License-Identifier: GPL-2.0-or-later */
/* stats and status as people read them. */
#include "colo-proxy/control/report.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#define SECOND 1000000000ull

/* "812", "51.3k", "2.0M": at most six characters. */
static const char *si(char *buf, size_t size, uint64_t value)
{
	static const char units[] = "kMGTPE";
	double scaled = (double)value;
	size_t unit = 0;

	if (value < 10000) {
		snprintf(buf, size, "%" PRIu64, value);
		return buf;
	}
	scaled /= 1000;
	while (scaled >= 999.95 && units[unit + 1]) {
		scaled /= 1000;
		unit++;
	}
	snprintf(buf, size, "%.1f%c", scaled, units[unit]);
	return buf;
}

/* Microseconds: "85us", "2.4ms", "1.20s"; "-" when nothing was measured. */
static const char *us(char *buf, size_t size, uint64_t count, uint64_t value)
{
	if (!count)
		snprintf(buf, size, "-");
	else if (value < 1000)
		snprintf(buf, size, "%" PRIu64 "us", value);
	else if (value < 1000000)
		snprintf(buf, size, "%.1fms", (double)value / 1000);
	else
		snprintf(buf, size, "%.2fs", (double)value / 1000000);
	return buf;
}

#define SI(value)        si((char[16]){0}, 16, value)
#define US(hist, member) us((char[24]){0}, 24, (hist)->count, (hist)->member)

static double seconds_between(uint64_t from, uint64_t to)
{
	return to > from ? (double)(to - from) / SECOND : 0;
}

/* A counter's rate, for people: 0 when no time has passed or the daemon has been restarted. */
static uint64_t rate(uint64_t before, uint64_t after, double seconds)
{
	if (seconds <= 0 || after < before)
		return 0;
	return (uint64_t)((double)(after - before) / seconds + 0.5);
}

static void print_traffic_head(FILE *out)
{
	fprintf(out, "%-7s %8s %8s %8s %8s %6s %9s %9s %8s %8s %8s %8s\n", "packets", "held", "now",
	        "matched", "differed", "late", "by match", "by commit", "p50", "p99", "max", "MB");
}

static void print_traffic(FILE *out, enum stats_class class, const struct stats_traffic *t)
{
	fprintf(out, "%-7s %8s %8s %8s %8s %6s %9s %9s %8s %8s %8s %8.1f\n",
	        stats_class_name(class), SI(t->held.packets), SI(t->held_now.packets),
	        SI(t->matched.packets), SI(t->mismatched.packets), SI(t->late.packets),
	        SI(t->released_match.packets), SI(t->released_commit.packets), US(&t->hold_us, p50),
	        US(&t->hold_us, p99), US(&t->hold_us, max), (double)t->held.bytes / 1e6);
}

static void print_other_releases(FILE *out, const struct stats_traffic *total)
{
	if (total->released_unprotected.packets)
		fprintf(out, "        %s packets left while unprotected\n",
		        SI(total->released_unprotected.packets));
	if (total->released_bypass.packets)
		fprintf(out, "        %s packets left by a bypass rule\n",
		        SI(total->released_bypass.packets));
	if (total->discarded.packets)
		fprintf(out, "        %s packets discarded with the state that they came from\n",
		        SI(total->discarded.packets));
}

static void print_lag(FILE *out, const struct stats_snapshot *stats)
{
	if (stats->comparison.late_wait_us)
		fprintf(out, "        the secondary's lag is %.1f ms; it is waited for %.1f ms\n",
		        (double)stats->comparison.lag_us / 1000,
		        (double)stats->comparison.late_wait_us / 1000);
	if (stats->comparison.ranges_cut)
		fprintf(out, "        %s ranges of its streams were asked for in two\n",
		        SI(stats->comparison.ranges_cut));
	if (stats->comparison.frames_cut)
		fprintf(out, "        %s frames of the primary's VM were let out in two\n",
		        SI(stats->comparison.frames_cut));
}

static void print_queue(FILE *out, const char *name, const struct stats_queue *queue)
{
	fprintf(out, "  %-14s %8s now %8s high %8s limit\n", name, SI(queue->now), SI(queue->high),
	        SI(queue->limit));
}

static void print_queues(FILE *out, const struct stats_snapshot *stats)
{
	fprintf(out, "queues\n");
	print_queue(out, "held packets", &stats->queues.packets);
	print_queue(out, "held bytes", &stats->queues.bytes);
	print_queue(out, "connections", &stats->queues.flows);
	print_queue(out, "input log", &stats->queues.input_bytes);
	print_queue(out, "link buffer", &stats->queues.link_bytes);
	print_queue(out, "page cache", &stats->queues.page_cache);
	if (stats->queues.kept_state.high)
		print_queue(out, "kept state", &stats->queues.kept_state);
	if (stats->queues.replay.high)
		print_queue(out, "replay", &stats->queues.replay);
}

static void print_times(FILE *out, const char *name, const struct hist_summary *hist)
{
	fprintf(out, "  %-14s %8s p50 %8s p99  %8s max\n", name, US(hist, p50), US(hist, p99),
	        US(hist, max));
}

/* What it costs to send less, and what comes of it. */
static void print_encoding(FILE *out, const struct stats_snapshot *stats)
{
	fprintf(out, "  %-14s %8s last %7s total\n", "bytes before",
	        SI(stats->checkpoints.plain_bytes.last), SI(stats->checkpoints.plain_bytes.total));
	print_times(out, "encoding", &stats->checkpoints.encode_us);
	if (stats->checkpoints.encode_threads)
		fprintf(out, "  %-14s %" PRIu64 "\n", "threads", stats->checkpoints.encode_threads);
	fprintf(out, "  %-14s %s zero, %s unchanged, %s delta, %s compressed, %s whole\n",
	        "pages sent as", SI(stats->encoding.zero), SI(stats->encoding.unchanged),
	        SI(stats->encoding.delta), SI(stats->encoding.compressed),
	        SI(stats->encoding.whole));
	fprintf(out, "  %-14s %s agreed, %s asked for\n", "by their hash",
	        SI(stats->encoding.agreed), SI(stats->encoding.holes));
}

/* What the next one will have. */
static void print_dirty(FILE *out, const struct stats_snapshot *stats)
{
	if (!stats->dirty.samples)
		return;
	fprintf(out, "  %-14s %8s bytes/s, %.1f s ago (%s samples), %s bytes expected now\n",
	        "written to", SI(stats->dirty.rate), (double)stats->dirty.age_ms / 1000,
	        SI(stats->dirty.samples), SI(stats->dirty.expected_bytes));
}

static void print_checkpoints(FILE *out, const struct stats_snapshot *stats)
{
	fprintf(out, "checkpoints    %" PRIu64 ":", stats->checkpoints.total);
	for (unsigned i = 0; i < STATS_CAUSES; i++)
		fprintf(out, " %s %" PRIu64 "%s", stats_cause_name(i), stats->checkpoints.cause[i],
		        i + 1 < STATS_CAUSES ? "," : "\n");
	print_times(out, "pause", &stats->checkpoints.pause_us);
	print_times(out, "commit", &stats->checkpoints.commit_us);
	print_times(out, "load", &stats->checkpoints.load_us);
	if (stats->checkpoints.catchup_us.count)
		print_times(out, "catch-up", &stats->checkpoints.catchup_us);
	fprintf(out, "  %-14s %8s last %7s total\n", "pages", SI(stats->checkpoints.pages.last),
	        SI(stats->checkpoints.pages.total));
	fprintf(out, "  %-14s %8s last %7s total\n", "bytes", SI(stats->checkpoints.bytes.last),
	        SI(stats->checkpoints.bytes.total));
	print_encoding(out, stats);
	print_dirty(out, stats);
	fprintf(out, "  %-14s %7.1f%% of the time\n", "paused",
	        (double)stats->checkpoints.paused_permille / 10);
}

static void print_rest(FILE *out, const struct stats_snapshot *stats)
{
	struct hist_summary rtt = {.count = stats->link.rtt_us != 0, .p50 = stats->link.rtt_us};

	fprintf(out, "link           round trip %s, %s bytes sent, %s received", US(&rtt, p50),
	        SI(stats->link.bytes_sent), SI(stats->link.bytes_received));
	if (stats->link.streams > 1)
		fprintf(out, ", %" PRIu64 " streams", stats->link.streams);
	fputc('\n', out);
	fprintf(out, "input          %s frames copied, %s injected, %s lost\n",
	        SI(stats->input.copied.packets), SI(stats->input.injected.packets),
	        SI(stats->input.dropped.packets));
	if (stats->replay.sent.packets || stats->replay.left_out.packets)
		fprintf(out, "replay         %s packets sent along with checkpoints, %s left out\n",
		        SI(stats->replay.sent.packets), SI(stats->replay.left_out.packets));
	if (stats->replay.kept.packets || stats->replay.not_kept.packets)
		fprintf(out,
		        "replay         %s packets kept, %s not kept, %s said again, %s too old\n",
		        SI(stats->replay.kept.packets), SI(stats->replay.not_kept.packets),
		        SI(stats->replay.replayed.packets), SI(stats->replay.too_old.packets));
	if (stats->memory.daemon)
		fprintf(out, "memory         QEMU %.0f MB, daemon %.0f MB resident\n",
		        (double)stats->memory.qemu / 1e6, (double)stats->memory.daemon / 1e6);
	if (stats->last_divergence[0])
		fprintf(out, "last           %s\n", stats->last_divergence);
	if (stats->kernel_drops)
		fprintf(out, "kernel drops   %s\n", SI(stats->kernel_drops));
}

void stats_print(FILE *out, const char *name, const struct stats_snapshot *stats)
{
	fprintf(out, "%s%scounting for %.0f s\n", name, *name ? ": " : "",
	        seconds_between(stats->since_ns, stats->at_ns));
	print_traffic_head(out);
	for (unsigned i = 0; i < STATS_CLASSES; i++)
		if (i == STATS_TOTAL || stats->traffic[i].held.packets)
			print_traffic(out, i, &stats->traffic[i]);
	print_other_releases(out, &stats->traffic[STATS_TOTAL]);
	print_lag(out, stats);
	print_queues(out, stats);
	print_checkpoints(out, stats);
	print_rest(out, stats);
}

void stats_print_line(FILE *out, const struct stats_snapshot *before,
                      const struct stats_snapshot *stats, bool header)
{
	static const struct stats_snapshot zero;
	const struct stats_snapshot *old = before ? before : &zero;
	const struct stats_traffic *a = &old->traffic[STATS_TOTAL];
	const struct stats_traffic *b = &stats->traffic[STATS_TOTAL];
	double seconds = seconds_between(before ? before->at_ns : stats->since_ns, stats->at_ns);

	if (header)
		fprintf(out,
		        "%7s %8s %8s %8s %8s %6s %8s %8s %5s %5s %5s %5s %5s %5s %8s %8s %8s %7s\n",
		        "s", "held/s", "match/s", "commit/s", "MB/s", "now", "now B", "hold p50",
		        "ckpt", "diff", "late", "uncmp", "timer", "press", "pause", "p99", "commit",
		        "paused");
	fprintf(out,
	        "%7.1f %8s %8s %8s %8.2f %6s %8s %8s %5" PRIu64 " %5" PRIu64 " %5" PRIu64
	        " %5" PRIu64 " %5" PRIu64 " %5" PRIu64 " %8s %8s %8s %6.1f%%\n",
	        seconds_between(stats->since_ns, stats->at_ns),
	        SI(rate(a->held.packets, b->held.packets, seconds)),
	        SI(rate(a->released_match.packets, b->released_match.packets, seconds)),
	        SI(rate(a->released_commit.packets, b->released_commit.packets, seconds)),
	        (double)rate(a->held.bytes, b->held.bytes, seconds) / 1e6, SI(b->held_now.packets),
	        SI(b->held_now.bytes), US(&b->hold_us, p50), stats->checkpoints.total,
	        stats->checkpoints.cause[STATS_CAUSE_MISMATCH],
	        stats->checkpoints.cause[STATS_CAUSE_LATE],
	        stats->checkpoints.cause[STATS_CAUSE_UNCOMPARED],
	        stats->checkpoints.cause[STATS_CAUSE_TIMER],
	        stats->checkpoints.cause[STATS_CAUSE_PRESSURE],
	        US(&stats->checkpoints.pause_us, p50), US(&stats->checkpoints.pause_us, p99),
	        US(&stats->checkpoints.commit_us, p50),
	        (double)stats->checkpoints.paused_permille / 10);
}

void stats_print_screen(FILE *out, const char *name, const struct stats_snapshot *before,
                        const struct stats_snapshot *stats)
{
	const struct stats_traffic *b = &stats->traffic[STATS_TOTAL];

	fprintf(out, "\033[H\033[2J"); /* home, clear: ECMA-48 CUP and ED */
	stats_print(out, name, stats);
	if (before) {
		const struct stats_traffic *a = &before->traffic[STATS_TOTAL];
		double seconds = seconds_between(before->at_ns, stats->at_ns);

		fprintf(out,
		        "\nlast second    %s packets held, %.2f MB/s; released %s by match, %s by "
		        "commit; %" PRIu64 " checkpoints\n",
		        SI(rate(a->held.packets, b->held.packets, seconds)),
		        (double)rate(a->held.bytes, b->held.bytes, seconds) / 1e6,
		        SI(rate(a->released_match.packets, b->released_match.packets, seconds)),
		        SI(rate(a->released_commit.packets, b->released_commit.packets, seconds)),
		        stats->checkpoints.total - before->checkpoints.total);
	}
	fflush(out);
}

const char *report_clock_text(char *buf, size_t size, uint64_t ns)
{
	time_t seconds = (time_t)(ns / SECOND);
	struct tm tm;
	size_t len;

	localtime_r(&seconds, &tm);
	len = strftime(buf, size, "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(buf + len, size - len, ".%03u", (unsigned)(ns / 1000000 % 1000));
	return buf;
}

#define CLOCK(ns) report_clock_text((char[48]){0}, 48, ns)

static void print_takeover(FILE *out, const struct status_takeover *t)
{
	if (!t->detected_ns)
		return;
	fprintf(out, "  takeover     loss noticed %s", CLOCK(t->detected_ns));
	if (t->last_heard_ns && t->detected_ns > t->last_heard_ns)
		fprintf(out, ", %.0f ms after the last heartbeat",
		        (double)(t->detected_ns - t->last_heard_ns) / 1e6);
	if (t->fenced_ns >= t->detected_ns)
		fprintf(out, "; fenced after %.0f ms",
		        (double)(t->fenced_ns - t->detected_ns) / 1e6);
	if (t->live_ns >= t->detected_ns)
		fprintf(out, "; live after %.0f ms from checkpoint %" PRIu64,
		        (double)(t->live_ns - t->detected_ns) / 1e6, t->lineage);
	if (t->loaded_bytes)
		fprintf(out, ", of which %.1f MB were loaded in %.0f ms",
		        (double)t->loaded_bytes / 1e6, (double)t->load_ns / 1e6);
	if (t->replayed)
		fprintf(out, "; %s frames that the dead primary held were said", SI(t->replayed));
	fprintf(out, "\n");
}

static void print_policy(FILE *out, const struct status_policy *p)
{
	if (!p->name[0])
		return;
	fprintf(out, "  policy       %s", p->name);
	if (strcmp(p->name, p->in_force) != 0)
		fprintf(out, ", at present %s", p->in_force);
	fprintf(out, "%s%s\n", p->why[0] ? ": " : "", p->why);
}

void policy_print(FILE *out, const struct status_policy *p)
{
	print_policy(out, p);
	fprintf(out, "  compared     %s\n",
	        p->compares ? "the secondary's VM runs and is compared with"
	                    : "nothing: output leaves when its checkpoint is committed");
	fprintf(out,
	        "  parameters   latency-target %" PRIu64 " ms, rest %" PRIu64
	        " ms, max-pause %" PRIu64 " %%\n",
	        p->latency_target_ms, p->rest_ms, p->max_pause_percent);
	if (p->commit_us)
		fprintf(out, "  measured     pause %.1f ms, commit %.1f ms; an epoch of %.1f ms\n",
		        (double)p->pause_us / 1000, (double)p->commit_us / 1000,
		        (double)p->epoch_us / 1000);
}

void status_print(FILE *out, const struct status_snapshot *s)
{
	fprintf(out, "%s: %s, %s, %s\n", s->name, s->role, s->state,
	        s->is_protected ? "protected" : "NOT PROTECTED");
	if (s->since_ns)
		fprintf(out, "  since        %s\n", CLOCK(s->since_ns));
	fprintf(out, "  epoch        %" PRIu64 ", committed %" PRIu64 ", lineage %" PRIu64 "\n",
	        s->epoch, s->committed, s->lineage);
	fprintf(out, "  peer         %s%s\n", s->peer[0] ? s->peer : "none",
	        !s->peer[0]     ? ""
	        : s->peer_alive ? ", alive"
	                        : ", not heard");
	if (s->late_wait_us)
		fprintf(out, "  lag          %.1f ms behind; waited for %.1f ms\n",
		        (double)s->lag_us / 1000, (double)s->late_wait_us / 1000);
	if (s->qemu_pid)
		fprintf(out, "  QEMU         %s, process %" PRIu64 ", %s\n", s->qemu_version,
		        s->qemu_pid, s->accel);
	else
		fprintf(out, "  QEMU         not running\n");
	fprintf(out, "  output       held by %s, compared by %s\n", s->datapath, s->comparator);
	print_policy(out, &s->policy);
	if (s->copy_total)
		fprintf(out, "  copy         %" PRIu64 " %%, %.0f of %.0f MB\n",
		        s->copy_done * 100 / s->copy_total, (double)s->copy_done / 1e6,
		        (double)s->copy_total / 1e6);
	print_takeover(out, &s->takeover);
	if (s->last_event[0])
		fprintf(out, "  last event   %s\n", s->last_event);
	if (s->last_divergence[0])
		fprintf(out, "  divergence   %s\n", s->last_divergence);
	if (s->message[0])
		fprintf(out, "  note         %s\n", s->message);
	if (s->warning[0])
		fprintf(out, "  warning      %s\n", s->warning);
}

void status_print_row(FILE *out, const struct status_snapshot *s, bool header)
{
	if (header)
		fprintf(out, "%-20s %-10s %-14s %-13s %8s %8s  %s\n", "NAME", "ROLE", "STATE",
		        "PROTECTED", "EPOCH", "COMMITTED", "PEER");
	fprintf(out, "%-20s %-10s %-14s %-13s %8" PRIu64 " %8" PRIu64 "  %s\n", s->name, s->role,
	        s->state, s->is_protected ? "yes" : "NO", s->epoch, s->committed,
	        s->peer[0] ? s->peer : "-");
}
