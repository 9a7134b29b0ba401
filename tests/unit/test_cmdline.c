/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Command lines against what they have to be, word by word. */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "qemu-glue/cmdline.h"

#define HEAD                                                                                       \
	"qemu\n-name\nvm1,debug-threads=on\n-no-user-config\n-nodefaults\n-display\nnone\n"        \
	"-msg\ntimestamp=on\n-sandbox\non,obsolete=deny,elevateprivileges=deny,spawn=deny,"        \
	"resourcecontrol=deny\n"

static struct qemu_params base(void)
{
	struct qemu_params p;

	qemu_params_init(&p);
	p.binary = "qemu";
	p.name = "vm1";
	p.memory_mib = 256;
	p.qmp_path = "/run/x/qmp";
	return p;
}

static void expect(const struct qemu_params *p, const char *want)
{
	g_auto(GStrv) argv = NULL;
	g_autofree char *got = NULL;
	char err[256] = "";

	g_assert_cmpint(qemu_cmdline(p, &argv, err, sizeof(err)), ==, 0);
	got = g_strjoinv("\n", argv);
	g_assert_cmpstr(got, ==, want);
}

static void test_least(void)
{
	struct qemu_params p = base();

	expect(&p, HEAD "-machine\npc\n-accel\ntcg,thread=multi\n-cpu\nqemu64\n-m\n256M\n-smp\n1\n"
	                "-rtc\nbase=utc,clock=host\n-serial\nnone\n"
	                "-chardev\nsocket,id=qmp0,path=/run/x/qmp,server=on,wait=off\n"
	                "-mon\nchardev=qmp0,id=qmp,mode=control\n-nic\nnone");
}

static void test_primary(void)
{
	struct qemu_params p = base();
	char *const extra[] = {(char *)"-uuid", (char *)"0", NULL};
	int fds[2] = {-1, -1};

	p.accel = QEMU_ACCEL_KVM;
	p.dirty_ring = 4096;
	p.machine = "q35";
	p.smp = 2;
	p.kernel = "/boot/a,b";
	p.initrd = "/boot/i";
	p.append = "console=ttyS0 quiet";
	p.mac = "52:54:00:12:34:56";
	p.tap_fd = 9;
	p.qmp_fd = 8;
	p.serial_path = "/run/a,b/serial";
	p.rtc_follows_vm = true;
	p.extra = extra;
	expect(&p,
	       HEAD "-machine\nq35\n-accel\nkvm,dirty-ring-size=4096\n"
	            "-cpu\nhost\n-m\n256M\n"
	            "-smp\n2\n-rtc\nbase=utc,clock=vm\n-kernel\n/boot/a,b\n-initrd\n/boot/i\n"
	            "-append\nconsole=ttyS0 quiet\n"
	            "-chardev\nfile,id=serial0,path=/run/a,,b/serial,append=on\n"
	            "-serial\nchardev:serial0\n"
	            "-chardev\nsocket,id=qmp0,fd=8,server=on,wait=off\n"
	            "-mon\nchardev=qmp0,id=qmp,mode=control\n-netdev\ntap,id=hn0,fd=9,vhost=off\n"
	            "-device\nvirtio-net-pci,id=e0,netdev=hn0,mac=52:54:00:12:34:56,romfile=\n"
	            "-uuid\n0");
	g_assert_cmpuint(qemu_params_fds(&p, fds), ==, 2);
	g_assert_cmpint(fds[0], ==, 9);
	g_assert_cmpint(fds[1], ==, 8);
}

static void test_secondary(void)
{
	struct qemu_params p = base();

	p.role = QEMU_ROLE_SECONDARY;
	p.no_sandbox = true;
	p.mac = "52:54:00:12:34:56";
	p.tap_ifname = "tap7";
	p.net_rom = true;
	p.flush_plugin = "/usr/lib/colo-proxy/tcg-flush.so";
	p.flush_counter = "/run/a,b/flush";
	expect(&p,
	       "qemu\n-name\nvm1,debug-threads=on\n-no-user-config\n-nodefaults\n-display\nnone\n"
	       "-msg\ntimestamp=on\n"
	       "-machine\npc\n-accel\ntcg,thread=multi\n-cpu\nqemu64\n-m\n256M\n-smp\n1\n"
	       "-rtc\nbase=utc,clock=host\n-serial\nnone\n"
	       "-chardev\nsocket,id=qmp0,path=/run/x/qmp,server=on,wait=off\n"
	       "-mon\nchardev=qmp0,id=qmp,mode=control\n"
	       "-netdev\ntap,id=hn0,ifname=tap7,script=no,downscript=no,vhost=off,vnet_hdr=on\n"
	       "-device\nvirtio-net-pci,id=e0,netdev=hn0,mac=52:54:00:12:34:56\n"
	       "-incoming\ndefer\n"
	       "-plugin\nfile=/usr/lib/colo-proxy/tcg-flush.so,counter=/run/a,,b/flush");
}

/* What the role adds for QEMU's own comparator; the head is tested above. */
static void expect_tail(const struct qemu_params *p, const char *after, const char *want)
{
	g_auto(GStrv) argv = NULL;
	g_autofree char *got = NULL;
	const char *tail;
	char err[256] = "";

	g_assert_cmpint(qemu_cmdline(p, &argv, err, sizeof(err)), ==, 0);
	got = g_strjoinv("\n", argv);
	tail = strstr(got, after);
	g_assert_nonnull(tail);
	g_assert_cmpstr(tail + strlen(after), ==, want);
}

