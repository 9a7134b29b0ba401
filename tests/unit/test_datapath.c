/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The data path in a network namespace of its own, with real taps, a bridge and a veth pair:
 *
 *   VM: this program reads and writes the descriptor of vm0
 *   br0: ports vm0, side0 (a tap for sentinels), c0;  c0 = c1, where the "client" listens
 *
 * "Nothing passes" is shown with a sentinel: a frame written to side0 afterwards arrives at c1, and
 * nothing of the VM before it. Needs root; is skipped without.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "colo-proxy/core/packet.h"
#include "colo-proxy/core/packet.h"
#include "colo-proxy/datapath/announce.h"
#include "colo-proxy/datapath/capture.h"
#include "colo-proxy/datapath/counters.h"
#include "colo-proxy/datapath/hold.h"
#include "colo-proxy/datapath/inject.h"
#include "colo-proxy/datapath/intercept.h"
#include "colo-proxy/datapath/netif.h"
#include "colo-proxy/datapath/mirror.h"
#include "colo-proxy/datapath/netcheck.h"
#include "colo-proxy/datapath/tapdev.h"

#define MARK       0xc0100001u /* the top bit set: must not be sign-extended anywhere */
#define QUEUE      77
#define WAIT_MS    120000
#define SENTINEL   0x88b6
#define IPV4_BYTES 20
#define TCP_BYTES  20

static const uint8_t vm_mac[6] = {0x52, 0x54, 0, 0, 0, 1};
static const uint8_t client_mac[6] = {2, 0, 0, 0, 0, 2};

static int vm_fd = -1;
static int side_fd = -1;
static int client_fd = -1;

/* ---- the namespace ---- */

static void run(const char *command)
{
	int status = system(command);

	if (status != 0)
		g_error("%s: status %d", command, status);
}

/* What QEMU does for a guest that negotiates everything. */
static void act_as_qemu(int fd)
{
	int header = sizeof(struct virtio_net_hdr_v1);
	unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;

	g_assert_cmpint(ioctl(fd, TUNSETVNETHDRSZ, &header), ==, 0);
	g_assert_cmpint(ioctl(fd, TUNSETOFFLOAD, (unsigned long)offloads), ==, 0);
}

static int make_tap(const char *name, const char *bridge)
{
	struct tapdev_params params = {.name = name, .bridge = bridge};
	char got[IFNAMSIZ];
	char err[200] = "";
	int fd = -1;
	int ret = tapdev_create(&params, &fd, got, err, sizeof(err));

	if (ret < 0)
		g_error("tapdev_create: %s", err);
	g_assert_cmpstr(got, ==, name);
	act_as_qemu(fd);
	return fd;
}

static int packet_socket(const char *ifname)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int on = 1;
	int size = 64 << 20;

	g_assert_cmpint(fd, >=, 0);
	to.sll_ifindex = netif_index(ifname);
	g_assert_cmpint(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)), ==, 0);
	g_assert_cmpint(setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on)), ==, 0);
	g_assert_cmpint(setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)), ==, 0);
	g_assert_cmpint(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)), ==, 0);
	g_assert_cmpint(bind(fd, (struct sockaddr *)&to, sizeof(to)), ==, 0);
	return fd;
}

static void set_up(void)
{
	run("for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do "
	    "[ ! -e $f ] || echo 0 >$f; done");
	run("ip link add br0 type bridge mcast_snooping 0 && ip link set br0 up");
	run("ip link add c0 type veth peer name c1 && ip link set c0 master br0 up && "
	    "ip link set c1 up");
	vm_fd = make_tap("vm0", "br0");
	side_fd = make_tap("side0", "br0");
	/* Before the kernel's worker has heard of a port's carrier, its frames are lost. */
	run("timeout 120 sh -c 'until [ $(bridge link | grep -c \"state forwarding\") = 3 ]; do :; "
	    "done'");
	client_fd = packet_socket("c1");
}

static void tear_down(void)
{
	close(vm_fd);
	close(side_fd);
	close(client_fd);
	run("ip link del c0 && ip link del br0");
}

/* ---- frames ---- */

