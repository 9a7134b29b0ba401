/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_NODE_H
#define COLO_NODE_H

#include <stdbool.h>
#include <stdint.h>

#include "colo-proxy/config/config.h"
#include "colo-proxy/control/report.h"
#include "colo-proxy/core/evidence.h"
#include "colo-proxy/core/history.h"
#include "colo-proxy/core/stats.h"

/*
 * The node: everything of one daemon that must never wait. It runs in the data thread and owns the
 * VM's tap, the hold, the copies of input, the replication link, the migration relay and the pure
 * core that decides. What may wait (QMP, child processes, the fence) is the control thread's
 * (daemon.c); the node orders it and is told the outcome.
 */

struct node;
struct tcg_flush;
struct guest_memory;

/* What the node orders from the control thread. Each is answered as its comment says. */
enum order {
	ORDER_NONE,
	ORDER_START_PRIMARY,   /* P: start QEMU, the VM boots: node_vm_ready() */
	ORDER_START_SECONDARY, /* S: start QEMU, listening for a stream: node_vm_ready() */
	ORDER_MARK,            /* P: note on disk that the peer may speak: node_marked() */
	ORDER_MIGRATE,         /* P: start the migration: node_copy_failed() if it fails */
	ORDER_REARM,           /* P: log what the VM dirties, it stands still: node_rearmed() */
	ORDER_ABORT_COPY,      /* P: end the migration or COLO, the VM runs on: node_left_colo() */
	ORDER_CHECKPOINT,      /* P: ask QEMU for a checkpoint */
	ORDER_DIRTY_SAMPLE,    /* P: a sample of what the VM writes to: node_dirty_sample() */
	ORDER_LEAVE_COLO,      /* lost heartbeat, the VM runs on: node_left_colo() */
	ORDER_KILL_VM,         /* S: the copy is worthless. P: the VM is the peer's now */
	ORDER_FENCE,           /* run the fence: node_fenced(); text: the last session's peer */
	ORDER_FENCE_END,       /* nobody needs its answer any more: end it if it still runs */
	ORDER_ANNOUNCE,        /* comparator = qemu: QEMU announces the VM's address */
	ORDER_EVENT,           /* publish and log the text */
	ORDER_RETIRED,         /* P: the VM is the peer's; the daemon may end if it was told to */
};

struct node_ops {
	/* Called in the data thread; must not wait. text is copied if it is kept. */
	void (*order)(void *ctx, enum order order, const char *text);
};

/*
 * Opens everything (tap, hold, mirror, link) and starts the data thread. `machine` is one line that
 * says what the VM is; both sides must say the same. 0, or a negative errno with words.
 */
int node_new(struct node **ret_node, const struct config *config, const char *machine,
             const struct node_ops *ops, void *ctx, char *err, size_t errlen);

/* Stops the thread and closes everything; releases nothing that is held (R1). NULL is allowed. */
void node_free(struct node *node);

/* What ORDER_MARK asks for. It waits for the disk. Any thread. 0 or a negative errno. */
int node_mark(const struct node *node);

/* The VM's tap for QEMU to inherit. */
int node_tap_fd(const struct node *node);
/* Where the VM's QEMU is to migrate to (P). Two paths: a QEMU removes the one it listened on, and
 * does so late. */
const char *node_migration_path(const struct node *node);
/* Where it is to listen for the stream (S). */
const char *node_incoming_path(const struct node *node);
/* S under TCG: what to bump before each load; NULL for none. Before the VM is started. */
void node_set_tcg_flush(struct node *node, struct tcg_flush *flush);
/* S: where the VM's memory can be read, copied; NULL: it cannot. Between the VM's start and
 * node_vm_ready(). */
void node_set_guest_memory(struct node *node, const struct guest_memory *memory);

/* The answers of the control thread, and the operator's commands. Any thread; none waits. */
void node_vm_ready(struct node *node, bool ok, const char *text);
void node_marked(struct node *node, bool ok, const char *text);
void node_copy_failed(struct node *node, const char *text);
void node_rearmed(struct node *node, bool ok, const char *text);
void node_left_colo(struct node *node, bool ok, const char *text);
void node_vm_lost(struct node *node, const char *text);
void node_fenced(struct node *node, bool granted, const char *text);

/*
 * P: QEMU says that the VM stood still for a checkpoint, so long, from `stopped_at` (loop_clock()).
 * With either comparator this is what the figures of pauses are made of: the relay sees less.
 */
void node_checkpoint_seen(struct node *node, uint64_t stopped_at, uint64_t pause_ns);

/* P: MiB a second; or a negative errno with words: -EOPNOTSUPP when that QEMU has none. */
void node_dirty_sample(struct node *node, int error, uint64_t mib_per_s, const char *text);

/*
 * comparator = qemu: what QEMU itself reports of COLO. Both QEMUs are in it; QEMU has left it by
 * itself.
 */
#define STOCK_CHECKPOINT_DELAY_MS 20000u /* QEMU's default of x-checkpoint-delay */
void node_in_colo(struct node *node);
void node_channel_lost(struct node *node, const char *text);

/* A command's outcome is given to `done` in the data thread. */
struct node_job {
	void (*done)(struct node_job *job, bool ok, const char *text);
	struct node *node;                   /* set by the node */
	struct stats_snapshot stats;         /* filled by node_snapshot() */
	struct status_snapshot status;       /* filled by node_snapshot(): what the node knows */
	struct history_entry *history;       /* node_snapshot(): room for max_history, or NULL */
	uint32_t max_history, history_count; /* at most so many, the newest; so many there are */
	bool force;                          /* node_failover() */
	struct pacer_change change;          /* node_policy() */
	uint64_t epoch, pause_us, commit_us; /* filled by node_checkpoint() */
	uint32_t max;                        /* node_divergences(): at most so many */
	bool any_kind;                       /* likewise: not divergences only */
	uint32_t count;                      /* filled by node_divergences() */
	struct evidence *list;               /* likewise; evidence_list_free() */
};
void node_snapshot(struct node *node, struct node_job *job);
/* The last divergences, or causes of checkpoints of any kind, oldest first. */
void node_divergences(struct node *node, struct node_job *job);
/* P: done when a checkpoint that began after the call is committed, or protection ends. */
void node_checkpoint(struct node *node, struct node_job *job);
/* What the policy is, in job->status.policy; after what job->change changes. The change is
 * this daemon's until it ends. */
void node_policy(struct node *node, struct node_job *job);
/* P: planned switch-over. S: take over without a fence's word, in a state that asks for it. */
void node_failover(struct node *node, struct node_job *job);
/* Tells the peer that this side ends on purpose: P: the VM ends; S: its copy ends. */
void node_say_goodbye(struct node *node, struct node_job *job);

#endif
