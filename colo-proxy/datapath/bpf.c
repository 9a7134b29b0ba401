/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/bpf.h"

#include "colo-proxy/datapath/netlink.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Theory of operation
 *
 * A program is a list of instructions built by the helpers below. Forward jumps name a label; the
 * label's place is filled in when it is reached. Every way to leave a program that is not stated is
 * a drop: a map that cannot be read, bytes that cannot be loaded.
 *
 * "Pass" is TC_ACT_UNSPEC: the frame goes on to filters of lower preference that the host's
 * administrator may have, and then its way.
 */

#define PROG_MAX 128 /* the longest has 107 */

/* The port's program's stack, from its end. */
#define STACK_CELL    (-4)
#define STACK_ETH     (-16) /* 8 bytes of the frame */
#define STACK_HEAD    (-80) /* HEAD_BYTES of it: to the end of an IPv6 packet's ports, rounded up */
#define HEAD_BYTES    64
#define STACK_SEGMENT (STACK_HEAD + (int)offsetof(struct bpf_link, segment))
#define IPV4_AT       26 /* the addresses in the frame, and the ports right behind them */
#define IPV6_AT       22
#define IPV4_PROTO    23
#define IPV6_NEXT     20

static_assert(sizeof(struct bpf_link) == 16, "the program compares it in two words");
static_assert(IPV4_AT + sizeof(((struct bpf_flow *)0)->bytes) <= HEAD_BYTES, "it is all there");

enum label {
	LABEL_NONE, /* the next instruction */
	LABEL_PASS,
	LABEL_DROP,
	LABEL_DIVERT,
	LABEL_MARKED,
	LABEL_IPV4,
	LABEL_IPV6,
	LABEL_ADDRESSES,
	LABEL_LEARN,
	LABEL_SEGMENT,
	LABEL_STORE,
};

struct prog {
	struct bpf_insn insn[PROG_MAX];
	enum label to[PROG_MAX]; /* where it jumps */
	int len;
};

static long sys_bpf(enum bpf_cmd cmd, union bpf_attr *attr)
{
	return syscall(__NR_bpf, cmd, attr, sizeof(*attr));
}

static int new_map(enum bpf_map_type type, uint32_t key, uint32_t value, uint32_t entries)
{
	union bpf_attr attr = {0};
	long fd;

	attr.map_type = type;
	attr.key_size = key;
	attr.value_size = value;
	attr.max_entries = entries;
	fd = sys_bpf(BPF_MAP_CREATE, &attr);
	return fd < 0 ? -errno : (int)fd;
}

int bpf_cells_new(void)
{
	return new_map(BPF_MAP_TYPE_ARRAY, sizeof(uint32_t), sizeof(uint32_t), BPF_CELLS);
}

int bpf_links_new(void)
{
	return new_map(BPF_MAP_TYPE_LRU_HASH, sizeof(struct bpf_flow), sizeof(struct bpf_link),
	               BPF_LINKS);
}

int bpf_link_get(int map_fd, const struct bpf_flow *flow, struct bpf_link *ret_link)
{
	union bpf_attr attr = {0};

	attr.map_fd = (uint32_t)map_fd;
	attr.key = (uint64_t)(uintptr_t)flow;
	attr.value = (uint64_t)(uintptr_t)ret_link;
	return sys_bpf(BPF_MAP_LOOKUP_ELEM, &attr) < 0 ? -errno : 0;
}

int bpf_cell_set(int map_fd, enum bpf_cell cell, uint32_t value)
{
	union bpf_attr attr = {0};
	uint32_t key = cell;

	attr.map_fd = (uint32_t)map_fd;
	attr.key = (uint64_t)(uintptr_t)&key;
	attr.value = (uint64_t)(uintptr_t)&value;
	return sys_bpf(BPF_MAP_UPDATE_ELEM, &attr) < 0 ? -errno : 0;
}

static void emit(struct prog *p, uint8_t code, int dst, int src, int off, int32_t imm)
{
	struct bpf_insn insn = {.code = code, .off = (int16_t)off, .imm = imm};

	insn.dst_reg = (uint8_t)dst & 0xf;
	insn.src_reg = (uint8_t)src & 0xf;
	p->insn[p->len++] = insn;
}

