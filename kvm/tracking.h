/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_TRACKING_H
#define COLO_KVM_TRACKING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * How KVM is to tell QEMU which pages a guest has written to, chosen from what was tried here.
 *
 * The dirty log is a bitmap of all of the guest's memory, which is read whole in each checkpoint's
 * pause: it costs with the memory, however little was written. A dirty ring holds an entry for each
 * page that was written to: it costs with those, and a vCPU that fills it leaves the guest to have
 * it emptied. So the log is for small guests and the ring for large ones. Where the border lies is
 * measured: the kernel is asked for the log of a small memory, and that is multiplied.
 *
 * The ring's size is fixed when QEMU starts, before anybody can know how fast the guest will write;
 * an entry takes 16 bytes, and what is read is what is in use. So it is as large as the kernel
 * allows and QEMU takes: at 65,536 entries a vCPU that writes to 250 MB of pages a second fills it
 * in a second, which is how often QEMU empties it at the least.
 */

#define TRACKING_RING_ENTRY   16u     /* bytes, struct kvm_dirty_gfn */
#define TRACKING_RING_MIN     1024u   /* entries, below which a ring is full all the time */
#define TRACKING_RING_MAX     65536u  /* entries: QEMU takes no more (accel/kvm/kvm-all.c) */
#define TRACKING_LOG_LIMIT_NS 500000u /* of the pause, for reading the log */
#define TRACKING_MEASURED     (UINT64_C(256) << 20) /* bytes of memory whose log is timed */
#define TRACKING_LOG_UNKNOWN  UINT64_MAX

enum tracking_wish { TRACKING_AUTO, TRACKING_LOG, TRACKING_RING, TRACKING_WISH_COUNT };

struct tracking_facts {
	bool qemu_takes_ring; /* this QEMU's COLO works with a ring */
	uint32_t ring_bytes;  /* the largest that the kernel gives a vCPU; 0: none */
	uint64_t log_ns;      /* to read the log of TRACKING_MEASURED; TRACKING_LOG_UNKNOWN */
};

struct tracking_choice {
	uint32_t ring_entries; /* 0: the dirty log */
	uint64_t log_ns;       /* what reading the log takes with the guest's memory; or unknown */
	char why[160];
};

/*
 * Tries it with the device at `path` ("/dev/kvm"). `qemu_takes_ring` is passed on. A few
 * milliseconds; leaves nothing behind. What cannot be tried is unknown or not there.
 */
void tracking_probe(const char *path, bool qemu_takes_ring, struct tracking_facts *ret_facts);

/* Whether Intel's page-modification logging is on, in words, from /sys/module/kvm_intel. */
void tracking_pml_text(const char *path, char *buf, size_t len);

/* Pure. 0; -ENOTSUP when a ring is wished for that cannot be: ret_choice->why has the reason. */
int tracking_choose(const struct tracking_facts *facts, uint64_t memory_mib,
                    enum tracking_wish wish, struct tracking_choice *ret_choice);

#endif
