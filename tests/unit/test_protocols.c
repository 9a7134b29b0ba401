/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is not plain IPv4, through both halves of the comparison: IPv6, VLAN tags, fragments, frames
 * that are compared as a whole. Each test that is about TCP runs for every kind of framing.
 */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "colo-proxy/core/fragments.h"
#include "tests/unit/pair_rig.h"

/* The two VMs' initial sequence numbers, and the client's. */
#define PVM_ISS 0xfffffff0u
#define SVM_ISS 5000u
#define IRS     500u

struct framing {
	const char *name;
	bool ipv6, extended;
	uint16_t tpid[2], tci[2]; /* outer first; 0: none */
};

static const struct framing framings[] = {
        {.name = "ipv4"},
        {.name = "ipv6", .ipv6 = true},
        {.name = "ipv6-extended", .ipv6 = true, .extended = true},
        {.name = "vlan", .tpid = {0x8100}, .tci = {7}},
        {.name = "vlan-0", .tpid = {0x8100}, .tci = {0x6000}},
        {.name = "ipv6-vlan", .ipv6 = true, .tpid = {0x8100}, .tci = {7}},
        {.name = "qinq", .ipv6 = true, .tpid = {0x88a8, 0x8100}, .tci = {7, 9}},
};

static struct frame *dress(const struct framing *how, struct frame *f)
{
	for (int i = 1; i >= 0; i--) {
		if (how->tpid[i])
			f = build_tagged(f, how->tpid[i], how->tci[i]);
	}
	return f;
}

static struct frame *tcp_frame(const struct framing *how, struct build_tcp t)
{
	t.ipv6 = how->ipv6;
	t.extended = how->extended;
	return dress(how, build_tcp(&t));
}

static const uint8_t *bytes(void)
{
	static uint8_t all[20000];

	for (uint32_t i = 0; i < sizeof(all); i++)
		all[i] = (uint8_t)(i * 37 ^ i >> 8);
	return all;
}

/* Stream offset 0 is the first byte behind the SYN. */
static struct build_tcp segment(uint32_t iss, uint16_t flags, uint32_t off, uint32_t len)
{
	return (struct build_tcp){.seq = iss + 1 + off,
	                          .ack = IRS + 1,
	                          .len = len,
	                          .data = bytes() + off,
	                          .flags = PACKET_ACK | flags,
	                          .has_ts = true,
	                          .tsval = iss + off};
}

static struct build_tcp syn_ack(uint32_t iss)
{
	return (struct build_tcp){.seq = iss,
	                          .ack = IRS + 1,
	                          .flags = PACKET_SYN | PACKET_ACK,
	                          .mss = 1440,
	                          .has_ts = true,
	                          .tsval = iss};
}

static void pvm(struct pair *p, const struct framing *how, struct build_tcp t)
{
	pair_pvm(p, tcp_frame(how, t));
}

static void svm(struct pair *p, const struct framing *how, struct build_tcp t)
{
	pair_svm(p, tcp_frame(how, t));
}

static struct pair *opened(const struct framing *how)
{
	struct pair *p = pair_new();

	pvm(p, how, syn_ack(PVM_ISS));
	pair_holds(p, 1);
	svm(p, how, syn_ack(SVM_ISS));
	pair_released(p, 1, RELEASE_MATCH);
	return p;
}

static void test_stream(const void *data)
{
	const struct framing *how = data;
	struct pair *p = opened(how);
	struct framing other = *how;
	struct build_tcp t;

	pvm(p, how, segment(PVM_ISS, 0, 0, 30)); /* other segments than the SVM's */
	svm(p, how, segment(SVM_ISS, 0, 0, 20));
	pair_holds(p, 1);
	svm(p, how, segment(SVM_ISS, PACKET_FIN, 20, 10));
	pair_released(p, 1, RELEASE_MATCH);
	pvm(p, how, segment(PVM_ISS, PACKET_FIN, 30, 0));
	pair_released(p, 1, RELEASE_MATCH);
	pair_free(p);

	p = opened(how);
	other.extended = how->ipv6 && !how->extended; /* headers between are not compared */
	other.tci[0] ^= how->tpid[0] ? 0xa000 : 0;    /* nor is the priority */
	svm(p, &other, segment(SVM_ISS, 0, 0, 9000));
	pvm(p, how, segment(PVM_ISS, 0, 0, 9000));
	pair_released(p, 1, RELEASE_MATCH);
	t = segment(PVM_ISS, 0, 9000, 10);
	pvm(p, how, t);
	t = segment(SVM_ISS, 0, 9000, 10);
	t.data = bytes() + 1;
	svm(p, how, t);
	pair_holds(p, 1);
	g_assert_true(pair_wants(p, CKPT_MISMATCH));
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	/* A clone again: one and the same number. */
	pvm(p, how, segment(PVM_ISS, 0, 9010, 10));
	svm(p, how, segment(PVM_ISS, 0, 9010, 10));
	pair_released(p, 1, RELEASE_MATCH);
	pair_free(p);
}