static void move(struct prog *p, int dst, int src)
{
	emit(p, BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
}

static void set(struct prog *p, int dst, int32_t value)
{
	emit(p, BPF_ALU64 | BPF_MOV | BPF_K, dst, 0, 0, value);
}

static void load32(struct prog *p, int dst, int src, int off)
{
	emit(p, BPF_LDX | BPF_MEM | BPF_W, dst, src, off, 0);
}

static void call(struct prog *p, int32_t helper)
{
	emit(p, BPF_JMP | BPF_CALL, 0, 0, 0, helper);
}

/* Compares 32 bits, so that a mark or a type with its top bit set is not sign-extended. */
static void jump_if(struct prog *p, uint8_t op, int reg, uint32_t value, enum label label)
{
	p->to[p->len] = label;
	emit(p, BPF_JMP32 | op | BPF_K, reg, 0, 0, (int32_t)value);
}

static void place(struct prog *p, enum label label)
{
	for (int i = 0; i < p->len; i++)
		if (p->to[i] == label)
			p->insn[i].off = (int16_t)(p->len - i - 1);
}

static void leave(struct prog *p, int32_t action)
{
	set(p, BPF_REG_0, action);
	emit(p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

/* 64 bits: a pointer against NULL, or against the register `other` when that is not 0. */
static void jump_if64(struct prog *p, uint8_t op, int reg, int other, enum label label)
{
	p->to[p->len] = label;
	emit(p, BPF_JMP | op | (other ? BPF_X : BPF_K), reg, other, 0, 0);
}

static void load_map(struct prog *p, int map_fd)
{
	emit(p, BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, map_fd);
	emit(p, 0, 0, 0, 0, 0);
}

/* reg = what is on the stack at `off` */
static void stack(struct prog *p, int reg, int off)
{
	move(p, reg, BPF_REG_10);
	emit(p, BPF_ALU64 | BPF_ADD | BPF_K, reg, 0, 0, off);
}

/* Loads the frame's first bytes to the stack. */
static void load_bytes(struct prog *p, int off, int len, enum label if_short)
{
	move(p, BPF_REG_1, BPF_REG_6);
	set(p, BPF_REG_2, 0);
	stack(p, BPF_REG_3, off);
	set(p, BPF_REG_4, len);
	call(p, BPF_FUNC_skb_load_bytes);
	jump_if(p, BPF_JNE, BPF_REG_0, 0, if_short);
}

/* r7 = cell; drops when the map cannot be read. */
static void load_cell(struct prog *p, int map_fd, enum bpf_cell cell)
{
	emit(p, BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, STACK_CELL, cell);
	load_map(p, map_fd);
	stack(p, BPF_REG_2, STACK_CELL);
	call(p, BPF_FUNC_map_lookup_elem);
	jump_if64(p, BPF_JEQ, BPF_REG_0, 0, LABEL_DROP);
	load32(p, BPF_REG_7, BPF_REG_0, 0);
}

/* Clears what stands behind the addresses of the key at r8. */
static void clear_ports(struct prog *p, int at)
{
	emit(p, BPF_ST | BPF_MEM | BPF_H, BPF_REG_8, 0, at, 0);
	emit(p, BPF_ST | BPF_MEM | BPF_H, BPF_REG_8, 0, at + 2, 0);
}

/*
 * Notes which Ethernet addresses a frame has, and its segment size, under its IP addresses, and
 * TCP's ports where these stand right behind them. The map is written when that changes; a frame
 * that is one segment leaves the size as it was. All of this passes.
 *
 * The key is used where it was loaded, and the value is put together in front of it.
 */
static void learn(struct prog *p, int map_fd)
{
	place(p, LABEL_IPV6);
	load_bytes(p, STACK_HEAD, IPV6_AT + sizeof(struct bpf_flow), LABEL_PASS);
	emit(p, BPF_LDX | BPF_MEM | BPF_B, BPF_REG_1, BPF_REG_10, STACK_HEAD + IPV6_NEXT, 0);
	stack(p, BPF_REG_8, STACK_HEAD + IPV6_AT);
	jump_if(p, BPF_JEQ, BPF_REG_1, IPPROTO_TCP, LABEL_LEARN);
	clear_ports(p, sizeof(struct bpf_flow) - BPF_FLOW_PORTS);
	jump_if64(p, BPF_JA, 0, 0, LABEL_LEARN);
	place(p, LABEL_IPV4);
	for (int off = 32; off < HEAD_BYTES; off += 8) /* behind the ports: zero */
		emit(p, BPF_ST | BPF_MEM | BPF_DW, BPF_REG_10, 0, STACK_HEAD + off, 0);
	load_bytes(p, STACK_HEAD, IPV4_AT + BPF_FLOW_IPV4, LABEL_PASS);
	stack(p, BPF_REG_8, STACK_HEAD + IPV4_AT);
	emit(p, BPF_LDX | BPF_MEM | BPF_B, BPF_REG_1, BPF_REG_10, STACK_HEAD + ETH_HLEN, 0);
	jump_if(p, BPF_JNE, BPF_REG_1, 0x45, LABEL_ADDRESSES); /* options */
	emit(p, BPF_LDX | BPF_MEM | BPF_B, BPF_REG_1, BPF_REG_10, STACK_HEAD + IPV4_PROTO, 0);
	jump_if(p, BPF_JEQ, BPF_REG_1, IPPROTO_TCP, LABEL_LEARN);
	place(p, LABEL_ADDRESSES);
	clear_ports(p, BPF_FLOW_IPV4 - BPF_FLOW_PORTS);
	place(p, LABEL_LEARN);
	load32(p, BPF_REG_7, BPF_REG_6, offsetof(struct __sk_buff, gso_size));
	load_map(p, map_fd);
	move(p, BPF_REG_2, BPF_REG_8);
	call(p, BPF_FUNC_map_lookup_elem);
	jump_if64(p, BPF_JEQ, BPF_REG_0, 0, LABEL_STORE);
	jump_if(p, BPF_JNE, BPF_REG_7, 0, LABEL_SEGMENT);
	load32(p, BPF_REG_7, BPF_REG_0, offsetof(struct bpf_link, segment));
	place(p, LABEL_SEGMENT);
	emit(p, BPF_STX | BPF_MEM | BPF_W, BPF_REG_10, BPF_REG_7, STACK_SEGMENT, 0);
	emit(p, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_1, BPF_REG_0, 0, 0);
	emit(p, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_2, BPF_REG_10, STACK_HEAD, 0);
	jump_if64(p, BPF_JNE, BPF_REG_1, BPF_REG_2, LABEL_STORE);
	emit(p, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_1, BPF_REG_0, 8, 0);
	emit(p, BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_2, BPF_REG_10, STACK_HEAD + 8, 0);
	jump_if64(p, BPF_JEQ, BPF_REG_1, BPF_REG_2, LABEL_PASS);
	place(p, LABEL_STORE);
	emit(p, BPF_STX | BPF_MEM | BPF_W, BPF_REG_10, BPF_REG_7, STACK_SEGMENT, 0);
	load_map(p, map_fd);
	move(p, BPF_REG_2, BPF_REG_8);
	stack(p, BPF_REG_3, STACK_HEAD);
	set(p, BPF_REG_4, BPF_ANY);
	call(p, BPF_FUNC_map_update_elem);
	jump_if64(p, BPF_JA, 0, 0, LABEL_PASS);
}

/*
 * Untagged IPv4 and IPv6 pass, unless the destination is 01:80:c2:00:00:0x: the bridge hands such
 * frames to its LOCAL_IN hook, where br_netfilter does not look.
 */
static void leave_ip(struct prog *p, const struct bpf_divert *divert)
{
	bool learns = divert->links_fd >= 0;

	load_cell(p, divert->map_fd, BPF_CELL_LEAVE_IP);
	jump_if(p, BPF_JNE, BPF_REG_7, 1, LABEL_DIVERT);
	load32(p, BPF_REG_1, BPF_REG_6, offsetof(struct __sk_buff, vlan_present));
	jump_if(p, BPF_JNE, BPF_REG_1, 0, LABEL_DIVERT);
	load_bytes(p, STACK_ETH, 8, LABEL_DIVERT);
	load32(p, BPF_REG_2, BPF_REG_10, STACK_ETH + 4);
	emit(p, BPF_ALU | BPF_AND | BPF_K, BPF_REG_2, 0, 0, (int32_t)htonl(0xfff00000));
	load32(p, BPF_REG_1, BPF_REG_10, STACK_ETH);
	/* r1 = 0 exactly when both parts are the reserved prefix */
	emit(p, BPF_ALU | BPF_XOR | BPF_K, BPF_REG_1, 0, 0, (int32_t)htonl(0x0180c200));
	emit(p, BPF_ALU | BPF_OR | BPF_X, BPF_REG_1, BPF_REG_2, 0, 0);
	jump_if(p, BPF_JEQ, BPF_REG_1, 0, LABEL_DIVERT);
	load32(p, BPF_REG_1, BPF_REG_6, offsetof(struct __sk_buff, protocol));
	jump_if(p, BPF_JEQ, BPF_REG_1, htons(ETH_P_IP), learns ? LABEL_IPV4 : LABEL_PASS);
	jump_if(p, BPF_JEQ, BPF_REG_1, htons(ETH_P_IPV6), learns ? LABEL_IPV6 : LABEL_PASS);
}

static int load(const struct prog *p, char *err, size_t errlen)
{
	union bpf_attr attr = {0};
	char log[1024] = "";
	long fd;

	attr.prog_type = BPF_PROG_TYPE_SCHED_CLS;
	attr.insns = (uint64_t)(uintptr_t)p->insn;
	attr.insn_cnt = (uint32_t)p->len;
	attr.license = (uint64_t)(uintptr_t) "GPL";
	snprintf(attr.prog_name, sizeof(attr.prog_name), "colo_proxy");
	fd = sys_bpf(BPF_PROG_LOAD, &attr);
	if (fd >= 0)
		return (int)fd;
	if (errno == EPERM)
		return netlink_error(
		        err, errlen, -EPERM,
		        "loading a BPF program is not permitted; CAP_BPF and CAP_NET_ADMIN "
		        "(or CAP_SYS_ADMIN) are needed");
	attr.log_level = 1;
	attr.log_buf = (uint64_t)(uintptr_t)log;
	attr.log_size = sizeof(log);
	fd = sys_bpf(BPF_PROG_LOAD, &attr);
	if (fd >= 0)
		return (int)fd;
	return netlink_error(err, errlen, -errno, "the kernel refused a BPF program (%s): %.100s",
	                     strerror(errno), log);
}

int bpf_load_divert(const struct bpf_divert *divert, char *err, size_t errlen)
{
	struct prog p = {0};

	move(&p, BPF_REG_6, BPF_REG_1);
	load_cell(&p, divert->map_fd, BPF_CELL_MODE);
	jump_if(&p, BPF_JEQ, BPF_REG_7, BPF_MODE_PASS, LABEL_PASS);
	jump_if(&p, BPF_JNE, BPF_REG_7, BPF_MODE_DIVERT, LABEL_DROP);
	load32(&p, BPF_REG_1, BPF_REG_6, offsetof(struct __sk_buff, mark));
	jump_if(&p, BPF_JEQ, BPF_REG_1, divert->mark, LABEL_MARKED);
	leave_ip(&p, divert);
	place(&p, LABEL_DIVERT);
	set(&p, BPF_REG_1, divert->to_ifindex);
	set(&p, BPF_REG_2, 0);
	call(&p, BPF_FUNC_redirect);
	emit(&p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	if (divert->links_fd >= 0)
		learn(&p, divert->links_fd);
	place(&p, LABEL_MARKED);
	set(&p, BPF_REG_1, divert->keep_mark ? (int32_t)divert->mark : 0);
	emit(&p, BPF_STX | BPF_MEM | BPF_W, BPF_REG_6, BPF_REG_1, offsetof(struct __sk_buff, mark),
	     0);
	place(&p, LABEL_PASS);
	leave(&p, TC_ACT_UNSPEC);
	place(&p, LABEL_DROP);
	leave(&p, TC_ACT_SHOT);
	return load(&p, err, errlen);
}

int bpf_load_reentry(int map_fd, uint32_t mark, int to_ifindex, char *err, size_t errlen)
{
	struct prog p = {0};

	move(&p, BPF_REG_6, BPF_REG_1);
	load_cell(&p, map_fd, BPF_CELL_REENTRY);
	jump_if(&p, BPF_JNE, BPF_REG_7, 1, LABEL_DROP);
	set(&p, BPF_REG_1, (int32_t)mark);
	emit(&p, BPF_STX | BPF_MEM | BPF_W, BPF_REG_6, BPF_REG_1, offsetof(struct __sk_buff, mark),
	     0);
	set(&p, BPF_REG_1, to_ifindex);
	set(&p, BPF_REG_2, BPF_F_INGRESS);
	call(&p, BPF_FUNC_redirect);
	emit(&p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	place(&p, LABEL_DROP);
	leave(&p, TC_ACT_SHOT);
	return load(&p, err, errlen);
}
