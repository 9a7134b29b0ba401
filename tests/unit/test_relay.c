/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two relays against scripted QEMUs. Bytes move in chunks of random size (GTest prints the
 * seed); a scripted QEMU is as strict about order as the real one and says nothing unasked.
 */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "kvm/relay_primary.h"
#include "kvm/relay_secondary.h"
#include "tests/unit/ckpt_builder.h"

#define BUF_LIMIT ((size_t)1 << 20)

static GByteArray *build_random(int pages)
{
	GByteArray *b = g_byte_array_new();

	build_section(b, 0x03, RAM_SECTION);
	for (int i = 0; i < pages; i++) {
		const char *name = i == 0 || g_test_rand_bit() ? "pc.ram" : NULL;

		if (g_test_rand_bit())
			build_page(b, name, (uint64_t)i << 12, (uint8_t)i);
		else
			build_zero(b, name, (uint64_t)i << 12);
	}
	build_section_end(b, RAM_SECTION);
	build_state(b, (uint64_t)g_test_rand_int_range(1, 3000));
	return b;
}

static size_t chunk(size_t most)
{
	static const int sizes[] = {1, 2, 3, 7, 64, 4096, 70000};
	size_t n = (size_t)g_test_rand_int_range(1, sizes[g_test_rand_int_range(0, 7)] + 1);

	return n < most ? n : most;
}

/* ------------------------------------------------------------------ the primary side */

struct primary {
	struct relay_primary *relay;
	struct ckpt ckpt;
	uint64_t now;
	GByteArray *forwarded;
	GByteArray *to_pvm; /* written by the relay */
	bool reply_at_once;
	bool resume_at_once;
	int forward_error;
	int requested;
	int stopped;
	int captured;
};

static int on_forward(void *ctx, const uint8_t *data, size_t len)
{
	struct primary *p = ctx;

	g_byte_array_append(p->forwarded, data, (guint)len);
	return p->forward_error;
}

static void on_requested(void *ctx, uint64_t now)
{
	struct primary *p = ctx;

	g_assert_cmpuint(now, ==, p->now);
	p->requested++;
	if (p->reply_at_once)
		g_assert_cmpint(relay_primary_reply(p->relay, &p->ckpt, (uint64_t)p->requested), ==,
		                0);
}

static void on_stopped(void *ctx, struct ckpt *ckpt, uint64_t now)
{
	struct primary *p = ctx;

	g_assert_true(ckpt == &p->ckpt);
	g_assert_cmpuint(ckpt->stopped_at, ==, now);
	p->stopped++;
}

static void on_captured(void *ctx, struct ckpt *ckpt, uint64_t now)
{
	struct primary *p = ctx;

	g_assert_true(ckpt == &p->ckpt);
	g_assert_cmpuint(ckpt->captured_at, ==, now);
	p->captured++;
	if (p->resume_at_once)
		g_assert_cmpint(relay_primary_resume(p->relay, now), ==, 0);
}

static const struct relay_primary_ops primary_ops = {
        .forward = on_forward,
        .requested = on_requested,
        .stopped = on_stopped,
        .captured = on_captured,
};

static void primary_init(struct primary *p)
{
	*p = (struct primary){.reply_at_once = true, .resume_at_once = true};
	p->forwarded = g_byte_array_new();
	p->to_pvm = g_byte_array_new();
	g_assert_cmpint(ckpt_buf_init(&p->ckpt.buf, BUF_LIMIT, 0), ==, 0);
	g_assert_cmpint(relay_primary_new(&p->relay, &primary_ops, p), ==, 0);
}

static void primary_fini(struct primary *p)
{
	relay_primary_free(p->relay);
	ckpt_buf_fini(&p->ckpt.buf);
	g_byte_array_unref(p->forwarded);
	g_byte_array_unref(p->to_pvm);
}

