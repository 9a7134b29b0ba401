/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CORE_FRAGMENTS_H
#define COLO_CORE_FRAGMENTS_H

#include <stdint.h>

#include "colo-proxy/core/packet.h"

/*
 * IP fragments of what a VM says, put together, so that the two halves of the comparison can look
 * at whole packets: two VMs cut alike only as long as they think alike of the path's MTU, and
 * number their datagrams each in its own way. See fragments.c for how.
 */

struct fragments;

#define FRAGMENTS_MAX 16u /* packets of which some fragments are there */

/* NULL when memory is out. */
struct fragments *fragments_new(void);
void fragments_free(struct fragments *fragments);

/* Forgets all that is not whole. */
void fragments_clear(struct fragments *fragments);

/*
 * Takes a copy of the bytes of a fragment (PACKET_WHY_FRAGMENT). Returns the whole packet, the
 * caller's, as a frame without offload requests when this was the last one that was missing, else
 * NULL. *ret_serial names the packet that the fragment belongs to, never 0; it is 0 when the
 * fragment cannot be used (bad lengths, overlap, no memory), and what there was of its packet is
 * forgotten. *ret_count: how many of its fragments are there.
 */
struct frame *fragments_add(struct fragments *fragments, const struct packet *packet,
                            uint32_t *ret_serial, uint32_t *ret_count);

#endif
