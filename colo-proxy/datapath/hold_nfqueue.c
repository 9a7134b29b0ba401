/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * br_netfilter shows IPv4 and IPv6 of the bridge to iptables; a rule in the raw table sends what
 * comes in by the VM's port to a queue, where the packet stays in the kernel while its bytes are
 * read here; a verdict lets it go on. Superframes stay whole (NFQA_CFG_F_GSO). Every other frame
 * (ARP, VLAN, LLC, unknown types, and IP to the bridge's reserved group addresses, which
 * br_netfilter does not see either; all IP while the port is on no bridge) goes through a diversion
 * with a tap, as in hold_tap.c.
 *
 * A queued packet is let out by one verdict, so it could not go in two parts, and the kernel does
 * not say which Ethernet header it has. The filter on the port, which every packet passes first,
 * writes down the header's addresses for each pair of IP addresses, and for each TCP connection
 * them and the segment size (bpf_link_get()). With them another host can say the packet (replay.c),
 * and one that the gate cuts becomes two frames that go by the tap; when the rest of it has gone,
 * or is discarded, the packet in the queue is dropped. Until then it is what holds its place: if
 * this process dies between the two parts, the rest is lost, and TCP repeats it.
 *
 * Invariants: without a listener the rule drops (no bypass flag, no fail-open flag). Verdicts go
 * out one for each packet, many in one sendmsg: NFQNL_MSG_VERDICT_BATCH would accept every packet
 * up to an id, and the hold releases by flow. A lost packet or verdict is counted, never ignored.
 *
 * Limits:
 * - What the tap released keeps its mark, since the rule must let it by: the holds and intercepts
 * of one host need different marks.
 * - It is as strong as the rule set. Whoever flushes the raw table, or sets bridge-nf-call-iptables
 *   to 0, opens the hold. Whoever deletes a base chain of this namespace makes the kernel drop what
 *   is held (ENOENT for later verdicts: verdict_lost). hold_tap.c has neither weakness.
 * - br_netfilter drops packets with a bad IP header checksum, and reassembles fragments as soon as
 *   a conntrack rule exists.
 * - NFQUEUE tells neither gso_size nor the segmentation type. The type is inferred from the
 *   protocol; gso_size is that of the connection's newest superframe (TCP), or 0.
 * - TCP behind IPv4 options or IPv6 extension headers is not cut. Packets that were put together
 *   from fragments are not, and no other host says them, nor superframes of UDP.
 * - Where a partial checksum goes is inferred, too. A tunnel's UDP packet with one inside, which no
 *   other host could finish, is known by its own checksum; by chance, one of 65,536 is not.
 * - A part that goes by the tap is in order with what is released before and after it, unless the
 *   kernel handles the tap's frames on another processor (receive packet steering of the tap).
 * - 65,531 bytes at most: a longer packet is handed out short (len < the IP header's length), can
 *   be released as it is and not rewritten.
 */
#include "colo-proxy/core/checksum.h"
#include "colo-proxy/datapath/divert.h"
#include "colo-proxy/datapath/hold.h"
#include "colo-proxy/datapath/netif.h"
#include "colo-proxy/datapath/netlink.h"
#include "colo-proxy/datapath/tc.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <libnetfilter_queue/libnetfilter_queue.h>
#include <linux/if_ether.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <netinet/in.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define RECEIVE_BYTES (128u << 10)
#define BATCH_BYTES   (128u << 10)
#define VERDICT_BYTES 64u /* headers and attributes of a verdict without payload, rounded up */
#define SOCKET_BYTES  (64 << 20)
#define COPY_RANGE    0xffffu
#define TCP_BYTES     20u
#define TCP_CWR       0x80
#define UDP_BYTES     8u
#define KNOWN         16u

enum origin { ORIGIN_QUEUE, ORIGIN_TAP };

struct hold_nfqueue_state {
	struct hold hold;
	struct divert divert;
	struct mnl_socket *nl;
	uint16_t queue;
	uint32_t mark;
	char port[IFNAMSIZ];
	bool ruled[2]; /* IPv4, IPv6: the rule is there */
	uint8_t *in;
	uint8_t *batch;
	size_t batched;
	int mtu; /* of the port */
	struct known {
		bool is;
		struct bpf_flow flow;
		struct bpf_link link;
	} known[KNOWN]; /* links that were looked up in this call of queue_receive() */
};

static const char *const tables[2] = {"/usr/sbin/iptables", "/usr/sbin/ip6tables"};

/* ---- rules and sysctls ---- */

/* Runs iptables; its first line of complaint goes to `err`. 0, or 1 (as it says no), or -errno. */
static int run_iptables(const char *program, char *const argv[], char *err, size_t errlen)
{
	posix_spawn_file_actions_t actions;
	char *env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	char said[200] = "";
	int status = 0;
	int fds[2];
	ssize_t got;
	pid_t pid;
	int ret;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, fds[1], 2);
	ret = posix_spawn(&pid, program, &actions, NULL, argv, env);
	posix_spawn_file_actions_destroy(&actions);
	close(fds[1]);
	if (ret) {
		close(fds[0]);
		return netlink_error(err, errlen, -ret, "%s: %s; install iptables", program,
		                     strerror(ret));
	}
	got = read(fds[0], said, sizeof(said) - 1);
	said[got > 0 ? got : 0] = '\0';
	said[strcspn(said, "\n")] = '\0';
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR) {
			close(fds[0]);
			return -errno;
		}
	close(fds[0]);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	netlink_error(err, errlen, 1, "%s: %s", program, said);
	return 1;
}

