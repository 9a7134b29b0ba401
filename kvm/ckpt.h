/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_CKPT_H
#define COLO_KVM_CKPT_H

#include <stdint.h>

#include "kvm/ckpt_buf.h"
#include "kvm/stream.h"

/*
 * One checkpoint C(epoch): everything the PVM's QEMU sends between VMSTATE_SEND and the moment it
 * waits for VMSTATE_RECEIVED, with what was counted on the way. The bytes are buf.base[0..buf.len).
 * On the secondary only buf and epoch matter.
 */
struct ckpt {
	struct ckpt_buf buf;
	uint64_t epoch;
	struct stream_stats stats;
	uint64_t requested_at; /* ns: CHECKPOINT_REQUEST seen; the VM runs */
	uint64_t stopped_at;   /* ns: VMSTATE_SEND seen; the VM stands still */
	uint64_t first_at; /* ns: first bytes read: QEMU has saved devices and read the dirty log */
	uint64_t captured_at; /* ns: last byte read */
	uint64_t resumed_at;  /* ns: VMSTATE_LOADED queued for the PVM; 0: not yet */
};

#endif
