/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/netlink.h"

#include <errno.h>
#include <netlink/handlers.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

struct talk {
	int code;
	bool done;
};

static int on_error(struct sockaddr_nl *from, struct nlmsgerr *reply, void *arg)
{
	struct talk *talk = arg;

	talk->code = reply->error;
	talk->done = true;
	return NL_STOP;
}

static int on_ack(struct nl_msg *msg, void *arg)
{
	struct talk *talk = arg;

	talk->done = true;
	return NL_STOP;
}

int netlink_talk(struct nl_msg *msg)
{
	struct talk talk = {0};
	struct nl_sock *sock = nl_socket_alloc();
	int ret;

	if (!sock)
		return -ENOMEM;
	nl_socket_modify_cb(sock, NL_CB_ACK, NL_CB_CUSTOM, on_ack, &talk);
	nl_socket_modify_err_cb(sock, NL_CB_CUSTOM, on_error, &talk);
	ret = nl_connect(sock, NETLINK_ROUTE);
	if (ret >= 0)
		ret = nl_send_auto(sock, msg);
	while (ret >= 0 && !talk.done)
		ret = nl_recvmsgs_default(sock);
	nl_socket_free(sock);
	if (talk.done)
		return talk.code;
	return ret == -NLE_NOMEM ? -ENOMEM : -EIO;
}

int netlink_error(char *err, size_t errlen, int code, const char *format, ...)
{
	va_list args;

	if (err && errlen) {
		va_start(args, format);
		vsnprintf(err, errlen, format, args);
		va_end(args);
	}
	return code;
}
