/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_HISTORY_H
#define COLO_CORE_HISTORY_H

#include <stdint.h>

/*
 * The last checkpoints, each with what it cost, step by step: what `colo-proxy stats --checkpoints`
 * shows. Times are ns of one clock; 0 where a step was not seen. With QEMU's own comparator only
 * the stop, the resume and the cause are known.
 *
 * asked_at:     QEMU is asked for it; the VM runs
 *
 * requested_at: CHECKPOINT_REQUEST has come; the VM runs, its input is drained
 *
 * replied_at:   CHECKPOINT_REPLY goes to QEMU, which stops the vCPUs
 *
 * stopped_at:   QEMU's event STOP; its devices are drained and their state saved
 *
 * sent_at:      VMSTATE_SEND has come; QEMU reads the dirty log
 *
 * first_at:     the first bytes of memory have come; QEMU writes, the daemon reads
 *
 * captured_at:  the last byte has come; it is acknowledged, and QEMU resumes
 *
 * resumed_at:   QEMU's event RESUME
 */

#define HISTORY_LEN 256u

struct history_entry {
	uint64_t epoch;
	uint64_t cause;   /* enum stats_cause */
	uint64_t when_ns; /* CLOCK_REALTIME: when it was noted here */
	uint64_t asked_at, requested_at, replied_at, stopped_at, sent_at, first_at, captured_at,
	        resumed_at;
	uint64_t reading_ns; /* the data thread's own time between sent_at and captured_at */
	uint64_t commit_ns;  /* from sent_at to the secondary's COMMITTED */
	uint64_t load_ns;    /* the secondary VM stood still */
	uint64_t encode_ns;  /* to make it smaller; of all threads together */
	uint64_t pages;
	uint64_t plain_bytes; /* as QEMU wrote it */
	uint64_t bytes;       /* as it crossed the link */
};

/* All zero is an empty one. */
struct history {
	struct history_entry ring[HISTORY_LEN];
	uint64_t count; /* ever added */
};

/* Adds a copy, which replaces the oldest one when there are HISTORY_LEN. Returns it; it is good
 * until HISTORY_LEN more were added. */
struct history_entry *history_add(struct history *history, const struct history_entry *entry);

/* The newest one of that epoch, or NULL. */
struct history_entry *history_find(struct history *history, uint64_t epoch);

/*
 * QEMU says that the VM stood still for @pause_ns from @stopped_at on: noted in the newest entry
 * that this belongs to, which is one without a stop that was captured after it. Returns that entry,
 * or NULL when there is none (a stop that was no checkpoint).
 */
struct history_entry *history_paused(struct history *history, uint64_t stopped_at,
                                     uint64_t pause_ns);

/* Copies the newest, at most @max, to @out, oldest first; returns how many. */
uint32_t history_copy(const struct history *history, struct history_entry *out, uint32_t max);

#endif
