/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For tc, since a kernel may have no VLAN devices: frames to 10.77.5.0/24 (IPv4 and ARP) leave with
 * the tag of VLAN 5, and that tag is taken off what comes. All others pass as they are.
 *
 *	clang -O2 -target bpf -c vlan_tag.c -o vlan_tag.o
 *	tc filter add dev PORT egress  bpf direct-action object-file vlan_tag.o section push
 *	tc filter add dev PORT ingress bpf direct-action object-file vlan_tag.o section pop
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>

#define VLAN_ID   5
#define NEXT      (-1) /* TC_ACT_UNSPEC */
#define DROP      2    /* TC_ACT_SHOT */
#define BE16(n)   __builtin_bswap16(n)
#define SEC(name) __attribute__((section(name), used))

static long (*load)(const struct __sk_buff *skb, unsigned offset, void *to,
                    unsigned len) = (void *)BPF_FUNC_skb_load_bytes;
static long (*push)(struct __sk_buff *skb, unsigned short proto,
                    unsigned short tci) = (void *)BPF_FUNC_skb_vlan_push;
static long (*pop)(struct __sk_buff *skb) = (void *)BPF_FUNC_skb_vlan_pop;

SEC("push") int tag(struct __sk_buff *skb)
{
	unsigned char to[4] = {0};
	unsigned offset = ETH_HLEN;

	if (skb->protocol == BE16(ETH_P_IP))
		offset += 16; /* destination address, RFC 791 */
	else if (skb->protocol == BE16(ETH_P_ARP))
		offset += 24; /* target protocol address, RFC 826 */
	else
		return NEXT;
	if (load(skb, offset, to, sizeof(to)) || to[0] != 10 || to[1] != 77 || to[2] != VLAN_ID)
		return NEXT;
	return push(skb, BE16(ETH_P_8021Q), VLAN_ID) ? DROP : NEXT;
}

SEC("pop") int untag(struct __sk_buff *skb)
{
	if (!skb->vlan_present || (skb->vlan_tci & 0xfff) != VLAN_ID)
		return NEXT;
	return pop(skb) ? DROP : NEXT;
}

SEC("license") const char license_text[] = "GPL";
