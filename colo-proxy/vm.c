/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/vm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "colo-proxy/control/log.h"
#include "kvm/probe.h"
#include "kvm/tracking.h"
#include "qemu-glue/cmdline.h"

#define QEMU_PROGRAM  "qemu-system-x86_64"
#define QEMU_CACHED   "/qemu/bin/" QEMU_PROGRAM
#define PLUGIN_FILE   "tcg-flush.so"
#define QMP_START_MS  20000
#define KVM_DEVICE    "/dev/kvm"
#define CACHE_DEFAULT "/var/cache/colo-proxy"

#ifndef COLO_LIBDIR
#define COLO_LIBDIR "/usr/lib/colo-proxy"
#endif

/* The configured QEMU, else the one that scripts/setup installed, else the PATH's. */
static char *find_qemu(const struct config *config)
{
	const char *cache = g_getenv("COLO_CACHE");
	char *path;

	if (config->qemu)
		return g_strdup(config->qemu);
	path = g_strconcat(cache ? cache : CACHE_DEFAULT, QEMU_CACHED, NULL);
	if (access(path, X_OK) == 0)
		return path;
	g_free(path);
	return g_find_program_in_path(QEMU_PROGRAM);
}

/* Beside this program (a build tree), else where it is installed. */
static char *find_plugin(void)
{
	char *self = g_file_read_link("/proc/self/exe", NULL);
	char *dir = self ? g_path_get_dirname(self) : g_strdup(".");
	char *path = g_build_filename(dir, PLUGIN_FILE, NULL);

	g_free(self);
	g_free(dir);
	if (access(path, R_OK) == 0)
		return path;
	g_free(path);
	path = g_build_filename(COLO_LIBDIR, PLUGIN_FILE, NULL);
	if (access(path, R_OK) == 0)
		return path;
	g_free(path);
	return NULL;
}

static int probe_accel(struct vm *vm, char *err, size_t errlen)
{
	struct probe_result probe;

	if (vm->config->accel == CONFIG_ACCEL_TCG)
		return 0;
	probe_kvm(KVM_DEVICE, "/proc/cpuinfo", &probe);
	/* A KVM without hardware virtualization under it runs firmware at best: not by itself. */
	vm->kvm = probe_kvm_usable(&probe) && (vm->config->accel == CONFIG_ACCEL_KVM ||
	                                       probe.items[PROBE_CPU_FLAGS].verdict == PROBE_YES);
	if (vm->config->accel == CONFIG_ACCEL_KVM && !vm->kvm) {
		snprintf(err, errlen,
		         "accel = kvm, but KVM does not run guests here: %s. Run `colo-proxy "
		         "check`, "
		         "or write accel = tcg",
		         probe.items[PROBE_VCPU].text);
		return -ENODEV;
	}
	return 0;
}

static int choose_tracking(struct vm *vm, char *err, size_t errlen)
{
	static const enum tracking_wish wishes[] = {
	        [CONFIG_TRACKING_AUTO] = TRACKING_AUTO,
	        [CONFIG_TRACKING_LOG] = TRACKING_LOG,
	        [CONFIG_TRACKING_RING] = TRACKING_RING,
	};
	uint32_t quirks = qemu_support_for(vm->version)->quirks;
	struct tracking_choice choice;
	struct tracking_facts facts;
	int r;

	if (!vm->kvm)
		return 0;
	tracking_probe(KVM_DEVICE, !(quirks & QEMU_QUIRK_NO_DIRTY_RING), &facts);
	r = tracking_choose(&facts, vm->config->memory_mib, wishes[vm->config->dirty_tracking],
	                    &choice);
	if (r < 0)
		snprintf(err, errlen, "dirty-tracking = ring: %s; write auto or log", choice.why);
	else
		log_info("KVM: %s", choice.why);
	vm->dirty_ring = choice.ring_entries;
	return r;
}

static void describe_machine(struct vm *vm)
{
	const struct config *config = vm->config;

	snprintf(vm->machine, sizeof(vm->machine), "QEMU %d.%d %s %s cpu %s smp %lu mac %s%s",
	         vm->version.major, vm->version.minor, vm->kvm ? "kvm" : "tcg",
	         config->machine == CONFIG_MACHINE_Q35 ? "q35" : "pc",
	         config->cpu ? config->cpu : "default", (unsigned long)config->smp, config->mac,
	         config->comparator == CONFIG_COMPARATOR_QEMU ? " comparator qemu" : "");
}