static void test_comparator_qemu(void)
{
	struct qemu_params p = base();
	const char *after = "mac=52:54:00:12:34:56,romfile=\n";

	p.mac = "52:54:00:12:34:56";
	p.tap_fd = 9;
	p.comparator = QEMU_COMPARATOR_QEMU;
	p.compare_host = "10.9.0.1";
	p.run_dir = "/run/x";
	expect_tail(&p, after,
	            "-chardev\nsocket,id=mirror0,host=10.9.0.1,port=9003,server=on,wait=off\n"
	            "-chardev\nsocket,id=compare1,host=10.9.0.1,port=9004,server=on,wait=off\n"
	            "-chardev\nsocket,id=compare0,path=/run/x/compare0,server=on,wait=off\n"
	            "-chardev\nsocket,id=compare0-0,path=/run/x/compare0\n"
	            "-chardev\nsocket,id=compare_out,path=/run/x/compare_out,server=on,wait=off\n"
	            "-chardev\nsocket,id=compare_out0,path=/run/x/compare_out\n"
	            "-object\nfilter-mirror,id=m0,netdev=hn0,queue=tx,outdev=mirror0,"
	            "vnet_hdr_support=on\n"
	            "-object\nfilter-redirector,netdev=hn0,id=redire0,queue=rx,indev=compare_out,"
	            "vnet_hdr_support=on\n"
	            "-object\nfilter-redirector,netdev=hn0,id=redire1,queue=rx,outdev=compare0,"
	            "vnet_hdr_support=on\n"
	            "-object\niothread,id=iothread1\n"
	            "-object\ncolo-compare,id=comp0,primary_in=compare0-0,secondary_in=compare1,"
	            "outdev=compare_out0,vnet_hdr_support=on,iothread=iothread1");
	p.paused = true;
	expect_tail(&p, "vnet_hdr_support=on,iothread=iothread1\n", "-S");
	p.paused = false;
	p.role = QEMU_ROLE_SECONDARY;
	p.mirror_port = 9103;
	p.compare_port = 9104;
	expect_tail(&p, after,
	            "-chardev\nsocket,id=red0,host=10.9.0.1,port=9103,reconnect-ms=1000\n"
	            "-chardev\nsocket,id=red1,host=10.9.0.1,port=9104,reconnect-ms=1000\n"
	            "-object\nfilter-redirector,id=f1,netdev=hn0,queue=tx,indev=red0,"
	            "vnet_hdr_support=on\n"
	            "-object\nfilter-redirector,id=f2,netdev=hn0,queue=rx,outdev=red1,"
	            "vnet_hdr_support=on\n"
	            "-object\nfilter-rewriter,id=rew0,netdev=hn0,queue=all,vnet_hdr_support=on\n"
	            "-incoming\ndefer");
}

static void refuse(const struct qemu_params *p, const char *field)
{
	char **argv = NULL;
	char err[256] = "";

	g_assert_cmpint(qemu_cmdline(p, &argv, err, sizeof(err)), ==, -EINVAL);
	g_assert_null(argv);
	if (!g_str_has_prefix(err, field))
		g_error("\"%s\" does not begin with \"%s\"", err, field);
}

#define REFUSE(field, change)                                                                      \
	do {                                                                                       \
		struct qemu_params p = base();                                                     \
		change;                                                                            \
		refuse(&p, field);                                                                 \
	} while (0)

static void test_refused(void)
{
	REFUSE("binary", p.binary = NULL);
	REFUSE("name", p.name = "a,b");
	REFUSE("name", p.name = "");
	REFUSE("machine", p.machine = "microvm");
	REFUSE("machine", p.machine = "pc,accel=xen");
	REFUSE("machine", p.machine = "q35-mine");
	REFUSE("memory", p.memory_mib = 0);
	REFUSE("smp", p.smp = 1000);
	REFUSE("dirty_ring", p.dirty_ring = 4096);
	REFUSE("dirty_ring", (p.accel = QEMU_ACCEL_KVM, p.dirty_ring = 5000));
	REFUSE("initrd", p.initrd = "/boot/i");
	REFUSE("qmp", p.qmp_path = NULL);
	REFUSE("mac", p.tap_fd = 5);
	REFUSE("mac", (p.tap_fd = 5, p.mac = "52:54:00:12:34:5g"));
	REFUSE("mac", (p.tap_fd = 5, p.mac = "53:54:00:12:34:56")); /* a group address */
	REFUSE("mac", (p.tap_fd = 5, p.mac = "52:54:00:12:34:56,x"));
	REFUSE("flush_plugin", p.flush_plugin = "x.so");
	REFUSE("flush_plugin",
	       (p.flush_plugin = "x.so", p.flush_counter = "c", p.accel = QEMU_ACCEL_KVM));
	REFUSE("paused", (p.paused = true, p.role = QEMU_ROLE_SECONDARY));
	REFUSE("comparator", p.comparator = QEMU_COMPARATOR_QEMU);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/cmdline/least", test_least);
	g_test_add_func("/cmdline/primary", test_primary);
	g_test_add_func("/cmdline/secondary", test_secondary);
	g_test_add_func("/cmdline/comparator-qemu", test_comparator_qemu);
	g_test_add_func("/cmdline/refused", test_refused);
	return g_test_run();
}
