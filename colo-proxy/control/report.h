/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CONTROL_REPORT_H
#define COLO_CONTROL_REPORT_H

#include "colo-proxy/core/stats.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/*
 * The results of the commands `stats` and `status` as JSON, and how they are shown to people.
 * Both directions are made from one table of fields each, so that what a daemon writes, a client
 * of the same version reads back unchanged. Fields that are missing read as zero or "".
 */

/* A takeover's facts; all zero when there was none. Times are CLOCK_REALTIME, ns. */
struct status_takeover {
	uint64_t last_heard_ns; /* the peer's last heartbeat */
	uint64_t detected_ns;   /* the loss was noticed, or the operator asked */
	uint64_t fenced_ns;     /* the right to speak was there */
	uint64_t live_ns;       /* output was let out, the address announced */
	uint64_t lineage;       /* what the VM continued from */
	uint64_t load_ns;       /* of which: it loaded the newest state; 0: it had it */
	uint64_t loaded_bytes;  /* that had been kept for it */
	uint64_t discarded;     /* packets of the dead primary's that had never left */
	uint64_t replayed;      /* packets of its that were committed, and were said again */
};

/* The policy (core/pacer.h) and what comes of it at present. */
struct status_policy {
	char name[16];     /* what was asked for: compare, epoch, ... */
	char in_force[16]; /* what is done: with `auto` one of the others */
	char why[120];     /* with `auto`; "" when there is nothing to say */
	bool compares;     /* the epoch that runs is compared */
	uint64_t latency_target_ms, rest_ms, max_pause_percent;
	uint64_t epoch_us; /* `epoch`: the length that epochs are to have */
	uint64_t pause_us; /* means of the last checkpoints; 0: none yet */
	uint64_t commit_us;
};

/* Texts are cut to fit, and always terminated. */
struct status_snapshot {
	char name[64];
	char role[16];  /* primary, secondary */
	char state[32]; /* the state machine's word: joining, copying, protected, alone, ... */
	bool is_protected;
	uint64_t epoch;     /* primary: the epoch that runs */
	uint64_t lineage;   /* the lineage that the secondary runs */
	uint64_t committed; /* the newest committed checkpoint */
	char peer[128];     /* address:port; "" when there is none */
	bool peer_alive;
	uint64_t lag_us;       /* primary: the SVM behind the PVM, smoothed; see core/lag.h */
	uint64_t late_wait_us; /* and how long it is waited for; 0: nothing is compared */
	char qemu_version[32];
	uint64_t qemu_pid;
	char accel[8];
	char datapath[16];
	char comparator[16];
	uint64_t since_ns;         /* CLOCK_REALTIME when this state began */
	char last_event[160];      /* the newest state change in words */
	char message[256];         /* what an operator should know or do now; "" when nothing */
	char warning[160];         /* what the configuration gives up; "" when nothing */
	char last_divergence[256]; /* the newest one in words, without payload; "" when none */
	struct status_takeover takeover;
	struct status_policy policy; /* all "" and zero without one: other comparators */
	/* joining, on the side that has the VM: bytes of memory that are copied, of how many */
	uint64_t copy_done, copy_total;
};

/* New references; NULL when memory is out. */
json_t *stats_to_json(const struct stats_snapshot *stats);
json_t *status_to_json(const struct status_snapshot *status);

/* 0, or -EPROTO when a field has the wrong type. Untouched on failure. */
int stats_from_json(const json_t *json, struct stats_snapshot *ret_stats);
int status_from_json(const json_t *json, struct status_snapshot *ret_status);

/* The display of `colo-proxy stats` and `colo-proxy status`. `name` may be "". */
void stats_print(FILE *out, const char *name, const struct stats_snapshot *stats);
void status_print(FILE *out, const struct status_snapshot *status);

/* The display of `colo-proxy policy`. */
void policy_print(FILE *out, const struct status_policy *policy);

/* One line for `status` of several VMs; header first when asked. */
void status_print_row(FILE *out, const struct status_snapshot *status, bool header);

/*
 * One line of `stats --watch`: the rates since `before` (NULL: since counting began), what is held
 * now, checkpoints by cause, pause. `header` prints the column names above it.
 */
void stats_print_line(FILE *out, const struct stats_snapshot *before,
                      const struct stats_snapshot *stats, bool header);

/* The screen of `stats --watch` on a terminal: the table with rates beside the totals. */
void stats_print_screen(FILE *out, const char *name, const struct stats_snapshot *before,
                        const struct stats_snapshot *stats);

/* A CLOCK_REALTIME value in ns as local time with milliseconds, in buf, which it returns. */
const char *report_clock_text(char *buf, size_t size, uint64_t ns);

#endif
