/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu-glue/cmdline.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "qemu-glue/words.h"

#define MIRROR_PORT  9003
#define COMPARE_PORT 9004

void qemu_params_init(struct qemu_params *params)
{
	*params = (struct qemu_params){
	        .machine = "pc",
	        .smp = 1,
	        .tap_fd = -1,
	        .qmp_fd = -1,
	        .mirror_port = MIRROR_PORT,
	        .compare_port = COMPARE_PORT,
	};
}

static void add(GPtrArray *argv, const char *option, const char *value)
{
	g_ptr_array_add(argv, g_strdup(option));
	if (value)
		g_ptr_array_add(argv, g_strdup(value));
}

__attribute__((format(printf, 3, 4))) static void addf(GPtrArray *argv, const char *option,
                                                       const char *fmt, ...)
{
	va_list ap;

	g_ptr_array_add(argv, g_strdup(option));
	va_start(ap, fmt);
	g_ptr_array_add(argv, g_strdup_vprintf(fmt, ap));
	va_end(ap);
}

/* In a list of options a comma ends a value; QEMU reads two as one that does not. */
static char *escape(const char *value)
{
	g_auto(GStrv) parts = g_strsplit(value, ",", -1);

	return g_strjoinv(",,", parts);
}

static bool name_ok(const char *name)
{
	return name && *name &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	                    "0123456789-_.") == strlen(name);
}

static bool machine_ok(const char *machine)
{
	return name_ok(machine) &&
	       (strcmp(machine, "pc") == 0 || strcmp(machine, "q35") == 0 ||
	        g_str_has_prefix(machine, "pc-i440fx-") || g_str_has_prefix(machine, "pc-q35-"));
}

/* Six pairs of hex digits, a unicast address. */
static bool mac_ok(const char *mac)
{
	if (!mac || strlen(mac) != 17)
		return false;
	for (int i = 0; i < 17; i++) {
		if (i % 3 == 2 ? mac[i] != ':' : !g_ascii_isxdigit(mac[i]))
			return false;
	}
	return g_ascii_xdigit_value(mac[1]) % 2 == 0;
}

static bool has_net(const struct qemu_params *p)
{
	return p->tap_fd >= 0 || p->tap_ifname;
}

static int check_channels(const struct qemu_params *p, char *err, size_t errlen)
{
	if (p->qmp_fd < 0 && !p->qmp_path)
		return words(-EINVAL, err, errlen, "qmp: neither a socket nor a path is given");
	if (has_net(p) && !mac_ok(p->mac))
		return words(-EINVAL, err, errlen, "mac: \"%s\" is no unicast Ethernet address",
		             p->mac ? p->mac : "");
	if (p->flush_plugin && (!p->flush_counter || p->accel != QEMU_ACCEL_TCG))
		return words(-EINVAL, err, errlen,
		             "flush_plugin: needs a counter file and accelerator tcg");
	if (p->paused && p->role == QEMU_ROLE_SECONDARY)
		return words(-EINVAL, err, errlen, "paused: a secondary is started by COLO alone");
	if (p->comparator != QEMU_COMPARATOR_QEMU)
		return 0;
	if (!has_net(p) || !p->compare_host)
		return words(-EINVAL, err, errlen,
		             "comparator qemu: needs a tap and the primary's replication address");
	if (p->role == QEMU_ROLE_PRIMARY && !p->run_dir)
		return words(-EINVAL, err, errlen,
		             "comparator qemu: the primary needs a run directory");
	return 0;
}

static int check(const struct qemu_params *p, char *err, size_t errlen)
{
	if (!p->binary || !*p->binary)
		return words(-EINVAL, err, errlen, "binary: no QEMU program is given");
	if (!name_ok(p->name))
		return words(-EINVAL, err, errlen,
		             "name: \"%s\" is not made of letters, digits, - _ and .",
		             p->name ? p->name : "");
	if (p->machine && !machine_ok(p->machine))
		return words(-EINVAL, err, errlen,
		             "machine: \"%s\" is neither pc nor q35 nor a version of these",
		             p->machine);
	if (p->memory_mib < 16)
		return words(-EINVAL, err, errlen, "memory: %u MiB is less than 16", p->memory_mib);
	if (p->smp > 255)
		return words(-EINVAL, err, errlen, "smp: %u is more than 255 vCPUs", p->smp);
	if (p->dirty_ring &&
	    (p->accel != QEMU_ACCEL_KVM || (p->dirty_ring & (p->dirty_ring - 1)) != 0))
		return words(-EINVAL, err, errlen,
		             "dirty_ring: %u needs accelerator kvm and a power of two",
		             p->dirty_ring);
	if (!p->kernel && (p->initrd || p->append))
		return words(-EINVAL, err, errlen, "initrd, append: only together with a kernel");
	return check_channels(p, err, errlen);
}

