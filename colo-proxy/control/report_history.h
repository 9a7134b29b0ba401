/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CONTROL_REPORT_HISTORY_H
#define COLO_CONTROL_REPORT_HISTORY_H

#include "colo-proxy/core/history.h"

#include <jansson.h>
#include <stdio.h>

/*
 * The last checkpoints, step by step, as the member "history" of the command `stats`: an array of
 * objects, oldest first. Steps are in us, and 0 where one was not seen (core/history.h):
 *
 *   request  from asking QEMU to its CHECKPOINT_REQUEST; the VM runs
 *   drain    until the VM has taken the input that was there; it runs
 *   stop     from the reply to QEMU's event STOP; the vCPUs stop
 *   flush    until VMSTATE_SEND: QEMU drains its devices and saves their state
 *   save     until the first bytes: QEMU reads the dirty log
 *   copy     until the last byte; `reading` is what of `save` and `copy` the daemon itself took
 *   resume   until QEMU's event RESUME
 *   pause    from STOP to RESUME
 */

/* A new reference; NULL when memory is out. */
json_t *history_to_json(const struct history_entry *entries, uint32_t count);

/* As a table; @stats is the command's result. */
void history_print(FILE *out, const json_t *stats);

#endif
