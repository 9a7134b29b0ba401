/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QEMU TCG plugin that throws translated code away when a checkpoint has changed what it was
 * translated from.
 *
 * Theory of operation
 *
 * Goal: when a secondary's vCPU continues after a checkpoint, it executes what the checkpoint's
 * memory holds. QEMU writes that memory behind TCG's back, so that translations of the old contents
 * survive. qemu_plugin_reset() flushes them all, with every vCPU outside of translated code
 * (QEMU: plugins/loader.c). But translating everything again costs the guest tens of milliseconds,
 * and most checkpoints change no code.
 *
 * How: on each translation the plugin remembers where the instructions' bytes lie in memory, and a
 * copy of them (code_watch.h). The daemon moves a counter in a shared file while the vCPUs stand
 * still for the checkpoint. QEMU calls us as each vCPU resumes, with its big lock held; the first
 * that sees the counter moved compares all of the copies with the memory. If all are equal,
 * nothing else is done. If one differs, it asks for the reset, which QEMU runs on that vCPU before
 * it executes anything. The other vCPUs wait in their own callback until it is done. A reset also
 * takes our callbacks away, so they are put back in the reset's completion.
 *
 * QEMU also wakes a vCPU's thread while the VM stands still, to run work on it, and calls us: the
 * checkpoint's memory may not be there yet. So one equal comparison proves nothing; each resume
 * compares, until one that began after the daemon has seen LOADED. Between the end of a load and
 * the first instruction there is always a resume: the thread sleeps while the VM stands still, and
 * holds the big lock from its wake-up until it has seen whether it may run.
 *
 * Why equal bytes are enough
 * - What is remembered includes every translation that exists: QEMU reports each one, and each
 *   flush (the table is emptied there, and nowhere else), also one that it does by itself.
 * - A translation is found by physical page(s), offset, and the CPU's mode (QEMU: tb_cmp), and it
 *   depends on nothing else but its bytes. Mode bits that the checkpoint changes select another
 *   translation.
 * - The mapping from virtual addresses: loading a CPU's state flushes its TLB, and with it the
 *   cache of translations by virtual address (target/i386/machine.c cpu_post_load, tlb_flush).
 *   Direct jumps between translations stay inside of one virtual page, and none leads to one that
 *   spans two pages; so they hold under any page table, as they do when the guest loads CR3.
 * - Bytes that the guest or a device writes: QEMU invalidates the translations of exactly these
 *   bytes. If they are translated again, the copy is taken anew. If they are not, the copy stays,
 *   differs, and costs one flush, which empties the table.
 * - What cannot be checked (code outside of RAM, an instruction across two pages of which the
 *   second is unknown or below 1 MiB, where firmware switches RAM and ROM, or a full table) counts
 *   as changed: the next checkpoint flushes.
 *
 * The wait has a limit, since it happens with QEMU's big lock held: if the counter is moved while
 * vCPUs run (the contract forbids it), a running vCPU may need that lock to let the reset happen.
 *
 * Limits: needs `-accel tcg,thread=multi`; with one thread for all vCPUs QEMU does not call back on
 * resume. Guest RAM must not be unplugged: the table has its addresses. Plugin API 7 (QEMU 11;
 * include/plugins/qemu-plugin.h there), of which Debian ships no header: the few declarations
 * needed are below.
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

#include "qemu-glue/plugin/code_watch.h"
#include "qemu-glue/tcg_flush.h"

#define EXPORT  __attribute__((visibility("default")))
#define WAIT_MS 100

#define MIB (1ULL << 20)

/* GLib's, as QEMU has it loaded. */
struct g_byte_array {
	uint8_t *data;
	unsigned int len;
};
struct g_byte_array *g_byte_array_new(void);

/* From QEMU's plugin API 7. */
struct qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
extern EXPORT int qemu_plugin_version;
void qemu_plugin_reset(uint64_t id, void (*done)(void *userdata), void *userdata);
void qemu_plugin_register_vcpu_resume_cb(uint64_t id, void (*cb)(unsigned int vcpu, void *userdata),
                                         void *userdata);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id,
                                           void (*cb)(struct qemu_plugin_tb *tb, void *userdata),
                                           void *userdata);
void qemu_plugin_register_flush_cb(uint64_t id, void (*cb)(void *userdata), void *userdata);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *dest, size_t len);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);
void *qemu_plugin_insn_haddr(const struct qemu_plugin_insn *insn);
bool qemu_plugin_translate_vaddr(uint64_t vaddr, uint64_t *hwaddr);
int qemu_plugin_read_memory_hwaddr(uint64_t addr, struct g_byte_array *data, size_t len);
EXPORT int qemu_plugin_install(uint64_t id, const struct qemu_info_t *info, int argc, char **argv);

EXPORT int qemu_plugin_version = 7;

static struct {
	uint64_t id;
	struct tcg_flush_page *page;
	struct code_watch watch;
	struct g_byte_array *buf;
	pthread_mutex_t lock; /* of all below and of the two above */
	pthread_cond_t flushed;
	bool pending;         /* a reset was asked for and has not happened */
	uint64_t pending_for; /* the counter's value that it answers */
	uint64_t settled;     /* as it was before the check that led to it */
	uint64_t done;        /* the counter's value that needs no more checks */
} state = {
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .flushed = PTHREAD_COND_INITIALIZER,
};

/* ---- what was translated ---- */

/*
 * An instruction that ends in another page than it begins in. QEMU says where it begins; where the
 * other page lies in the host is not said, but the guest-physical address can be had.
 */
