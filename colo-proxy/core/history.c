/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/core/history.h"

#include <stddef.h>

static uint64_t kept(const struct history *history)
{
	return history->count < HISTORY_LEN ? history->count : HISTORY_LEN;
}

/* The i-th newest, from 0 on. */
static struct history_entry *newest(struct history *history, uint64_t i)
{
	return &history->ring[(history->count - 1 - i) % HISTORY_LEN];
}

struct history_entry *history_add(struct history *history, const struct history_entry *entry)
{
	history->count++;
	*newest(history, 0) = *entry;
	return newest(history, 0);
}

struct history_entry *history_find(struct history *history, uint64_t epoch)
{
	for (uint64_t i = 0; i < kept(history); i++)
		if (newest(history, i)->epoch == epoch)
			return newest(history, i);
	return NULL;
}

struct history_entry *history_paused(struct history *history, uint64_t stopped_at,
                                     uint64_t pause_ns)
{
	for (uint64_t i = 0; i < kept(history); i++) {
		struct history_entry *entry = newest(history, i);

		/* Between the reply and the last byte QEMU stops the VM, once. */
		if (entry->replied_at > stopped_at)
			continue;
		if (entry->captured_at < stopped_at || entry->stopped_at)
			return NULL;
		entry->stopped_at = stopped_at;
		entry->resumed_at = stopped_at + pause_ns;
		return entry;
	}
	return NULL;
}

uint32_t history_copy(const struct history *history, struct history_entry *out, uint32_t max)
{
	uint64_t n = kept(history) < max ? kept(history) : max;

	for (uint64_t i = 0; i < n; i++)
		out[i] = history->ring[(history->count - n + i) % HISTORY_LEN];
	return (uint32_t)n;
}