static void add_machine(GPtrArray *argv, const struct qemu_params *p)
{
	const char *machine = p->machine ? p->machine : "pc";
	bool tcg = p->accel == QEMU_ACCEL_TCG;

	add(argv, "-machine", machine);
	if (tcg)
		add(argv, "-accel", "tcg,thread=multi");
	else if (p->dirty_ring)
		addf(argv, "-accel", "kvm,dirty-ring-size=%u", p->dirty_ring);
	else
		add(argv, "-accel", "kvm");
	add(argv, "-cpu", p->cpu ? p->cpu : tcg ? "qemu64" : "host");
	addf(argv, "-m", "%uM", p->memory_mib);
	addf(argv, "-smp", "%u", p->smp ? p->smp : 1);
	addf(argv, "-rtc", "base=utc,clock=%s", p->rtc_follows_vm ? "vm" : "host");
}

static void add_boot(GPtrArray *argv, const struct qemu_params *p)
{
	if (!p->kernel)
		return;
	add(argv, "-kernel", p->kernel);
	if (p->initrd)
		add(argv, "-initrd", p->initrd);
	if (p->append)
		add(argv, "-append", p->append);
}

static void add_serial(GPtrArray *argv, const struct qemu_params *p)
{
	g_autofree char *path = p->serial_path ? escape(p->serial_path) : NULL;

	if (!path) {
		add(argv, "-serial", "none");
		return;
	}
	addf(argv, "-chardev", "file,id=serial0,path=%s,append=on", path);
	add(argv, "-serial", "chardev:serial0");
}

static void add_qmp(GPtrArray *argv, const struct qemu_params *p)
{
	if (p->qmp_fd >= 0) {
		addf(argv, "-chardev", "socket,id=qmp0,fd=%d,server=on,wait=off", p->qmp_fd);
	} else {
		g_autofree char *path = escape(p->qmp_path);

		addf(argv, "-chardev", "socket,id=qmp0,path=%s,server=on,wait=off", path);
	}
	add(argv, "-mon", "chardev=qmp0,id=qmp,mode=control");
}

static void add_net(GPtrArray *argv, const struct qemu_params *p)
{
	if (!has_net(p)) {
		add(argv, "-nic", "none");
		return;
	}
	if (p->tap_fd >= 0) {
		addf(argv, "-netdev", "tap,id=" QEMU_NETDEV_ID ",fd=%d,vhost=off", p->tap_fd);
	} else {
		g_autofree char *ifname = escape(p->tap_ifname);

		addf(argv, "-netdev",
		     "tap,id=" QEMU_NETDEV_ID
		     ",ifname=%s,script=no,downscript=no,vhost=off,vnet_hdr=on",
		     ifname);
	}
	addf(argv, "-device",
	     "virtio-net-pci,id=" QEMU_NIC_ID ",netdev=" QEMU_NETDEV_ID ",mac=%s%s", p->mac,
	     p->net_rom ? "" : ",romfile=");
}

/*
 * QEMU's docs/system/qemu-colo.rst, "Startup qemu", without the disk. Three things differ: nothing
 * waits for the secondary at start (as in the document's own failover sequence); the two sockets
 * that the primary's QEMU connects to itself are unix sockets, so that several VMs can share a
 * host; and vnet_hdr_support is on everywhere, which virtio-net with its offloads needs
 * (docs/colo-proxy.txt).
 */
