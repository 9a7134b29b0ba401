/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/bpf.h"

#include "colo-proxy/datapath/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
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

#define PROG_MAX 128 /* both programs have less than 70 */

enum label { LABEL_PASS, LABEL_DROP, LABEL_DIVERT, LABEL_MARKED };

struct prog {
	struct bpf_insn insn[PROG_MAX];
	int len;
	struct {
		int at;
		enum label label;
	} jump[PROG_MAX];
	int jumps;
};

static long sys_bpf(enum bpf_cmd cmd, union bpf_attr *attr)
{
	return syscall(__NR_bpf, cmd, attr, sizeof(*attr));
}

int bpf_cells_new(void)
{
	union bpf_attr attr = {0};
	long fd;

	attr.map_type = BPF_MAP_TYPE_ARRAY;
	attr.key_size = sizeof(uint32_t);
	attr.value_size = sizeof(uint32_t);
	attr.max_entries = BPF_CELLS;
	fd = sys_bpf(BPF_MAP_CREATE, &attr);
	return fd < 0 ? -errno : (int)fd;
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
	p->jump[p->jumps].at = p->len;
	p->jump[p->jumps++].label = label;
	emit(p, BPF_JMP32 | op | BPF_K, reg, 0, 0, (int32_t)value);
}

static void place(struct prog *p, enum label label)
{
	for (int i = 0; i < p->jumps; i++)
		if (p->jump[i].label == label)
			p->insn[p->jump[i].at].off = (int16_t)(p->len - p->jump[i].at - 1);
}

static void leave(struct prog *p, int32_t action)
{
	set(p, BPF_REG_0, action);
	emit(p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

/* r7 = cell; drops when the map cannot be read. */
static void load_cell(struct prog *p, int map_fd, enum bpf_cell cell)
{
	emit(p, BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, -4, cell);
	emit(p, BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, map_fd);
	emit(p, 0, 0, 0, 0, 0);
	move(p, BPF_REG_2, BPF_REG_10);
	emit(p, BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, -4);
	call(p, BPF_FUNC_map_lookup_elem);
	p->jump[p->jumps].at = p->len;
	p->jump[p->jumps++].label = LABEL_DROP;
	emit(p, BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 0, 0); /* a pointer: all 64 bits */
	load32(p, BPF_REG_7, BPF_REG_0, 0);
}

/*
 * Untagged IPv4 and IPv6 pass, unless the destination is 01:80:c2:00:00:0x: the bridge hands such
 * frames to its LOCAL_IN hook, where br_netfilter does not look.
 */
static void leave_ip(struct prog *p, int map_fd)
{
	load_cell(p, map_fd, BPF_CELL_LEAVE_IP);
	jump_if(p, BPF_JNE, BPF_REG_7, 1, LABEL_DIVERT);
	load32(p, BPF_REG_1, BPF_REG_6, offsetof(struct __sk_buff, vlan_present));
	jump_if(p, BPF_JNE, BPF_REG_1, 0, LABEL_DIVERT);
	move(p, BPF_REG_1, BPF_REG_6);
	set(p, BPF_REG_2, 0);
	move(p, BPF_REG_3, BPF_REG_10);
	emit(p, BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_3, 0, 0, -16);
	set(p, BPF_REG_4, 8);
	call(p, BPF_FUNC_skb_load_bytes);
	jump_if(p, BPF_JNE, BPF_REG_0, 0, LABEL_DIVERT);
	load32(p, BPF_REG_2, BPF_REG_10, -12);
	emit(p, BPF_ALU | BPF_AND | BPF_K, BPF_REG_2, 0, 0, (int32_t)htonl(0xfff00000));
	load32(p, BPF_REG_1, BPF_REG_10, -16);
	/* r1 = 0 exactly when both parts are the reserved prefix */
	emit(p, BPF_ALU | BPF_XOR | BPF_K, BPF_REG_1, 0, 0, (int32_t)htonl(0x0180c200));
	emit(p, BPF_ALU | BPF_OR | BPF_X, BPF_REG_1, BPF_REG_2, 0, 0);
	jump_if(p, BPF_JEQ, BPF_REG_1, 0, LABEL_DIVERT);
	load32(p, BPF_REG_1, BPF_REG_6, offsetof(struct __sk_buff, protocol));
	jump_if(p, BPF_JEQ, BPF_REG_1, htons(ETH_P_IP), LABEL_PASS);
	jump_if(p, BPF_JEQ, BPF_REG_1, htons(ETH_P_IPV6), LABEL_PASS);
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
	leave_ip(&p, divert->map_fd);
	place(&p, LABEL_DIVERT);
	set(&p, BPF_REG_1, divert->to_ifindex);
	set(&p, BPF_REG_2, 0);
	call(&p, BPF_FUNC_redirect);
	emit(&p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
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