/* Lets the socket take everything that is pending, in pieces. */
static void primary_drain(struct primary *p)
{
	const uint8_t *ptr;
	size_t len;

	for (relay_primary_pending(p->relay, &ptr, &len); len > 0;
	     relay_primary_pending(p->relay, &ptr, &len)) {
		size_t n = chunk(len);

		g_byte_array_append(p->to_pvm, ptr, (guint)n);
		g_assert_cmpint(relay_primary_wrote(p->relay, n), ==, 0);
	}
	g_assert_cmpint(relay_primary_wrote(p->relay, 1), ==, -EINVAL);
}

/* Sends bytes as the PVM, in pieces; stops at the first error. */
static int primary_send(struct primary *p, const uint8_t *data, size_t len)
{
	while (len > 0) {
		uint8_t *ptr;
		size_t room;
		size_t n;
		int rc;

		rc = relay_primary_want(p->relay, &ptr, &room);
		if (rc < 0)
			return rc;
		g_assert_cmpuint(room, >, 0);
		n = chunk(room < len ? room : len);
		memcpy(ptr, data, n);
		p->now += 1000;
		rc = relay_primary_got(p->relay, n, p->now);
		if (rc < 0)
			return rc;
		data += n;
		len -= n;
	}
	return 0;
}

static int primary_say(struct primary *p, uint32_t message)
{
	uint8_t bytes[4];

	wire_put_be32(bytes, message);
	return primary_send(p, bytes, sizeof(bytes));
}

static void assert_heard(struct primary *p, const char *hex)
{
	g_autoptr(GString) s = g_string_new(NULL);

	primary_drain(p);
	for (guint i = 0; i < p->to_pvm->len; i++)
		g_string_append_printf(s, "%02x", p->to_pvm->data[i]);
	g_assert_cmpstr(s->str, ==, hex);
	g_byte_array_set_size(p->to_pvm, 0);
}

static void primary_start(struct primary *p)
{
	static const uint8_t migration[] = "any bytes \x01\x02\0\0";

	g_assert_cmpint(primary_send(p, migration, sizeof(migration)), ==, 0);
	g_assert_cmpmem(p->forwarded->data, p->forwarded->len, migration, sizeof(migration));
	g_assert_cmpuint(relay_primary_initial_bytes(p->relay), ==, sizeof(migration));
	g_assert_cmpint(relay_primary_start(p->relay), ==, 0);
	assert_heard(p, "00000000");
}

static void test_primary_dialogue(void)
{
	for (int round = 0; round < 50; round++) {
		struct primary p;

		primary_init(&p);
		primary_start(&p);
		for (int e = 1; e <= 5; e++) {
			g_autoptr(GByteArray) b = build_random(g_test_rand_int_range(0, 12));

			g_assert_cmpint(primary_say(&p, COLO_REQUEST), ==, 0);
			assert_heard(&p, "00000002");
			g_assert_cmpint(primary_say(&p, COLO_VMSTATE_SEND), ==, 0);
			g_assert_cmpint(p.stopped, ==, e);
			g_assert_cmpint(primary_send(&p, b->data, b->len - 1), ==, 0);
			assert_heard(&p, "");
			g_assert_cmpint(primary_send(&p, b->data + b->len - 1, 1), ==, 0);
			g_assert_cmpint(p.captured, ==, e);
			assert_heard(&p, "0000000500000006");
			g_assert_cmpuint(p.ckpt.epoch, ==, e);
			g_assert_cmpmem(p.ckpt.buf.base, p.ckpt.buf.len, b->data, b->len);
			g_assert_cmpuint(p.ckpt.stats.bytes, ==, b->len);
			g_assert_cmpuint(p.ckpt.requested_at, <, p.ckpt.stopped_at);
			g_assert_cmpuint(p.ckpt.stopped_at, <, p.ckpt.captured_at);
			g_assert_cmpuint(p.ckpt.captured_at, ==, p.ckpt.resumed_at);
		}
		primary_fini(&p);
	}
}