static void remember_crossing(const struct qemu_plugin_insn *insn, const uint8_t *host,
                              unsigned int in_first, unsigned int size)
{
	uint64_t next = (qemu_plugin_insn_vaddr(insn) | (WATCH_PAGE_SIZE - 1)) + 1;
	uint8_t bytes[WATCH_HEAD_MAX];
	uint64_t addr = 0;
	bool known = size <= sizeof(bytes) &&
	             qemu_plugin_insn_data(insn, bytes, sizeof(bytes)) == size &&
	             qemu_plugin_translate_vaddr(next, &addr) && addr >= MIB;

	pthread_mutex_lock(&state.lock);
	code_watch_add(&state.watch, host, in_first);
	if (known)
		code_watch_add_head(&state.watch, addr & ~(uint64_t)(WATCH_PAGE_SIZE - 1),
		                    bytes + in_first, size - in_first);
	else
		code_watch_blind(&state.watch);
	pthread_mutex_unlock(&state.lock);
}

static void remember(const uint8_t *host, unsigned int len)
{
	if (!len)
		return;
	pthread_mutex_lock(&state.lock);
	code_watch_add(&state.watch, host, len);
	pthread_mutex_unlock(&state.lock);
}

static void remember_nothing_known(void)
{
	pthread_mutex_lock(&state.lock);
	code_watch_blind(&state.watch);
	pthread_mutex_unlock(&state.lock);
}

/* A translation was made. Instructions that follow each other are remembered as one run. */
static void on_translation(struct qemu_plugin_tb *tb, void *userdata)
{
	size_t n = qemu_plugin_tb_n_insns(tb);
	const uint8_t *run = NULL;
	unsigned int len = 0;

	for (size_t i = 0; i < n; i++) {
		const struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		const uint8_t *host = qemu_plugin_insn_haddr(insn);
		unsigned int size = (unsigned int)qemu_plugin_insn_size(insn);
		unsigned int room =
		        WATCH_PAGE_SIZE - (unsigned int)((uintptr_t)host % WATCH_PAGE_SIZE);

		if (host && len && host == run + len && room != WATCH_PAGE_SIZE && size <= room) {
			len += size;
			continue;
		}
		remember(run, len);
		run = host;
		len = host && size <= room ? size : 0;
		if (!host)
			remember_nothing_known();
		else if (size > room)
			remember_crossing(insn, host, room, size);
	}
	remember(run, len);
}

/* QEMU has thrown all translations away; no vCPU is translating. */
static void on_flush(void *userdata)
{
	pthread_mutex_lock(&state.lock);
	code_watch_empty(&state.watch);
	pthread_mutex_unlock(&state.lock);
}

static bool read_guest(uint64_t addr, uint8_t *buf, unsigned int len, void *ctx)
{
	if (qemu_plugin_read_memory_hwaddr(addr, state.buf, len) != 0)
		return false;
	memcpy(buf, state.buf->data, len);
	return true;
}

/* ---- the check, and the flush ---- */

static void on_resume(unsigned int vcpu, void *userdata);

static void register_callbacks(void)
{
	qemu_plugin_register_vcpu_tb_trans_cb(state.id, on_translation, NULL);
	qemu_plugin_register_flush_cb(state.id, on_flush, NULL);
	qemu_plugin_register_vcpu_resume_cb(state.id, on_resume, NULL);
}

static void publish(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* A check or flush for `requested`; the last one if the load was over when it began. */
static void answered(uint64_t requested, uint64_t settled)
{
	if (settled == requested)
		state.done = requested;
	publish(&state.page->done, requested);
}

/* QEMU calls this inside its exclusive section, all translations gone, all callbacks removed. */
static void on_reset(void *userdata)
{
	register_callbacks();
	pthread_mutex_lock(&state.lock);
	state.pending = false;
	publish(&state.page->flushes, state.page->flushes + 1);
	answered(state.pending_for, state.settled);
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

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static bool check_code(void)
{
	struct tcg_flush_page *page = state.page;
	uint64_t start = now_ns();
	bool changed = code_watch_changed(&state.watch, read_guest, NULL);
	uint64_t took = now_ns() - start;

	publish(&page->checks, page->checks + 1);
	publish(&page->blind, page->blind + state.watch.blind);
	publish(&page->pages, state.watch.by_host.n);
	publish(&page->heads, state.watch.by_addr.n);
	publish(&page->bytes, state.watch.bytes);
	publish(&page->check_ns, took);
	if (took > page->check_ns_max)
		publish(&page->check_ns_max, took);
	return changed;
}

static void on_resume(unsigned int vcpu, void *userdata)
{
	uint64_t settled = __atomic_load_n(&state.page->settled, __ATOMIC_ACQUIRE);
	uint64_t requested = __atomic_load_n(&state.page->requested, __ATOMIC_ACQUIRE);
	bool ask = false;

	pthread_mutex_lock(&state.lock);
	if (state.pending) {
		wait_for_flush();
	} else if (requested != state.done) {
		ask = state.pending = check_code();
		state.pending_for = requested;
		state.settled = settled;
		if (!ask)
			answered(requested, settled);
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
	state.buf = g_byte_array_new();
	if (code_watch_init(&state.watch) < 0) {
		fprintf(stderr, "tcg-flush: no memory\n");
		return -1;
	}
	state.id = id;
	state.done = __atomic_load_n(&state.page->requested, __ATOMIC_ACQUIRE);
	publish(&state.page->done, state.done);
	register_callbacks();
	__atomic_store_n(&state.page->loaded, 1, __ATOMIC_RELEASE);
	return 0;
}
