/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/frame.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

struct frame *frame_new(size_t room)
{
	struct frame *f = malloc(sizeof(*f) + FRAME_HEADROOM + room);

	if (!f)
		return NULL;
	memset(f, 0, sizeof(*f));
	f->room = room;
	f->data = (uint8_t *)(f + 1) + FRAME_HEADROOM;
	return f;
}

struct frame *frame_copy(const struct frame *f)
{
	struct frame *copy = frame_new(f->len);

	if (!copy)
		return NULL;
	copy->vnet = f->vnet;
	copy->len = f->len;
	copy->start = f->start;
	memcpy(copy->data, f->data, f->len);
	copy->linked = f->linked;
	if (f->linked)
		memcpy(copy->data - FRAME_LINK, f->data - FRAME_LINK, FRAME_LINK);
	return copy;
}

void frame_show_link(struct frame *f)
{
	f->data -= FRAME_LINK;
	f->len += FRAME_LINK;
	f->room += FRAME_LINK;
	f->start = FRAME_AT_ETHERNET;
	f->linked = false;
	if (f->vnet.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		f->vnet.csum_start = htole16((uint16_t)(le16toh(f->vnet.csum_start) + FRAME_LINK));
}

void frame_free(struct frame *f)
{
	free(f);
}