/* Reply and resume when the caller likes; before that nothing may move. */
static void test_primary_held(void)
{
	g_autoptr(GByteArray) b = build_random(3);
	struct primary p;

	primary_init(&p);
	p.reply_at_once = p.resume_at_once = false;
	g_assert_cmpint(relay_primary_reply(p.relay, &p.ckpt, 1), ==, -EBUSY);
	primary_start(&p);
	g_assert_cmpint(relay_primary_start(p.relay), ==, -EBUSY);
	g_assert_cmpint(relay_primary_reply(p.relay, &p.ckpt, 1), ==, -EBUSY);
	g_assert_cmpint(primary_say(&p, COLO_REQUEST), ==, 0);
	g_assert_cmpint(relay_primary_phase(p.relay), ==, RELAY_PRIMARY_REQUESTED);
	assert_heard(&p, "");
	g_assert_cmpint(relay_primary_reply(p.relay, &p.ckpt, 7), ==, 0);
	g_assert_cmpint(relay_primary_reply(p.relay, &p.ckpt, 7), ==, -EBUSY);
	assert_heard(&p, "00000002");
	g_assert_cmpint(primary_say(&p, COLO_VMSTATE_SEND), ==, 0);
	g_assert_cmpint(relay_primary_resume(p.relay, 0), ==, -EBUSY);
	g_assert_cmpint(primary_send(&p, b->data, b->len), ==, 0);
	g_assert_cmpint(p.captured, ==, 1);
	assert_heard(&p, "");
	g_assert_cmpuint(p.ckpt.epoch, ==, 7);
	g_assert_cmpuint(p.ckpt.resumed_at, ==, 0);
	g_assert_cmpint(relay_primary_resume(p.relay, 99), ==, 0);
	g_assert_cmpuint(p.ckpt.resumed_at, ==, 99);
	g_assert_cmpint(relay_primary_resume(p.relay, 99), ==, -EBUSY);
	assert_heard(&p, "0000000500000006");
	primary_fini(&p);
}

static void test_primary_return_path(void)
{
	static const uint8_t pong[] = {0, 2, 0, 4, 0, 0, 0, 1};
	uint8_t big[4096] = {0};
	struct primary p;

	primary_init(&p);
	g_assert_cmpint(relay_primary_from_peer(p.relay, pong, sizeof(pong)), ==, 0);
	g_assert_cmpint(relay_primary_start(p.relay), ==, -EAGAIN);
	g_assert_cmpint(relay_primary_from_peer(p.relay, big, sizeof(big)), ==, -ENOBUFS);
	g_assert_cmpint(relay_primary_wrote(p.relay, 3), ==, 0);
	g_assert_cmpint(relay_primary_from_peer(p.relay, pong, 2), ==, 0);
	assert_heard(&p, "04000000010002");
	primary_start(&p);
	g_assert_cmpint(relay_primary_from_peer(p.relay, pong, sizeof(pong)), ==, -EBUSY);
	primary_fini(&p);
}

static void assert_primary_failed(struct primary *p, int rc, int expected, const char *text)
{
	uint8_t *ptr;
	size_t len;

	g_test_message("%s", relay_primary_error(p->relay));
	g_assert_cmpint(rc, ==, expected);
	g_assert_nonnull(strstr(relay_primary_error(p->relay), text));
	g_assert_cmpint(relay_primary_phase(p->relay), ==, RELAY_PRIMARY_FAILED);
	g_assert_cmpint(relay_primary_want(p->relay, &ptr, &len), ==, -EPROTO);
	g_assert_cmpint(relay_primary_got(p->relay, 1, 0), ==, -EPROTO);
	g_assert_cmpint(relay_primary_resume(p->relay, 0), ==, -EBUSY);
	primary_fini(p);
}

