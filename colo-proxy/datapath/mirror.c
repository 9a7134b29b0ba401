/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * A packet socket on the VM's port with a classic BPF filter that lets only outgoing frames in. The
 * kernel hands a frame to packet sockets right before the tap's driver, after every queue and
 * filter, so the socket's order is the VM's. The tap then counts in tx_packets when the reader
 * takes a frame, and in tx_dropped when it had no room for it.
 *
 * With `base` the value of tx_packets when the VM had taken exactly the frames before our number 0,
 * tx_packets - base of ours are taken. mirror_align() finds it in a moment when the socket is read
 * empty and the tap is empty: then everything received is taken. A frame that another CPU carries
 * from the socket to the tap in just that moment would make it wrong by one; two calls in turn that
 * agree rule that out.
 *
 * The socket loses a copy when its buffer is full, and then all that is in it came before. So the
 * first `sure` frames after it was found empty, as many as the buffer takes at the least, are from
 * before any loss: only beyond them is the kernel asked.
 */
#include "colo-proxy/datapath/mirror.h"

#include "colo-proxy/datapath/netif.h"
#include "colo-proxy/datapath/netlink.h"
#include "colo-proxy/datapath/tapdev.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SOCKET_HEADER 10u /* packet sockets give struct virtio_net_hdr, without num_buffers */
#define TAG_BYTES     4u
#define BUFFER_BYTES  (64u << 20)
#define FRAME_COST    (1u << 20) /* no frame takes as much of the socket's buffer */
#define VECTOR        8u         /* frames of one system call */

struct mirror {
	int fd;
	struct tap_counters port;
	struct frame *spare[VECTOR];
	unsigned sure, run; /* see above; frames received since the socket was found empty */
	struct mirror_counters count;
	uint64_t drop_base; /* tx_dropped at the start */
	bool lost;          /* -ENOBUFS is due */
	bool aligned;
	bool candidate;
	uint64_t base;    /* see above; valid when aligned or candidate */
	uint64_t dropped; /* tx_dropped when it was taken */
};

/* Outgoing frames only, up to the largest one. */
static int attach_filter(int fd)
{
	struct sock_filter code[] = {
	        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_AD_OFF + SKF_AD_PKTTYPE),
	        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, PACKET_OUTGOING, 0, 1),
	        BPF_STMT(BPF_RET | BPF_K, 0x40000),
	        BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog filter = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) < 0
	               ? netlink_errno()
	               : 0;
}

static int set_options(int fd, unsigned buffer)
{
	int size = (int)(buffer ? buffer : BUFFER_BYTES);
	int on = 1;

	if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on)) < 0)
		return netlink_errno();
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0 &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)) < 0)
		return netlink_errno();
	return attach_filter(fd);
}