/* A superframe of which the SVM has said the beginning is cut, and both parts are right. */
static void test_split(const void *data)
{
	const struct framing *how = data;
	struct pair *p = opened(how);
	struct build_tcp t = segment(PVM_ISS, PACKET_FIN | PACKET_PSH, 0, 3000);
	struct packet packet;

	t.gso_size = 1000;
	pvm(p, how, t);
	svm(p, how, segment(SVM_ISS, 0, 0, 1000));
	pair_holds(p, 1);
	p->now += 4 * PAIR_MS;
	gate_tick(p->gate, p->now);
	g_assert_cmpuint(p->outs, ==, 1);
	g_assert_cmpint(packet_parse(&packet, p->out[0].frame), ==, 0);
	g_assert_cmpuint(packet.payload_len, ==, 1000);
	g_assert_cmpuint(p->out[0].frame->vnet.gso_type, ==, VIRTIO_NET_HDR_GSO_NONE);
	g_assert_cmpuint(pair_tcp(frame_copy(p->out[0].frame)).seq, ==, PVM_ISS + 1);
	pair_forget_outs(p);
	svm(p, how, segment(SVM_ISS, PACKET_FIN, 1000, 2000));
	g_assert_cmpuint(p->outs, ==, 1);
	g_assert_cmpint(packet_parse(&packet, p->out[0].frame), ==, 0);
	g_assert_cmpuint(packet.payload_len, ==, 2000);
	g_assert_cmpuint(p->out[0].frame->vnet.gso_type, ==,
	                 how->ipv6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4);
	g_assert_cmpmem(p->out[0].frame->data + packet.payload_off, 2000, bytes() + 1000, 2000);
	g_assert_cmpuint(pair_tcp(frame_copy(p->out[0].frame)).seq, ==, PVM_ISS + 1001);
	pair_released(p, 1, RELEASE_MATCH);
	pair_free(p);
}

/* R7: numbers in both directions before and after the takeover, checksums included. */
static void test_mapping(const void *data)
{
	const struct framing *how = data;
	struct pair *p = opened(how);
	struct build_tcp in = {.from_peer = true,
	                       .flags = PACKET_ACK,
	                       .seq = IRS + 1,
	                       .ack = PVM_ISS + 41,
	                       .len = 3,
	                       .data = bytes(),
	                       .has_ts = true,
	                       .tsval = 77,
	                       .tsecr = PVM_ISS + 9,
	                       .has_sack = true,
	                       .sack_left = PVM_ISS + 61,
	                       .sack_right = PVM_ISS + 71};
	struct frame *f;
	struct packet packet;
	struct packet_tcp tcp;
	uint32_t left, right;

	svm(p, how, segment(SVM_ISS, 0, 0, 10)); /* what is acknowledged and echoed */
	svm(p, how, segment(SVM_ISS, 0, 10, 30));
	for (int taken = 0; taken < 2; taken++) {
		f = pair_client(p, tcp_frame(how, in));
		g_assert_cmpint(packet_parse(&packet, f), ==, 0);
		packet_sack(&packet, 0, &left, &right);
		g_assert_cmpuint(left, ==, SVM_ISS + 61);
		g_assert_cmpuint(right, ==, SVM_ISS + 71);
		tcp = pair_tcp(f);
		g_assert_cmpuint(tcp.ack, ==, SVM_ISS + 41);
		g_assert_cmpuint(tcp.tsecr, ==, SVM_ISS + 9);
		g_assert_cmpuint(tcp.tsval, ==, 77);
		if (!taken)
			shadow_takeover(p->shadow, p->now);
	}
	f = tcp_frame(how, segment(SVM_ISS, 0, 40, 25));
	shadow_translate(p->shadow, f, p->now);
	tcp = pair_tcp(f);
	g_assert_cmpuint(tcp.seq, ==, PVM_ISS + 41);
	g_assert_cmpuint(tcp.tsval, ==, PVM_ISS + 40);
	pair_free(p);
}

