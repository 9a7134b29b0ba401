/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kvm/probe.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUEST_PAGE   4096u
#define GUEST_PAGES  2u
#define GUEST_CODE   0x0000u /* page 0 */
#define GUEST_DATA   0x1000u /* page 1: the guest stores 0x42 here */
#define GUEST_STORED 0x42u
#define RUN_TRIES    16 /* KVM_RUN may return for a signal or an exit of its own */

static const char *const item_names[] = {
        "open",       "api",       "cpu-flags", "vcpu", "user-memory", "dirty-log-protect2",
        "dirty-ring", "dirty-log", "sync-mmu",
};
static_assert(sizeof(item_names) / sizeof(*item_names) == PROBE_ITEM_COUNT, "a name for each item");

static const char *const verdict_names[] = {"no", "yes", "unknown"};
static_assert(sizeof(verdict_names) / sizeof(*verdict_names) == PROBE_VERDICT_COUNT,
              "a name for each verdict");

/* mov byte [0x1000], 0x42 ; hlt */
static const uint8_t guest_code[] = {0xc6,         0x06, GUEST_DATA & 0xff, GUEST_DATA >> 8,
                                     GUEST_STORED, 0xf4};

static void set(struct probe_result *result, enum probe_item_id id, enum probe_verdict verdict,
                const char *fmt, ...) __attribute__((format(printf, 4, 5)));

static void set(struct probe_result *result, enum probe_item_id id, enum probe_verdict verdict,
                const char *fmt, ...)
{
	struct probe_item *item = &result->items[id];
	va_list args;

	item->verdict = verdict;
	va_start(args, fmt);
	(void)vsnprintf(item->text, sizeof(item->text), fmt, args);
	va_end(args);
}

/* Whether the flag is one of the words of a line "flags : a b c". */
static bool has_word(const char *line, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = strstr(line, word); p; p = strstr(p + 1, word)) {
		if ((p == line || p[-1] == ' ' || p[-1] == '\t') &&
		    (p[len] == ' ' || p[len] == '\n' || p[len] == '\0'))
			return true;
	}
	return false;
}

static void probe_cpuinfo(const char *path, struct probe_result *result)
{
	char *line = NULL;
	size_t room = 0;
	FILE *f;

	f = fopen(path, "re");
	if (!f) {
		set(result, PROBE_CPU_FLAGS, PROBE_UNKNOWN, "%s: %s", path, strerror(errno));
		return;
	}
	set(result, PROBE_CPU_FLAGS, PROBE_UNKNOWN, "%s has no line of flags", path);
	while (getline(&line, &room, f) > 0) {
		if (strncmp(line, "flags", 5) != 0)
			continue;
		if (has_word(line, "vmx"))
			set(result, PROBE_CPU_FLAGS, PROBE_YES, "vmx (Intel VT-x)");
		else if (has_word(line, "svm"))
			set(result, PROBE_CPU_FLAGS, PROBE_YES, "svm (AMD-V)");
		else
			set(result, PROBE_CPU_FLAGS, PROBE_NO,
			    "neither vmx nor svm: no hardware virtualization");
		break;
	}
	free(line);
	(void)fclose(f);
}

static void probe_extension(int kvm, int cap, const char *name, enum probe_item_id id,
                            struct probe_result *result)
{
	int value = ioctl(kvm, KVM_CHECK_EXTENSION, (unsigned long)cap);

	if (value < 0)
		set(result, id, PROBE_UNKNOWN, "%s: %s", name, strerror(errno));
	else
		set(result, id, value ? PROBE_YES : PROBE_NO, "%s: %d", name, value);
}

