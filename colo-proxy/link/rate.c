/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Apart from transport.c: the C library's struct tcp_info, which comes with TCP_NODELAY and the
 * rest, ends before the delivery rate. */
#include <linux/in.h>
#include <linux/tcp.h>
#include <stddef.h>
#include <sys/socket.h>

#include "colo-proxy/link/transport.h"

uint64_t transport_rate(int fd)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
	    len < offsetof(struct tcp_info, tcpi_delivery_rate) + sizeof(info.tcpi_delivery_rate))
		return 0;
	return info.tcpi_delivery_rate;
}