static void test_input_is_fed_again(const void *data)
{
	const struct framing *how = data;
	struct pair *p = opened(how);
	struct build_tcp in = {.from_peer = true,
	                       .flags = PACKET_ACK,
	                       .seq = IRS + 1,
	                       .ack = PVM_ISS + 1,
	                       .len = 100,
	                       .data = bytes()};

	frame_free(pair_client(p, tcp_frame(how, in)));
	for (int i = 0; i < 4; i++)
		svm(p, how, segment(SVM_ISS, 0, 0, 0));
	g_assert_cmpuint(p->refeeds, ==, 1);
	pair_free(p);
}

/* ---- VLAN ---- */

/* One pair of addresses and ports in four networks: four flows. */
static void test_vlan_flows(void)
{
	static const struct framing nets[] = {
	        {.name = "none"},
	        {.name = "5", .tpid = {0x8100}, .tci = {5}},
	        {.name = "s5", .tpid = {0x88a8}, .tci = {5}},
	        {.name = "5.5", .tpid = {0x88a8, 0x8100}, .tci = {5, 5}},
	};
	struct pair *p = pair_new();

	for (uint32_t i = 0; i < G_N_ELEMENTS(nets); i++)
		pair_pvm(p, dress(&nets[i], build_udp(false, 53, 2000, "answer", 6)));
	pair_holds(p, 4);
	for (uint32_t i = G_N_ELEMENTS(nets); i-- > 0;) {
		struct frame *f = dress(&nets[i], build_udp(false, 53, 2000, "answer", 6));

		pair_svm(p, frame_copy(f));
		g_assert_cmpuint(p->outs, ==, 1);
		g_assert_cmpmem(p->out[0].frame->data, p->out[0].frame->len, f->data, f->len);
		pair_released(p, 1, RELEASE_MATCH);
		frame_free(f);
	}
	pair_free(p);
}

/* ---- fragments ---- */

static struct frame *datagram(bool ipv6, uint16_t port, uint32_t len)
{
	return ipv6 ? build_udp6(false, port, 2000, bytes(), len)
	            : build_udp(false, port, 2000, bytes(), len);
}

/* One piece of a datagram of `len` bytes from the port. */
static struct frame *piece(bool ipv6, uint16_t port, uint32_t id, uint32_t len, uint32_t off,
                           uint32_t n)
{
	struct frame *whole = datagram(ipv6, port, len);
	struct frame *f = build_fragment(whole, id, off, n, off + n < len + 8);

	frame_free(whole);
	return f;
}

static void test_fragments(const void *data)
{
	bool six = *(const bool *)data;
	struct pair *p = pair_new();

	/* Three against two, with other identifications, the SVM's in the wrong order. */
	pair_pvm(p, piece(six, 53, 1, 2992, 0, 1400));
	pair_pvm(p, piece(six, 53, 1, 2992, 1400, 1400));
	pair_svm(p, piece(six, 53, 900, 2992, 1480, 1520));
	pair_svm(p, piece(six, 53, 900, 2992, 0, 1480));
	pair_holds(p, 2);
	pair_pvm(p, piece(six, 53, 1, 2992, 2800, 200));
	g_assert_cmpuint(p->outs, ==, 3);
	g_assert_cmpuint(p->out[2].frame->len, ==, (six ? 62 : 34) + 200); /* in their order */
	pair_released(p, 3, RELEASE_MATCH);
	/* Against one whole, which the SVM says first; and the other way round. */
	pair_svm(p, datagram(six, 53, 1000));
	pair_pvm(p, piece(six, 53, 2, 1000, 504, 504));
	pair_pvm(p, piece(six, 53, 2, 1000, 0, 504));
	pair_released(p, 2, RELEASE_MATCH);
	pair_pvm(p, datagram(six, 53, 1000));
	pair_svm(p, piece(six, 53, 2, 1000, 0, 504));
	pair_holds(p, 1);
	pair_svm(p, piece(six, 53, 2, 1000, 504, 504));
	pair_released(p, 1, RELEASE_MATCH);
	/* Two at a time, their pieces mixed, in one flow: order is that of being whole. */
	pair_pvm(p, piece(six, 53, 3, 1000, 0, 504));
	pair_pvm(p, piece(six, 53, 4, 1008, 0, 504));
	pair_pvm(p, piece(six, 53, 3, 1000, 504, 504));
	pair_pvm(p, piece(six, 53, 4, 1008, 504, 512));
	pair_svm(p, datagram(six, 53, 1000));
	pair_released(p, 2, RELEASE_MATCH);
	pair_svm(p, datagram(six, 53, 1008));
	pair_released(p, 2, RELEASE_MATCH);
	g_assert_cmpuint(p->wants, ==, 0);
	/* A difference. */
	pair_pvm(p, piece(six, 53, 5, 1000, 0, 504));
	pair_pvm(p, piece(six, 53, 5, 1000, 504, 504));
	pair_svm(p, datagram(six, 53, 999));
	pair_holds(p, 2);
	g_assert_true(pair_wants(p, CKPT_MISMATCH));
	pair_checkpoint(p);
	pair_released(p, 2, RELEASE_COMMIT);
	pair_free(p);
}