/* action: -A, -C or -D */
static int rule(const struct hold_nfqueue_state *s, int family, const char *action, char *err,
                size_t errlen)
{
	char number[8];
	char mark[12];
	char *argv[] = {(char *)tables[family],
	                "-w",
	                "-t",
	                "raw",
	                (char *)action,
	                "PREROUTING",
	                "-m",
	                "mark",
	                "!",
	                "--mark",
	                mark,
	                "-m",
	                "physdev",
	                "--physdev-in",
	                (char *)s->port,
	                "-j",
	                "NFQUEUE",
	                "--queue-num",
	                number,
	                NULL};

	snprintf(number, sizeof(number), "%u", s->queue);
	snprintf(mark, sizeof(mark), "0x%x", s->mark);
	return run_iptables(tables[family], argv, err, errlen);
}

/* Adds the rules that are not there yet (an earlier process may have left its own). */
static int add_rules(struct hold_nfqueue_state *s, char *err, size_t errlen)
{
	for (int family = 0; family < 2; family++) {
		int ret;

		if (s->ruled[family])
			continue;
		ret = rule(s, family, "-C", err, errlen);
		if (ret == 1)
			ret = rule(s, family, "-A", err, errlen);
		if (ret)
			return ret < 0 ? ret : -EOPNOTSUPP;
		s->ruled[family] = true;
	}
	return 0;
}

static int remove_rules(struct hold_nfqueue_state *s)
{
	int ret = 0;

	for (int family = 0; family < 2; family++) {
		int failed;

		if (!s->ruled[family])
			continue;
		failed = rule(s, family, "-D", NULL, 0);
		if (failed)
			ret = failed < 0 ? failed : -EIO;
		else
			s->ruled[family] = false;
	}
	return ret;
}

/* The same rules of an earlier process would queue what is to pass. */
static int remove_left_rules(struct hold_nfqueue_state *s, char *err, size_t errlen)
{
	for (int family = 0; family < 2; family++) {
		int ret = rule(s, family, "-C", err, errlen);

		if (ret < 0)
			return ret;
		s->ruled[family] = ret == 0;
	}
	return remove_rules(s);
}