int vm_probe(struct vm *vm, const struct config *config, char *err, size_t errlen)
{
	int r;

	*vm = (struct vm){.config = config};
	vm->binary = find_qemu(config);
	if (!vm->binary) {
		snprintf(err, errlen, "no %s: install QEMU 11, or run scripts/setup", QEMU_PROGRAM);
		return -ENOENT;
	}
	r = qemu_version_probe(vm->binary, &vm->version, err, errlen);
	if (r == 0)
		r = probe_accel(vm, err, errlen);
	if (r == 0)
		r = choose_tracking(vm, err, errlen);
	if (r == 0 && config->comparator != CONFIG_COMPARATOR_NONE)
		r = qemu_support_check(vm->version, !vm->kvm, err, errlen);
	if (r < 0)
		return r;
	vm->qmp_path = g_build_filename(config->run_dir, "qmp.sock", NULL);
	describe_machine(vm);
	/* Only a relay knows when to flush. */
	if (vm->kvm || !(qemu_support_for(vm->version)->quirks & QEMU_QUIRK_TCG_FLUSH) ||
	    config->comparator != CONFIG_COMPARATOR_PROXY)
		return 0;
	vm->plugin = find_plugin();
	if (!vm->plugin) {
		snprintf(err, errlen,
		         "%s is neither beside colo-proxy nor in %s: without it a secondary under "
		         "TCG runs stale code",
		         PLUGIN_FILE, COLO_LIBDIR);
		return -ENOENT;
	}
	return 0;
}

static void fill_params(const struct vm *vm, bool secondary, struct qemu_params *params)
{
	const struct config *config = vm->config;

	qemu_params_init(params);
	params->binary = vm->binary;
	params->name = config->name;
	params->role = secondary ? QEMU_ROLE_SECONDARY : QEMU_ROLE_PRIMARY;
	params->accel = vm->kvm ? QEMU_ACCEL_KVM : QEMU_ACCEL_TCG;
	params->dirty_ring = vm->dirty_ring;
	params->machine = config->machine == CONFIG_MACHINE_Q35 ? "q35" : "pc";
	params->cpu = config->cpu;
	params->memory_mib = (uint32_t)config->memory_mib;
	params->smp = (uint32_t)config->smp;
	params->kernel = config->kernel;
	params->initrd = config->initrd;
	params->append = config->append;
	params->mac = config->mac;
	params->serial_path = config->serial_log;
	params->run_dir = config->run_dir;
	params->extra = config->extra_args;
	params->comparator = config->comparator == CONFIG_COMPARATOR_QEMU   ? QEMU_COMPARATOR_QEMU
	                     : config->comparator == CONFIG_COMPARATOR_NONE ? QEMU_COMPARATOR_NONE
	                                                                    : QEMU_COMPARATOR_PROXY;
	/* The primary's filters come with the first copy (stock.h). */
	if (params->comparator == QEMU_COMPARATOR_QEMU && !secondary)
		params->comparator = QEMU_COMPARATOR_NONE;
	if (params->comparator == QEMU_COMPARATOR_QEMU) {
		/* The primary's replication address: its filters listen there. */
		params->compare_host = config->peer.host;
		params->mirror_port = (uint16_t)(config->qemu_base_port + CONFIG_PORT_MIRROR);
		params->compare_port = (uint16_t)(config->qemu_base_port + CONFIG_PORT_COMPARE);
	}
}

int vm_start(struct vm *vm, bool secondary, int tap_fd, char *err, size_t errlen)
{
	char *counter = g_build_filename(vm->config->run_dir, "tcg-flush", NULL);
	char *log = g_build_filename(vm->config->run_dir, "qemu.log", NULL);
	struct qemu_params params;
	char **argv = NULL;
	int fds[2];
	int r;

	fill_params(vm, secondary, &params);
	params.tap_fd = tap_fd;
	r = qemu_listen(vm->qmp_path, &params.qmp_fd, err, errlen);
	if (r == 0 && vm->plugin && !vm->flush)
		r = tcg_flush_create(counter, &vm->flush, err, errlen);
	if (r == 0 && vm->plugin && secondary) {
		params.flush_plugin = vm->plugin;
		params.flush_counter = counter;
	}
	if (r == 0)
		r = qemu_cmdline(&params, &argv, err, errlen);
	if (r == 0) {
		struct qemu_spawn spawn = {
		        .argv = argv,
		        .fds = fds,
		        .n_fds = qemu_params_fds(&params, fds),
		        .log_path = log,
		};

		r = qemu_process_spawn(&spawn, &vm->process, err, errlen);
	}
	if (params.qmp_fd >= 0)
		close(params.qmp_fd);
	if (r == 0)
		r = qemu_process_qmp(vm->process, vm->qmp_path, QMP_START_MS, &vm->qmp, err,
		                     errlen);
	if (r < 0)
		vm_end(vm);
	g_strfreev(argv);
	g_free(counter);
	g_free(log);
	return r;
}

void vm_end(struct vm *vm)
{
	qmp_free(vm->qmp);
	vm->qmp = NULL;
	qemu_process_free(vm->process);
	vm->process = NULL;
}

void vm_fini(struct vm *vm)
{
	vm_end(vm);
	if (vm->qmp_path)
		unlink(vm->qmp_path);
	tcg_flush_free(vm->flush);
	g_free(vm->qmp_path);
	g_free(vm->binary);
	g_free(vm->plugin);
	memset(vm, 0, sizeof(*vm));
}

void vm_version_text(const struct vm *vm, char *buf, size_t size)
{
	snprintf(buf, size, "%d.%d.%d", vm->version.major, vm->version.minor, vm->version.micro);
}