static void test_primary_wrong_message(void)
{
	struct primary p;

	primary_init(&p);
	primary_start(&p);
	assert_primary_failed(&p, primary_say(&p, COLO_VMSTATE_SEND), -EPROTO,
	                      "PVM (running): found message 3 (VMSTATE_SEND), expected "
	                      "CHECKPOINT_REQUEST");
	primary_init(&p);
	primary_start(&p);
	g_assert_cmpint(primary_say(&p, COLO_REQUEST), ==, 0);
	primary_drain(&p);
	assert_primary_failed(&p, primary_say(&p, 77), -EPROTO,
	                      "found message 77 (unknown), expected VMSTATE_SEND");
}

static void test_primary_unasked(void)
{
	g_autoptr(GByteArray) b = build_random(2);
	struct primary p;

	/* While the request is open. */
	primary_init(&p);
	p.reply_at_once = false;
	primary_start(&p);
	g_assert_cmpint(primary_say(&p, COLO_REQUEST), ==, 0);
	assert_primary_failed(&p, primary_say(&p, COLO_REQUEST), -EPROTO, "expected none before");
	/* Before our answer left. */
	primary_init(&p);
	primary_start(&p);
	g_assert_cmpint(primary_say(&p, COLO_REQUEST), ==, 0);
	assert_primary_failed(&p, primary_say(&p, COLO_VMSTATE_SEND), -EPROTO,
	                      "expected none before our answer was written");
	/* Behind the end of a checkpoint. */
	primary_init(&p);
	p.resume_at_once = false;
	primary_start(&p);
	g_assert_cmpint(primary_say(&p, COLO_REQUEST), ==, 0);
	primary_drain(&p);
	g_assert_cmpint(primary_say(&p, COLO_VMSTATE_SEND), ==, 0);
	build_u8(b, 0);
	assert_primary_failed(&p, primary_send(&p, b->data, b->len), -EPROTO, "expected none");
}

/* RAM's section id is learned once for the channel, not once for each checkpoint. */
static void test_primary_other_section(void)
{
	g_autoptr(GByteArray) first = build_random(2);
	g_autoptr(GByteArray) other = g_byte_array_new();
	struct primary p;

	primary_init(&p);
	primary_start(&p);
	g_assert_cmpint(primary_say(&p, COLO_REQUEST), ==, 0);
	primary_drain(&p);
	g_assert_cmpint(primary_say(&p, COLO_VMSTATE_SEND), ==, 0);
	g_assert_cmpint(primary_send(&p, first->data, first->len), ==, 0);
	primary_drain(&p);
	g_assert_cmpint(primary_say(&p, COLO_REQUEST), ==, 0);
	primary_drain(&p);
	g_assert_cmpint(primary_say(&p, COLO_VMSTATE_SEND), ==, 0);
	build_section(other, 0x03, RAM_SECTION + 1);
	assert_primary_failed(&p, primary_send(&p, other->data, other->len), -EPROTO,
	                      "PVM, checkpoint 2: checkpoint offset 0: found live section 4");
}

static void test_primary_limits(void)
{
	g_autoptr(GByteArray) b = g_byte_array_new();
	uint8_t *ptr;
	size_t len;
	struct primary p;

	primary_init(&p);
	primary_start(&p);
	g_assert_cmpint(primary_say(&p, COLO_REQUEST), ==, 0);
	primary_drain(&p);
	g_assert_cmpint(primary_say(&p, COLO_VMSTATE_SEND), ==, 0);
	build_section(b, 0x03, RAM_SECTION);
	for (uint64_t i = 0; i < 300; i++)
		build_page(b, "pc.ram", i << 12, 1);
	assert_primary_failed(&p, primary_send(&p, b->data, b->len), -ENOSPC,
	                      "checkpoint 1 is larger than its 1048576 bytes");
	/* A caller that claims more than was asked for. */
	primary_init(&p);
	primary_start(&p);
	g_assert_cmpint(relay_primary_want(p.relay, &ptr, &len), ==, 0);
	assert_primary_failed(&p, relay_primary_got(p.relay, len + 1, 0), -EPROTO,
	                      "more than were asked for");
	primary_init(&p);
	p.forward_error = -EPIPE;
	assert_primary_failed(&p, primary_say(&p, 1), -EPIPE, "cannot forward");
}

