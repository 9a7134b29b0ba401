/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_VM_H
#define COLO_VM_H

#include <stdbool.h>
#include <stdint.h>

#include "colo-proxy/config/config.h"
#include "qemu-glue/process.h"
#include "qemu-glue/qmp.h"
#include "qemu-glue/tcg_flush.h"
#include "qemu-glue/versions.h"

/*
 * The control thread's VM: which QEMU it is, and one QEMU process with its QMP connection at a
 * time. Every call may block, up to its deadline.
 */

struct vm {
	const struct config *config;
	char *binary;
	char *plugin; /* tcg-flush.so; NULL when it is not needed */
	struct qemu_version version;
	bool kvm;
	uint32_t dirty_ring; /* KVM: entries of it; 0: the dirty log */
	char machine[160];   /* one line; the same on both hosts or the VM is another one */
	struct tcg_flush *flush;
	struct qemu_process *process; /* NULL: no VM here */
	struct qmp *qmp;
	char *qmp_path;
};

/* Finds QEMU, the accelerator and the plugin. 0, or a negative errno with words. */
int vm_probe(struct vm *vm, const struct config *config, char *err, size_t errlen);

/* Starts QEMU on the tap; a secondary waits for a stream (incoming defer). */
int vm_start(struct vm *vm, bool secondary, int tap_fd, char *err, size_t errlen);

/* Ends the QEMU process, if there is one. */
void vm_end(struct vm *vm);

/* vm_end(), and frees what vm_probe() found. */
void vm_fini(struct vm *vm);

/* "11.1.3" */
void vm_version_text(const struct vm *vm, char *buf, size_t size);

#endif
