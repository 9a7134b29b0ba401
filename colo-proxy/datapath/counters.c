/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/counters.h"

#include "colo-proxy/datapath/netlink.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

static const char *const files[] = {
        [TAP_TX_PACKETS] = "statistics/tx_packets",
        [TAP_TX_DROPPED] = "statistics/tx_dropped",
        [TAP_RX_DROPPED] = "statistics/rx_dropped",
};
static_assert(sizeof(files) / sizeof(files[0]) == TAP_COUNTERS, "one file for each counter");

static int read_number(int fd, uint64_t *ret_value)
{
	char text[32];
	ssize_t got = pread(fd, text, sizeof(text) - 1, 0);

	if (got < 0)
		return errno == EINVAL
		               ? -ENODEV
		               : netlink_errno(); /* the kernel's answer for a gone device */
	if (got == 0)
		return -ENODEV;
	text[got] = '\0';
	*ret_value = strtoull(text, NULL, 10);
	return 0;
}

/* True when the directory is about the interface that this namespace knows by that index. */
static bool same_namespace(int dir, const char *ifname)
{
	uint64_t index = 0;
	int fd = openat(dir, "ifindex", O_RDONLY | O_CLOEXEC);
	bool same = fd >= 0 && read_number(fd, &index) == 0 && index == if_nametoindex(ifname);

	if (fd >= 0)
		close(fd);
	return same;
}

static int open_dir(int root, const char *prefix, const char *ifname)
{
	char path[64 + IFNAMSIZ];

	snprintf(path, sizeof(path), "%sclass/net/%s", prefix, ifname);
	return openat(root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* sysfs shows the namespace that it was mounted in; a mount of our own, nowhere attached, ours. */
static int open_dir_of_own_mount(const char *ifname)
{
	int fs = fsopen("sysfs", FSOPEN_CLOEXEC);
	int mount = -1;
	int dir = -1;

	if (fs >= 0 && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		mount = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	if (mount >= 0)
		dir = open_dir(mount, "", ifname);
	if (dir < 0)
		dir = netlink_errno();
	if (mount >= 0)
		close(mount);
	if (fs >= 0)
		close(fs);
	return dir;
}

int tap_counters_open(struct tap_counters *c, const char *ifname)
{
	int dir;

	for (int i = 0; i < TAP_COUNTERS; i++)
		c->fd[i] = -1;
	dir = open_dir(AT_FDCWD, "/sys/", ifname);
	if (dir >= 0 && !same_namespace(dir, ifname)) {
		close(dir);
		dir = -1;
	}
	if (dir < 0)
		dir = open_dir_of_own_mount(ifname);
	if (dir < 0)
		return dir;
	for (int i = 0; i < TAP_COUNTERS; i++) {
		c->fd[i] = openat(dir, files[i], O_RDONLY | O_CLOEXEC);
		if (c->fd[i] < 0) {
			int code = netlink_errno();

			close(dir);
			tap_counters_close(c);
			return code;
		}
	}
	close(dir);
	return 0;
}

int tap_counter_read(const struct tap_counters *c, enum tap_counter which, uint64_t *ret_value)
{
	return read_number(c->fd[which], ret_value);
}

void tap_counters_close(struct tap_counters *c)
{
	if (!c)
		return;
	for (int i = 0; i < TAP_COUNTERS; i++) {
		if (c->fd[i] >= 0)
			close(c->fd[i]);
		c->fd[i] = -1;
	}
}