/* ---------------------------------------------------------------- the secondary side */

struct secondary {
	struct relay_secondary *relay;
	GByteArray *back;
	GByteArray *to_svm;
	struct ckpt *loaded;
	int running;
	int stopped;
	int back_error;
};

static int on_back(void *ctx, const uint8_t *data, size_t len)
{
	struct secondary *s = ctx;

	g_byte_array_append(s->back, data, (guint)len);
	return s->back_error;
}

static void on_running(void *ctx, uint64_t now)
{
	struct secondary *s = ctx;

	s->running++;
}

static void on_svm_stopped(void *ctx, uint64_t now)
{
	struct secondary *s = ctx;

	s->stopped++;
}

static void on_loaded(void *ctx, struct ckpt *ckpt, uint64_t now)
{
	struct secondary *s = ctx;

	s->loaded = ckpt;
}

static const struct relay_secondary_ops secondary_ops = {
        .back = on_back,
        .running = on_running,
        .stopped = on_svm_stopped,
        .loaded = on_loaded,
};

static void secondary_init(struct secondary *s)
{
	*s = (struct secondary){0};
	s->back = g_byte_array_new();
	s->to_svm = g_byte_array_new();
	g_assert_cmpint(relay_secondary_new(&s->relay, &secondary_ops, s), ==, 0);
}

static void secondary_fini(struct secondary *s)
{
	relay_secondary_free(s->relay);
	g_byte_array_unref(s->back);
	g_byte_array_unref(s->to_svm);
}

static void secondary_drain(struct secondary *s)
{
	const uint8_t *ptr;
	size_t len;

	for (relay_secondary_pending(s->relay, &ptr, &len); len > 0;
	     relay_secondary_pending(s->relay, &ptr, &len)) {
		size_t n = chunk(len);

		g_byte_array_append(s->to_svm, ptr, (guint)n);
		g_assert_cmpint(relay_secondary_wrote(s->relay, n), ==, 0);
	}
	g_assert_cmpint(relay_secondary_wrote(s->relay, 1), ==, -EINVAL);
}

static int secondary_send(struct secondary *s, const uint8_t *data, size_t len)
{
	while (len > 0) {
		uint8_t *ptr;
		size_t room;
		size_t n;
		int rc;

		rc = relay_secondary_want(s->relay, &ptr, &room);
		if (rc < 0)
			return rc;
		g_assert_cmpuint(room, >, 0);
		n = chunk(room < len ? room : len);
		memcpy(ptr, data, n);
		rc = relay_secondary_got(s->relay, n, 1);
		if (rc < 0)
			return rc;
		data += n;
		len -= n;
	}
	return 0;
}

static int secondary_say(struct secondary *s, uint32_t message)
{
	uint8_t bytes[4];

	wire_put_be32(bytes, message);
	return secondary_send(s, bytes, sizeof(bytes));
}

/* What QEMU 11.1.3 was seen to send: pong, shut, then READY. */
static const uint8_t svm_hello[] = {0, 2, 0, 4, 0, 0, 0, 1, 0, 1, 0, 4, 0, 0, 0, 0};

