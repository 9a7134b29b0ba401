/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/tapdev.h"

#include "colo-proxy/datapath/netif.h"
#include "colo-proxy/datapath/netlink.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

/* Linux 6.2 (include/uapi/linux/if_tun.h); Debian 12's headers are older than its users' kernels.
 */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define COPY_BELOW 16384u

static_assert(sizeof(struct virtio_net_hdr_v1) == 12, "the header that taps are set to");

static int accept_all(int fd)
{
	unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
	int header = sizeof(struct virtio_net_hdr_v1);
	int little = 1;

	if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 || ioctl(fd, TUNSETVNETLE, &little) < 0)
		return netlink_errno();
	if (ioctl(fd, TUNSETOFFLOAD, (unsigned long)(offloads | TUN_F_USO4 | TUN_F_USO6)) == 0)
		return 0;
	/* A kernel before 6.2: its taps do not offer UDP segmentation to a VM either. */
	return ioctl(fd, TUNSETOFFLOAD, (unsigned long)offloads) < 0 ? netlink_errno() : 0;
}

static int tap_open(const struct tapdev_params *params, int *ret_fd, char *ret_name, char *err,
                    size_t errlen)
{
	struct ifreq ifr = {0};
	int ret = 0;
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return netlink_error(err, errlen, netlink_errno(),
		                     "/dev/net/tun: %s; load the module 'tun' and run as root",
		                     strerror(errno));
	ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", params->name);
	if (ioctl(fd, TUNSETIFF, &ifr) < 0)
		ret = netlink_error(err, errlen, netlink_errno(),
		                    "cannot create the tap %s: %s; is the name in use?",
		                    params->name, strerror(errno));
	if (ret == 0 && params->for_daemon) {
		ret = accept_all(fd);
		if (ret < 0)
			netlink_error(err, errlen, ret, "tap %s: offloads refused: %s",
			              ifr.ifr_name, strerror(-ret));
	}
	if (ret != 0) {
		close(fd);
		return ret;
	}
	memcpy(ret_name, ifr.ifr_name, IFNAMSIZ);
	*ret_fd = fd;
	return 0;
}

static int tap_configure(const struct tapdev_params *params, const char *name, char *err,
                         size_t errlen)
{
	const char *what = "silence the host on it";
	int ret = netif_silence(name);

	if (ret == 0) {
		what = "set its queue";
		ret = netif_set_txqueuelen(name, params->txqueuelen ? params->txqueuelen
		                                                    : TAPDEV_TXQUEUELEN);
	}
	if (ret == 0)
		ret = netif_no_queue(name);
	if (ret == 0 && params->mtu) {
		what = "set its MTU";
		ret = netif_set_mtu(name, params->mtu);
	}
	if (ret == 0 && params->bridge) {
		what = "make it a port of the bridge";
		ret = netif_enslave(name, params->bridge);
	}
	if (ret == 0) {
		what = "set it up";
		ret = netif_up(name, true);
	}
	if (ret < 0)
		return netlink_error(err, errlen, ret, "tap %s: cannot %s: %s", name, what,
		                     strerror(-ret));
	return 0;
}

int tapdev_create(const struct tapdev_params *params, int *ret_fd, char *ret_name, char *err,
                  size_t errlen)
{
	char name[IFNAMSIZ] = "";
	int fd = -1;
	int ret;

	if (!params->name || !*params->name || strlen(params->name) >= IFNAMSIZ)
		return netlink_error(err, errlen, -EINVAL,
		                     "a tap's name has 1 to %d characters, '%s' has not",
		                     IFNAMSIZ - 1, params->name ? params->name : "");
	ret = tap_open(params, &fd, name, err, errlen);
	if (ret != 0)
		return ret;
	ret = tap_configure(params, name, err, errlen);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	memcpy(ret_name, name, IFNAMSIZ);
	*ret_fd = fd;
	return 0;
}

bool tapdev_pending(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

struct frame *tapdev_fit(struct frame **spare)
{
	struct frame *big = *spare;
	struct frame *fit;

	if (big->len >= COPY_BELOW) {
		*spare = NULL;
		return big;
	}
	fit = frame_new(big->len);
	if (!fit)
		return NULL;
	fit->vnet = big->vnet;
	fit->len = big->len;
	fit->start = big->start;
	memcpy(fit->data, big->data, big->len);
	return fit;
}

int tapdev_header(int fd)
{
	int size;

	if (ioctl(fd, TUNGETVNETHDRSZ, &size) < 0)
		return netlink_errno();
	return size == 10 || size == sizeof(struct virtio_net_hdr_v1) ? size : -EPROTO;
}

int tapdev_read(struct tapdev_reader *reader, int fd, struct frame **ret_frame)
{
	struct frame *fit;
	struct iovec iov[2];
	ssize_t got;

	if (!reader->spare)
		reader->spare = frame_new(FRAME_MAX_LEN);
	if (!reader->spare)
		return -ENOMEM;
	iov[0].iov_base = &reader->spare->vnet;
	iov[0].iov_len = reader->header ? reader->header : sizeof(reader->spare->vnet);
	iov[1].iov_base = reader->spare->data;
	iov[1].iov_len = reader->spare->room;
	got = readv(fd, iov, 2);
	if (got < 0)
		return netlink_errno();
	if (got < (ssize_t)iov[0].iov_len)
		return -EIO;
	reader->spare->len = (uint32_t)(got - (ssize_t)iov[0].iov_len);
	fit = tapdev_fit(&reader->spare);
	if (!fit)
		return -ENOMEM;
	*ret_frame = fit;
	return 0;
}

void tapdev_reader_clear(struct tapdev_reader *reader)
{
	if (!reader)
		return;
	frame_free(reader->spare);
	reader->spare = NULL;
}

int tapdev_write(int fd, const struct frame *f)
{
	struct iovec iov[2] = {
	        {.iov_base = (void *)&f->vnet, .iov_len = sizeof(f->vnet)},
	        {.iov_base = f->data, .iov_len = f->len},
	};
	ssize_t put = writev(fd, iov, 2);

	if (put < 0)
		return netlink_errno();
	return put == (ssize_t)(sizeof(f->vnet) + f->len) ? 0 : -EIO;
}