/* What is not whole is the commit's: at a cut, when pieces overlap, when there are too many. */
static void test_fragments_by_commit(const void *data)
{
	bool six = *(const bool *)data;
	struct pair *p = pair_new();

	pair_pvm(p, piece(six, 53, 1, 1000, 0, 504));
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	pair_pvm(p, piece(six, 53, 1, 1000, 504, 504));
	pair_svm(p, datagram(six, 53, 1000));
	pair_holds(p, 1);
	pair_checkpoint(p);
	pair_released(p, 1, RELEASE_COMMIT);
	/* Overlap (RFC 5722). */
	pair_pvm(p, piece(six, 53, 2, 1000, 0, 504));
	pair_pvm(p, piece(six, 53, 2, 1000, 496, 512));
	pair_pvm(p, piece(six, 53, 2, 1000, 504, 504));
	pair_svm(p, datagram(six, 53, 1000));
	pair_holds(p, 3);
	p->now += PAIR_LATE;
	gate_tick(p->gate, p->now);
	g_assert_true(pair_wants(p, CKPT_UNCOMPARED));
	pair_checkpoint(p);
	pair_released(p, 3, RELEASE_COMMIT);
	/* More than FRAGMENTS_MAX at once: the oldest is given up, the others are compared. */
	for (uint16_t i = 0; i <= FRAGMENTS_MAX; i++)
		pair_pvm(p, piece(six, 100 + i, i, 1000, 0, 504));
	for (uint16_t i = FRAGMENTS_MAX; i > 0; i--) {
		pair_pvm(p, piece(six, 100 + i, i, 1000, 504, 504));
		pair_svm(p, datagram(six, 100 + i, 1000));
		pair_released(p, 2, RELEASE_MATCH);
	}
	pair_holds(p, 1);
	/* One that has come late in the epoch, whole but not said, asks as late. */
	pair_checkpoint(p);
	pair_forget_outs(p);
	p->wants = 0;
	pair_pvm(p, piece(six, 53, 2, 1000, 0, 504));
	pair_pvm(p, piece(six, 53, 2, 1000, 504, 504));
	p->now += PAIR_LATE;
	gate_tick(p->gate, p->now);
	g_assert_true(pair_wants(p, CKPT_LATE));
	g_assert_cmpuint(p->wants, ==, 1);
	gate_unprotect(p->gate, p->now);
	pair_released(p, 2, RELEASE_UNPROTECTED);
	pair_free(p);
}

/* TCP in fragments is not compared, and what is held at the end is freed. */
static void test_fragments_of_tcp(void)
{
	struct pair *p = pair_new();
	struct build_tcp t = segment(PVM_ISS, 0, 0, 1000);
	struct frame *whole = build_tcp(&t);

	pair_svm(p, build_fragment(whole, 1, 0, 512, true));
	pair_svm(p, build_fragment(whole, 1, 512, whole->len - 34 - 512, false));
	pair_pvm(p, build_fragment(whole, 1, 0, 512, true));
	pair_pvm(p, build_fragment(whole, 1, 512, whole->len - 34 - 512, false));
	pair_holds(p, 2);
	frame_free(whole);
	pair_pvm(p, piece(false, 53, 2, 1000, 0, 504));
	pair_pvm(p, piece(false, 53, 2, 1000, 504, 504));
	pair_holds(p, 4);
	pair_free(p);
}

