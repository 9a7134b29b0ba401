/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_KVM_PROBE_H
#define COLO_KVM_PROBE_H

#include <stdbool.h>
#include <stddef.h>

/*
 * What this host's KVM can do, found by trying. That /dev/kvm exists proves nothing: it may not be
 * openable, and where the processor has no hardware virtualization a KVM of another kind may run
 * firmware and still not boot an operating system.
 */

#define PROBE_TEXT_LEN 128

enum probe_verdict {
	PROBE_NO,
	PROBE_YES,
	PROBE_UNKNOWN, /* could not be tried because something before it failed */
	PROBE_VERDICT_COUNT
};

enum probe_item_id {
	PROBE_OPEN,        /* /dev/kvm opens for reading and writing */
	PROBE_API,         /* KVM_GET_API_VERSION is 12 */
	PROBE_CPU_FLAGS,   /* /proc/cpuinfo has vmx or svm */
	PROBE_VCPU,        /* a one-page real-mode guest runs to its hlt */
	PROBE_USER_MEMORY, /* KVM_CAP_USER_MEMORY: memory slots */
	PROBE_DIRTY_LOG2,  /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
	PROBE_DIRTY_RING,  /* KVM_CAP_DIRTY_LOG_RING or its acquire-release form */
	PROBE_DIRTY_LOG,   /* a store of that guest shows in KVM_GET_DIRTY_LOG */
	PROBE_SYNC_MMU,    /* KVM_CAP_SYNC_MMU: guest memory follows mmap changes */
	PROBE_ITEM_COUNT
};

struct probe_item {
	enum probe_verdict verdict;
	char text[PROBE_TEXT_LEN]; /* what was seen, for people */
};

struct probe_result {
	struct probe_item items[PROBE_ITEM_COUNT];
};

/*
 * Tries everything with the device at `path` (normally "/dev/kvm"). `cpuinfo` is normally
 * "/proc/cpuinfo". Takes a few milliseconds, starts no thread, leaves nothing behind. Always fills
 * the whole result.
 */
void probe_kvm(const char *path, const char *cpuinfo, struct probe_result *result);

/* A short name ("vcpu", "dirty-ring") for an item; NULL for an unknown one. */
const char *probe_item_name(enum probe_item_id id);

/* "no", "yes", "unknown". */
const char *probe_verdict_name(enum probe_verdict verdict);

/* Whether KVM runs guests here and tracks what they write: the guest ran and its store was seen. */
bool probe_kvm_usable(const struct probe_result *result);

#endif
