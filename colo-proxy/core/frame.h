/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_FRAME_H
#define COLO_CORE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/virtio_net.h>

/*
 * A frame: one Ethernet frame (or, from the nfqueue back end, one IP packet) with the virtio-net
 * header that says how it is to be segmented and checksummed. Superframes stay whole from the VM's
 * NIC to the client's bridge; nothing in this program segments or merges.
 *
 * The bytes live behind the struct, with FRAME_HEADROOM free bytes in front of them, so that a
 * header (a VLAN tag that a packet socket stripped) can be put back without a copy.
 */

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4 /* virtio 1.2; kernel headers from 6.2 on */
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define FRAME_HEADROOM 16u
#define FRAME_LINK     14u                 /* an Ethernet header */
#define FRAME_MAX_LEN  (65535u + 14u + 8u) /* the largest GSO frame plus Ethernet and two tags */

enum frame_start {
	FRAME_AT_ETHERNET, /* data starts with an Ethernet header */
	FRAME_AT_IP, /* data starts with an IPv4 or IPv6 header (nfqueue hands over no more) */
};

struct frame {
	struct frame *next;            /* for whoever holds it; the owner's list */
	struct virtio_net_hdr_v1 vnet; /* little endian, as virtio 1.0 lays it out; 12 bytes */
	uint32_t len;                  /* bytes of data in use */
	uint32_t room;                 /* bytes of data there are */
	uint32_t token;                /* the data path back end's own (NFQUEUE packet id) */
	uint32_t since;     /* input: the first lineage that is to hear it, 0: all (node_cut.c) */
	uint8_t start;      /* enum frame_start */
	bool rewritten : 1; /* bytes were changed on their way out */
	bool gathered : 1;  /* the secondary has been sent it, to say it again (replay.c) */
	bool linked : 1;    /* FRAME_AT_IP: the FRAME_LINK bytes in front of data are the Ethernet
	                       header that it goes out with; the room does not count them */
	uint8_t origin;     /* the data path back end's own */
	uint8_t *data;
};

/* A frame with room for `room` bytes, vnet header zero; NULL when memory is out. */
struct frame *frame_new(size_t room);

/* A copy of `len` bytes, and of the header in front of a linked one. NULL when memory is out. */
struct frame *frame_copy(const struct frame *f);

/* A linked packet becomes the Ethernet frame that it is in. */
void frame_show_link(struct frame *f);

/* Frees one frame; NULL is allowed. */
void frame_free(struct frame *f);

#endif
