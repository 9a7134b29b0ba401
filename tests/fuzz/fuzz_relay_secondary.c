/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay towards the SVM. The input is a script: byte % 8 is what happens next, byte / 8 how
 * many of the following bytes it takes (as the SVM's, the peer's or a checkpoint's), or lets the
 * socket take.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/relay_secondary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct ckpt ckpt;
static struct relay_secondary *relay;
static int loading;

/* An empty checkpoint: RAM's end, the end mark, one byte of device state. */
static const uint8_t good[] = {3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x7e, 0, 0,
                               0, 1, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0,    0,    1, 0xdd};

static void check(int ok)
{
	if (!ok)
		abort();
}

static int on_back(void *ctx, const uint8_t *data, size_t len)
{
	check(len >= 4 && len <= 516);
	return 0;
}

static void on_running(void *ctx, uint64_t now)
{
	check(!loading);
}

static void on_stopped(void *ctx, uint64_t now)
{
}

static void on_loaded(void *ctx, struct ckpt *loaded, uint64_t now)
{
	check(loading && loaded == &ckpt);
	loading = 0;
}

static const struct relay_secondary_ops ops = {
        .back = on_back,
        .running = on_running,
        .stopped = on_stopped,
        .loaded = on_loaded,
};

static void from_svm(const uint8_t *data, size_t len)
{
	while (len > 0) {
		uint8_t *ptr;
		size_t room;

		if (relay_secondary_want(relay, &ptr, &room) < 0)
			return;
		if (room > len)
			room = len;
		memcpy(ptr, data, room);
		if (relay_secondary_got(relay, room, 1) < 0) {
			check(relay_secondary_error(relay)[0] != '\0');
			return;
		}
		data += room;
		len -= room;
	}
}

static void load(const uint8_t *data, size_t len)
{
	int rc;

	if (!loading) {
		ckpt_buf_reset(&ckpt.buf);
		check(ckpt_buf_append(&ckpt.buf, data, len) == 0);
	}
	rc = relay_secondary_load(relay, &ckpt);
	check(rc == 0 || rc == -EBUSY || rc == -EBADMSG);
	check(rc < 0 || !loading);
	if (rc == 0)
		loading = 1;
}

static void let_write(size_t most)
{
	const uint8_t *ptr;
	size_t len;

	relay_secondary_pending(relay, &ptr, &len);
	check((len > 0) == (ptr != NULL));
	if (len > most)
		len = most;
	check(relay_secondary_wrote(relay, len) == 0);
}

static void act(unsigned int what, const uint8_t *data, size_t len, size_t amount)
{
	switch (what) {
	case 0:
		from_svm(data, len);
		break;
	case 1:
		(void)relay_secondary_from_peer(relay, data, len);
		break;
	case 2:
		load(data, len);
		break;
	case 3:
		load(good, sizeof(good));
		break;
	case 4:
		(void)relay_secondary_stop(relay);
		break;
	case 5:
		let_write(amount);
		break;
	default:
		let_write(SIZE_MAX);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!ckpt.buf.base)
		check(ckpt_buf_init(&ckpt.buf, 65536, 65536) == 0);
	loading = 0;
	check(relay_secondary_new(&relay, &ops, NULL) == 0);
	while (size > 0) {
		unsigned int what = data[0] % 8;
		size_t amount = data[0] / 8;
		size_t len;

		data++;
		size--;
		len = what <= 2 ? amount : 0;
		if (what == 2 && amount == 31)
			len = 256;
		if (len > size)
			len = size;
		act(what, data, len, amount);
		data += len;
		size -= len;
	}
	relay_secondary_free(relay);
	return 0;
}