static int open_socket(struct mirror *m, int ifindex, unsigned buffer, char *err, size_t errlen)
{
	struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
	socklen_t len = sizeof(int);
	int room = 0;
	int ret;

	/* Protocol 0 until it is bound: no frame gets in before the filter. */
	m->fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (m->fd < 0)
		return netlink_error(err, errlen, netlink_errno(),
		                     "packet socket: %s; CAP_NET_RAW is needed", strerror(errno));
	ret = set_options(m->fd, buffer);
	if (ret == 0 && getsockopt(m->fd, SOL_SOCKET, SO_RCVBUF, &room, &len) < 0)
		ret = netlink_errno();
	m->sure = (unsigned)room / FRAME_COST;
	at.sll_ifindex = ifindex;
	if (ret == 0 && bind(m->fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		ret = netlink_errno();
	if (ret < 0)
		return netlink_error(err, errlen, ret, "packet socket for the mirror: %s",
		                     strerror(-ret));
	return 0;
}

int mirror_open(const char *port, unsigned buffer, struct mirror **ret_mirror, char *err,
                size_t errlen)
{
	int ifindex = netif_index(port);
	struct mirror *m;
	int ret;

	if (ifindex < 0)
		return netlink_error(err, errlen, ifindex, "there is no interface %s", port);
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->fd = -1;
	ret = tap_counters_open(&m->port, port);
	if (ret < 0)
		netlink_error(err, errlen, ret, "counters of %s: %s", port, strerror(-ret));
	if (ret == 0)
		ret = tap_counter_read(&m->port, TAP_TX_DROPPED, &m->drop_base);
	if (ret == 0)
		ret = open_socket(m, ifindex, buffer, err, errlen);
	if (ret < 0) {
		mirror_close(m);
		return ret;
	}
	*ret_mirror = m;
	return 0;
}

int mirror_fd(const struct mirror *m)
{
	return m->fd;
}

static void copies_lost(struct mirror *m)
{
	m->lost = true;
	m->aligned = false;
	m->candidate = false;
}

/* The kernel's count of lost copies, which a reading sets to zero. */
static void check_loss(struct mirror *m)
{
	struct tpacket_stats stats = {0};
	socklen_t len = sizeof(stats);

	if (getsockopt(m->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &len) < 0 || !stats.tp_drops)
		return;
	m->count.kernel_dropped += stats.tp_drops;
	copies_lost(m);
}

/* Puts the tag back that the kernel keeps beside the frame, into the frame's headroom. */
static void put_tag(struct frame *f, unsigned tpid, unsigned tci)
{
	f->data -= TAG_BYTES;
	memmove(f->data, f->data + TAG_BYTES, 2 * ETH_ALEN);
	f->data[12] = (uint8_t)(tpid >> 8);
	f->data[13] = (uint8_t)tpid;
	f->data[14] = (uint8_t)(tci >> 8);
	f->data[15] = (uint8_t)tci;
	f->len += TAG_BYTES;
	if (f->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		f->vnet.csum_start += TAG_BYTES;
	if (f->vnet.gso_type != VIRTIO_NET_HDR_GSO_NONE)
		f->vnet.hdr_len += TAG_BYTES;
}

static void restore_tag(struct frame *f, struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		struct tpacket_auxdata aux;

		if (c->cmsg_level != SOL_PACKET || c->cmsg_type != PACKET_AUXDATA ||
		    c->cmsg_len < CMSG_LEN(sizeof(aux)))
			continue;
		memcpy(&aux, CMSG_DATA(c), sizeof(aux));
		if ((aux.tp_status & TP_STATUS_VLAN_VALID) && f->len >= ETH_HLEN)
			put_tag(f,
			        aux.tp_status & TP_STATUS_VLAN_TPID_VALID ? aux.tp_vlan_tpid
			                                                  : ETH_P_8021Q,
			        aux.tp_vlan_tci);
	}
}

struct slot {
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(struct tpacket_auxdata)) + 64];
	struct iovec iov[2];
};

/* Receives up to `want` frames into the spare ones; their number, or a negative errno. */
static int receive(struct mirror *m, struct mmsghdr *vector, struct slot *slots, unsigned want)
{
	int got;

	for (unsigned i = 0; i < want; i++) {
		struct slot *slot = &slots[i];

		if (!m->spare[i])
			m->spare[i] = frame_new(FRAME_MAX_LEN);
		if (!m->spare[i])
			return -ENOMEM;
		slot->iov[0] = (struct iovec){&m->spare[i]->vnet, SOCKET_HEADER};
		slot->iov[1] = (struct iovec){m->spare[i]->data, m->spare[i]->room};
		vector[i].msg_hdr = (struct msghdr){
		        .msg_iov = slot->iov,
		        .msg_iovlen = 2,
		        .msg_control = slot->control,
		        .msg_controllen = sizeof(slot->control),
		};
	}
	got = recvmmsg(m->fd, vector, want, 0, NULL);
	return got < 0 ? netlink_errno() : got;
}

/* The frame in spare i; NULL when it could not be kept. */
static struct frame *take(struct mirror *m, unsigned i, struct mmsghdr *message)
{
	struct frame *frame = m->spare[i];
	struct frame *fit;

