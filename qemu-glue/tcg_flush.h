/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_TCG_FLUSH_H
#define QEMU_GLUE_TCG_FLUSH_H

#include <stddef.h>
#include <stdint.h>

/*
 * The daemon's end of the TCG flush plugin (qemu-glue/plugin/tcg_flush.c): a small file that both
 * map. Under TCG a secondary keeps its translated code over a checkpoint and would go on executing
 * what the code pages held before; the plugin throws the translations away when the counter here
 * has moved. KVM has no such cache: without TCG, neither the file nor the plugin is used.
 *
 * When to bump: after the secondary's QEMU sent CHECKPOINT_REPLY and before it gets VMSTATE_SEND.
 * Its vCPUs stand still then, and the next thing that each of them does is to look at the counter.
 * Bumped earlier, a vCPU that wakes up in between spends the flush before the new code is there.
 *
 * Layout of the file, 64 bytes, host byte order (it never leaves the host):
 *   0   8 bytes  "COLOTCG1"
 *   8   u64      requested: the counter, written by the daemon
 *   16  u64      done: the value of `requested` that the last flush answered, by the plugin
 *   24  u64      flushes: how often the plugin has flushed, by the plugin
 *   32  u64      loaded: 1 once QEMU has loaded the plugin
 *   40           zero
 */
#define TCG_FLUSH_MAGIC "COLOTCG1"
#define TCG_FLUSH_SIZE  64

struct tcg_flush_page {
	char magic[8];
	uint64_t requested;
	uint64_t done;
	uint64_t flushes;
	uint64_t loaded;
	uint64_t reserved[3];
};

struct tcg_flush;

/* Creates the file at `path` (mode 0600, replacing an old one) and maps it. 0 or -errno, words. */
int tcg_flush_create(const char *path, struct tcg_flush **ret_flush, char *err, size_t errlen);
/* Asks for a flush; returns the counter's new value. Any thread. */
uint64_t tcg_flush_bump(struct tcg_flush *flush);
/* The counter's value that the last flush answered. */
uint64_t tcg_flush_done(const struct tcg_flush *flush);
/* How many flushes there were. */
uint64_t tcg_flush_count(const struct tcg_flush *flush);
/* Whether QEMU has loaded the plugin. */
int tcg_flush_loaded(const struct tcg_flush *flush);
/* Unmaps and removes the file. NULL is fine. */
void tcg_flush_free(struct tcg_flush *flush);

#endif