static uint16_t checksum(const uint8_t *data, size_t len, uint32_t sum)
{
	for (size_t i = 0; i + 1 < len; i += 2)
		sum += (uint32_t)data[i] << 8 | data[i + 1];
	if (len & 1)
		sum += (uint32_t)data[len - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static void put16(uint8_t *at, unsigned value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static struct frame *ethernet(unsigned type, size_t payload)
{
	struct frame *f = frame_new(14 + payload);

	memcpy(f->data, client_mac, 6);
	memcpy(f->data + 6, vm_mac, 6);
	put16(f->data + 12, type);
	memset(f->data + 14, 0x5a, payload);
	f->len = (uint32_t)(14 + payload);
	return f;
}

static void ipv4_header(uint8_t *ip, size_t total, uint8_t proto, unsigned frag)
{
	memset(ip, 0, IPV4_BYTES);
	ip[0] = 0x45;
	put16(ip + 2, (unsigned)total);
	put16(ip + 4, 0x1234);
	put16(ip + 6, frag);
	ip[8] = 64;
	ip[9] = proto;
	ip[12] = ip[16] = 10;
	ip[15] = 1;
	ip[19] = 2;
	put16(ip + 10, checksum(ip, IPV4_BYTES, 0));
}

/* UDP over IPv4; checksum 0: none. The number is the payload's first word. */
static struct frame *udp4(uint32_t number, size_t payload)
{
	struct frame *f = ethernet(ETH_P_IP, IPV4_BYTES + 8 + payload);
	uint8_t *udp = f->data + 14 + IPV4_BYTES;

	ipv4_header(f->data + 14, IPV4_BYTES + 8 + payload, IPPROTO_UDP, 0);
	put16(udp, 1000);
	put16(udp + 2, 2000);
	put16(udp + 4, (unsigned)(8 + payload));
	put16(udp + 6, 0);
	put16(udp + 8, number >> 16);
	put16(udp + 10, number & 0xffff);
	return f;
}

static uint32_t udp4_number(const struct frame *f)
{
	const uint8_t *at = f->data + (f->start == FRAME_AT_IP ? 0 : 14) + IPV4_BYTES + 8;

	return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint32_t tcp4_pseudo(const uint8_t *ip, size_t tcp_len)
{
	uint32_t sum = IPPROTO_TCP + (uint32_t)tcp_len;

	for (int i = 12; i < 20; i += 2)
		sum += (uint32_t)ip[i] << 8 | ip[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static struct frame *tcp4(size_t payload)
{
	struct frame *f = ethernet(ETH_P_IP, IPV4_BYTES + TCP_BYTES + payload);
	uint8_t *tcp = f->data + 14 + IPV4_BYTES;

	ipv4_header(f->data + 14, IPV4_BYTES + TCP_BYTES + payload, IPPROTO_TCP, 0);
	memset(tcp, 0, TCP_BYTES);
	put16(tcp, 80);
	put16(tcp + 2, 3000);
	tcp[12] = 5 << 4;
	tcp[13] = 0x10;
	put16(tcp + 16,
	      checksum(tcp, TCP_BYTES + payload, tcp4_pseudo(f->data + 14, TCP_BYTES + payload)));
	return f;
}

/* The checksum left to the next one who segments. */
static struct frame *tcp4_partial(size_t payload, unsigned gso_size)
{
	struct frame *f = tcp4(payload);
	uint8_t *tcp = f->data + 14 + IPV4_BYTES;

	put16(tcp + 16, tcp4_pseudo(f->data + 14, TCP_BYTES + payload));
	f->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	f->vnet.csum_start = 14 + IPV4_BYTES;
	f->vnet.csum_offset = 16;
	if (gso_size) {
		f->vnet.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
		f->vnet.gso_size = (uint16_t)gso_size;
		f->vnet.hdr_len = 14 + IPV4_BYTES + TCP_BYTES;
	}
	return f;
}

static struct frame *make_udp4(void)
{
	return udp4(1, 100);
}

static struct frame *make_tcp4(void)
{
	return tcp4(1400);
}

static struct frame *make_bad_tcp_checksum(void)
{
	struct frame *f = tcp4(100);

	f->data[14 + IPV4_BYTES + 16] ^= 0xff;
	return f;
}

static struct frame *make_bad_ip_checksum(void)
{
	struct frame *f = udp4(1, 100);

	f->data[14 + 10] ^= 0xff;
	return f;
}

static struct frame *make_partial(void)
{
	return tcp4_partial(1000, 0);
}

static struct frame *make_gso(void)
{
	return tcp4_partial(45 * 1448 - 300, 1448);
}

static struct frame *make_fragment(void)
{
	struct frame *f = ethernet(ETH_P_IP, 1500);

	ipv4_header(f->data + 14, 1500, IPPROTO_UDP, 0x2000 | 185);
	return f;
}

static struct frame *make_ipv6(void)
{
	struct frame *f = ethernet(ETH_P_IPV6, 40 + 60);
	uint8_t *ip = f->data + 14;

	memset(ip, 0, 40);
	ip[0] = 0x60;
	put16(ip + 4, 60);
	ip[6] = 253; /* an experimental protocol (RFC 3692): no checksum to be wrong */
	ip[7] = 64;
	ip[8] = ip[24] = 0xfd;
	ip[23] = 1;
	ip[39] = 2;
	return f;
}

static struct frame *make_arp(void)
{
	struct frame *f = ethernet(ETH_P_ARP, 46);

	memcpy(f->data + 14, "\0\1\x08\0\6\4\0\1", 8);
	return f;
}

static struct frame *tagged(struct frame *inner, unsigned tpid)
{
	struct frame *f = frame_new(inner->len + 4);

	memcpy(f->data, inner->data, 12);
	put16(f->data + 12, tpid);
	put16(f->data + 14, 0x6007); /* priority 3, VLAN 7 */
	memcpy(f->data + 16, inner->data + 12, inner->len - 12);
	f->len = inner->len + 4;
	f->vnet = inner->vnet;
	if (f->vnet.flags)
		f->vnet.csum_start += 4;
	if (f->vnet.gso_type)
		f->vnet.hdr_len += 4;
	frame_free(inner);
	return f;
}

static struct frame *make_vlan(void)
{
	return tagged(tcp4(1460), ETH_P_8021Q);
}

static struct frame *make_qinq(void)
{
	return tagged(tagged(tcp4(1460), ETH_P_8021Q), ETH_P_8021AD);
}

static struct frame *make_vlan_partial(void)
{
	return tagged(tcp4_partial(800, 0), ETH_P_8021Q);
}

static struct frame *make_vlan_gso(void)
{
	return tagged(tcp4_partial(20 * 1448, 1448), ETH_P_8021Q);
}

static struct frame *make_llc(void)
{
	return ethernet(100, 100);
}

static struct frame *make_stp(void)
{
	struct frame *f = ethernet(38, 46);

	memcpy(f->data, "\x01\x80\xc2\0\0\0", 6);
	memcpy(f->data + 14, "\x42\x42\x03", 3);
	return f;
}

static struct frame *make_unknown(void)
{
	return ethernet(0x88b5, 200);
}

/* IPv4 to a reserved group address: a bridge hands it to another hook than the rest. */
static struct frame *make_reserved_ipv4(void)
{
	struct frame *f = udp4(1, 100);

	memcpy(f->data, "\x01\x80\xc2\0\0\x0e", 6);
	return f;
}

static const struct frame_kind {
	const char *name;
	struct frame *(*make)(void);
	bool stays;  /* a bridge keeps it for the host: held, but never seen at the client */
	bool bad_ip; /* br_netfilter drops it */
} kinds[] = {
        {.name = "udp4", .make = make_udp4},
        {.name = "tcp4", .make = make_tcp4},
        {.name = "bad-tcp-checksum", .make = make_bad_tcp_checksum},
        {.name = "bad-ip-checksum", .make = make_bad_ip_checksum, .bad_ip = true},
        {.name = "partial-checksum", .make = make_partial},
        {.name = "gso-64k", .make = make_gso},
        {.name = "fragment", .make = make_fragment},
        {.name = "ipv6", .make = make_ipv6},
        {.name = "arp", .make = make_arp},
        {.name = "vlan", .make = make_vlan},
        {.name = "qinq", .make = make_qinq},
        {.name = "vlan-partial-checksum", .make = make_vlan_partial},
        {.name = "vlan-gso", .make = make_vlan_gso},
        {.name = "llc", .make = make_llc},
        {.name = "stp", .make = make_stp},
        {.name = "unknown", .make = make_unknown},
        {.name = "reserved-ipv4", .make = make_reserved_ipv4, .stays = true},
};

/* ---- sending and waiting ---- */

static void send_from(int fd, struct frame *f)
{
	g_assert_cmpint(tapdev_write(fd, f), ==, 0);
	frame_free(f);
}

static bool wait_readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, WAIT_MS) == 1;
}

/* The next frame at the client; the VLAN tag put back. */
static struct frame *client_next(void)
{
	struct frame *f = frame_new(FRAME_MAX_LEN);
	struct iovec iov[2] = {{&f->vnet, 10}, {f->data, f->room}};
	char control[128] = {0};
	struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2, .msg_control = control};
	struct tpacket_auxdata aux;
	ssize_t got;

	msg.msg_controllen = sizeof(control);
	if (!wait_readable(client_fd))
		g_error("nothing arrives at the client");
	got = recvmsg(client_fd, &msg, 0);
	g_assert_cmpint(got, >, 10);
	f->len = (uint32_t)got - 10;
	g_assert_nonnull(CMSG_FIRSTHDR(&msg));
	memcpy(&aux, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(aux));
	if (aux.tp_status & TP_STATUS_VLAN_VALID) {
		memmove(f->data + 16, f->data + 12, f->len - 12);
		put16(f->data + 12, aux.tp_vlan_tpid);
		put16(f->data + 14, aux.tp_vlan_tci);
		f->len += 4;
		if (f->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
			f->vnet.csum_start += 4;
	}
	return f;
}

static bool is_sentinel(const struct frame *f)
{
	return f->data[12] == SENTINEL >> 8 && f->data[13] == (SENTINEL & 0xff);
}

/* Fails when anything but the sentinel arrives. */
static void assert_silence(void)
{
	struct frame *f = ethernet(SENTINEL, 60);

	f->data[11] = 9; /* not the VM's address */
	send_from(side_fd, f);
	f = client_next();
	if (!is_sentinel(f))
		g_error("a frame of type %02x%02x got out", f->data[12], f->data[13]);
	frame_free(f);
}

static void assert_same(const struct frame *got, const struct frame *want)
{
	unsigned skip = got->start == FRAME_AT_IP ? 14 : 0;

	g_assert_cmpmem(got->data, got->len, want->data + skip, want->len - skip);
	g_assert_cmpint(got->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, ==,
	                want->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
	g_assert_cmpint(got->vnet.gso_type, ==, want->vnet.gso_type);
	if (want->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		g_assert_cmpint(got->vnet.csum_start, ==, want->vnet.csum_start - skip);
		g_assert_cmpint(got->vnet.csum_offset, ==, want->vnet.csum_offset);
	}
	if (!skip || got->linked) /* NFQUEUE does not tell it */
		g_assert_cmpint(got->vnet.gso_size, ==, want->vnet.gso_size);
}

static void client_expect(const struct frame *want)
{
	struct frame *got = client_next();

	assert_same(got, want);
	frame_free(got);
}

/* ---- holds ---- */

static struct hold *open_hold_with(const struct hold_ops *ops, struct hold_params params)
{
	struct hold *hold = NULL;
	char err[300] = "";

	params.port = "vm0";
	params.mark = MARK;
	params.queue = QUEUE;
	if (hold_open(ops, &params, &hold, err, sizeof(err)) < 0)
		g_error("hold_open %s: %s", ops->name, err);
	return hold;
}

static struct hold *open_hold(const struct hold_ops *ops)
{
	return open_hold_with(ops, (struct hold_params){.mode = HOLD_MODE_HOLD});
}

/* Waits until `n` frames are held; a list in order of arrival. */
static struct frame *hold_wait(struct hold *hold, unsigned n)
{
	struct frame *list = NULL;
	struct frame **end = &list;
	int fds[2];
	int count = hold_fds(hold, fds);
	struct pollfd p[2] = {{.events = POLLIN}, {.events = POLLIN}};

	p[0].fd = fds[0];
	p[1].fd = count > 1 ? fds[1] : -1;
	for (unsigned have = 0; have < n;) {
		int got;

		if (poll(p, 2, WAIT_MS) < 1)
			g_error("%u of %u frames are held", have, n);
		got = hold_receive(hold, end, n - have);
		g_assert_cmpint(got, >=, 0);
		have += (unsigned)got;
		while (*end)
			end = &(*end)->next;
	}
	return list;
}

static void release(struct hold *hold, struct frame *f, bool rewritten)
{
	g_assert_cmpint(hold_release(hold, f, rewritten), ==, 0);
	g_assert_cmpint(hold_flush(hold), ==, 0);
}

/* Held is the same packet; a back end that starts at IP has the Ethernet header taken off. */
static void check_held(struct hold *hold, const struct frame_kind *kind)
{
	struct frame *f = kind->make();
	struct frame *held;

	g_test_message("%s", kind->name);
	g_assert_cmpint(tapdev_write(vm_fd, f), ==, 0);
	assert_silence();
	if (kind->bad_ip && hold->ops == &hold_nfqueue) {
		frame_free(f);
		return;
	}
	held = hold_wait(hold, 1);
	g_assert_null(held->next);
	assert_same(held, f);
	g_assert_false(held->linked && held->vnet.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4);
	release(hold, held, false);
	if (kind->stays)
		assert_silence();
	else
		client_expect(f);
	frame_free(f);
}

static void test_every_kind(const void *data)
{
	struct hold *hold;

	set_up();
	hold = open_hold(data);
	for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++)
		check_held(hold, &kinds[i]);
	hold_close(hold);
	tear_down();
}

/* UDP segmentation offload, Linux 6.2; older headers lack the names. */
static struct frame *make_uso(void)
{
	struct frame *f = udp4(1, 9500);
	uint8_t *ip = f->data + 14;
	uint32_t sum = IPPROTO_UDP + 9508;

	for (int i = 12; i < 20; i += 2)
		sum += (uint32_t)ip[i] << 8 | ip[i + 1];
	put16(ip + IPV4_BYTES + 6, (sum & 0xffff) + (sum >> 16));
	f->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	f->vnet.csum_start = 14 + IPV4_BYTES;
	f->vnet.csum_offset = 6;
	f->vnet.gso_type = 5;
	f->vnet.gso_size = 1000;
	f->vnet.hdr_len = 14 + IPV4_BYTES + 8;
	return f;
}

static void test_uso(const void *data)
{
	unsigned offloads = TUN_F_CSUM | 0x60;
	struct frame_kind uso = {.name = "uso", .make = make_uso};
	struct hold *hold;

	set_up();
	if (ioctl(vm_fd, TUNSETOFFLOAD, (unsigned long)offloads) < 0) {
		g_test_skip("the kernel is older than 6.2");
	} else {
		hold = open_hold(data);
		check_held(hold, &uso);
		hold_close(hold);
	}
	tear_down();
}

static void test_order(const void *data)
{
	struct hold_counters count;
	struct frame *list;
	struct hold *hold;
	unsigned n = 600;

	set_up();
	hold = open_hold(data);
	for (unsigned i = 0; i < n; i++)
		send_from(vm_fd, udp4(i, 20 + i * 2));
	assert_silence();
	list = hold_wait(hold, n);
	for (unsigned i = 0; i < n; i++) {
		struct frame *f = list;

		list = f->next;
		g_assert_cmpuint(udp4_number(f), ==, i);
		if (i % 3 == 2)
			hold_discard(hold, f);
		else
			g_assert_cmpint(hold_release(hold, f, false), ==, 0);
	}
	g_assert_cmpint(hold_flush(hold), ==, 0);
	for (unsigned i = 0; i < n; i++) {
		struct frame *want;

		if (i % 3 == 2)
			continue;
		want = udp4(i, 20 + i * 2);
		client_expect(want);
		frame_free(want);
	}
	assert_silence();
	hold_get_counters(hold, &count);
	g_assert_cmpuint(count.received, ==, n);
	g_assert_cmpuint(count.released, ==, n / 3 * 2);
	g_assert_cmpuint(count.discarded, ==, n / 3);
	g_assert_cmpuint(count.kernel_dropped, ==, 0);
	g_assert_cmpuint(count.verdict_lost, ==, 0);
	hold_close(hold);
	tear_down();
}

/* Bytes changed in place go out changed: no checksum, a partial one, a superframe. */
static void test_rewrite(const void *data)
{
	static struct frame *(*const make[])(void) = {make_udp4, make_partial, make_gso};
	struct hold *hold;

	set_up();
	hold = open_hold(data);
	for (size_t i = 0; i < G_N_ELEMENTS(make); i++) {
		struct frame *want = make[i]();
		struct frame *got;
		struct frame *held;

		g_assert_cmpint(tapdev_write(vm_fd, want), ==, 0);
		held = hold_wait(hold, 1);
		held->data[held->len - 1] ^= 0xff;
		want->data[want->len - 1] ^= 0xff;
		release(hold, held, true);
		got = client_next();
		if (!(got->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && make[i] == make_partial) {
			/* completed on the way: must be right, and then is not compared */
			uint8_t *ip = got->data + 14;
			size_t len = got->len - 14 - IPV4_BYTES;

			g_assert_cmpint(checksum(ip + IPV4_BYTES, len, tcp4_pseudo(ip, len)), ==,
			                0);
			memcpy(got->data + 14 + IPV4_BYTES + 16, want->data + 14 + IPV4_BYTES + 16,
			       2);
		}
		g_assert_cmpmem(got->data, got->len, want->data, want->len);
		g_assert_cmpint(got->vnet.gso_type, ==, want->vnet.gso_type);
		g_assert_cmpint(got->vnet.gso_size, ==, want->vnet.gso_size);
		frame_free(got);
		frame_free(want);
	}
	hold_close(hold);
	tear_down();
}

/* ---- a held packet in two ---- */

static struct frame *make_tcp6(void)
{
	unsigned tcp_len = TCP_BYTES + 1000;
	struct frame *f = ethernet(ETH_P_IPV6, 40 + tcp_len);
	uint8_t *ip = f->data + 14;
	uint8_t *tcp = ip + 40;

	memset(ip, 0, 40 + TCP_BYTES);
	ip[0] = 0x60;
	put16(ip + 4, tcp_len);
	ip[6] = IPPROTO_TCP;
	ip[7] = 64;
	ip[8] = ip[24] = 0xfd;
	ip[23] = 1;
	ip[39] = 2;
	put16(tcp, 80);
	put16(tcp + 2, 3000);
	tcp[12] = 5 << 4;
	tcp[13] = 0x10;
	put16(tcp + 16, checksum(ip + 8, 32 + tcp_len, IPPROTO_TCP + tcp_len));
	return f;
}

/* One that would not fit the wire as two segments, but as one and a rest. */
static struct frame *make_gso_short(void)
{
	return tcp4_partial(1448 + 100, 1448);
}

/* An option in front of the ports. */
static struct frame *make_tcp4_option(void)
{
	struct frame *plain = tcp4(1000);
	struct frame *f = ethernet(ETH_P_IP, plain->len - 14 + 4);

	memcpy(f->data + 14, plain->data + 14, IPV4_BYTES);
	memset(f->data + 14 + IPV4_BYTES, 1, 4);
	memcpy(f->data + 14 + IPV4_BYTES + 4, plain->data + 14 + IPV4_BYTES,
	       plain->len - 14 - IPV4_BYTES);
	f->data[14] = 0x46;
	put16(f->data + 16, f->len - 14);
	put16(f->data + 24, 0);
	put16(f->data + 24, checksum(f->data + 14, IPV4_BYTES + 4, 0));
	frame_free(plain);
	return f;
}

/* The next frame at the client is `len` bytes of `want`'s payload from `off` on, to its address. */
static void client_expect_part(const struct frame *want, uint32_t off, uint32_t len)
{
	struct frame *got = client_next();
	struct packet whole, part;
	const uint8_t *field;

	g_assert_cmpint(packet_parse(&whole, (struct frame *)want), ==, 0);
	g_assert_cmpint(packet_parse(&part, got), ==, 0);
	g_assert_cmpint(part.class, ==, PACKET_TCP);
	g_assert_cmpmem(got->data, 14, want->data, 14);
	g_assert_cmpuint(part.tcp.seq, ==, whole.tcp.seq + off);
	g_assert_cmpmem(got->data + part.payload_off, part.payload_len,
	                want->data + whole.payload_off + off, len);
	field = got->data + part.l4_off + 16;
	if (got->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		g_assert_cmpint(checksum(got->data + part.l4_off, part.l4_len, 0), ==,
		                packet_l4_checksum(&part));
	else
		g_assert_cmpint(field[0] << 8 | field[1], ==, packet_l4_checksum(&part));
	g_assert_cmpint(got->vnet.gso_size, ==,
	                len > want->vnet.gso_size ? want->vnet.gso_size : 0);
	frame_free(got);
}

/* The packet that the VM says now, held and cut. The rest comes back, and *ret_first. */
static struct frame *hold_and_cut(struct hold *hold, const struct frame *f, uint32_t len,
                                  struct frame **ret_first)
{
	struct packet packet;
	struct frame *held;

	g_assert_cmpint(tapdev_write(vm_fd, f), ==, 0);
	held = hold_wait(hold, 1);
	g_assert_cmpint(packet_parse(&packet, held), ==, 0);
	g_assert_cmpint(packet_split(&packet, len, ret_first), ==, 0);
	return held;
}

/* Packets in the kernel that have no verdict yet. */
static unsigned queued(void)
{
	unsigned queue, port, total = 0;
	FILE *file = fopen("/proc/thread-self/net/netfilter/nfnetlink_queue", "r");

	if (!file)
		return 0;
	while (fscanf(file, "%u %u %u%*[^\n]", &queue, &port, &total) == 3 && queue != QUEUE)
		total = 0;
	fclose(file);
	return total;
}

/* Each part goes out when it is released, whatever the packet's checksum and size. */
static void test_split(const void *data)
{
	static struct frame *(*const make[])(void) = {make_tcp4, make_partial, make_gso,
	                                              make_gso_short, make_tcp6};
	static const uint32_t lengths[] = {1, 500, 1448, 1500};
	struct hold *hold;

	set_up();
	hold = open_hold(data);
	for (size_t i = 0; i < G_N_ELEMENTS(make) * G_N_ELEMENTS(lengths); i++) {
		struct frame *f = make[i / G_N_ELEMENTS(lengths)]();
		uint32_t len = lengths[i % G_N_ELEMENTS(lengths)];
		struct frame *first, *rest;
		struct packet whole;

		g_assert_cmpint(packet_parse(&whole, f), ==, 0);
		if (len < whole.payload_len) {
			rest = hold_and_cut(hold, f, len, &first);
			release(hold, first, false);
			client_expect_part(f, 0, len);
			assert_silence();
			release(hold, rest, false);
			client_expect_part(f, len, whole.payload_len - len);
			assert_silence();
			g_assert_cmpuint(queued(), ==, 0);
		}
		frame_free(f);
	}
	hold_close(hold);
	tear_down();
}

/* What goes by its verdict, and the parts, are in the order of their releases. */
static void test_split_order(const void *data)
{
	enum { ROUNDS = 100 };
	struct frame *f = make_tcp4();
	struct packet whole;
	struct hold *hold;

	set_up();
	hold = open_hold(data);
	g_assert_cmpint(packet_parse(&whole, f), ==, 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct frame *order[4];

		g_assert_cmpint(tapdev_write(vm_fd, f), ==, 0);
		order[0] = hold_wait(hold, 1);
		order[2] = hold_and_cut(hold, f, 300, &order[1]);
		g_assert_cmpint(tapdev_write(vm_fd, f), ==, 0);
		order[3] = hold_wait(hold, 1);
		for (unsigned j = 0; j < 4; j++)
			g_assert_cmpint(hold_release(hold, order[j], false), ==, 0);
		g_assert_cmpint(hold_flush(hold), ==, 0);
		client_expect(f);
		client_expect_part(f, 0, 300);
		client_expect_part(f, 300, whole.payload_len - 300);
		client_expect(f);
	}
	assert_silence();
	hold_close(hold);
	frame_free(f);
	tear_down();
}

/* A part that is discarded, or that the kernel does not take, is not let out by the other one, and
 * the packet in the queue leaves it when the rest has gone. */
static void test_split_fails(const void *data)
{
	struct frame *f = make_partial();
	struct frame *first, *rest;
	struct packet whole;
	struct hold *hold;

	set_up();
	hold = open_hold_with(data,
	                      (struct hold_params){.mode = HOLD_MODE_HOLD, .tap_name = "hold0"});
	g_assert_cmpint(packet_parse(&whole, f), ==, 0);
	rest = hold_and_cut(hold, f, 10, &first);
	hold_discard(hold, first);
	hold_discard(hold, rest);
	g_assert_cmpint(hold_flush(hold), ==, 0);
	assert_silence();
	g_assert_cmpuint(queued(), ==, 0);

	rest = hold_and_cut(hold, f, 10, &first);
	run("ip link set hold0 down");
	g_assert_cmpint(hold_release(hold, first, false), <, 0);
	hold_discard(hold, first);
	g_assert_cmpint(hold_release(hold, rest, false), <, 0);
	g_assert_cmpint(hold_flush(hold), ==, 0);
	assert_silence();
	g_assert_cmpuint(queued(), ==, data == &hold_nfqueue);
	run("ip link set hold0 up");
	release(hold, rest, false);
	client_expect_part(f, 10, whole.payload_len - 10);
	assert_silence();
	g_assert_cmpuint(queued(), ==, 0);
	hold_close(hold);
	frame_free(f);
	tear_down();
}

/* The header is the one that the VM gave the connection's newest frame. */
static void test_split_address(const void *data)
{
	struct frame *f = make_tcp4();
	struct frame *first, *rest;
	struct packet packet;
	struct hold *hold;

	set_up();
	hold = open_hold(data);
	for (uint8_t i = 0; i < 3; i++) {
		f->data[5] = i; /* another router */
		rest = hold_and_cut(hold, f, 10, &first);
		release(hold, first, false);
		client_expect_part(f, 0, 10);
		hold_discard(hold, rest);
	}
	frame_free(f);

	f = make_tcp4_option();
	g_assert_cmpint(tapdev_write(vm_fd, f), ==, 0);
	rest = hold_wait(hold, 1);
	g_assert_cmpint(packet_parse(&packet, rest), ==, 0);
	g_assert_cmpint(packet.class, ==, PACKET_TCP);
	if (data == &hold_nfqueue)
		g_assert_cmpint(packet_split(&packet, 10, &first), ==, -EINVAL);
	release(hold, rest, false);
	client_expect(f);
	frame_free(f);
	hold_close(hold);
	tear_down();
}

/* A superframe has its segment size also when its connection has said a short frame since. */
static void test_split_segment(const void *data)
{
	struct frame *super = make_gso(), *plain = make_partial();
	struct frame *list, *first;
	struct packet packet;
	struct hold *hold;

	set_up();
	hold = open_hold(data);
	g_assert_cmpint(tapdev_write(vm_fd, super), ==, 0);
	g_assert_cmpint(tapdev_write(vm_fd, plain), ==, 0);
	assert_silence(); /* both have passed the filter */
	list = hold_wait(hold, 2);
	g_assert_cmpint(list->vnet.gso_size, ==, super->vnet.gso_size);
	hold_discard(hold, list->next);
	g_assert_cmpint(packet_parse(&packet, list), ==, 0);
	g_assert_cmpint(packet_split(&packet, 5000, &first), ==, 0);
	release(hold, first, false);
	client_expect_part(super, 0, 5000);
	hold_discard(hold, list);
	hold_close(hold);
	frame_free(super);
	frame_free(plain);
	tear_down();
}

/* UDP whose checksum, at `start` of the IP packet, is left to the next one who says it. */
static struct frame *udp4_partial(unsigned start, unsigned offset)
{
	struct frame *f = udp4(1, 100);
	uint8_t *ip = f->data + 14;
	uint32_t sum = IPPROTO_UDP + 108;

	for (int i = 12; i < 20; i += 2)
		sum += (uint32_t)ip[i] << 8 | ip[i + 1];
	put16(ip + start + offset, (sum & 0xffff) + (sum >> 16));
	f->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	f->vnet.csum_start = (uint16_t)(14 + start);
	f->vnet.csum_offset = (uint16_t)offset;
	return f;
}

static struct frame *make_udp_partial(void)
{
	return udp4_partial(IPV4_BYTES, 6);
}

/* TCP in a tunnel of UDP, which has none of its own. */
static struct frame *make_tunnel_partial(void)
{
	return udp4_partial(IPV4_BYTES + 8 + IPV4_BYTES, 16);
}

/* What another host may have to say (replay.c) comes with the header that the VM gave its newest
 * frame to that address; not what could not be finished there. */
static void test_whole(const void *data)
{
	static const struct {
		struct frame *(*make)(void);
		bool known;
	} cases[] = {
	        {make_udp4, true},        {make_ipv6, true},         {make_fragment, true},
	        {make_udp_partial, true}, {make_tcp4_option, false}, {make_tunnel_partial, false},
	};
	struct hold *hold;

	set_up();
	hold = open_hold(data);
	for (unsigned i = 0; i < 2 * G_N_ELEMENTS(cases); i++) {
		struct frame *f = cases[i / 2].make();
		struct frame *held;

		f->data[5] = (uint8_t)i; /* another router */
		g_assert_cmpint(tapdev_write(vm_fd, f), ==, 0);
		held = hold_wait(hold, 1);
		if (data == &hold_nfqueue) {
			g_assert_cmpint(held->start, ==, FRAME_AT_IP);
			g_assert_cmpint(held->linked, ==, cases[i / 2].known);
		}
		if (held->linked)
			frame_show_link(held);
		if (cases[i / 2].known)
			assert_same(held, f);
		release(hold, held, false);
		client_expect(f);
		frame_free(f);
	}
	assert_silence();
	g_assert_cmpuint(queued(), ==, 0);
	hold_close(hold);
	tear_down();
}

static void say_everything(void)
{
	for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++)
		send_from(vm_fd, kinds[i].make());
}

/* R1: a dead owner lets nothing out, neither what it held nor what comes; the next one can go on.
 */
static void test_death(const void *data)
{
	struct frame *f = udp4(5, 50);
	struct hold *hold;
	int ready[2];
	char byte;
	pid_t pid;

	set_up();
	g_assert_cmpint(pipe(ready), ==, 0);
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		hold = open_hold(data);
		if (write(ready[1], "o", 1) != 1)
			_exit(1);
		hold_wait(hold, 2);
		if (write(ready[1], "h", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
	send_from(vm_fd, frame_copy(f));
	send_from(vm_fd, make_arp());
	g_assert_cmpint(read(ready[0], &byte, 1), ==, 1);
	send_from(vm_fd, frame_copy(f)); /* held by the kernel */
	kill(pid, SIGKILL);
	g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
	run("! ip -o link | grep -q ': colo'"); /* its tap went with it */
	assert_silence();
	say_everything();
	assert_silence();
	hold = open_hold(data);
	say_everything();
	assert_silence();
	hold_close(hold);
	run("! iptables -t raw -S 2>/dev/null | grep -q vm0");
	run("! ip6tables -t raw -S 2>/dev/null | grep -q vm0");
	say_everything();
	assert_silence();
	hold = open_hold(data);
	send_from(vm_fd, frame_copy(f));
	release(hold, hold_wait(hold, 1), false);
	client_expect(f);
	frame_free(f);
	close(ready[0]);
	close(ready[1]);
	hold_close(hold);
	tear_down();
}

static void test_modes(const void *data)
{
	struct frame *f = tcp4(100);
	struct frame *list = NULL;
	struct hold *hold;

	set_up();
	hold = open_hold_with(data, (struct hold_params){.mode = HOLD_MODE_PASS});
	send_from(vm_fd, frame_copy(f));
	client_expect(f);
	g_assert_cmpint(hold_set_mode(hold, HOLD_MODE_HOLD), ==, 0);
	say_everything();
	assert_silence();
	list = hold_wait(hold, 1);
	g_assert_cmpint(hold_set_mode(hold, HOLD_MODE_DROP), ==, 0);
	say_everything();
	assert_silence();
	g_assert_cmpint(hold_release(hold, list, false), ==, -EPERM);
	hold_discard(hold, list);
	g_assert_cmpint(hold_flush(hold), ==, 0);
	assert_silence();
	g_assert_cmpint(hold_set_mode(hold, HOLD_MODE_PASS), ==, 0);
	for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
		struct frame *want = kinds[i].make();

		send_from(vm_fd, frame_copy(want));
		if (!kinds[i].stays && (!kinds[i].bad_ip || data == &hold_tap))
			client_expect(want);
		frame_free(want);
	}
	hold_close(hold);
	send_from(vm_fd, frame_copy(f));
	client_expect(f);
	run("! tc filter show dev vm0 ingress | grep -q bpf");
	run("! iptables -t raw -S 2>/dev/null | grep -q vm0");
	run("! ip6tables -t raw -S 2>/dev/null | grep -q vm0");
	frame_free(f);
	tear_down();
}

/* R8: what does not fit is counted, and does not get out. */
static void test_overflow(const void *data)
{
	struct hold_counters count;
	struct frame *list;
	struct hold *hold;

	set_up();
	hold = open_hold_with(data, (struct hold_params){.mode = HOLD_MODE_HOLD, .max_frames = 16});
	for (unsigned i = 0; i < 100; i++)
		send_from(vm_fd, udp4(i, 30));
	assert_silence();
	hold_get_counters(hold, &count);
	g_assert_cmpuint(count.kernel_dropped, ==, 84);
	list = hold_wait(hold, 16);
	for (unsigned i = 0; i < 16; i++) {
		struct frame *f = list;

		list = f->next;
		g_assert_cmpuint(udp4_number(f), ==, i);
		hold_discard(hold, f);
	}
	g_assert_null(list);
	g_assert_cmpint(hold_flush(hold), ==, 0);
	assert_silence();
	hold_close(hold);
	tear_down();
}

/*
 * Someone deletes a base chain of the namespace's nftables: the kernel drops what NFQUEUE holds,
 * and the late verdict is counted. The hold tap does not care.
 */
static void test_ruleset(const void *data)
{
	struct hold_counters count;
	struct frame *f = udp4(1, 40);
	struct frame *held;
	struct frame *none = NULL;
	struct hold *hold;

	set_up();
	hold = open_hold(data);
	run("iptables -t nat -A POSTROUTING -j ACCEPT 2>/dev/null");
	send_from(vm_fd, frame_copy(f));
	held = hold_wait(hold, 1);
	run("iptables -t nat -F 2>/dev/null && iptables -t nat -X 2>/dev/null");
	release(hold, held, false);
	g_assert_cmpint(hold_receive(hold, &none, 1), ==, 0);
	hold_get_counters(hold, &count);
	if (data == &hold_nfqueue) {
		g_assert_cmpuint(count.verdict_lost, ==, 1);
	} else {
		g_assert_cmpuint(count.verdict_lost, ==, 0);
		client_expect(f);
	}
	assert_silence();
	send_from(vm_fd, frame_copy(f)); /* and the hold goes on */
	release(hold, hold_wait(hold, 1), false);
	client_expect(f);
	frame_free(f);
	hold_close(hold);
	tear_down();
}

/* A secondary: no bridge, nothing can be released; at takeover the same hold goes on. */
static void test_secondary(const void *data)
{
	struct frame *f = udp4(1, 40);
	struct frame *held;
	struct hold *hold;
	int fds[2];

	set_up();
	g_assert_cmpint(netif_release("vm0"), ==, 0);
	g_assert_cmpint(netif_master("vm0"), ==, 0);
	hold = open_hold_with(data, (struct hold_params){.mode = HOLD_MODE_HOLD, .mute = true});
	send_from(vm_fd, frame_copy(f));
	held = hold_wait(hold, 1);
	g_assert_cmpint(hold_release(hold, held, false), ==, -EPERM);
	hold_fds(hold, fds);
	g_assert_cmpint(netif_enslave("vm0", "br0"), ==, 0);
	g_assert_cmpint(netif_master("vm0"), ==, netif_index("br0"));
	g_assert_cmpint(tapdev_write(fds[0], held), ==, 0); /* also past hold_release() */
	assert_silence();
	g_assert_cmpint(hold_set_mute(hold, false), ==, 0);
	release(hold, held, false);
	client_expect(f);
	send_from(vm_fd, frame_copy(f));
	assert_silence();
	held = hold_wait(hold, 1);
	g_assert_cmpint(held->start, ==, data == &hold_nfqueue ? FRAME_AT_IP : FRAME_AT_ETHERNET);
	release(hold, held, false);
	client_expect(f);
	frame_free(f);
	hold_close(hold);
	tear_down();
}

/* ---- input ---- */

static struct tapdev_reader vm_reader;

/* The next frame that the VM gets. */
static struct frame *vm_next(void)
{
	struct frame *f = NULL;

	if (!wait_readable(vm_fd))
		g_error("nothing arrives at the VM");
	g_assert_cmpint(tapdev_read(&vm_reader, vm_fd, &f), ==, 0);
	return f;
}

static void vm_expect(const struct frame *want)
{
	struct frame *got = vm_next();

	g_assert_cmpmem(got->data, got->len, want->data, want->len);
	g_assert_cmpint(got->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM, ==,
	                want->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
	g_assert_cmpint(got->vnet.gso_type, ==, want->vnet.gso_type);
	g_assert_cmpint(got->vnet.gso_size, ==, want->vnet.gso_size);
	g_assert_cmpint(got->vnet.csum_start, ==, want->vnet.csum_start);
	frame_free(got);
}

/* To the VM, from the tap beside it. */
static void say_to_vm(struct frame *f)
{
	memcpy(f->data, vm_mac, 6);
	memcpy(f->data + 6, client_mac, 6);
	send_from(side_fd, f);
}

static struct frame *to_vm(struct frame *f)
{
	memcpy(f->data, vm_mac, 6);
	memcpy(f->data + 6, client_mac, 6);
	return f;
}

static struct mirror *open_mirror(unsigned buffer)
{
	struct mirror *m = NULL;
	char err[200] = "";

	if (mirror_open("vm0", buffer, &m, err, sizeof(err)) < 0)
		g_error("mirror_open: %s", err);
	return m;
}

/* Every kind is mirrored as the VM gets it; what the VM says is not. */
static void test_mirror_kinds(void)
{
	struct mirror *m;

	set_up();
	m = open_mirror(0);
	for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
		struct frame *want = to_vm(kinds[i].make());
		struct frame *copy = NULL;

		g_test_message("%s", kinds[i].name);
		send_from(vm_fd, kinds[i].make());
		say_to_vm(kinds[i].make());
		g_assert_true(wait_readable(mirror_fd(m)));
		g_assert_cmpint(mirror_receive(m, &copy, 10), ==, 1);
		g_assert_null(copy->next);
		assert_same(copy, want);
		vm_expect(want);
		frame_free(copy);
		frame_free(want);
	}
	mirror_close(m);
	tear_down();
}

static void drain_mirror(struct mirror *m, unsigned n)
{
	struct frame *list = NULL;

	g_assert_cmpint(mirror_receive(m, &list, n + 1), ==, (int)n);
	while (list) {
		struct frame *next = list->next;

		frame_free(list);
		list = next;
	}
}

static void vm_takes(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		frame_free(vm_next());
}

/* R5: which input the VM has taken is known to the frame, also when the mirror came late. */
static void test_cut(void)
{
	struct mirror_counters count;
	struct mirror *m;
	uint64_t taken = 99;

	set_up();
	for (unsigned i = 0; i < 7; i++)
		say_to_vm(udp4(i, 30));
	vm_takes(3);
	m = open_mirror(0);
	g_assert_cmpint(mirror_taken(m, &taken), ==, -ESTALE);
	g_assert_cmpint(mirror_align(m, vm_fd), ==, -EAGAIN); /* four are in the tap */
	for (unsigned i = 0; i < 5; i++)
		say_to_vm(udp4(i, 30));
	vm_takes(4);
	drain_mirror(m, 5);
	for (int i = 0; i < 3; i++) /* however often: five are in the tap */
		g_assert_cmpint(mirror_align(m, vm_fd), ==, -EAGAIN);
	vm_takes(5);
	g_assert_cmpint(mirror_align(m, vm_fd), ==, -EAGAIN); /* one finding is none */
	g_assert_cmpint(mirror_align(m, vm_fd), ==, 0);
	g_assert_true(mirror_aligned(m));
	g_assert_cmpint(mirror_taken(m, &taken), ==, 0);
	g_assert_cmpuint(taken, ==, 5);
	for (unsigned i = 0; i < 40; i++) {
		say_to_vm(udp4(i, 30));
		if (i % 2)
			vm_takes(1);
		g_assert_cmpint(mirror_taken(m, &taken), ==, 0);
		g_assert_cmpuint(taken, ==, 5 + (i + 1) / 2);
	}
	drain_mirror(m, 40);
	mirror_get_counters(m, &count);
	g_assert_cmpuint(count.received, ==, 45);
	g_assert_cmpuint(count.kernel_dropped, ==, 0);
	g_assert_cmpuint(count.port_dropped, ==, 0);
	/* the tap overflows: the cut is unknown, and says so */
	g_assert_cmpint(netif_set_txqueuelen("vm0", 25), ==, 0);
	for (unsigned i = 0; i < 10; i++)
		say_to_vm(udp4(i, 30));
	g_assert_cmpint(mirror_taken(m, &taken), ==, -ESTALE);
	g_assert_false(mirror_aligned(m));
	mirror_get_counters(m, &count);
	g_assert_cmpuint(count.port_dropped, >, 0);
	mirror_close(m);
	tear_down();
}

/* R8: copies that are lost are counted and reported. */
static void test_mirror_overflow(void)
{
	struct mirror_counters count;
	struct frame *list = NULL;
	struct mirror *m;
	unsigned got = 0;
	int ret;

	set_up();
	m = open_mirror(8192);
	for (unsigned i = 0; i < 200; i++)
		say_to_vm(udp4(i, 1000));
	g_assert_cmpint(mirror_receive(m, &list, 1), ==, -ENOBUFS);
	while ((ret = mirror_receive(m, &list, 10)) > 0) {
		got += (unsigned)ret;
		while (list) {
			struct frame *next = list->next;

			frame_free(list);
			list = next;
		}
	}
	g_assert_cmpint(ret, ==, 0);
	mirror_get_counters(m, &count);
	g_assert_cmpuint(count.received, ==, got);
	g_assert_cmpuint(count.kernel_dropped, ==, 200 - got);
	mirror_close(m);
	tear_down();
}

static struct inject *open_inject(unsigned limit)
{
	struct inject *in = NULL;
	char err[200] = "";

	if (inject_open("vm0", MARK, limit, &in, err, sizeof(err)) < 0)
		g_error("inject_open: %s", err);
	return in;
}

/* A secondary: on no bridge, its input is injected; a full tap pushes back and loses nothing. */
static void test_inject(void)
{
	struct inject_counters count;
	struct inject *in;
	unsigned sent = 0;
	unsigned taken = 0;

	set_up();
	g_assert_cmpint(netif_release("vm0"), ==, 0);
	in = open_inject(16);
	for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
		struct frame *f = to_vm(kinds[i].make());

		g_test_message("%s", kinds[i].name);
		g_assert_cmpint(inject_send(in, f), ==,
		                f->len > 1518 && !f->vnet.gso_type ? -EMSGSIZE : 0);
		if (f->len <= 1518 || f->vnet.gso_type)
			vm_expect(f);
		frame_free(f);
	}
	while (taken < 1000) {
		struct frame *f = udp4(sent, 40);
		int ret = inject_send(in, f);

		frame_free(f);
		if (ret == 0) {
			sent++;
			continue;
		}
		g_assert_cmpint(ret, ==, -EAGAIN);
		g_assert_cmpuint(sent - taken, ==, 16);
		g_assert_cmpint(inject_get_counters(in, &count), ==, 0);
		g_assert_cmpuint(count.waiting, ==, 16);
		for (int i = 0; i < 5; i++) {
			f = vm_next();
			g_assert_cmpuint(udp4_number(f), ==, taken);
			taken++;
			frame_free(f);
		}
	}
	g_assert_cmpint(inject_get_counters(in, &count), ==, 0);
	g_assert_cmpuint(count.lost, ==, 0);
	inject_close(in);
	tear_down();
}

/* A tap that is smaller than it was said to be: the loss is reported or counted, never silent. */
static void test_inject_overflow(void)
{
	struct inject_counters count;
	struct inject *in;
	unsigned accepted = 0;
	unsigned n;

	set_up();
	g_assert_cmpint(netif_set_txqueuelen("vm0", 8), ==, 0);
	in = open_inject(1000);
	for (unsigned i = 0; i < 50; i++) {
		struct frame *f = udp4(i, 40);
		int ret = inject_send(in, f);

		g_assert_true(ret == 0 || ret == -ENOBUFS);
		accepted += ret == 0;
		frame_free(f);
	}
	g_assert_cmpint(inject_get_counters(in, &count), ==, 0);
	for (n = 0; tapdev_pending(vm_fd); n++)
		frame_free(vm_next());
	g_assert_cmpuint(n, ==, 8);
	g_assert_cmpuint(accepted, ==, n + count.lost);
	g_assert_cmpuint(count.sent, ==, accepted);
	inject_close(in);
	tear_down();
}

static void assert_vm_silence(void)
{
	g_assert_false(tapdev_pending(vm_fd)); /* a write to side_fd goes all the way by itself */
}

/* A survivor: input comes here first, and goes in by the injector; with a mirror behind it. */
static void test_intercept(void)
{
	struct intercept_counters count;
	struct intercept *x = NULL;
	struct inject *in;
	struct mirror *m;
	char err[200] = "";

	set_up();
	if (intercept_open("vm0", NULL, MARK, 0, &x, err, sizeof(err)) < 0)
		g_error("intercept_open: %s", err);
	in = open_inject(0);
	m = open_mirror(0);
	for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
		struct frame *want = to_vm(kinds[i].make());
		struct frame *got = NULL;

		g_test_message("%s", kinds[i].name);
		say_to_vm(kinds[i].make());
		assert_vm_silence();
		g_assert_true(wait_readable(intercept_fd(x)));
		g_assert_cmpint(intercept_receive(x, &got, 5), ==, 1);
		assert_same(got, want);
		if (inject_send(in, got) == 0) {
			vm_expect(want);
			drain_mirror(m, 1);
		} else {
			g_assert_cmpuint(want->len, >, 1518);
		}
		frame_free(got);
		frame_free(want);
	}
	drain_mirror(m, 0);
	g_assert_cmpint(intercept_set(x, false), ==, 0);
	say_to_vm(make_tcp4());
	frame_free(vm_next());
	intercept_get_counters(x, &count);
	g_assert_cmpuint(count.received, ==, G_N_ELEMENTS(kinds));
	g_assert_cmpuint(count.kernel_dropped, ==, 0);
	intercept_close(x);
	run("! tc filter show dev vm0 egress | grep -q bpf");
	say_to_vm(make_tcp4());
	frame_free(vm_next());
	inject_close(in);
	mirror_close(m);
	tear_down();
}

/* Closed while on: the VM gets no unmapped input. */
static void test_intercept_closed(void)
{
	struct intercept *x = NULL;
	char err[200] = "";

	set_up();
	if (intercept_open("vm0", NULL, MARK, 0, &x, err, sizeof(err)) < 0)
		g_error("intercept_open: %s", err);
	intercept_close(x);
	say_to_vm(make_tcp4());
	assert_vm_silence();
	tear_down();
}

/* The host itself says nothing into a new tap, and the tap goes with its descriptor. */
static void test_silent_tap(void)
{
	int fd;

	run("echo 0 >/proc/sys/net/ipv6/conf/default/disable_ipv6");
	fd = make_tap("quiet0", NULL);
	run("grep -q 1 /proc/sys/net/ipv6/conf/quiet0/disable_ipv6");
	run("! ip -o addr show dev quiet0 | grep -q inet");
	run("ip -o link show dev quiet0 | grep -q 'NOARP.*UP.*noqueue.*qlen 10000'");
	g_assert_false(tapdev_pending(fd));
	close(fd);
	g_assert_cmpint(netif_index("quiet0"), ==, -ENODEV);
	run("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6");
}

/* ---- the pure parts ---- */

/* The first frame of the list, whose head is right; where its payload begins. */
static struct frame *announced(struct frame **list, const char *head, size_t head_len)
{
	struct frame *f = *list;

	g_assert_nonnull(f);
	*list = f->next;
	g_assert_cmpmem(f->data, head_len, head, head_len);
	return f;
}

#define RARP_BODY "\0\1\x08\0\6\4\0\3\x52\x54\0\0\0\1\0\0\0\0\x52\x54\0\0\0\1\0\0\0\0"
#define ARP_HEAD  "\xff\xff\xff\xff\xff\xff\x52\x54\0\0\0\1"

static void check_neighbour(const struct frame *f, const struct in6_addr *address, uint32_t ip)
{
	const uint8_t *na = f->data + ip + 40;
	uint32_t pseudo = IPPROTO_ICMPV6 + 32;

	g_assert_cmpuint(f->len, ==, ip + 72);
	g_assert_cmpmem(f->data, 6, "\x33\x33\0\0\0\1", 6);
	g_assert_cmpint(f->data[ip + 7], ==, 255);
	g_assert_cmpmem(na, 2, "\x88\0", 2);
	g_assert_cmpmem(na + 4, 4, "\x20\0\0\0", 4);
	g_assert_cmpmem(na + 8, 16, address, 16);
	g_assert_cmpmem(na + 24, 8, "\2\1\x52\x54\0\0\0\1", 8);
	for (uint32_t i = ip + 8; i < ip + 40; i += 2)
		pseudo += (uint32_t)f->data[i] << 8 | f->data[i + 1];
	g_assert_cmpint(checksum(na, 32, pseudo), ==, 0);
}

/* Without a tag, in VLAN 5, and in VLAN 7 of a provider's 100. */
static void test_announce(void)
{
	struct announce what = {.vlan_count = 2,
	                        .vlan = {{PACKET_TAG_CUSTOMER | 5},
	                                 {PACKET_TAG_SERVICE | 100, PACKET_TAG_CUSTOMER | 7}},
	                        .ipv4_count = 2,
	                        .ipv6_count = 2};
	struct frame *list = NULL;
	struct frame *f;

	memcpy(what.mac, vm_mac, 6);
	inet_pton(AF_INET, "192.0.2.1", &what.ipv4[0].address);
	inet_pton(AF_INET, "192.0.2.2", &what.ipv4[1].address);
	what.ipv4[1].tag[0] = what.vlan[0][0];
	inet_pton(AF_INET6, "2001:db8::7", &what.ipv6[0].address);
	inet_pton(AF_INET6, "2001:db8::8", &what.ipv6[1].address);
	memcpy(what.ipv6[1].tag, what.vlan[1], sizeof(what.ipv6[1].tag));
	g_assert_cmpint(announce_build(&what, &list), ==, 7);
	f = announced(&list, ARP_HEAD "\x80\x35" RARP_BODY, 42);
	g_assert_cmpuint(f->len, ==, 60);
	frame_free(f);
	f = announced(&list, ARP_HEAD "\x81\0\0\5\x80\x35" RARP_BODY, 46);
	g_assert_cmpuint(f->len, ==, 64);
	frame_free(f);
	f = announced(&list, ARP_HEAD "\x88\xa8\0\x64\x81\0\0\7\x80\x35" RARP_BODY, 50);
	g_assert_cmpuint(f->len, ==, 68);
	frame_free(f);
	f = announced(&list,
	              ARP_HEAD "\x08\x06\0\1\x08\0\6\4\0\1\x52\x54\0\0\0\1\xc0\0\2\1"
	                       "\0\0\0\0\0\0\xc0\0\2\1",
	              42);
	frame_free(f);
	f = announced(&list,
	              ARP_HEAD "\x81\0\0\5\x08\x06\0\1\x08\0\6\4\0\1\x52\x54\0\0\0\1\xc0\0\2\2"
	                       "\0\0\0\0\0\0\xc0\0\2\2",
	              46);
	frame_free(f);
	f = announced(&list, "\x33\x33", 2);
	check_neighbour(f, &what.ipv6[0].address, 14);
	frame_free(f);
	f = announced(&list, "\x33\x33", 2);
	g_assert_cmpmem(f->data + 12, 10, "\x88\xa8\0\x64\x81\0\0\7\x86\xdd", 10);
	check_neighbour(f, &what.ipv6[1].address, 22);
	frame_free(f);
	g_assert_null(list);
}

/* Several at once for the clients, and again for as long as a switch remembers, less and less. */
static void test_announce_times(void)
{
	const uint64_t second = 1000000000u;
	uint64_t at = 0, last = 0, wait;
	uint32_t sent = 1, early = 1;

	for (; (wait = announce_wait_ns(sent)) != 0; sent++) {
		g_assert_cmpuint(wait, >=, last);
		g_assert_cmpuint(wait, <=, at + second / 2);
		last = wait;
		at += wait;
		early += at <= second;
	}
	g_assert_cmpuint(early, >=, 5);
	g_assert_cmpuint(at, >=, 300 * second);
	g_assert_cmpuint(sent, <=, 20);
}

static void test_capture(void)
{
	char path[] = "/tmp/test_datapath_XXXXXX";
	char err[200] = "";
	char *bytes = NULL;
	gsize len = 0;
	struct capture *c = NULL;
	struct frame *f = make_arp();
	struct frame *ip = udp4(3, 10);

	close(mkstemp(path));
	memmove(ip->data, ip->data + 14, ip->len -= 14);
	ip->start = FRAME_AT_IP;
	g_assert_cmpint(capture_open(path, 24 + 16 + 60 + 16 + 52 + 60, &c, err, sizeof(err)), ==,
	                0);
	g_assert_cmpint(capture_frame(c, f, 5), ==, 0);
	g_assert_cmpint(capture_frame(c, ip, 6), ==, 0);
	g_assert_cmpint(capture_frame(c, ip, 7), ==, -ENOSPC);
	g_assert_cmpint(capture_close(c), ==, 0);
	g_assert_true(g_file_get_contents(path, &bytes, &len, NULL));
	g_assert_cmpuint(len, ==, 24 + 16 + 60 + 16 + 52);
	g_assert_cmpmem(bytes, 4, "\x4d\x3c\xb2\xa1", 4); /* nanoseconds, little endian */
	g_assert_cmpmem(bytes + 40, 60, f->data, 60);
	g_assert_cmpmem(bytes + 100 + 16 + 12, 2, "\x08\0", 2);
	g_assert_cmpmem(bytes + 100 + 16 + 14, 38, ip->data, 38);
	g_assert_cmpint(capture_open("/nonexistent/x", 0, &c, err, sizeof(err)), ==, -ENOENT);
	g_assert_nonnull(strstr(err, "/nonexistent/x"));
	g_free(bytes);
	frame_free(f);
	frame_free(ip);
	unlink(path);
}

static void test_netcheck(void)
{
	struct netcheck_params params = {.bridge = "br0", .port = "vm0", .nfqueue = true};
	struct finding findings[NETCHECK_MAX];
	static const char *const names[] = {"capabilities", "tap",    "bpf-tc", "br-netfilter",
	                                    "nfqueue",      "bridge", "port"};

	set_up();
	g_assert_cmpuint(netcheck_run(&params, findings, NETCHECK_MAX), ==, G_N_ELEMENTS(names));
	for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
		g_test_message("%s: %d %s", findings[i].name, findings[i].level, findings[i].text);
		g_assert_cmpstr(findings[i].name, ==, names[i]);
		g_assert_cmpint(findings[i].level, ==, FINDING_OK);
		g_assert_cmpstr(findings[i].advice, ==, "");
	}
	g_assert_cmpint(netif_index("colochk0"), ==, -ENODEV);
	params.bridge = "c0";
	params.port = "side0";
	g_assert_cmpuint(netcheck_run(&params, findings, NETCHECK_MAX), ==, G_N_ELEMENTS(names));
	g_assert_cmpint(findings[5].level, ==, FINDING_FAIL);
	g_assert_cmpint(findings[6].level, ==, FINDING_FAIL);
	g_assert_cmpint(strlen(findings[5].advice), >, 0);
	params.bridge = NULL;
	params.port = NULL;
	g_assert_cmpuint(netcheck_run(&params, findings, 3), ==, 3);
	tear_down();
}

/* Setup that cannot work says what and why, and leaves nothing behind. */
static void test_errors(void)
{
	struct hold_params params = {.port = "none0", .mark = MARK, .mode = HOLD_MODE_HOLD};
	struct hold *hold = NULL;
	struct mirror *m = NULL;
	struct inject *in = NULL;
	char err[200] = "";

	g_assert_cmpint(hold_open(&hold_tap, &params, &hold, err, sizeof(err)), ==, -ENODEV);
	g_assert_nonnull(strstr(err, "none0"));
	g_assert_cmpint(hold_open(&hold_nfqueue, &params, &hold, err, sizeof(err)), ==, -ENODEV);
	params.mark = 0;
	g_assert_cmpint(hold_open(&hold_tap, &params, &hold, err, sizeof(err)), ==, -EINVAL);
	g_assert_cmpint(mirror_open("none0", 0, &m, err, sizeof(err)), ==, -ENODEV);
	g_assert_cmpint(inject_open("none0", MARK, 0, &in, err, sizeof(err)), ==, -ENODEV);
	g_assert_null(hold);
	g_assert_null(m);
	g_assert_null(in);
	g_assert_cmpint(netif_master("none0"), ==, -ENODEV);
	g_assert_cmpint(netif_enslave("lo", "none0"), ==, -ENODEV);
	g_assert_true(hold_by_name("hold-tap") == &hold_tap);
	g_assert_true(hold_by_name("nfqueue") == &hold_nfqueue);
	g_assert_null(hold_by_name("pcap"));
	hold_close(NULL);
	mirror_close(NULL);
	inject_close(NULL);
	intercept_close(NULL);
}

/* ---- main ---- */

static void add(const char *name, const struct hold_ops *ops, void (*test)(const void *))
{
	char path[100];

	snprintf(path, sizeof(path), "/datapath/%s/%s", ops->name, name);
	g_test_add_data_func(path, ops, test);
}

static void test_skip(void)
{
	g_test_skip("needs root and network namespaces");
}

int main(int argc, char **argv)
{
	const struct hold_ops *const all[] = {&hold_tap, &hold_nfqueue};

	g_test_init(&argc, &argv, NULL);
	if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0) {
		g_test_add_func("/datapath/skip", test_skip);
		return g_test_run();
	}
	run("for f in default all; do echo 1 >/proc/sys/net/ipv6/conf/$f/disable_ipv6; done");
	for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
		add("every-kind", all[i], test_every_kind);
		add("uso", all[i], test_uso);
		add("order", all[i], test_order);
		add("rewrite", all[i], test_rewrite);
		add("split", all[i], test_split);
		add("split-order", all[i], test_split_order);
		add("split-fails", all[i], test_split_fails);
		add("split-address", all[i], test_split_address);
		add("split-segment", all[i], test_split_segment);
		add("whole", all[i], test_whole);
		add("death", all[i], test_death);
		add("modes", all[i], test_modes);
		add("overflow", all[i], test_overflow);
		add("ruleset", all[i], test_ruleset);
		add("secondary", all[i], test_secondary);
	}
	g_test_add_func("/datapath/announce", test_announce);
	g_test_add_func("/datapath/announce-times", test_announce_times);
	g_test_add_func("/datapath/capture", test_capture);
	g_test_add_func("/datapath/errors", test_errors);
	g_test_add_func("/datapath/silent-tap", test_silent_tap);
	g_test_add_func("/datapath/mirror/every-kind", test_mirror_kinds);
	g_test_add_func("/datapath/mirror/cut", test_cut);
	g_test_add_func("/datapath/mirror/overflow", test_mirror_overflow);
	g_test_add_func("/datapath/inject/every-kind", test_inject);
	g_test_add_func("/datapath/inject/overflow", test_inject_overflow);
	g_test_add_func("/datapath/intercept/every-kind", test_intercept);
	g_test_add_func("/datapath/intercept/closed", test_intercept_closed);
	g_test_add_func("/datapath/netcheck", test_netcheck);
	return g_test_run();
}
