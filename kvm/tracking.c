/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kvm/tracking.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE  4096u
#define TRIES 5u

static uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* The shortest of a few readings: the others were interrupted. */
static uint64_t time_log(int vm, void *bitmap)
{
	struct kvm_dirty_log log = {.dirty_bitmap = bitmap};
	uint64_t best = TRACKING_LOG_UNKNOWN;

	for (unsigned i = 0; i < TRIES; i++) {
		uint64_t started = clock_ns();

		if (ioctl(vm, KVM_GET_DIRTY_LOG, &log) < 0)
			return TRACKING_LOG_UNKNOWN;
		if (clock_ns() - started < best)
			best = clock_ns() - started;
	}
	return best;
}

/* A VM with nothing but memory that nobody touches. */
static uint64_t log_cost(int kvm)
{
	struct kvm_userspace_memory_region region = {
	        .flags = KVM_MEM_LOG_DIRTY_PAGES,
	        .memory_size = TRACKING_MEASURED,
	};
	void *bitmap = calloc(1, TRACKING_MEASURED / PAGE / 8);
	void *memory = mmap(NULL, TRACKING_MEASURED, PROT_READ | PROT_WRITE,
	                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int vm = ioctl(kvm, KVM_CREATE_VM, 0UL);
	uint64_t ns = TRACKING_LOG_UNKNOWN;

	if (bitmap && memory != MAP_FAILED && vm >= 0) {
		region.userspace_addr = (uintptr_t)memory;
		if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) == 0)
			ns = time_log(vm, bitmap);
	}
	if (vm >= 0)
		(void)close(vm);
	if (memory != MAP_FAILED)
		(void)munmap(memory, TRACKING_MEASURED);
	free(bitmap);
	return ns;
}

static uint32_t ring_bytes(int kvm)
{
	int bytes = ioctl(kvm, KVM_CHECK_EXTENSION, (unsigned long)KVM_CAP_DIRTY_LOG_RING);

#ifdef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
	if (bytes <= 0)
		bytes = ioctl(kvm, KVM_CHECK_EXTENSION,
		              (unsigned long)KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
#endif
	return bytes > 0 ? (uint32_t)bytes : 0;
}

void tracking_probe(const char *path, bool qemu_takes_ring, struct tracking_facts *ret_facts)
{
	int kvm = open(path, O_RDWR | O_CLOEXEC);

	*ret_facts = (struct tracking_facts){.qemu_takes_ring = qemu_takes_ring,
	                                     .log_ns = TRACKING_LOG_UNKNOWN};
	if (kvm < 0)
		return;
	if (ioctl(kvm, KVM_GET_API_VERSION, 0UL) == KVM_API_VERSION) {
		ret_facts->ring_bytes = ring_bytes(kvm);
		ret_facts->log_ns = log_cost(kvm);
	}
	(void)close(kvm);
}

void tracking_pml_text(const char *path, char *buf, size_t len)
{
	FILE *f = fopen(path, "re");
	int c = f ? fgetc(f) : EOF;

	if (!f)
		(void)snprintf(buf, len, "no (kvm_intel is not loaded)");
	else
		(void)snprintf(buf, len, "%s", c == 'Y' ? "yes" : "no");
	if (f)
		(void)fclose(f);
}

static uint32_t entries_of(const struct tracking_facts *facts)
{
	uint32_t entries = TRACKING_RING_MAX;

	while (entries > facts->ring_bytes / TRACKING_RING_ENTRY)
		entries /= 2;
	return entries;
}

int tracking_choose(const struct tracking_facts *facts, uint64_t memory_mib,
                    enum tracking_wish wish, struct tracking_choice *ret_choice)
{
	struct tracking_choice choice = {.log_ns = TRACKING_LOG_UNKNOWN};
	uint32_t entries = entries_of(facts);
	const char *missing = NULL;
	int r = 0;

	if (facts->log_ns != TRACKING_LOG_UNKNOWN)
		choice.log_ns = facts->log_ns * memory_mib / (TRACKING_MEASURED >> 20);
	if (!facts->qemu_takes_ring)
		missing = "this QEMU's COLO does not work with one";
	else if (entries < TRACKING_RING_MIN)
		missing = "the kernel has none";
	if (wish == TRACKING_RING && missing) {
		(void)snprintf(choice.why, sizeof(choice.why), "no dirty ring: %s", missing);
		r = -ENOTSUP;
	} else if (wish == TRACKING_LOG) {
		(void)snprintf(choice.why, sizeof(choice.why), "dirty log, as configured");
	} else if (wish == TRACKING_RING) {
		choice.ring_entries = entries;
		(void)snprintf(choice.why, sizeof(choice.why),
		               "dirty ring of %u entries, as configured", entries);
	} else if (choice.log_ns == TRACKING_LOG_UNKNOWN) {
		(void)snprintf(choice.why, sizeof(choice.why),
		               "dirty log: what it costs could not be tried");
	} else if (choice.log_ns <= TRACKING_LOG_LIMIT_NS || missing) {
		(void)snprintf(
		        choice.why, sizeof(choice.why),
		        "dirty log: reading that of %lu MiB takes about %lu us of each pause%s%s",
		        (unsigned long)memory_mib, (unsigned long)(choice.log_ns / 1000),
		        missing ? "; no dirty ring: " : "", missing ? missing : "");
	} else {
		choice.ring_entries = entries;
		(void)snprintf(
		        choice.why, sizeof(choice.why),
		        "dirty ring of %u entries: reading the log of %lu MiB would take about "
		        "%lu us of each pause",
		        entries, (unsigned long)memory_mib, (unsigned long)(choice.log_ns / 1000));
	}
	*ret_choice = choice;
	return r;
}
