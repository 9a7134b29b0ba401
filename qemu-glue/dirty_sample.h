/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_DIRTY_SAMPLE_H
#define QEMU_GLUE_DIRTY_SAMPLE_H

#include <stdint.h>

#include "qemu-glue/qmp.h"

/*
 * A sample of how fast a VM writes to its memory: QEMU's calc-dirty-rate in the mode page-sampling
 * (QEMU: qapi/migration.json, migration/dirtyrate.c), in a thread of QEMU's own; nothing waits for
 * it. The other modes are not for here: dirty-ring needs KVM's ring, and dirty-bitmap reads and
 * protects the log that checkpoints are made of once more.
 *
 * Windows of milliseconds are QEMU 8.2's and later.
 */

/*
 * Begins one: `window_ms` from 50 to 60000, `pages_per_gib` from 128 to 16384. Errors are those of
 * qmp.h; -EREMOTEIO is also what a QEMU says that does not know one of the arguments.
 */
int dirty_sample_begin(struct qmp *q, uint64_t window_ms, uint64_t pages_per_gib,
                       uint64_t timeout_ms, char *err, size_t errlen);

/*
 * What came of it: MiB a second. -EINPROGRESS: not yet. -EPROTO with words: the answer is not as
 * expected, or of another sample.
 */
int dirty_sample_take(struct qmp *q, uint64_t window_ms, uint64_t timeout_ms,
                      uint64_t *ret_mib_per_s, char *err, size_t errlen);

/* The same from an answer that has come. */
int dirty_sample_read(const json_t *answer, uint64_t window_ms, uint64_t *ret_mib_per_s, char *err,
                      size_t errlen);

#endif