static void secondary_start(struct secondary *s)
{
	g_autofree uint8_t *migration = g_malloc(600000);
	size_t at = 0;

	for (size_t i = 0; i < 600000; i++)
		migration[i] = (uint8_t)(i * 7);
	while (at < 600000) {
		ssize_t n = relay_secondary_from_peer(s->relay, migration + at, 600000 - at);

		g_assert_cmpint(n, >, 0);
		at += (size_t)n;
		secondary_drain(s);
	}
	g_assert_cmpmem(s->to_svm->data, s->to_svm->len, migration, 600000);
	g_byte_array_set_size(s->to_svm, 0);
	g_assert_cmpint(secondary_send(s, svm_hello, sizeof(svm_hello)), ==, 0);
	g_assert_cmpint(s->running, ==, 0);
	g_assert_cmpint(secondary_say(s, COLO_READY), ==, 0);
	g_assert_cmpint(s->running, ==, 1);
	g_assert_cmpmem(s->back->data, s->back->len, svm_hello, sizeof(svm_hello));
	g_assert_cmpint(relay_secondary_from_peer(s->relay, migration, 1), ==, -EBUSY);
}

static void ckpt_from(struct ckpt *ckpt, const GByteArray *b, uint64_t epoch)
{
	*ckpt = (struct ckpt){.epoch = epoch};
	g_assert_cmpint(ckpt_buf_init(&ckpt->buf, BUF_LIMIT, 0), ==, 0);
	g_assert_cmpint(ckpt_buf_append(&ckpt->buf, b->data, b->len), ==, 0);
}

static void test_secondary_dialogue(void)
{
	for (int round = 0; round < 30; round++) {
		struct secondary s;

		secondary_init(&s);
		secondary_start(&s);
		for (int e = 1; e <= 5; e++) {
			g_autoptr(GByteArray) b = build_random(g_test_rand_int_range(0, 12));
			bool ahead = g_test_rand_bit();
			struct ckpt ckpt;

			ckpt_from(&ckpt, b, (uint64_t)e);
			if (ahead) {
				g_assert_cmpint(relay_secondary_stop(s.relay), ==, 0);
				g_assert_cmpint(relay_secondary_stop(s.relay), ==, -EBUSY);
				secondary_drain(&s);
				if (g_test_rand_bit())
					g_assert_cmpint(secondary_say(&s, COLO_REPLY), ==, 0);
			}
			g_assert_cmpint(relay_secondary_load(s.relay, &ckpt), ==, 0);
			g_assert_cmpint(relay_secondary_load(s.relay, &ckpt), ==, -EBUSY);
			if (relay_secondary_phase(s.relay) == RELAY_SECONDARY_STOPPING) {
				secondary_drain(&s);
				g_assert_cmpint(secondary_say(&s, COLO_REPLY), ==, 0);
			}
			g_assert_cmpint(s.stopped, ==, e);
			secondary_drain(&s);
			g_assert_cmpuint(s.to_svm->len, ==, 8 + b->len);
			g_assert_cmpuint(wire_be32(s.to_svm->data), ==, COLO_REQUEST);
			g_assert_cmpuint(wire_be32(s.to_svm->data + 4), ==, COLO_VMSTATE_SEND);
			g_assert_cmpmem(s.to_svm->data + 8, b->len, b->data, b->len);
			g_assert_cmpint(secondary_say(&s, COLO_VMSTATE_RECEIVED), ==, 0);
			g_assert_null(s.loaded);
			g_assert_cmpint(secondary_say(&s, COLO_VMSTATE_LOADED), ==, 0);
			g_assert_true(s.loaded == &ckpt);
			s.loaded = NULL;
			g_byte_array_set_size(s.to_svm, 0);
			ckpt_buf_fini(&ckpt.buf);
		}
		secondary_fini(&s);
	}
}

