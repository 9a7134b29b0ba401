/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/netif.h"

#include "colo-proxy/datapath/netlink.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/pkt_sched.h>
#include <net/if.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int link_get(const char *name, struct rtnl_link **ret_link)
{
	struct nl_sock *sock;
	int ret;

	if (!name || !*name || strlen(name) >= IFNAMSIZ)
		return -ENODEV;
	sock = nl_socket_alloc();
	if (!sock)
		return -ENOMEM;
	ret = nl_connect(sock, NETLINK_ROUTE);
	if (ret >= 0)
		ret = rtnl_link_get_kernel(sock, 0, name, ret_link);
	nl_socket_free(sock);
	if (ret >= 0)
		return 0;
	if (ret == -NLE_NOMEM)
		return -ENOMEM;
	return ret == -NLE_NODEV || ret == -NLE_OBJ_NOTFOUND ? -ENODEV : -EIO;
}

/* Sends what `changes` holds to the interface; consumes `changes`, which may be NULL. */
static int link_change(const char *name, struct rtnl_link *changes)
{
	struct rtnl_link *link = NULL;
	struct nl_msg *msg = NULL;
	int ret;

	if (!changes)
		return -ENOMEM;
	ret = link_get(name, &link);
	if (ret < 0)
		goto out;
	ret = -ENOMEM;
	if (rtnl_link_build_change_request(link, changes, 0, &msg) < 0)
		goto out;
	ret = netlink_talk(msg);
out:
	nlmsg_free(msg);
	rtnl_link_put(link);
	rtnl_link_put(changes);
	return ret;
}

int netif_index(const char *name)
{
	unsigned index = if_nametoindex(name);

	return index ? (int)index : -ENODEV;
}

int netif_up(const char *name, bool up)
{
	struct rtnl_link *changes = rtnl_link_alloc();

	if (changes && up)
		rtnl_link_set_flags(changes, IFF_UP);
	else if (changes)
		rtnl_link_unset_flags(changes, IFF_UP);
	return link_change(name, changes);
}

int netif_enslave(const char *name, const char *bridge)
{
	struct rtnl_link *changes;
	int master = netif_index(bridge);

	if (master < 0)
		return master;
	changes = rtnl_link_alloc();
	if (changes)
		rtnl_link_set_master(changes, master);
	return link_change(name, changes);
}

int netif_release(const char *name)
{
	struct rtnl_link *changes = rtnl_link_alloc();

	if (changes)
		rtnl_link_set_master(changes, 0);
	return link_change(name, changes);
}

int netif_master(const char *name)
{
	struct rtnl_link *link = NULL;
	int ret = link_get(name, &link);

	if (ret < 0)
		return ret;
	ret = rtnl_link_get_master(link);
	rtnl_link_put(link);
	return ret;
}

int netif_mtu(const char *name)
{
	struct rtnl_link *link = NULL;
	int ret = link_get(name, &link);

	if (ret < 0)
		return ret;
	ret = (int)rtnl_link_get_mtu(link);
	rtnl_link_put(link);
	return ret;
}

int netif_set_mtu(const char *name, unsigned mtu)
{
	struct rtnl_link *changes = rtnl_link_alloc();

	if (changes)
		rtnl_link_set_mtu(changes, mtu);
	return link_change(name, changes);
}

int netif_set_txqueuelen(const char *name, unsigned frames)
{
	struct rtnl_link *changes = rtnl_link_alloc();

	if (changes)
		rtnl_link_set_txqlen(changes, frames);
	return link_change(name, changes);
}

bool netif_is_bridge(const char *name)
{
	struct rtnl_link *link = NULL;
	const char *type;
	bool is_bridge;

	if (link_get(name, &link) < 0)
		return false;
	type = rtnl_link_get_type(link);
	is_bridge = type && strcmp(type, "bridge") == 0;
	rtnl_link_put(link);
	return is_bridge;
}

/* /proc/sys/net shows the namespace of the process that looks, unlike sysfs. */
static int link_sysctl6(const char *name, const char *key, const char *value)
{
	char path[96];
	ssize_t written;
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/%s", name, key);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno; /* no IPv6 in this kernel: silent anyway */
	written = write(fd, value, strlen(value));
	close(fd);
	return written == (ssize_t)strlen(value) ? 0 : -EIO;
}

int netif_silence(const char *name)
{
	struct rtnl_link *changes;
	int ret = link_sysctl6(name, "disable_ipv6", "1");

	if (ret < 0)
		return ret;
	changes = rtnl_link_alloc();
	if (changes)
		rtnl_link_set_flags(changes, IFF_NOARP);
	return link_change(name, changes);
}

int netif_no_queue(const char *name)
{
	struct tcmsg tc = {.tcm_family = AF_UNSPEC, .tcm_parent = TC_H_ROOT};
	struct nl_msg *msg;
	int ret;

	tc.tcm_ifindex = netif_index(name);
	if (tc.tcm_ifindex < 0)
		return tc.tcm_ifindex;
	msg = nlmsg_alloc_simple(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE);
	if (!msg)
		return -ENOMEM;
	if (nlmsg_append(msg, &tc, sizeof(tc), NLMSG_ALIGNTO) < 0 ||
	    nla_put_string(msg, TCA_KIND, "noqueue") < 0)
		ret = -ENOMEM;
	else
		ret = netlink_talk(msg);
	nlmsg_free(msg);
	return ret;
}