/* A piece behind the end, a last piece twice, a hole that another piece's bytes make up for. */
static void test_fragments_that_lie(void)
{
	static const struct {
		uint32_t payload; /* so that the UDP header agrees with the end */
		struct {
			uint32_t off, len;
			bool more;
		} piece[3];
	} lies[] = {
	        {16, {{16, 8, false}, {24, 8, true}, {0, 8, true}}},
	        {8, {{8, 8, false}, {16, 8, false}, {0, 8, true}}},
	        {8, {{0, 8, true}, {8, 0, false}, {8, 8, false}}},
	        {9, {{0, 8, true}, {8, 7, true}, {8, 9, false}}},
	        {16, {{0, 8, true}, {65528, 16, false}, {8, 8, false}}},
	};

	for (uint32_t i = 0; i < G_N_ELEMENTS(lies); i++) {
		struct pair *p = pair_new();
		struct frame *whole = datagram(false, 53, lies[i].payload);

		for (uint32_t k = 0; k < 3; k++) {
			uint32_t off = lies[i].piece[k].off;
			struct frame *f = build_fragment(whole, 1, 0, lies[i].piece[k].len, false);

			build_put16(f->data + 20, off / 8 | (lies[i].piece[k].more ? 0x2000 : 0));
			pair_svm(p, frame_copy(f));
			pair_pvm(p, f);
		}
		pair_holds(p, 3);
		g_assert_cmpuint(p->wants, ==, 0); /* nothing was compared */
		frame_free(whole);
		pair_free(p);
	}
}

/* ---- compared as a whole, and not at all ---- */

static struct frame *lldp(uint8_t ttl)
{
	struct frame *f = build_other(0x88cc);

	f->data[20] = ttl;
	return f;
}

/* A bridge's hello of 35 bytes, in a frame that is padded. */
static struct frame *bpdu(uint8_t age, uint8_t padding)
{
	struct frame *f = build_other(38);

	f->data[14] = f->data[15] = 0x42;
	f->data[16] = 3;
	f->data[51] = age;
	f->data[59] = padding;
	return f;
}

/* A query; reports are in test_membership. */
static struct frame *igmp(uint8_t group)
{
	struct frame *f = build_ipv4(false, 2, 8);

	f->data[34] = 0x11;
	f->data[41] = group;
	return f;
}

static void test_whole_frames(void)
{
	struct pair *p = pair_new();
	struct gate_stats stats;

	pair_pvm(p, lldp(120));
	pair_pvm(p, bpdu(1, 0));
	pair_pvm(p, igmp(5));
	pair_holds(p, 3);
	pair_svm(p, igmp(5));
	pair_svm(p, lldp(120));
	pair_svm(p, bpdu(1, 9)); /* padding is nothing that was said */
	pair_released(p, 3, RELEASE_MATCH);
	gate_get_stats(p->gate, &stats);
	g_assert_cmpuint(stats.by_class[PACKET_WHOLE].matched_packets, ==, 3);
	pair_pvm(p, lldp(120));
	pair_svm(p, lldp(121));
	pair_holds(p, 1);
	g_assert_true(pair_wants(p, CKPT_MISMATCH));
	pair_pvm(p, build_other(0x8035)); /* RARP, unknown: whatever the SVM says */
	pair_svm(p, build_other(0x8035));
	pair_holds(p, 2);
	pair_checkpoint(p);
	pair_released(p, 2, RELEASE_COMMIT);
	pair_free(p);
}

/* ICMPv6, NDP among it; a request's echo goes by its identifier. */
static struct frame *icmp6(uint8_t type, uint16_t id, uint8_t last)
{
	struct frame *f = build_ipv6(false, true, 58, 24);

	f->data[70] = type;
	build_put16(f->data + 74, id);
	f->data[f->len - 1] = last;
	return f;
}

static void test_icmp6(void)
{
	struct pair *p = pair_new();

	pair_pvm(p, icmp6(129, 1, 1));
	pair_pvm(p, icmp6(129, 2, 1));
	pair_svm(p, icmp6(129, 2, 1)); /* two flows */
	pair_svm(p, icmp6(129, 1, 1));
	pair_released(p, 2, RELEASE_MATCH);
	pair_pvm(p, icmp6(136, 0, 1));
	pair_svm(p, icmp6(136, 0, 1));
	pair_released(p, 1, RELEASE_MATCH);
	g_assert_cmpuint(p->wants, ==, 0);
	pair_pvm(p, icmp6(135, 0, 1));
	pair_svm(p, icmp6(135, 0, 2));
	pair_holds(p, 1);
	g_assert_true(pair_wants(p, CKPT_MISMATCH));
	pair_free(p);
}

