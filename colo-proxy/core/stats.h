/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_STATS_H
#define COLO_CORE_STATS_H

#include "colo-proxy/core/hist.h"

#include <stdint.h>

/*
 * The figures of one protected VM at one moment: what `colo-proxy stats` shows. Plain values,
 * filled by the data thread, copied whole, turned into JSON by stats_to_json() (control/report.h).
 * Counters count from the daemon's start and never go back. Times are microseconds unless named.
 */

enum stats_class {
	STATS_TCP,
	STATS_UDP,
	STATS_ICMP,
	STATS_ARP,
	STATS_OTHER,
	STATS_TOTAL, /* the sum of those above; its hold times are of all packets together */
	STATS_CLASSES,
};

enum stats_cause {
	STATS_CAUSE_INITIAL,    /* the copy that protection starts with */
	STATS_CAUSE_MISMATCH,   /* output differed */
	STATS_CAUSE_LATE,       /* the secondary did not say it within late-timeout */
	STATS_CAUSE_UNCOMPARED, /* traffic that is released by commit only */
	STATS_CAUSE_TIMER,      /* longest-epoch reached */
	STATS_CAUSE_PRESSURE,   /* a queue or table near its limit (R8) */
	STATS_CAUSE_COMMAND,    /* asked for by an operator */
	STATS_CAUSE_POLICY,     /* the policy's own pace */
	STATS_CAUSE_DIRTY,      /* max-dirty reached, as far as QEMU's samples tell */
	STATS_CAUSES,
};

/* Packets as the guest's NIC sent them (a superframe is one) and their bytes. */
struct stats_count {
	uint64_t packets;
	uint64_t bytes;
};

/*
 * held = released_match + released_commit + released_unprotected + released_bypass + discarded +
 * held_now.
 * matched, mismatched and late are verdicts of the comparison; a packet may be matched in part.
 */
struct stats_traffic {
	struct stats_count held;                 /* entered the hold queue */
	struct stats_count matched;              /* the secondary said the same */
	struct stats_count mismatched;           /* the secondary said something else */
	struct stats_count late;                 /* no answer from the secondary in time */
	struct stats_count released_match;       /* left because it matched: rule R1 (a) */
	struct stats_count released_commit;      /* left because a later epoch committed: R1 (b) */
	struct stats_count released_unprotected; /* left while no secondary was there */
	struct stats_count released_bypass;      /* left by a rule of [flows]: outside of R1 */
	struct stats_count discarded;            /* never left: the VM's state was given up */
	struct stats_count held_now;             /* in the queue at this moment */
	struct hist_summary hold_us;             /* from entering the queue to leaving it */
};

/* A bounded queue or table: how full, how full it has been, how full it may get. */
struct stats_queue {
	uint64_t now;
	uint64_t high;
	uint64_t limit;
};

struct stats_last {
	uint64_t last;
	uint64_t total;
};

struct stats_snapshot {
	uint64_t at_ns;    /* CLOCK_BOOTTIME when it was taken */
	uint64_t since_ns; /* CLOCK_BOOTTIME when counting began */

	struct stats_traffic traffic[STATS_CLASSES];

	struct {
		struct stats_queue packets;     /* held packets */
		struct stats_queue bytes;       /* held bytes */
		struct stats_queue flows;       /* connections in the flow table */
		struct stats_queue input_bytes; /* input log for lineages being loaded */
		struct stats_queue link_bytes;  /* waiting to be sent to the peer */
		struct stats_queue page_cache;  /* bytes of pages kept as they were last sent */
		struct stats_queue kept_state;  /* secondary: the newest state, not loaded */
		struct stats_queue replay;      /* secondary: bytes to say again at a takeover */
	} queues;

	struct {
		uint64_t lag_us;       /* the secondary behind the primary, smoothed */
		uint64_t late_wait_us; /* what is waited for it now */
		uint64_t ranges_cut;   /* of its streams, asked for in two */
		uint64_t frames_cut;   /* of the primary's VM, let out in two */
	} comparison;

	uint64_t kernel_drops; /* frames that the kernel reports lost before we saw them */

	struct {
		uint64_t total;
		uint64_t cause[STATS_CAUSES];
		struct hist_summary pause_us;  /* the primary VM stands still */
		struct hist_summary commit_us; /* from the cut to the peer's confirmation */
		struct hist_summary load_us;   /* the secondary VM stands still */
		/* on the secondary: from the load's end until all input that had waited is fed */
		struct hist_summary catchup_us;
		struct stats_last pages;       /* guest pages */
		struct stats_last bytes;       /* as they crossed the link */
		struct stats_last plain_bytes; /* as QEMU wrote them */
		struct hist_summary encode_us; /* of all threads for one, on the primary */
		uint64_t encode_threads;       /* besides the data thread */
		uint64_t paused_permille;      /* of the time since protection began */
	} checkpoints;

	/* What the primary's VM writes to between checkpoints, by QEMU's samples. */
	struct {
		uint64_t samples;        /* that were of use */
		uint64_t refused;        /* that said more than can be */
		uint64_t rate;           /* bytes a second, the last one */
		uint64_t age_ms;         /* of that */
		uint64_t expected_bytes; /* of a checkpoint now; 0: not known yet */
	} dirty;

	/* Pages by how they crossed the link; 4096-byte pieces of device state are among them. */
	struct {
		uint64_t zero;
		uint64_t unchanged;
		uint64_t delta;
		uint64_t compressed;
		uint64_t whole;
		uint64_t agreed; /* told by a hash: the secondary's VM had them */
		uint64_t holes;  /* it had others: these are compressed or whole ones, too */
	} encoding;

	struct {
		uint64_t rtt_us; /* last heartbeat */
		uint64_t bytes_sent;
		uint64_t bytes_received;
		uint64_t streams; /* of the bulk channel; 0: no session */
	} link;

	struct {
		struct stats_count copied;   /* client input seen at the primary's port */
		struct stats_count injected; /* put into the secondary VM */
		struct stats_count dropped;  /* lost: the NIC queue was full, or the log was */
	} input;

	/* Output that goes along with checkpoints, to be said again at a takeover (replay.h). */
	struct {
		struct stats_count sent;     /* primary */
		struct stats_count left_out; /* primary: no room in replay-limit */
		struct stats_count kept;     /* secondary */
		struct stats_count not_kept; /* secondary: no room */
		struct stats_count replayed; /* said again, at takeovers */
		struct stats_count too_old;  /* not any more: it had waited for minutes */
	} replay;

	/* Resident on this host, bytes. A secondary's QEMU has the guest's memory twice: COLO's
	 * cache and the VM's own. 0: not running. */
	struct {
		uint64_t qemu;
		uint64_t daemon;
	} memory;

	char last_divergence[256]; /* the newest one in words, without payload; "" when none */
};

/* "tcp", ..., "total"; "initial", ... The words of the JSON and of the display. */
const char *stats_class_name(enum stats_class class);
const char *stats_cause_name(enum stats_cause cause);

/* Fills traffic[STATS_TOTAL]'s counters (not its hold_us) and checkpoints.total by adding up. */
void stats_sum(struct stats_snapshot *stats);

#endif