/* A bad checkpoint never reaches the SVM, and does not end the relay. */
static void test_secondary_bad_checkpoint(void)
{
	g_autoptr(GByteArray) b = build_random(4);
	struct secondary s;
	struct ckpt ckpt;

	secondary_init(&s);
	secondary_start(&s);
	ckpt_from(&ckpt, b, 1);
	ckpt.buf.base[4] ^= 1; /* another section than its footer says: not to be remembered */
	g_assert_cmpint(relay_secondary_load(s.relay, &ckpt), ==, -EBADMSG);
	ckpt.buf.base[4] ^= 1;
	ckpt.buf.len--;
	g_assert_cmpint(relay_secondary_load(s.relay, &ckpt), ==, -EBADMSG);
	g_assert_nonnull(strstr(relay_secondary_error(s.relay), "does not end there"));
	ckpt.buf.len += 2;
	g_assert_cmpint(relay_secondary_load(s.relay, &ckpt), ==, -EBADMSG);
	ckpt.buf.len--;
	ckpt.buf.base[0] = 0x05;
	g_assert_cmpint(relay_secondary_load(s.relay, &ckpt), ==, -EBADMSG);
	g_assert_nonnull(strstr(relay_secondary_error(s.relay), "section type 0x05"));
	secondary_drain(&s);
	g_assert_cmpuint(s.to_svm->len, ==, 0);
	ckpt.buf.base[0] = 0x03;
	g_assert_cmpint(relay_secondary_load(s.relay, &ckpt), ==, 0);
	ckpt_buf_fini(&ckpt.buf);
	secondary_fini(&s);
}

static void assert_secondary_failed(struct secondary *s, int rc, int expected, const char *text)
{
	uint8_t *ptr;
	size_t len;

	g_test_message("%s", relay_secondary_error(s->relay));
	g_assert_cmpint(rc, ==, expected);
	g_assert_nonnull(strstr(relay_secondary_error(s->relay), text));
	g_assert_cmpint(relay_secondary_phase(s->relay), ==, RELAY_SECONDARY_FAILED);
	g_assert_cmpint(relay_secondary_want(s->relay, &ptr, &len), ==, -EPROTO);
	g_assert_cmpint(relay_secondary_got(s->relay, 1, 0), ==, -EPROTO);
	g_assert_cmpint(relay_secondary_stop(s->relay), ==, -EBUSY);
	secondary_fini(s);
}

static void test_secondary_return_path(void)
{
	static const uint8_t no_type[] = {0, 0, 0, 0};
	static const uint8_t bad_type[] = {0, 8, 0, 0};
	static const uint8_t too_long[] = {0, 2, 2, 1};
	static const uint8_t bad_shut[] = {0, 1, 0, 3};
	static const uint8_t failed[] = {0, 1, 0, 4, 0, 0, 0, 1};
	struct secondary s;

	secondary_init(&s);
	assert_secondary_failed(&s, secondary_send(&s, no_type, 4), -EPROTO, "return-path on?");
	secondary_init(&s);
	assert_secondary_failed(&s, secondary_send(&s, bad_type, 4), -EPROTO, "message 8");
	secondary_init(&s);
	assert_secondary_failed(&s, secondary_send(&s, too_long, 4), -EPROTO, "found 513 bytes");
	secondary_init(&s);
	assert_secondary_failed(&s, secondary_send(&s, bad_shut, 4), -EPROTO, "in SHUT");
	secondary_init(&s);
	assert_secondary_failed(&s, secondary_send(&s, failed, 8), -EPROTO, "migration failed");
	secondary_init(&s);
	s.back_error = -EPIPE;
	assert_secondary_failed(&s, secondary_send(&s, svm_hello, 8), -EPIPE, "cannot pass on");
}