/* What is announced after a takeover. */
static void test_sources(void)
{
	struct pair *p = pair_new();
	const struct shadow_sources *sources = shadow_sources(p->shadow);
	struct frame *f = build_udp6(false, 53, 2000, "x", 1);

	g_assert_false(sources->mac_known);
	memset(f->data + 22, 0, 16); /* from ::, as address detection */
	pair_svm(p, f);
	pair_svm(p, build_udp6(false, 53, 2000, "x", 1));
	pair_svm(p, build_udp6(false, 53, 2001, "x", 1));
	pair_svm(p, build_udp(false, 53, 2000, "x", 1));
	f = build_udp(false, 53, 2000, "x", 1);
	f->data[29] = 99; /* another network's address */
	f->data[11] = 7;
	pair_svm(p, build_tagged(f, 0x8100, 5));
	f = build_udp6(false, 53, 2000, "x", 1);
	pair_svm(p, build_tagged(build_tagged(f, 0x8100, 6), 0x88a8, 0x2007)); /* with a priority */
	for (int i = 0; i < 2; i++) /* the same address in another VLAN is another one */
		pair_svm(p, build_tagged(build_udp(false, 53, 2000, "x", 1), 0x8100, 8));
	f = build_udp(false, 68, 67, "x", 1);
	memset(f->data + 26, 0, 4); /* from 0.0.0.0, as DHCP */
	pair_svm(p, build_tagged(f, 0x8100, 9));
	g_assert_true(sources->mac_known && sources->mac[5] == 1);
	g_assert_cmpuint(sources->ipv4_count, ==, 3);
	g_assert_cmphex(sources->ipv4[0].address, ==, BUILD_VM_IP);
	g_assert_cmphex(sources->ipv4[0].tag[0], ==, 0);
	g_assert_cmphex(sources->ipv4[1].address & 255, ==, 99);
	g_assert_cmphex(sources->ipv4[1].tag[0], ==, PACKET_TAG_CUSTOMER | 5);
	g_assert_cmphex(sources->ipv4[2].address, ==, BUILD_VM_IP);
	g_assert_cmphex(sources->ipv4[2].tag[0], ==, PACKET_TAG_CUSTOMER | 8);
	g_assert_cmpuint(sources->ipv6_count, ==, 2);
	g_assert_cmpuint(sources->ipv6[0].address[15], ==, BUILD_VM_IP & 255);
	g_assert_cmphex(sources->ipv6[1].tag[0], ==, PACKET_TAG_SERVICE | 7);
	g_assert_cmphex(sources->ipv6[1].tag[1], ==, PACKET_TAG_CUSTOMER | 6);
	g_assert_cmpuint(sources->vlan_count, ==, 4);
	g_assert_cmphex(sources->vlan[0][0], ==, PACKET_TAG_CUSTOMER | 5);
	g_assert_cmphex(sources->vlan[3][0], ==, PACKET_TAG_CUSTOMER | 9);
	pair_free(p);
}

static void test_key_text(void)
{
	struct flow_key key = build_key(true, 6, FLOW_TCP, 80, 1000);
	char text[FLOW_KEY_TEXT_LEN];

	g_assert_cmpstr(flow_key_text(&key, text, sizeof(text)), ==,
	                "tcp [fd00:cafe::a00:1]:80 - [fd00:cafe::a00:2]:1000");
	key = build_key(false, 17, FLOW_UDP, 53, 2000);
	key.flags = FLOW_TAGGED;
	key.tag[0] = PACKET_TAG_SERVICE | 5;
	key.tag[1] = PACKET_TAG_CUSTOMER | 4095;
	g_assert_cmpstr(flow_key_text(&key, text, sizeof(text)), ==,
	                "udp 10.0.0.1:53 - 10.0.0.2:2000 vlan 5.4095");
	memset(&key, 0, sizeof(key));
	g_assert_cmpstr(flow_key_text(&key, text, sizeof(text)), ==, "none 0.0.0.0:0 - 0.0.0.0:0");
}

