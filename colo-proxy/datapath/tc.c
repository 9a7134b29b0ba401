/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/tc.h"

#include "colo-proxy/datapath/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>

#define TC_PREFERENCE 1u

static struct nl_msg *tc_message(int type, int flags, const struct tcmsg *tc)
{
	struct nl_msg *msg = nlmsg_alloc_simple(type, flags);

	if (msg && nlmsg_append(msg, (void *)tc, sizeof(*tc), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(msg);
		return NULL;
	}
	return msg;
}

int tc_clsact(int ifindex)
{
	struct tcmsg tc = {
	        .tcm_family = AF_UNSPEC,
	        .tcm_ifindex = ifindex,
	        .tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0),
	        .tcm_parent = TC_H_CLSACT,
	};
	struct nl_msg *msg = tc_message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &tc);
	int ret = -ENOMEM;

	if (msg && nla_put_string(msg, TCA_KIND, "clsact") >= 0)
		ret = netlink_talk(msg);
	nlmsg_free(msg);
	return ret == -EEXIST ? 0 : ret;
}

static struct tcmsg tc_filter(int ifindex, enum tc_side side)
{
	struct tcmsg tc = {
	        .tcm_family = AF_UNSPEC,
	        .tcm_ifindex = ifindex,
	        .tcm_handle = TC_HANDLE,
	        .tcm_info = TC_H_MAKE(TC_PREFERENCE << 16, htons(ETH_P_ALL)),
	};

	tc.tcm_parent = TC_H_MAKE(TC_H_CLSACT,
	                          side == TC_SIDE_INGRESS ? TC_H_MIN_INGRESS : TC_H_MIN_EGRESS);
	return tc;
}

static int tc_put_bpf(struct nl_msg *msg, int prog_fd)
{
	struct nlattr *options;

	if (nla_put_string(msg, TCA_KIND, "bpf") < 0)
		return -ENOMEM;
	options = nla_nest_start(msg, TCA_OPTIONS);
	if (!options || nla_put_u32(msg, TCA_BPF_FD, (uint32_t)prog_fd) < 0 ||
	    nla_put_string(msg, TCA_BPF_NAME, "colo-proxy") < 0 ||
	    nla_put_u32(msg, TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT) < 0)
		return -ENOMEM;
	nla_nest_end(msg, options);
	return 0;
}

int tc_attach(int ifindex, enum tc_side side, int prog_fd)
{
	struct tcmsg tc = tc_filter(ifindex, side);
	struct nl_msg *msg = tc_message(RTM_NEWTFILTER, NLM_F_CREATE, &tc);
	int ret = -ENOMEM;

	if (msg)
		ret = tc_put_bpf(msg, prog_fd);
	if (ret == 0)
		ret = netlink_talk(msg);
	nlmsg_free(msg);
	return ret;
}

int tc_detach(int ifindex, enum tc_side side)
{
	struct tcmsg tc = tc_filter(ifindex, side);
	struct nl_msg *msg = tc_message(RTM_DELTFILTER, 0, &tc);
	int ret = -ENOMEM;

	if (msg && nla_put_string(msg, TCA_KIND, "bpf") >= 0)
		ret = netlink_talk(msg);
	nlmsg_free(msg);
	return ret == -EINVAL ? -ENOENT : ret; /* no clsact: no filter either */
}