static void probe_extensions(int kvm, struct probe_result *result)
{
	probe_extension(kvm, KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", PROBE_USER_MEMORY, result);
	probe_extension(kvm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2",
	                PROBE_DIRTY_LOG2, result);
	probe_extension(kvm, KVM_CAP_SYNC_MMU, "KVM_CAP_SYNC_MMU", PROBE_SYNC_MMU, result);
	probe_extension(kvm, KVM_CAP_DIRTY_LOG_RING, "KVM_CAP_DIRTY_LOG_RING", PROBE_DIRTY_RING,
	                result);
#ifdef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
	if (result->items[PROBE_DIRTY_RING].verdict != PROBE_YES)
		probe_extension(kvm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
		                "KVM_CAP_DIRTY_LOG_RING_ACQ_REL", PROBE_DIRTY_RING, result);
#endif
}

/* A tiny guest and what it takes to run it. */
struct guest {
	int vm;
	int vcpu;
	uint8_t *memory;
	struct kvm_run *run;
	size_t run_len;
};

static void guest_fini(struct guest *g)
{
	if (g->run)
		(void)munmap(g->run, g->run_len);
	if (g->vcpu >= 0)
		(void)close(g->vcpu);
	if (g->vm >= 0)
		(void)close(g->vm);
	if (g->memory)
		(void)munmap(g->memory, GUEST_PAGES * GUEST_PAGE);
}

/* Why the last system call failed; never 0. */
static int last_error(void)
{
	return errno > 0 ? -errno : -EIO;
}

/* Returns 0, or a negative errno with the failed step's name. */
static int guest_memory(struct guest *g, const char **ret_step)
{
	struct kvm_userspace_memory_region region = {
	        .flags = KVM_MEM_LOG_DIRTY_PAGES,
	        .memory_size = GUEST_PAGES * GUEST_PAGE,
	};
	void *memory;

	*ret_step = "mmap";
	memory = mmap(NULL, GUEST_PAGES * GUEST_PAGE, PROT_READ | PROT_WRITE,
	              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return last_error();
	g->memory = memory;
	memcpy(g->memory + GUEST_CODE, guest_code, sizeof(guest_code));
	region.userspace_addr = (uintptr_t)g->memory;
	*ret_step = "KVM_SET_USER_MEMORY_REGION";
	return ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0 ? last_error() : 0;
}

static int guest_registers(struct guest *g, const char **ret_step)
{
	struct kvm_regs regs = {.rip = GUEST_CODE, .rflags = 2};
	struct kvm_sregs sregs;

	*ret_step = "KVM_GET_SREGS";
	if (ioctl(g->vcpu, KVM_GET_SREGS, &sregs) < 0)
		return last_error();
	sregs.cs.base = sregs.cs.selector = 0;
	sregs.ds.base = sregs.ds.selector = 0;
	*ret_step = "KVM_SET_SREGS";
	if (ioctl(g->vcpu, KVM_SET_SREGS, &sregs) < 0)
		return last_error();
	*ret_step = "KVM_SET_REGS";
	return ioctl(g->vcpu, KVM_SET_REGS, &regs) < 0 ? last_error() : 0;
}

static int guest_vcpu(int kvm, struct guest *g, const char **ret_step)
{
	void *run;
	int len;

	*ret_step = "KVM_CREATE_VCPU";
	g->vcpu = ioctl(g->vm, KVM_CREATE_VCPU, 0UL);
	if (g->vcpu < 0)
		return last_error();
	*ret_step = "KVM_GET_VCPU_MMAP_SIZE";
	len = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0UL);
	if (len < (int)sizeof(struct kvm_run))
		return len < 0 ? last_error() : -EINVAL;
	*ret_step = "mmap of the vCPU";
	run = mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
	if (run == MAP_FAILED)
		return last_error();
	g->run = run;
	g->run_len = (size_t)len;
	return guest_registers(g, ret_step);
}

static int guest_init(int kvm, struct guest *g, const char **ret_step)
{
	int rc;

	*g = (struct guest){.vm = -1, .vcpu = -1};
	*ret_step = "KVM_CREATE_VM";
	g->vm = ioctl(kvm, KVM_CREATE_VM, 0UL);
	if (g->vm < 0)
		return last_error();
	rc = guest_memory(g, ret_step);
	if (rc < 0)
		return rc;
	return guest_vcpu(kvm, g, ret_step);
}

/* Runs until the guest's hlt. Returns whether it came to it with its store done. */
static bool guest_run(struct guest *g, struct probe_result *result)
{
	int tries;

	assert(g->run && g->memory);
	for (tries = 0; tries < RUN_TRIES; tries++) {
		if (ioctl(g->vcpu, KVM_RUN, 0UL) == 0)
			break;
		if (errno != EINTR && errno != EAGAIN) {
			set(result, PROBE_VCPU, PROBE_NO, "KVM_RUN: %s", strerror(errno));
			return false;
		}
	}
	if (tries == RUN_TRIES) {
		set(result, PROBE_VCPU, PROBE_UNKNOWN, "KVM_RUN was interrupted %d times", tries);
		return false;
	}
	if (g->run->exit_reason != KVM_EXIT_HLT) {
		set(result, PROBE_VCPU, PROBE_NO, "the guest left with exit reason %u, expected %u",
		    g->run->exit_reason, KVM_EXIT_HLT);
		return false;
	}
	if (((volatile uint8_t *)g->memory)[GUEST_DATA] != GUEST_STORED) {
		set(result, PROBE_VCPU, PROBE_NO, "the guest halted, but its store is not there");
		return false;
	}
	set(result, PROBE_VCPU, PROBE_YES, "a real-mode guest stored a byte and halted");
	return true;
}

static void probe_dirty_log(struct guest *g, struct probe_result *result)
{
	unsigned long bitmap = 0;
	struct kvm_dirty_log log = {.dirty_bitmap = &bitmap};

	if (ioctl(g->vm, KVM_GET_DIRTY_LOG, &log) < 0)
		set(result, PROBE_DIRTY_LOG, PROBE_NO, "KVM_GET_DIRTY_LOG: %s", strerror(errno));
	else if (bitmap & 1UL << (GUEST_DATA / GUEST_PAGE))
		set(result, PROBE_DIRTY_LOG, PROBE_YES, "the guest's store is in the dirty log");
	else
		set(result, PROBE_DIRTY_LOG, PROBE_NO, "the guest's store is not in the dirty log");
}

static void probe_guest(int kvm, struct probe_result *result)
{
	const char *failed_step = "";
	struct guest g;
	int rc;

	rc = guest_init(kvm, &g, &failed_step);
	if (rc < 0)
		set(result, PROBE_VCPU, PROBE_NO, "%s: %s", failed_step, strerror(-rc));
	else if (guest_run(&g, result))
		probe_dirty_log(&g, result);
	guest_fini(&g);
}

void probe_kvm(const char *path, const char *cpuinfo, struct probe_result *result)
{
	int version;
	int kvm;

	for (unsigned int id = 0; id < PROBE_ITEM_COUNT; id++)
		set(result, id, PROBE_UNKNOWN, "not tried");
	probe_cpuinfo(cpuinfo, result);
	kvm = open(path, O_RDWR | O_CLOEXEC);
	if (kvm < 0) {
		set(result, PROBE_OPEN, PROBE_NO, "%s: %s", path, strerror(errno));
		return;
	}
	set(result, PROBE_OPEN, PROBE_YES, "%s opens", path);
	version = ioctl(kvm, KVM_GET_API_VERSION, 0UL);
	if (version != KVM_API_VERSION) {
		if (version < 0)
			set(result, PROBE_API, PROBE_NO, "KVM_GET_API_VERSION: %s",
			    strerror(errno));
		else
			set(result, PROBE_API, PROBE_NO, "API version %d, expected %d", version,
			    KVM_API_VERSION);
	} else {
		set(result, PROBE_API, PROBE_YES, "API version %d", version);
		probe_extensions(kvm, result);
		probe_guest(kvm, result);
	}
	(void)close(kvm);
}

const char *probe_item_name(enum probe_item_id id)
{
	return id < PROBE_ITEM_COUNT ? item_names[id] : NULL;
}

const char *probe_verdict_name(enum probe_verdict verdict)
{
	return verdict < PROBE_VERDICT_COUNT ? verdict_names[verdict] : "unknown";
}

bool probe_kvm_usable(const struct probe_result *result)
{
	return result->items[PROBE_VCPU].verdict == PROBE_YES &&
	       result->items[PROBE_DIRTY_LOG].verdict == PROBE_YES;
}