/* ---- the table ---- */

static bool in_row(const struct protocol *row, uint32_t number)
{
	for (uint32_t i = 0; i < PROTOCOL_RANGES; i++) {
		if (row->number[i].to && number >= row->number[i].from &&
		    number <= row->number[i].to)
			return true;
	}
	return false;
}

/* Every number of the layer has the one row that lists it, or else `other`, which is held. */
static void check_layer(enum protocol_layer layer, uint32_t count, enum protocol_id other,
                        enum protocol_id (*row_of)(uint32_t))
{
	for (uint32_t number = 0; number < count; number++) {
		enum protocol_id want = other;
		uint32_t rows = 0;

		for (uint32_t id = 0; id < PROTOCOL_COUNT; id++) {
			if (protocols[id].layer != layer || !in_row(&protocols[id], number))
				continue;
			want = id;
			rows++;
		}
		g_assert_cmpuint(rows, <=, 1);
		g_assert_cmpint(row_of(number), ==, want);
	}
}

static enum protocol_id of_ethertype(uint32_t number)
{
	return protocol_of_link(number < 0x600 ? 0x88b5 : (uint16_t)number, 0);
}

static enum protocol_id of_saps(uint32_t number)
{
	return protocol_of_link(100, (uint16_t)number);
}

static enum protocol_id of_ip(uint32_t number)
{
	return protocol_of_ip((uint8_t)number);
}

static enum protocol_id of_sport(uint32_t number)
{
	return protocol_of_udp((uint16_t)number, 1);
}

static enum protocol_id of_dport(uint32_t number)
{
	return protocol_of_udp(1, (uint16_t)number);
}

static enum protocol_id of_icmp6(uint32_t number)
{
	return protocol_of_icmp6((uint8_t)number);
}

static void test_table(void)
{
	check_layer(LAYER_LINK, 65536, PROTOCOL_ETHERTYPE, of_ethertype);
	check_layer(LAYER_LLC, 65536, PROTOCOL_LLC, of_saps);
	check_layer(LAYER_IP, 256, PROTOCOL_IP, of_ip);
	check_layer(LAYER_UDP, 65536, PROTOCOL_UDP, of_sport);
	check_layer(LAYER_UDP, 65536, PROTOCOL_UDP, of_dport);
	check_layer(LAYER_ICMP6, 256, PROTOCOL_ICMP6, of_icmp6);
	g_assert_cmpint(protocols[PROTOCOL_ETHERTYPE].treatment, ==, TREAT_COMMIT);
	g_assert_cmpint(protocols[PROTOCOL_LLC].treatment, ==, TREAT_COMMIT);
	g_assert_cmpint(protocols[PROTOCOL_IP].treatment, ==, TREAT_COMMIT);
}

static void add(const char *name, const struct framing *how, GTestDataFunc test)
{
	g_autofree char *path = g_strdup_printf("/protocols/%s/%s", how->name, name);

	g_test_add_data_func(path, how, test);
}

int main(int argc, char **argv)
{
	static const bool four = false, six = true;

	g_test_init(&argc, &argv, NULL);
	for (uint32_t i = 0; i < G_N_ELEMENTS(framings); i++) {
		add("stream", &framings[i], test_stream);
		add("split", &framings[i], test_split);
		add("mapping", &framings[i], test_mapping);
		add("refeed", &framings[i], test_input_is_fed_again);
	}
	g_test_add_func("/protocols/vlan/flows", test_vlan_flows);
	g_test_add_data_func("/protocols/fragments/ipv4", &four, test_fragments);
	g_test_add_data_func("/protocols/fragments/ipv6", &six, test_fragments);
	g_test_add_data_func("/protocols/fragments/commit-ipv4", &four, test_fragments_by_commit);
	g_test_add_data_func("/protocols/fragments/commit-ipv6", &six, test_fragments_by_commit);
	g_test_add_func("/protocols/fragments/tcp", test_fragments_of_tcp);
	g_test_add_func("/protocols/fragments/lies", test_fragments_that_lie);
	g_test_add_func("/protocols/table", test_table);
	g_test_add_func("/protocols/whole", test_whole_frames);
	g_test_add_func("/protocols/icmp6", test_icmp6);
	g_test_add_func("/protocols/sources", test_sources);
	g_test_add_func("/protocols/key-text", test_key_text);
	return g_test_run();
}
