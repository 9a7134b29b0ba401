/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/inject.h"

#include "colo-proxy/datapath/counters.h"
#include "colo-proxy/datapath/netif.h"
#include "colo-proxy/datapath/netlink.h"
#include "colo-proxy/datapath/tapdev.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define SOCKET_HEADER 10u /* struct virtio_net_hdr, without num_buffers */

struct inject {
	int fd;
	struct tap_counters port;
	uint64_t limit;
	uint64_t credit; /* frames that surely have room, without asking the counters */
	uint64_t sent;
	uint64_t refused;    /* dropped by the tap, and said so to us */
	uint64_t taken_base; /* the tap's counters at the start */
	uint64_t dropped_base;
	uint64_t taken; /* since the start, when last read */
	uint64_t dropped;
};

static int refresh(struct inject *in)
{
	uint64_t taken;
	uint64_t dropped;
	int ret = tap_counter_read(&in->port, TAP_TX_PACKETS, &taken);

	if (ret == 0)
		ret = tap_counter_read(&in->port, TAP_TX_DROPPED, &dropped);
	if (ret != 0)
		return ret;
	in->taken = taken - in->taken_base;
	in->dropped = dropped - in->dropped_base;
	return 0;
}

static uint64_t waiting(const struct inject *in)
{
	uint64_t in_all = in->sent + in->refused;
	uint64_t gone = in->taken + in->dropped;

	return in_all > gone ? in_all - gone : 0;
}

static int open_socket(struct inject *in, int ifindex, uint32_t mark)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = ifindex};
	int on = 1;

	in->fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (in->fd < 0)
		return netlink_errno();
	if (setsockopt(in->fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0 ||
	    setsockopt(in->fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0 ||
	    bind(in->fd, (struct sockaddr *)&to, sizeof(to)) < 0) /* protocol 0: hears nothing */
		return netlink_errno();
	return 0;
}

int inject_open(const char *port, uint32_t mark, unsigned limit, struct inject **ret_inject,
                char *err, size_t errlen)
{
	int ifindex = netif_index(port);
	struct inject *in;
	int ret;

	if (ifindex < 0)
		return netlink_error(err, errlen, ifindex, "there is no interface %s", port);
	in = calloc(1, sizeof(*in));
	if (!in)
		return -ENOMEM;
	in->fd = -1;
	in->limit = limit ? limit : TAPDEV_TXQUEUELEN;
	ret = tap_counters_open(&in->port, port);
	if (ret == 0)
		ret = refresh(in);
	in->taken_base = in->taken;
	in->dropped_base = in->dropped;
	if (ret == 0)
		ret = open_socket(in, ifindex, mark);
	if (ret < 0) {
		inject_close(in);
		return netlink_error(err, errlen, ret,
		                     "cannot send into %s: %s; CAP_NET_RAW and CAP_NET_ADMIN are "
		                     "needed",
		                     port, strerror(-ret));
	}
	in->taken = 0;
	in->dropped = 0;
	*ret_inject = in;
	return 0;
}

static int make_room(struct inject *in)
{
	uint64_t in_tap;
	int ret = refresh(in);

	if (ret < 0)
		return ret;
	in_tap = waiting(in);
	in->credit = in_tap < in->limit ? in->limit - in_tap : 0;
	return in->credit ? 0 : -EAGAIN;
}

/* Whether it was the tap that dropped our frame: then its counter has moved. */
static void note_refusal(struct inject *in)
{
	uint64_t before = in->dropped;

	if (refresh(in) == 0 && in->dropped > before)
		in->refused++;
	in->credit = 0;
}

int inject_send(struct inject *in, const struct frame *f)
{
	struct iovec iov[2] = {
	        {.iov_base = (void *)&f->vnet, .iov_len = SOCKET_HEADER},
	        {.iov_base = f->data, .iov_len = f->len},
	};
	int ret = in->credit ? 0 : make_room(in);

	if (ret < 0)
		return ret;
	if (writev(in->fd, iov, 2) < 0) {
		ret = netlink_errno();
		if (ret == -ENOBUFS)
			note_refusal(in);
		return ret;
	}
	in->credit--;
	in->sent++;
	return 0;
}

int inject_get_counters(struct inject *in, struct inject_counters *ret_counters)
{
	int ret = refresh(in);

	if (ret < 0)
		return ret;
	ret_counters->sent = in->sent;
	ret_counters->waiting = waiting(in);
	ret_counters->lost = in->dropped > in->refused ? in->dropped - in->refused : 0;
	return 0;
}

void inject_close(struct inject *in)
{
	if (!in)
		return;
	tap_counters_close(&in->port);
	if (in->fd >= 0)
		close(in->fd);
	free(in);
}
