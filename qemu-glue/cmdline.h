/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_CMDLINE_H
#define QEMU_GLUE_CMDLINE_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * QEMU's command line for one VM. Primary and secondary get the same machine: every option that the
 * guest can see comes from the same fields, and the role only changes the channels around it.
 * Why each option is there: docs/qemu.md.
 */

enum qemu_role { QEMU_ROLE_PRIMARY, QEMU_ROLE_SECONDARY };
enum qemu_accel { QEMU_ACCEL_TCG, QEMU_ACCEL_KVM };
enum qemu_comparator {
	QEMU_COMPARATOR_PROXY, /* the daemon compares; QEMU has no filter */
	QEMU_COMPARATOR_QEMU,  /* QEMU's own filters and colo-compare, as its document has them */
	QEMU_COMPARATOR_NONE,  /* nothing compares (a VM that is not protected) */
};

/* Strings are borrowed. A field that is 0 or NULL takes the default that is named. */
struct qemu_params {
	const char *binary;
	const char *name; /* the VM's name: letters, digits, "-", "_", "." */
	enum qemu_role role;
	enum qemu_accel accel;
	const char *machine;      /* "pc" (default), "q35" or a versioned name of these */
	const char *cpu;          /* default: "qemu64" under TCG, "host" under KVM */
	uint32_t dirty_ring;      /* KVM: entries of the dirty ring, a power of two; 0: dirty log */
	uint32_t memory_mib;      /* required */
	uint32_t smp;             /* vCPUs, default 1 */
	bool net_rom;             /* keep the NIC's boot ROM, for guests that boot by network */
	bool rtc_follows_vm;      /* the real-time clock stands still while the VM does */
	bool paused;              /* do not start the guest: `cont`, or COLO, will */
	bool no_sandbox;          /* for a QEMU that was built without seccomp */
	const char *kernel;       /* boot this directly; NULL: the firmware boots */
	const char *initrd;       /* with kernel */
	const char *append;       /* with kernel */
	const char *mac;          /* required with a tap, "52:54:00:..." */
	const char *tap_ifname;   /* an existing tap; NULL with tap_fd -1: no network */
	int tap_fd;               /* an open tap (IFF_VNET_HDR), inherited; -1: use tap_ifname */
	int qmp_fd;               /* listening socket from qemu_listen(), inherited; -1: qmp_path */
	const char *qmp_path;     /* QEMU makes the socket itself */
	const char *serial_path;  /* the serial port's output is appended here; NULL: none */
	const char *flush_plugin; /* TCG secondary: path of tcg-flush.so; NULL: none */
	const char *flush_counter; /* with flush_plugin: the counter file */
	/*
	 * Comparator qemu: the primary's replication address and two ports there; and, on the
	 * primary, a directory for two local sockets. A primary with these objects says nothing
	 * until it is in COLO (colo-compare holds it back): start it paused, as QEMU's document
	 * does, or add the objects later (colo_stock_prepare_primary()).
	 */
	enum qemu_comparator comparator;
	uint16_t mirror_port;  /* default 9003 */
	uint16_t compare_port; /* default 9004 */
	const char *compare_host;
	const char *run_dir;
	char *const *extra; /* NULL-terminated further arguments, appended as they are */
};

/* The ids of devices and objects, as QMP sees them. */
#define QEMU_NETDEV_ID "hn0"
#define QEMU_NIC_ID    "e0"

/* Sets all fields to their defaults: no descriptors (-1), machine pc, one vCPU, the usual ports. */
void qemu_params_init(struct qemu_params *params);

/*
 * Builds the argument vector. *ret_argv is a NULL-terminated vector for g_strfreev().
 * 0, or -EINVAL with words that name the field.
 */
int qemu_cmdline(const struct qemu_params *params, char ***ret_argv, char *err, size_t errlen);

/* The descriptors in `params` that the child must inherit; returns how many (at most 2). */
size_t qemu_params_fds(const struct qemu_params *params, int fds[2]);

#endif
