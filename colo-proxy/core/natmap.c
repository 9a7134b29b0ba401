/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/natmap.h"

#include <errno.h>
#include <stdlib.h>

#define FIRST_ROOM 64u

int natmap_add(struct natmap *map, const struct natmap_entry *entry, uint32_t max)
{
	if (map->count >= max)
		return -ENOBUFS;
	if (map->count == map->room) {
		uint32_t room = map->room ? 2 * map->room : FIRST_ROOM;
		struct natmap_entry *more = reallocarray(map->entry, room, sizeof(*more));

		if (!more)
			return -ENOMEM;
		map->entry = more;
		map->room = room;
	}
	map->entry[map->count++] = *entry;
	return 0;
}

void natmap_clear(struct natmap *map)
{
	free(map->entry);
	*map = (struct natmap){0};
}

void natmap_move(struct natmap *to, struct natmap *from)
{
	natmap_clear(to);
	*to = *from;
	*from = (struct natmap){0};
}
