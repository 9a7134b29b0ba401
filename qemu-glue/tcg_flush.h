/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_TCG_FLUSH_H
#define QEMU_GLUE_TCG_FLUSH_H

#include <stddef.h>
#include <stdint.h>

/*
 * The daemon's end of the TCG flush plugin (qemu-glue/plugin/tcg_flush.c): a small file that both
 * map. Under TCG a secondary keeps its translated code over a checkpoint and would go on executing
 * what the code pages held before. When the counter here has moved, the plugin compares what it saw
 * translated with the memory, and throws all translations away if any of it has changed. KVM has no
 * such cache: without TCG, neither the file nor the plugin is used.
 *
 * When to bump: after the secondary's QEMU sent CHECKPOINT_REPLY and before it gets VMSTATE_SEND.
 * Its vCPUs stand still then, and the next thing that each of them does is to look at the counter.
 * Bumped earlier, a vCPU that wakes up in between spends the check before the new code is there.
 *
 * Layout of the file, 128 bytes, host byte order (it never leaves the host); `requested` and
 * `settled` are written by the daemon, all else behind the magic by the plugin:
 *   0   8 bytes  "COLOTCG2"
 *   8   u64      requested: the counter
 *   16  u64      done: the value of `requested` that the last check, or its flush, answered
 *   24  u64      flushes: how often code had changed and all translations were thrown away
 *   32  u64      loaded: 1 once QEMU has loaded the plugin
 *   40  u64      checks: how often memory was compared
 *   48  u64      blind: how many of these had something that cannot be compared, and flushed
 *   56  u64      pages: at the last check, pages with translated code
 *   64  u64      heads: at the last check, instructions' ends that lie in another page
 *   72  u64      bytes: at the last check, translated bytes in these pages
 *   80  u64      check_ns: how long the last check took, in nanoseconds
 *   88  u64      check_ns_max: the longest of them
 *   96  u64      settled: the value of `requested` whose load is over, by the daemon
 *   104          zero
 */
#define TCG_FLUSH_MAGIC "COLOTCG2"
#define TCG_FLUSH_SIZE  128

struct tcg_flush_page {
	char magic[8];
	uint64_t requested;
	uint64_t done;
	uint64_t flushes;
	uint64_t loaded;
	uint64_t checks;
	uint64_t blind;
	uint64_t pages;
	uint64_t heads;
	uint64_t bytes;
	uint64_t check_ns;
	uint64_t check_ns_max;
	uint64_t settled;
	uint64_t reserved[3];
};

struct tcg_flush;

/* Creates the file at `path` (mode 0600, replacing an old one) and maps it. 0 or -errno, words. */
int tcg_flush_create(const char *path, struct tcg_flush **ret_flush, char *err, size_t errlen);
/* Asks for a check; returns the counter's new value. Any thread. */
uint64_t tcg_flush_bump(struct tcg_flush *flush);
/* After LOADED: the load that was bumped for is over. Until then each resume of a vCPU compares. */
void tcg_flush_settle(struct tcg_flush *flush);
/* The counter's value that the last check, or its flush, answered. */
uint64_t tcg_flush_done(const struct tcg_flush *flush);
/* How many flushes there were. */
uint64_t tcg_flush_count(const struct tcg_flush *flush);
/* The file as it is now, for statistics. The words belong together only while no vCPU resumes. */
void tcg_flush_read(const struct tcg_flush *flush, struct tcg_flush_page *ret_page);
/* Whether QEMU has loaded the plugin. */
int tcg_flush_loaded(const struct tcg_flush *flush);
/* Unmaps and removes the file. NULL is fine. */
void tcg_flush_free(struct tcg_flush *flush);

#endif