static void test_secondary_wrong_message(void)
{
	g_autoptr(GByteArray) b = build_random(2);
	struct secondary s;
	struct ckpt ckpt;

	ckpt_from(&ckpt, b, 1);
	secondary_init(&s);
	g_assert_cmpint(secondary_send(&s, svm_hello, sizeof(svm_hello)), ==, 0);
	assert_secondary_failed(&s, secondary_say(&s, 6), -EPROTO,
	                        "SVM (shut): found message 6 (VMSTATE_LOADED), expected "
	                        "CHECKPOINT_READY");
	secondary_init(&s);
	secondary_start(&s);
	assert_secondary_failed(&s, secondary_say(&s, 2), -EPROTO, "expected none");
	/* REPLY before REQUEST has left. */
	secondary_init(&s);
	secondary_start(&s);
	g_assert_cmpint(relay_secondary_load(s.relay, &ckpt), ==, 0);
	assert_secondary_failed(&s, secondary_say(&s, 2), -EPROTO, "while 4 bytes were still");
	/* RECEIVED before the checkpoint has left. */
	secondary_init(&s);
	secondary_start(&s);
	g_assert_cmpint(relay_secondary_load(s.relay, &ckpt), ==, 0);
	secondary_drain(&s);
	g_assert_cmpint(secondary_say(&s, 2), ==, 0);
	g_assert_cmpint(relay_secondary_wrote(s.relay, 4), ==, 0);
	g_assert_cmpint(relay_secondary_wrote(s.relay, b->len - 1), ==, 0);
	assert_secondary_failed(&s, secondary_say(&s, 5), -EPROTO, "while 1 bytes were still");
	/* LOADED without RECEIVED. */
	secondary_init(&s);
	secondary_start(&s);
	g_assert_cmpint(relay_secondary_load(s.relay, &ckpt), ==, 0);
	secondary_drain(&s);
	g_assert_cmpint(secondary_say(&s, 2), ==, 0);
	secondary_drain(&s);
	assert_secondary_failed(&s, secondary_say(&s, 6), -EPROTO, "expected VMSTATE_RECEIVED");
	ckpt_buf_fini(&ckpt.buf);
}

/* -------------------------------------------------------------------------- both ends */

/* What the PVM said reaches the SVM byte for byte, whatever the chunks. */
static void test_end_to_end(void)
{
	struct secondary s;
	struct primary p;

	primary_init(&p);
	secondary_init(&s);
	primary_start(&p);
	secondary_start(&s);
	for (int e = 1; e <= 100; e++) {
		g_autoptr(GByteArray) b = build_random(g_test_rand_int_range(0, 60));

		g_assert_cmpint(primary_say(&p, COLO_REQUEST), ==, 0);
		primary_drain(&p);
		g_assert_cmpint(primary_say(&p, COLO_VMSTATE_SEND), ==, 0);
		g_assert_cmpint(primary_send(&p, b->data, b->len), ==, 0);
		primary_drain(&p);
		g_assert_cmpint(relay_secondary_load(s.relay, &p.ckpt), ==, 0);
		secondary_drain(&s);
		g_assert_cmpint(secondary_say(&s, COLO_REPLY), ==, 0);
		secondary_drain(&s);
		g_assert_cmpmem(s.to_svm->data + 8, s.to_svm->len - 8, b->data, b->len);
		g_assert_cmpint(secondary_say(&s, COLO_VMSTATE_RECEIVED), ==, 0);
		g_assert_cmpint(secondary_say(&s, COLO_VMSTATE_LOADED), ==, 0);
		g_byte_array_set_size(s.to_svm, 0);
	}
	secondary_fini(&s);
	primary_fini(&p);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/primary/dialogue", test_primary_dialogue);
	g_test_add_func("/primary/held", test_primary_held);
	g_test_add_func("/primary/return-path", test_primary_return_path);
	g_test_add_func("/primary/wrong-message", test_primary_wrong_message);
	g_test_add_func("/primary/unasked", test_primary_unasked);
	g_test_add_func("/primary/other-section", test_primary_other_section);
	g_test_add_func("/primary/limits", test_primary_limits);
	g_test_add_func("/secondary/dialogue", test_secondary_dialogue);
	g_test_add_func("/secondary/bad-checkpoint", test_secondary_bad_checkpoint);
	g_test_add_func("/secondary/return-path", test_secondary_return_path);
	g_test_add_func("/secondary/wrong-message", test_secondary_wrong_message);
	g_test_add_func("/end-to-end", test_end_to_end);
	return g_test_run();
}