static void add_filters_primary(GPtrArray *argv, const struct qemu_params *p)
{
	g_autofree char *host = escape(p->compare_host);
	g_autofree char *dir = escape(p->run_dir);

	addf(argv, "-chardev", "socket,id=mirror0,host=%s,port=%u,server=on,wait=off", host,
	     p->mirror_port ? p->mirror_port : MIRROR_PORT);
	addf(argv, "-chardev", "socket,id=compare1,host=%s,port=%u,server=on,wait=off", host,
	     p->compare_port ? p->compare_port : COMPARE_PORT);
	addf(argv, "-chardev", "socket,id=compare0,path=%s/compare0,server=on,wait=off", dir);
	addf(argv, "-chardev", "socket,id=compare0-0,path=%s/compare0", dir);
	addf(argv, "-chardev", "socket,id=compare_out,path=%s/compare_out,server=on,wait=off", dir);
	addf(argv, "-chardev", "socket,id=compare_out0,path=%s/compare_out", dir);
	add(argv, "-object",
	    "filter-mirror,id=m0,netdev=" QEMU_NETDEV_ID
	    ",queue=tx,outdev=mirror0,vnet_hdr_support=on");
	add(argv, "-object",
	    "filter-redirector,netdev=" QEMU_NETDEV_ID
	    ",id=redire0,queue=rx,indev=compare_out,vnet_hdr_support=on");
	add(argv, "-object",
	    "filter-redirector,netdev=" QEMU_NETDEV_ID
	    ",id=redire1,queue=rx,outdev=compare0,vnet_hdr_support=on");
	add(argv, "-object", "iothread,id=iothread1");
	add(argv, "-object",
	    "colo-compare,id=comp0,primary_in=compare0-0,secondary_in=compare1,"
	    "outdev=compare_out0,vnet_hdr_support=on,iothread=iothread1");
}

static void add_filters_secondary(GPtrArray *argv, const struct qemu_params *p)
{
	g_autofree char *host = escape(p->compare_host);

	addf(argv, "-chardev", "socket,id=red0,host=%s,port=%u,reconnect-ms=1000", host,
	     p->mirror_port ? p->mirror_port : MIRROR_PORT);
	addf(argv, "-chardev", "socket,id=red1,host=%s,port=%u,reconnect-ms=1000", host,
	     p->compare_port ? p->compare_port : COMPARE_PORT);
	add(argv, "-object",
	    "filter-redirector,id=f1,netdev=" QEMU_NETDEV_ID
	    ",queue=tx,indev=red0,vnet_hdr_support=on");
	add(argv, "-object",
	    "filter-redirector,id=f2,netdev=" QEMU_NETDEV_ID
	    ",queue=rx,outdev=red1,vnet_hdr_support=on");
	add(argv, "-object",
	    "filter-rewriter,id=rew0,netdev=" QEMU_NETDEV_ID ",queue=all,vnet_hdr_support=on");
}

static void add_role(GPtrArray *argv, const struct qemu_params *p)
{
	if (p->comparator == QEMU_COMPARATOR_QEMU && p->role == QEMU_ROLE_PRIMARY)
		add_filters_primary(argv, p);
	else if (p->comparator == QEMU_COMPARATOR_QEMU)
		add_filters_secondary(argv, p);
	if (p->paused)
		add(argv, "-S", NULL);
	if (p->role == QEMU_ROLE_SECONDARY)
		add(argv, "-incoming", "defer");
	if (p->flush_plugin) {
		g_autofree char *plugin = escape(p->flush_plugin);
		g_autofree char *counter = escape(p->flush_counter);

		addf(argv, "-plugin", "file=%s,counter=%s", plugin, counter);
	}
}

int qemu_cmdline(const struct qemu_params *params, char ***ret_argv, char *err, size_t errlen)
{
	GPtrArray *argv;
	int ret = check(params, err, errlen);

	if (ret)
		return ret;
	argv = g_ptr_array_new();
	add(argv, params->binary, NULL);
	addf(argv, "-name", "%s,debug-threads=on", params->name);
	add(argv, "-no-user-config", NULL);
	add(argv, "-nodefaults", NULL);
	add(argv, "-display", "none");
	add(argv, "-msg", "timestamp=on");
	if (!params->no_sandbox)
		add(argv, "-sandbox",
		    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
	add_machine(argv, params);
	add_boot(argv, params);
	add_serial(argv, params);
	add_qmp(argv, params);
	add_net(argv, params);
	add_role(argv, params);
	for (char *const *extra = params->extra; extra && *extra; extra++)
		add(argv, *extra, NULL);
	g_ptr_array_add(argv, NULL);
	*ret_argv = (char **)g_ptr_array_free(argv, FALSE);
	return 0;
}

size_t qemu_params_fds(const struct qemu_params *params, int fds[2])
{
	size_t n = 0;

	if (params->tap_fd >= 0)
		fds[n++] = params->tap_fd;
	if (params->qmp_fd >= 0)
		fds[n++] = params->qmp_fd;
	return n;
}
