/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_COLO_H
#define QEMU_GLUE_COLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qemu-glue/qmp.h"

/*
 * COLO's sequences over QMP (QEMU: docs/system/qemu-colo.rst, migration/colo.c): entering
 * protection, asking for checkpoints, failing over. Each call blocks for at most about its
 * timeout_ms. Errors are those of qmp.h, and -EIO when QEMU did what it was told and ended up in
 * another state than it should; words say which.
 *
 * A migration URI is "unix:PATH" or "tcp:HOST:PORT". On TCP each checkpoint waits for a delayed
 * acknowledgement (43 or 87 ms); the daemon uses unix sockets.
 */

/* Switches QEMU's own timer off: about 49 days. */
#define COLO_DELAY_NEVER UINT32_MAX

struct colo_tuning {
	uint32_t checkpoint_delay_ms; /* QEMU's own timer; COLO_DELAY_NEVER: only on request */
	uint32_t downtime_limit_ms;   /* bounds the pause of entering protection; 20 gives 7 ms */
};

/* Timer off, downtime-limit 20. */
extern const struct colo_tuning colo_tuning_default;

/*
 * Secondary, started with -incoming defer: capabilities, then listen on `uri`. The return means
 * that QEMU listens.
 */
int colo_prepare_secondary(struct qmp *q, const char *uri, uint64_t timeout_ms, char *err,
                           size_t errlen);
/*
 * Primary (or the survivor of a failover): capabilities and parameters, then migrate to `uri`.
 * Returns when QEMU has taken the command; the copying goes on: colo_wait_primary().
 */
int colo_start_primary(struct qmp *q, const char *uri, const struct colo_tuning *tuning,
                       uint64_t timeout_ms, char *err, size_t errlen);

/* How far the first copy is; all in bytes, as query-migrate says. */
struct colo_progress {
	char status[24]; /* "setup", "active", "colo", "failed", ... */
	uint64_t transferred;
	uint64_t remaining;
	uint64_t total;
};
int colo_query_progress(struct qmp *q, uint64_t timeout_ms, struct colo_progress *ret_progress,
                        char *err, size_t errlen);

/*
 * Waits until the primary is in COLO and runs: the secondary has loaded everything and said READY.
 * -EIO with QEMU's reason if the migration failed instead.
 */
int colo_wait_primary(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen);
/* Waits until the secondary is in COLO and runs. */
int colo_wait_secondary(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen);

/*
 * Asks the primary for a checkpoint at once and leaves QEMU's timer at `delay_ms`
 * (COLO_DELAY_NEVER: off). Setting x-checkpoint-delay does both in QEMU, whatever the value was.
 *
 * Requests coalesce. One that arrives while a checkpoint is under way is answered by that
 * checkpoint up to the moment in which QEMU has read VMSTATE_RECEIVED; the guest has stood still
 * since before the copy, so that its state at the request is what is copied: none is lost, but no
 * second CHECKPOINT_REQUEST need follow. After that moment, a new checkpoint follows.
 *
 * Only in COLO and after READY (colo_wait_primary() returned); before that QEMU may crash.
 */
int colo_trigger_checkpoint(struct qmp *q, uint32_t delay_ms, uint64_t timeout_ms, char *err,
                            size_t errlen);

/*
 * Makes this VM go on alone; returns when it runs and QEMU has left COLO. The guest stands still
 * for about 1 ms. If QEMU is in the middle of loading a checkpoint, it finishes that first: the
 * channel must have been closed or the whole checkpoint delivered. Again after a failure: 0 if it
 * has left meanwhile. Who may do this is not decided here: it needs the right to speak (fencing).
 */
int colo_failover_secondary(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen);
int colo_failover_primary(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen);

/*
 * Frees a QEMU whose main loop hangs in the migration channel (its peer stopped reading): shuts the
 * channel down, out of band (yank). Works while another command on `q` has no reply. Then
 * colo_failover_primary().
 */
int colo_unwedge(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen);

/* Asks QEMU's NICs to announce themselves (gratuitous ARP, or the guest's own if it can). */
int colo_announce_self(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen);

/* The VM's run state, as query-status says ("running", "colo", "paused", ...). */
int colo_query_status(struct qmp *q, uint64_t timeout_ms, bool *ret_running, char *status,
                      size_t status_len, char *err, size_t errlen);

/*
 * QEMU's own comparator (comparator = qemu). The VMs were started with qemu_cmdline()'s objects.
 *
 * Failover: the document's order; on the primary the objects go first, since colo-compare holds
 * packets for a secondary that is no more; on the secondary x-colo-lost-heartbeat comes first, and
 * the rewriter stays, for the connections that it maps.
 */
int colo_stock_failover_primary(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen);
int colo_stock_failover_secondary(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen);

/* Where the primary's channels listen. */
struct colo_stock_channels {
	const char *host; /* this host's replication address */
	uint16_t mirror_port;
	uint16_t compare_port;
	const char *run_dir;
};
/*
 * A VM becomes a primary, before colo_start_primary(): adds the filters and the comparator, which
 * hold its output back from then on. `channels` are made first; NULL if it has them (it was a
 * primary before). `was_secondary`: it has a rewriter, and the filters go before it.
 */
int colo_stock_prepare_primary(struct qmp *q, const struct colo_stock_channels *channels,
                               bool was_secondary, uint64_t timeout_ms, char *err, size_t errlen);
/*
 * The channels alone, for a primary that is to be found by its secondary before its output is held
 * back; then colo_stock_prepare_primary() without channels. Closing needs the filters gone.
 */
int colo_stock_open_channels(struct qmp *q, const struct colo_stock_channels *channels,
                             uint64_t timeout_ms, char *err, size_t errlen);
int colo_stock_close_channels(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen);
/*
 * Undoes colo_stock_prepare_primary(), also when that failed half way; the channels stay. For a
 * primary that never was in COLO.
 */
int colo_stock_remove_filters(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen);

#endif