static int set_sysctl(const char *key, const char *value, char *err, size_t errlen)
{
	char path[96];
	int ret = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/bridge/%s", key);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, 1) != 1)
		ret = -errno;
	if (fd >= 0)
		close(fd);
	if (ret < 0)
		return netlink_error(err, errlen, ret,
		                     "%s: %s; load the module br_netfilter, or use the hold-tap "
		                     "back end",
		                     path, strerror(-ret));
	return 0;
}

/* Tagged and PPPoE frames go by the tap; br_netfilter would show them a second time. */
static int set_sysctls(char *err, size_t errlen)
{
	int ret = set_sysctl("bridge-nf-call-iptables", "1", err, errlen);

	if (ret == 0)
		ret = set_sysctl("bridge-nf-call-ip6tables", "1", err, errlen);
	if (ret == 0)
		ret = set_sysctl("bridge-nf-filter-vlan-tagged", "0", err, errlen);
	if (ret == 0)
		ret = set_sysctl("bridge-nf-filter-pppoe-tagged", "0", err, errlen);
	return ret;
}

/* ---- the queue's socket ---- */

static int send_config(struct hold_nfqueue_state *s, struct nlmsghdr *nlh)
{
	uint8_t reply[MNL_SOCKET_BUFFER_SIZE];
	struct pollfd p = {.fd = mnl_socket_get_fd(s->nl), .events = POLLIN};
	ssize_t got;

	nlh->nlmsg_flags |= NLM_F_ACK;
	if (mnl_socket_sendto(s->nl, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	if (poll(&p, 1, 1000) != 1)
		return -ETIMEDOUT;
	got = mnl_socket_recvfrom(s->nl, reply, sizeof(reply));
	if (got < 0)
		return -errno;
	/* Nothing else comes yet: the port is shut until the queue is set up. */
	return mnl_cb_run(reply, (size_t)got, 0, 0, NULL, NULL) < 0 ? -errno : 0;
}

static int configure(struct hold_nfqueue_state *s, unsigned max_frames)
{
	uint8_t buffer[256];
	struct nlmsghdr *nlh = nfq_nlmsg_put((char *)buffer, NFQNL_MSG_CONFIG, s->queue);
	int ret;

	nfq_nlmsg_cfg_put_cmd(nlh, AF_UNSPEC, NFQNL_CFG_CMD_BIND);
	ret = send_config(s, nlh);
	if (ret < 0)
		return ret;
	nlh = nfq_nlmsg_put((char *)buffer, NFQNL_MSG_CONFIG, s->queue);
	nfq_nlmsg_cfg_put_params(nlh, NFQNL_COPY_PACKET, COPY_RANGE);
	nfq_nlmsg_cfg_put_qmaxlen(nlh, max_frames ? max_frames : TAPDEV_TXQUEUELEN);
	mnl_attr_put_u32(nlh, NFQA_CFG_FLAGS, htonl(NFQA_CFG_F_GSO));
	mnl_attr_put_u32(nlh, NFQA_CFG_MASK, htonl(NFQA_CFG_F_GSO | NFQA_CFG_F_FAIL_OPEN));
	return send_config(s, nlh);
}

static int open_queue(struct hold_nfqueue_state *s, unsigned max_frames, char *err, size_t errlen)
{
	int size = SOCKET_BYTES;
	int fd;
	int ret;

	s->nl = mnl_socket_open2(NETLINK_NETFILTER, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (!s->nl || mnl_socket_bind(s->nl, 0, MNL_SOCKET_AUTOPID) < 0)
		return netlink_error(err, errlen, -errno, "netfilter netlink: %s", strerror(errno));
	fd = mnl_socket_get_fd(s->nl);
	/* ENOBUFS stays on (no NETLINK_NO_ENOBUFS): it is how a loss is known at once. */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0)
		return netlink_error(err, errlen, -errno,
		                     "cannot set the queue's socket buffer: %s; CAP_NET_ADMIN is "
		                     "needed",
		                     strerror(errno));
	ret = configure(s, max_frames);
	if (ret < 0)
		return netlink_error(err, errlen, ret,
		                     "NFQUEUE %u: %s; is the number in use, is nfnetlink_queue "
		                     "loaded?",
		                     s->queue, strerror(-ret));
	return 0;
}

/* Packets that the kernel dropped for this queue: /proc/net/netfilter/nfnetlink_queue, proc(5). */
static int kernel_drops(const struct hold_nfqueue_state *s, uint64_t *ret_drops)
{
	FILE *file = fopen("/proc/thread-self/net/netfilter/nfnetlink_queue", "re");
	unsigned queue, port, total, mode, range, full, user;
	char line[160];
	int ret = -ENOENT;

	if (!file)
		return -errno;
	while (ret < 0 && fgets(line, sizeof(line), file))
		if (sscanf(line, "%u %u %u %u %u %u %u", &queue, &port, &total, &mode, &range,
		           &full, &user) == 7 &&
		    queue == s->queue) {
			*ret_drops = (uint64_t)full + user;
			ret = 0;
		}
	fclose(file);
	return ret;
}

/* ---- packets ---- */

/* A packet's transport header; at 0 when there is none to be found. */
struct transport {
	unsigned at;
	uint8_t proto;
	bool v4;
};

static struct transport find_transport(const struct frame *f)
{
	const uint8_t *ip = f->data;
	struct transport t = {.v4 = f->len >= 20 && ip[0] >> 4 == 4};

	if (t.v4) {
		t.proto = ip[9];
		t.at = (ip[0] & 15u) * 4;
	} else if (f->len >= 40 && ip[0] >> 4 == 6) {
		t.proto = ip[6];
		t.at = 40;
		/* Hop-by-hop options, routing and destination options (RFC 8200 section 4). */
		while ((t.proto == 0 || t.proto == 43 || t.proto == 60) && t.at + 8 <= f->len) {
			t.proto = ip[t.at];
			t.at += (ip[t.at + 1] + 1u) * 8;
		}
	}
	return t;
}

/* What NFQA_SKB_INFO says, in the words of the virtio-net header. */
static void set_metadata(struct frame *f, const struct transport *t, uint32_t info)
{
	bool tcp = t->proto == IPPROTO_TCP;

	if (!t->at || t->at >= f->len || (!tcp && t->proto != IPPROTO_UDP))
		return;
	if (info & NFQA_SKB_CSUMNOTREADY) {
		f->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		f->vnet.csum_start = (uint16_t)t->at;
		f->vnet.csum_offset = tcp ? 16 : 6;
	}
	if ((info & NFQA_SKB_GSO) && tcp)
		f->vnet.gso_type = t->v4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	else if (info & NFQA_SKB_GSO)
		f->vnet.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
}

/* The key under which the port's filter has learned: addresses, and TCP's ports behind them. */
static struct bpf_flow flow_of(const struct frame *f, const struct transport *t)
{
	struct bpf_flow flow = {0};
	unsigned len = t->v4 ? BPF_FLOW_IPV4 : sizeof(flow.bytes);

	if (t->proto != IPPROTO_TCP)
		len -= BPF_FLOW_PORTS;
	memcpy(flow.bytes, f->data + (t->v4 ? 12 : 8), len);
	return flow;
}

/* One system call for the packets of a key that are received together. NULL: not learned. */
static const struct bpf_link *find_link(struct hold_nfqueue_state *s, const struct bpf_flow *flow)
{
	const uint8_t *b = flow->bytes; /* the ports are in 8 to 11, or in 32 to 35 */
	struct known *known = &s->known[(b[7] ^ b[9] ^ b[11] ^ b[31] ^ b[33] ^ b[35]) % KNOWN];

	if (!known->is || memcmp(&known->flow, flow, sizeof(*flow)) != 0) {
		known->is = bpf_link_get(s->divert.links_fd, flow, &known->link) == 0;
		known->flow = *flow;
	}
	return known->is ? &known->link : NULL;
}

/* TCP that the gate may have to cut in two. */
static bool is_cuttable(const struct frame *f, const struct transport *t)
{
	return t->at == (t->v4 ? 20 : 40) && f->len >= t->at + TCP_BYTES &&
	       f->len > t->at + (f->data[t->at + 12] >> 4) * 4u + 1;
}

/*
 * Another host could finish the checksum of a packet that is no TCP. Where that goes is inferred:
 * UDP has the sum of its pseudo header there, or it is that of a packet in a tunnel.
 */
static bool is_finishable(const struct frame *f, const struct transport *t, uint32_t info)
{
	const uint8_t *udp;
	uint64_t sum;

	if (!(info & NFQA_SKB_CSUMNOTREADY))
		return true;
	if (t->proto != IPPROTO_UDP || f->len < t->at + UDP_BYTES)
		return false;
	udp = f->data + t->at;
	sum = checksum_add(IPPROTO_UDP, udp + 4, 2); /* its length, and the addresses */
	sum = checksum_add(sum, f->data + (t->v4 ? 12 : 8), t->v4 ? 8 : 32);
	return checksum_fold(sum) == (udp[6] << 8 | udp[7]);
}

/*
 * Puts the Ethernet header in front of a packet that the gate may have to cut in two, or another
 * host may have to say, and completes a superframe's metadata. Without a token its verdict could
 * not be found when it was cut: the kernel's number has wrapped. What is too long for one frame was
 * put together from fragments.
 */
static void link_packet(struct hold_nfqueue_state *s, struct frame *f, const struct transport *t,
                        uint32_t info)
{
	bool tcp = t->proto == IPPROTO_TCP, super = f->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE;
	uint16_t type = t->v4 ? ETH_P_IP : ETH_P_IPV6;
	const struct bpf_link *link;
	struct bpf_flow flow;

	if (!t->at || !f->token || !(tcp ? is_cuttable(f, t) : is_finishable(f, t, info)))
		return;
	flow = flow_of(f, t);
	link = find_link(s, &flow);
	if (!link || (super ? !tcp || !link->segment : (int)f->len > s->mtu))
		return;
	if (super) {
		f->vnet.gso_size = (uint16_t)link->segment;
		if (f->data[t->at + 13] & TCP_CWR)
			f->vnet.gso_type |= VIRTIO_NET_HDR_GSO_ECN;
	}
	memcpy(f->data - FRAME_LINK, link->addresses, sizeof(link->addresses));
	f->data[-2] = type >> 8;
	f->data[-1] = type & 0xff;
	f->linked = true;
}

struct parse {
	struct hold_nfqueue_state *s;
	struct frame *frame;
	int code;
};

static int on_packet(const struct nlmsghdr *nlh, void *arg)
{
	struct nlattr *attr[NFQA_MAX + 1] = {0};
	struct parse *parse = arg;
	struct transport transport;
	struct frame *f;
	uint32_t info = 0;
	size_t len;

	if (nfq_nlmsg_parse(nlh, attr) < 0 || !attr[NFQA_PACKET_HDR] || !attr[NFQA_PAYLOAD]) {
		parse->code = -EPROTO;
		return MNL_CB_ERROR;
	}
	len = mnl_attr_get_payload_len(attr[NFQA_PAYLOAD]);
	f = frame_new(len);
	if (!f) {
		parse->code = -ENOMEM;
		return MNL_CB_ERROR;
	}
	memcpy(f->data, mnl_attr_get_payload(attr[NFQA_PAYLOAD]), len);
	f->len = (uint32_t)len;
	f->start = FRAME_AT_IP;
	f->origin = ORIGIN_QUEUE;
	f->token =
	        ntohl(((struct nfqnl_msg_packet_hdr *)mnl_attr_get_payload(attr[NFQA_PACKET_HDR]))
	                      ->packet_id);
	if (attr[NFQA_SKB_INFO])
		info = ntohl(mnl_attr_get_u32(attr[NFQA_SKB_INFO]));
	transport = find_transport(f);
	set_metadata(f, &transport, info);
	link_packet(parse->s, f, &transport, info);
	if (attr[NFQA_CAP_LEN] && ntohl(mnl_attr_get_u32(attr[NFQA_CAP_LEN])) > len)
		parse->s->hold.count.truncated++;
	parse->frame = f;
	return MNL_CB_OK;
}

/*
 * One message from the queue: *ret_frame stays NULL when it was the kernel's complaint about a
 * verdict. A packet that memory was short for stays held by the kernel for ever: the caller asks
 * for a checkpoint on any error.
 */
static int receive_one(struct hold_nfqueue_state *s, struct frame **ret_frame)
{
	struct parse parse = {.s = s};
	ssize_t got = mnl_socket_recvfrom(s->nl, s->in, RECEIVE_BYTES);

	if (got < 0 && errno == ENOBUFS) {
		s->hold.count.overruns++;
		return 0;
	}
	if (got < 0)
		return -errno;
	if (mnl_cb_run(s->in, (size_t)got, 0, 0, on_packet, &parse) < 0) {
		if (parse.code)
			return parse.code;
		if (errno != ENOENT)
			return -errno;
		s->hold.count.verdict_lost++;
	}
	*ret_frame = parse.frame;
	return 0;
}

static int queue_receive(struct hold *hold, struct frame **ret_list, unsigned max)
{
	struct hold_nfqueue_state *s = (struct hold_nfqueue_state *)hold;
	struct frame *list = NULL;
	struct frame **end = &list;
	unsigned n = 0;
	int ret;

	for (unsigned i = 0; i < KNOWN; i++)
		s->known[i].is = false;
	ret = divert_receive(&s->divert, &list, max);
	if (ret < 0)
		return ret;
	n = (unsigned)ret;
	for (; *end; end = &(*end)->next)
		(*end)->origin = ORIGIN_TAP;
	while (n < max) {
		ret = receive_one(s, end);
		if (ret < 0)
			break;
		if (*end) {
			end = &(*end)->next;
			n++;
		}
	}
	if (n == 0 && ret < 0 && ret != -EAGAIN)
		return ret;
	*ret_list = list;
	return (int)n;
}

/* ---- verdicts ---- */

static int queue_flush(struct hold *hold)
{
	struct hold_nfqueue_state *s = (struct hold_nfqueue_state *)hold;

	if (!s->batched)
		return 0;
	if (mnl_socket_sendto(s->nl, s->batch, s->batched) < 0)
		return -errno;
	s->batched = 0;
	return 0;
}

static int put_verdict(struct hold_nfqueue_state *s, const struct frame *f, int verdict,
                       bool with_payload)
{
	size_t need = VERDICT_BYTES + (with_payload ? f->len : 0);
	struct nlmsghdr *nlh;

	if (s->batched + need > BATCH_BYTES) {
		int ret = queue_flush(&s->hold);

		if (ret < 0)
			return ret;
	}
	nlh = nfq_nlmsg_put((char *)s->batch + s->batched, NFQNL_MSG_VERDICT, s->queue);
	nfq_nlmsg_verdict_put(nlh, (int)f->token, verdict);
	if (with_payload)
		mnl_attr_put(nlh, NFQA_PAYLOAD, f->len, f->data);
	s->batched += MNL_ALIGN(nlh->nlmsg_len);
	return 0;
}

/*
 * A changed packet is taken over by the kernel as one whose checksum is complete. For a superframe
 * it computes that anew when it segments; for others it is done here.
 */
static void complete_checksum(struct frame *f)
{
	unsigned start = f->vnet.csum_start;
	unsigned field = start + f->vnet.csum_offset;
	uint16_t sum;

	if (!(f->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || f->vnet.gso_type ||
	    field + 2 > f->len)
		return;
	sum = checksum_fold(checksum_add(0, f->data + start, f->len - start)) ^ 0xffff;
	if (sum == 0 && f->vnet.csum_offset == 6)
		sum = 0xffff; /* UDP: 0 would mean none (RFC 768) */
	f->data[field] = (uint8_t)(sum >> 8);
	f->data[field + 1] = (uint8_t)sum;
	f->vnet.flags = 0;
}

static bool is_whole(const struct frame *f)
{
	if (f->data[0] >> 4 == 4)
		return f->len >= 4 && (f->data[2] << 8 | f->data[3]) <= (int)f->len;
	return f->len >= 40 && (f->data[4] << 8 | f->data[5]) + 40 <= (int)f->len;
}

/* The kernel holds a packet for it. What was cut off one has no token. */
static bool is_queued(const struct frame *f)
{
	return f->origin == ORIGIN_QUEUE && (f->start == FRAME_AT_IP || f->token);
}

/*
 * What was released before it goes out before it. Of a packet that was cut, the rest is not needed
 * in the queue any more when it is out; its verdict finds the batch empty and cannot fail.
 */
static int write_to_tap(struct hold_nfqueue_state *s, const struct frame *f)
{
	int ret = queue_flush(&s->hold);

	if (ret == 0)
		ret = tapdev_write(s->divert.tap_fd, f);
	if (ret == 0 && is_queued(f))
		ret = put_verdict(s, f, NF_DROP, false);
	return ret;
}

static int queue_release(struct hold *hold, struct frame *f, bool rewritten)
{
	struct hold_nfqueue_state *s = (struct hold_nfqueue_state *)hold;
	int ret;

	if (f->start != FRAME_AT_IP) {
		ret = write_to_tap(s, f);
	} else {
		if (rewritten && !is_whole(f))
			return -EINVAL;
		if (rewritten)
			complete_checksum(f);
		ret = put_verdict(s, f, NF_ACCEPT, rewritten);
	}
	if (ret == 0)
		frame_free(f);
	return ret;
}

static int queue_discard(struct hold *hold, struct frame *f)
{
	struct hold_nfqueue_state *s = (struct hold_nfqueue_state *)hold;
	int ret = 0;

	if (is_queued(f))
		ret = put_verdict(s, f, NF_DROP, false);
	frame_free(f);
	return ret;
}

/* ---- the rest of the table ---- */

static int queue_fds(const struct hold *hold, int ret_fds[2])
{
	const struct hold_nfqueue_state *s = (const struct hold_nfqueue_state *)hold;

	ret_fds[0] = s->divert.tap_fd;
	ret_fds[1] = mnl_socket_get_fd(s->nl);
	return 2;
}

/* Towards HOLD the rules come first, towards PASS they go last: what is not ruled is shut. */
static int queue_set_mode(struct hold *hold, enum hold_mode mode)
{
	struct hold_nfqueue_state *s = (struct hold_nfqueue_state *)hold;
	int ret = 0;

	if (mode == HOLD_MODE_DROP)
		return divert_set_mode(&s->divert, BPF_MODE_DROP);
	if (mode == HOLD_MODE_HOLD) {
		ret = add_rules(s, NULL, 0);
		return ret < 0 ? ret : divert_set_mode(&s->divert, BPF_MODE_DIVERT);
	}
	ret = remove_rules(s);
	return ret < 0 ? ret : divert_set_mode(&s->divert, BPF_MODE_PASS);
}

/*
 * br_netfilter sees only what enters a bridge. On a port that is on none (a secondary's), IP would
 * reach the host itself: there the tap holds it too.
 */
static int choose_hook(struct hold_nfqueue_state *s)
{
	s->mtu = netif_mtu(s->port);
	return divert_set_leave_ip(&s->divert, netif_master(s->port) > 0);
}

static int queue_set_mute(struct hold *hold, bool mute)
{
	struct hold_nfqueue_state *s = (struct hold_nfqueue_state *)hold;
	int ret = choose_hook(s);

	return ret < 0 ? ret : divert_set_reentry(&s->divert, !mute);
}

static void queue_counters(struct hold *hold, struct hold_counters *ret_counters)
{
	struct hold_nfqueue_state *s = (struct hold_nfqueue_state *)hold;
	uint64_t taps = 0;
	uint64_t drops = 0;

	/* Without either figure the last known one stands: a count never goes back. */
	if (tap_counter_read(&s->divert.tap, TAP_TX_DROPPED, &taps) == 0 &&
	    kernel_drops(s, &drops) == 0)
		hold->count.kernel_dropped = taps + drops;
	*ret_counters = hold->count;
}

static void queue_close(struct hold *hold)
{
	struct hold_nfqueue_state *s = (struct hold_nfqueue_state *)hold;
	bool open_port = hold->mode == HOLD_MODE_PASS;

	/* Shut first: after the rules are gone only the port's filter keeps the VM silent. */
	if (!open_port)
		divert_set_mode(&s->divert, BPF_MODE_DROP);
	remove_rules(s);
	divert_close(&s->divert, open_port);
	if (s->nl)
		mnl_socket_close(s->nl);
	free(s->in);
	free(s->batch);
	free(s);
}

/* Ends a hold that could not be opened; what it was asked to shut stays shut. */
static int fail(struct hold_nfqueue_state *s, int code)
{
	queue_close(&s->hold);
	return code;
}

static int queue_open(const struct hold_params *params, struct hold **ret_hold, char *err,
                      size_t errlen)
{
	struct divert_params divert = {.port = params->port, .side = TC_SIDE_INGRESS};
	struct hold_nfqueue_state *s;
	int ret;

	if (strlen(params->port) >= IFNAMSIZ)
		return netlink_error(err, errlen, -ENODEV, "there is no interface %s",
		                     params->port);
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->hold.ops = &hold_nfqueue;
	s->hold.mode = params->mode;
	s->hold.mute = params->mute;
	s->queue = params->queue;
	s->mark = params->mark;
	snprintf(s->port, sizeof(s->port), "%s", params->port);
	divert.tap_name = params->tap_name ? params->tap_name : "colo%d";
	divert.mark = params->mark;
	divert.keep_mark = true; /* for the rule: what the tap released is not queued again */
	divert.learn = true;
	divert.reentry = !params->mute;
	divert.queue = params->max_frames;
	divert.mode = params->mode == HOLD_MODE_PASS ? BPF_MODE_PASS : BPF_MODE_DROP;
	ret = divert_open(&s->divert, &divert, err, errlen);
	if (ret < 0) {
		free(s);
		return ret;
	}
	s->in = malloc(RECEIVE_BYTES);
	s->batch = malloc(BATCH_BYTES);
	if (!s->in || !s->batch)
		return fail(s, -ENOMEM);
	ret = set_sysctls(err, errlen);
	if (ret == 0)
		ret = choose_hook(s);
	if (ret == 0)
		ret = open_queue(s, params->max_frames, err, errlen);
	if (ret == 0 && params->mode == HOLD_MODE_HOLD)
		ret = add_rules(s, err, errlen);
	else if (ret == 0)
		ret = remove_left_rules(s, err, errlen);
	if (ret == 0 && params->mode == HOLD_MODE_HOLD)
		ret = divert_set_mode(&s->divert, BPF_MODE_DIVERT);
	if (ret < 0)
		return fail(s, ret);
	*ret_hold = &s->hold;
	return 0;
}

const struct hold_ops hold_nfqueue = {
        .name = "nfqueue",
        .open = queue_open,
        .fds = queue_fds,
        .receive = queue_receive,
        .release = queue_release,
        .discard = queue_discard,
        .flush = queue_flush,
        .set_mode = queue_set_mode,
        .set_mute = queue_set_mute,
        .counters = queue_counters,
        .close = queue_close,
};
