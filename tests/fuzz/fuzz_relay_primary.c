/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay towards the PVM. The input is a script: byte % 8 is what happens next, byte / 8 how
 * many of the following bytes it takes (as the PVM's or the peer's), or lets the socket take.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/relay_primary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct ckpt ckpt;
static struct relay_primary *relay;
static unsigned int policy; /* bit 0: reply in the callback, bit 1: resume in it */

static void check(int ok)
{
	if (!ok)
		abort();
}

static int on_forward(void *ctx, const uint8_t *data, size_t len)
{
	check(len > 0);
	return 0;
}

static void on_requested(void *ctx, uint64_t now)
{
	if (policy & 1)
		check(relay_primary_reply(relay, &ckpt, 1) == 0);
}

static void on_stopped(void *ctx, struct ckpt *stopped, uint64_t now)
{
	check(stopped == &ckpt);
}

static void on_captured(void *ctx, struct ckpt *captured, uint64_t now)
{
	check(captured == &ckpt && ckpt.stats.bytes == ckpt.buf.len);
	if (policy & 2)
		check(relay_primary_resume(relay, now) == 0);
}

static const struct relay_primary_ops ops = {
        .forward = on_forward,
        .requested = on_requested,
        .stopped = on_stopped,
        .captured = on_captured,
};

static void from_pvm(const uint8_t *data, size_t len)
{
	while (len > 0) {
		uint8_t *ptr;
		size_t room;

		if (relay_primary_want(relay, &ptr, &room) < 0)
			return;
		check(room > 0);
		if (room > len)
			room = len;
		memcpy(ptr, data, room);
		if (relay_primary_got(relay, room, 1) < 0) {
			check(relay_primary_error(relay)[0] != '\0');
			return;
		}
		data += room;
		len -= room;
	}
}

static void let_write(size_t most)
{
	const uint8_t *ptr;
	size_t len;

	relay_primary_pending(relay, &ptr, &len);
	check((len > 0) == (ptr != NULL));
	if (len > most)
		len = most;
	check(relay_primary_wrote(relay, len) == 0);
}

static void act(unsigned int what, const uint8_t *data, size_t len, size_t amount)
{
	switch (what) {
	case 0:
		from_pvm(data, len);
		break;
	case 1:
		(void)relay_primary_from_peer(relay, data, len);
		break;
	case 2:
		(void)relay_primary_start(relay);
		break;
	case 3:
		(void)relay_primary_reply(relay, &ckpt, 1);
		break;
	case 4:
		(void)relay_primary_resume(relay, 1);
		break;
	case 5:
		let_write(amount);
		break;
	case 6:
		let_write(SIZE_MAX);
		break;
	default:
		policy = (unsigned int)amount;
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!ckpt.buf.base)
		check(ckpt_buf_init(&ckpt.buf, 65536, 65536) == 0);
	policy = 0;
	check(relay_primary_new(&relay, &ops, NULL) == 0);
	while (size > 0) {
		unsigned int what = data[0] % 8;
		size_t amount = data[0] / 8;
		size_t len;

		data++;
		size--;
		len = what <= 1 ? amount : 0;
		if (what == 0 && amount == 31) /* a page and its record's head */
			len = 4104;
		if (len > size)
			len = size;
		act(what, data, len, amount);
		data += len;
		size -= len;
	}
	relay_primary_free(relay);
	return 0;
}