	if (message->msg_len < SOCKET_HEADER || (message->msg_hdr.msg_flags & MSG_TRUNC))
		return NULL;
	frame->len = message->msg_len - SOCKET_HEADER;
	restore_tag(frame, &message->msg_hdr);
	fit = tapdev_fit(&m->spare[i]);
	if (m->spare[i])
		m->spare[i]->data = (uint8_t *)(m->spare[i] + 1) + FRAME_HEADROOM;
	return fit;
}

int mirror_receive(struct mirror *m, struct frame **ret_list, unsigned max)
{
	struct mmsghdr vector[VECTOR];
	struct slot slots[VECTOR];
	struct frame *list = NULL;
	struct frame **end = &list;
	unsigned n = 0;
	int got = 0;

	if (m->run + max > m->sure)
		check_loss(m);
	while (!m->lost && n < max) {
		unsigned want = max - n < VECTOR ? max - n : VECTOR;

		got = receive(m, vector, slots, want);
		for (int i = 0; i < got; i++) {
			*end = take(m, (unsigned)i, &vector[i]);
			if (*end) {
				end = &(*end)->next;
				n++;
			} else {
				copies_lost(m);
			}
		}
		m->run = got < (int)want ? 0 : m->run + want;
		if (got < (int)want)
			break;
	}
	if (n == 0 && m->lost) {
		m->lost = false;
		return -ENOBUFS;
	}
	if (n == 0 && got < 0 && got != -EAGAIN)
		return got;
	m->count.received += n;
	*ret_list = list;
	return (int)n;
}

static bool socket_empty(const struct mirror *m)
{
	char byte;

	return recv(m->fd, &byte, 1, MSG_PEEK | MSG_TRUNC) < 0 && errno == EAGAIN;
}

int mirror_align(struct mirror *m, int tap_fd)
{
	uint64_t taken;
	uint64_t dropped;
	int ret;

	check_loss(m);
	if (!socket_empty(m) || tapdev_pending(tap_fd))
		return -EAGAIN;
	ret = tap_counter_read(&m->port, TAP_TX_PACKETS, &taken);
	if (ret == 0)
		ret = tap_counter_read(&m->port, TAP_TX_DROPPED, &dropped);
	if (ret != 0)
		return ret;
	if (!socket_empty(m))
		return -EAGAIN;
	taken -= m->count.received;
	m->aligned = m->candidate && m->base == taken && m->dropped == dropped;
	m->candidate = true;
	m->base = taken;
	m->dropped = dropped;
	return m->aligned ? 0 : -EAGAIN;
}

bool mirror_aligned(const struct mirror *m)
{
	return m->aligned;
}

int mirror_taken(struct mirror *m, uint64_t *ret_taken)
{
	uint64_t taken;
	uint64_t dropped;
	int ret;

	check_loss(m);
	ret = tap_counter_read(&m->port, TAP_TX_PACKETS, &taken);
	if (ret == 0)
		ret = tap_counter_read(&m->port, TAP_TX_DROPPED, &dropped);
	if (ret != 0)
		return ret;
	if (dropped != m->dropped) {
		m->aligned = false;
		m->candidate = false;
	}
	if (!m->aligned)
		return -ESTALE;
	*ret_taken = taken - m->base;
	return 0;
}

void mirror_get_counters(struct mirror *m, struct mirror_counters *ret_counters)
{
	uint64_t dropped;

	check_loss(m);
	if (tap_counter_read(&m->port, TAP_TX_DROPPED, &dropped) == 0)
		m->count.port_dropped = dropped - m->drop_base;
	*ret_counters = m->count;
}

void mirror_close(struct mirror *m)
{
	if (!m)
		return;
	tap_counters_close(&m->port);
	for (unsigned i = 0; i < VECTOR; i++)
		frame_free(m->spare[i]);
	if (m->fd >= 0)
		close(m->fd);
	free(m);
}
