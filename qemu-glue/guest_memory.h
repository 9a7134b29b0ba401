/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_GUEST_MEMORY_H
#define QEMU_GLUE_GUEST_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "qemu-glue/qmp.h"

/*
 * The memory of a running VM, read from outside: process_vm_readv(2) on its QEMU, where the monitor
 * says that its RAM blocks lie (`info ramblock`, QEMU: hmp-commands-info.hx). How QEMU keeps its
 * memory stays as it is: nothing is shared, and its huge pages stay.
 *
 * It needs the right to trace QEMU (ptrace(2), "Ptrace access mode checking"): the same user, and
 * where Yama restricts that, to be its parent. The VM runs meanwhile: a page is what it was at some
 * moments of the copy.
 */
#define GUEST_MEMORY_PAGE   4096u
#define GUEST_MEMORY_BLOCKS 32u
#define GUEST_MEMORY_NAME   96u

struct guest_memory {
	pid_t pid;
	uint32_t n; /* 0: it cannot be read */
	struct guest_memory_block {
		char name[GUEST_MEMORY_NAME];
		uint64_t host; /* where it lies in QEMU */
		uint64_t used; /* bytes */
	} block[GUEST_MEMORY_BLOCKS];
};

/*
 * Reads what `info ramblock` has answered. Blocks whose name is too long, and those behind the
 * first GUEST_MEMORY_BLOCKS (QEMU names the largest first), are left out. 0; -EPROTO: it is not as
 * expected, words say where; *ret_memory is untouched then.
 */
int guest_memory_parse(const char *text, struct guest_memory *ret_memory, char *err, size_t errlen);

/*
 * Asks the QEMU that is process `pid`, and reads a page from each block. 0; -errno with words: its
 * memory cannot be read. When QEMU has ended, nothing can be read; of a process that got its id
 * since, whatever lies there: who reads compares it with what it expects.
 */
int guest_memory_find(struct qmp *q, pid_t pid, uint64_t timeout_ms,
                      struct guest_memory *ret_memory, char *err, size_t errlen);

/*
 * What becomes of that on this host, tried on a child of this process: 0 or -errno. `ret_scope` is
 * what `yama` (GUEST_MEMORY_YAMA) says, 0 where there is no such file. With 2 a process needs
 * CAP_SYS_PTRACE (kernel: admin-guide/LSM/Yama.rst): a daemon may lack what the caller has.
 */
#define GUEST_MEMORY_YAMA "/proc/sys/kernel/yama/ptrace_scope"
int guest_memory_probe(const char *yama, int *ret_scope);

/* The number of the block of that name, of the largest one for an empty name; -1: there is none. */
int guest_memory_block(const struct guest_memory *memory, const char *name, size_t len);

/* Copies the page at `offset` of it. False: there is none, or it cannot be read. */
bool guest_memory_read(const struct guest_memory *memory, int block, uint64_t offset,
                       uint8_t page[GUEST_MEMORY_PAGE]);

#endif
