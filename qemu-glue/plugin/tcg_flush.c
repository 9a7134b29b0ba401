/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QEMU TCG plugin that throws translated code away after a checkpoint was loaded.
 *
 * Theory of operation
 *
 * Goal: when a secondary's vCPU continues after a checkpoint, it executes what the checkpoint's
 * memory holds. QEMU writes that memory behind TCG's back, so that translations of the old contents
 * survive. qemu_plugin_reset() flushes them all, with every vCPU outside of translated code
 * (QEMU: plugins/loader.c).
 *
 * How: the daemon moves a counter in a shared file while the vCPUs stand still for the checkpoint.
 * QEMU calls us as each vCPU resumes; the first that sees the counter moved asks for the reset,
 * which QEMU runs on that vCPU before it executes anything. The other vCPUs wait in their own
 * callback until it is done. A reset also takes our callback away, so it is put back in the reset's
 * completion.
 *
 * The wait has a limit, since it happens with QEMU's big lock held: if the counter is moved while
 * vCPUs run (the contract forbids it), a running vCPU may need that lock to let the reset happen.
 *
 * Limits: needs `-accel tcg,thread=multi`; with one thread for all vCPUs QEMU does not call back on
 * resume. Plugin API 7 (QEMU 11; include/plugins/qemu-plugin.h there), of which Debian ships no
 * header: the few declarations needed are below.
 *
 * Arguments: -plugin tcg-flush.so,counter=PATH (the file of qemu-glue/tcg_flush.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "qemu-glue/tcg_flush.h"

#define EXPORT  __attribute__((visibility("default")))
#define WAIT_MS 100

/* From QEMU's plugin API 7. */
struct qemu_info_t;
extern EXPORT int qemu_plugin_version;
void qemu_plugin_reset(uint64_t id, void (*done)(void *userdata), void *userdata);
void qemu_plugin_register_vcpu_resume_cb(uint64_t id, void (*cb)(unsigned int vcpu, void *userdata),
                                         void *userdata);
EXPORT int qemu_plugin_install(uint64_t id, const struct qemu_info_t *info, int argc, char **argv);

EXPORT int qemu_plugin_version = 7;

static struct {
	uint64_t id;
	struct tcg_flush_page *page;
	pthread_mutex_t lock;
	pthread_cond_t flushed;
	bool pending;         /* a reset was asked for and has not happened */
	uint64_t pending_for; /* the counter's value that it answers */
	uint64_t done;
} state = {
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .flushed = PTHREAD_COND_INITIALIZER,
};

static void on_resume(unsigned int vcpu, void *userdata);

/* QEMU calls this inside its exclusive section, all translations gone, all callbacks removed. */
static void on_reset(void *userdata)
{
	qemu_plugin_register_vcpu_resume_cb(state.id, on_resume, NULL);
	pthread_mutex_lock(&state.lock);
	state.pending = false;
	state.done = state.pending_for;
	__atomic_store_n(&state.page->done, state.done, __ATOMIC_RELEASE);
	__atomic_add_fetch(&state.page->flushes, 1, __ATOMIC_ACQ_REL);
	pthread_cond_broadcast(&state.flushed);
	pthread_mutex_unlock(&state.lock);
}

static void wait_for_flush(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += WAIT_MS * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_nsec -= 1000000000L;
		until.tv_sec++;
	}
	while (state.pending) {
		if (pthread_cond_timedwait(&state.flushed, &state.lock, &until) == ETIMEDOUT)
			break;
	}
}

static void on_resume(unsigned int vcpu, void *userdata)
{
	uint64_t requested = __atomic_load_n(&state.page->requested, __ATOMIC_ACQUIRE);
	bool ask = false;

	pthread_mutex_lock(&state.lock);
	if (state.pending) {
		wait_for_flush();
	} else if (requested != state.done) {
		state.pending = true;
		state.pending_for = requested;
		ask = true;
	}
	pthread_mutex_unlock(&state.lock);
	if (ask)
		qemu_plugin_reset(state.id, on_reset, NULL);
}

static int map_counter(const char *path)
{
	struct stat st;
	void *map;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		fprintf(stderr, "tcg-flush: cannot open %s: %s\n", path, strerror(errno));
		return -1;
	}
	if (fstat(fd, &st) < 0 || st.st_size < TCG_FLUSH_SIZE) {
		fprintf(stderr, "tcg-flush: %s is no counter file\n", path);
		close(fd);
		return -1;
	}
	map = mmap(NULL, TCG_FLUSH_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (map == MAP_FAILED) {
		fprintf(stderr, "tcg-flush: cannot map %s: %s\n", path, strerror(errno));
		return -1;
	}
	state.page = map;
	if (memcmp(state.page->magic, TCG_FLUSH_MAGIC, sizeof(state.page->magic)) != 0) {
		fprintf(stderr, "tcg-flush: %s is no counter file\n", path);
		return -1;
	}
	return 0;
}

EXPORT int qemu_plugin_install(uint64_t id, const struct qemu_info_t *info, int argc, char **argv)
{
	const char *path = NULL;

	for (int i = 0; i < argc; i++) {
		if (strncmp(argv[i], "counter=", 8) == 0)
			path = argv[i] + 8;
	}
	if (!path) {
		fprintf(stderr, "tcg-flush: missing argument counter=PATH\n");
		return -1;
	}
	if (map_counter(path) < 0)
		return -1;
	state.id = id;
	state.done = __atomic_load_n(&state.page->requested, __ATOMIC_ACQUIRE);
	qemu_plugin_register_vcpu_resume_cb(id, on_resume, NULL);
	__atomic_store_n(&state.page->loaded, 1, __ATOMIC_RELEASE);
	return 0;
}
