/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "colo-proxy/link/codec.h"

#define SESSION 0x1122334455667788u

struct words {
	char text[256];
};

static void give(struct link_decoder *d, const uint8_t *bytes, size_t n)
{
	size_t room;
	uint8_t *to = link_decoder_space(d, &room);

	g_assert_cmpuint(n, <=, room);
	memcpy(to, bytes, n);
	link_decoder_filled(d, n);
}

/* Appends a frame of n bytes of a pattern. */
static void put_frame(GByteArray *out, uint8_t type, uint8_t channel, uint64_t sequence, uint32_t n,
                      uint64_t seed)
{
	struct link_header h = {
	        .type = type, .channel = channel, .epoch = 7, .len = n, .sequence = sequence};
	guint at = out->len;
	uint32_t i;

	g_byte_array_set_size(out, at + LINK_HEADER_LEN + n);
	for (i = 0; i < n; i++)
		out->data[at + LINK_HEADER_LEN + i] = (uint8_t)(i * 31 + sequence);
	link_encode(out->data + at, &h, seed);
}

static void session_decoder(struct link_decoder *d, int channel)
{
	g_assert_cmpint(link_decoder_init(d, channel), ==, 0);
	g_assert_cmpint(link_decoder_session(d, SESSION), ==, 0);
}

/* The layout is the protocol: these bytes must not change within version 1. */
static void test_known_bytes(void)
{
	static const uint8_t head[] = {'C', 'O', 'L', 'K', 1, 16, 1, 0, 0, 0, 0, 7,
	                               0,   0,   0,   3,   0, 0,  0, 0, 0, 0, 0, 5};
	GByteArray *out = g_byte_array_new();

	put_frame(out, 16, LINK_BULK, 5, 3, SESSION);
	g_assert_cmpuint(out->len, ==, 35);
	g_assert_cmpmem(out->data, sizeof(head), head, sizeof(head));
	g_assert_cmpmem(out->data + 24, 8, "\x21\x8f\x91\xa0\xa7\xd6\xdd\xb7", 8);
	g_byte_array_unref(out);
}

static void test_cut_anywhere(void)
{
	static const uint32_t sizes[] = {0, 1, 31, 32, 1000};
	GByteArray *out = g_byte_array_new();
	size_t step;
	unsigned i;

	for (i = 0; i < G_N_ELEMENTS(sizes); i++)
		put_frame(out, (uint8_t)(16 + i), LINK_FAST, i, sizes[i], SESSION);
	for (step = 1; step <= out->len; step++) {
		const uint8_t *payload;
		struct link_decoder d;
		struct link_header h;
		unsigned n = 0;
		struct words w;
		size_t at;

		session_decoder(&d, LINK_FAST);
		for (at = 0; at < out->len; at += step) {
			give(&d, out->data + at, MIN(step, out->len - at));
			while (link_decoder_next(&d, &h, &payload, w.text, sizeof(w)) == 1) {
				g_assert_cmpuint(h.type, ==, 16 + n);
				g_assert_cmpuint(h.len, ==, sizes[n]);
				g_assert_cmpuint(h.epoch, ==, 7);
				g_assert_true(!h.len || payload[h.len - 1] ==
				                                (uint8_t)((h.len - 1) * 31 + n));
				n++;
			}
			g_assert_cmpint(d.error, ==, 0);
		}
		g_assert_cmpuint(n, ==, G_N_ELEMENTS(sizes));
		g_assert_cmpuint(d.offset, ==, out->len);
		link_decoder_free(&d);
	}
	g_byte_array_unref(out);
}

/* The buffer never grows and never fills up, whatever the sizes. */
static void test_long_stream(void)
{
	GByteArray *out = g_byte_array_new();
	const uint8_t *payload;
	struct link_decoder d;
	struct link_header h;
	struct words w;
	uint64_t i, got = 0;

	session_decoder(&d, LINK_BULK);
	for (i = 0; i < 64; i++) {
		size_t at = 0;

		g_byte_array_set_size(out, 0);
		put_frame(out, 16, LINK_BULK, i, i % 3 ? 700001 : LINK_MAX_BULK, SESSION);
		while (at < out->len) {
			size_t room, n;
			uint8_t *to = link_decoder_space(&d, &room);

			g_assert_cmpuint(room, >, 0);
			n = MIN(MIN(room, 300007), out->len - at);
			memcpy(to, out->data + at, n);
			link_decoder_filled(&d, n);
			at += n;
			while (link_decoder_next(&d, &h, &payload, w.text, sizeof(w)) == 1) {
				g_assert_cmpuint(h.sequence, ==, got);
				got++;
			}
		}
	}
	g_assert_cmpuint(got, ==, 64);
	link_decoder_free(&d);
	g_byte_array_unref(out);
}

static void test_flipped_bit(void)
{
	GByteArray *out = g_byte_array_new();
	guint bit;

	put_frame(out, 20, LINK_FAST, 0, 40, SESSION);
	for (bit = 0; bit < out->len * 8; bit++) {
		const uint8_t *payload;
		struct link_decoder d;
		struct link_header h;
		struct words w = {""};
		int ret;

		session_decoder(&d, LINK_FAST);
		out->data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		give(&d, out->data, out->len);
		ret = link_decoder_next(&d, &h, &payload, w.text, sizeof(w));
		/* A larger but allowed length only waits for more; what comes then is wrong. */
		if (ret == 0) {
			static const uint8_t more[LINK_MAX_FAST];

			give(&d, more, sizeof(more));
			ret = link_decoder_next(&d, &h, &payload, w.text, sizeof(w));
		}
		g_assert_true(ret == -EPROTO || ret == -EBADMSG);
		g_assert_nonnull(strstr(w.text, "offset 0"));
		g_assert_cmpint(link_decoder_next(&d, &h, &payload, w.text, sizeof(w)), ==, ret);
		out->data[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		link_decoder_free(&d);
	}
	g_byte_array_unref(out);
}

static int refuse(GByteArray *out, int channel, bool session, const char *word)
{
	const uint8_t *payload;
	struct link_decoder d;
	struct link_header h;
	struct words w = {""};
	int ret;

	if (session)
		session_decoder(&d, channel);
	else
		g_assert_cmpint(link_decoder_init(&d, channel), ==, 0);
	give(&d, out->data, out->len);
	do {
		ret = link_decoder_next(&d, &h, &payload, w.text, sizeof(w));
	} while (ret == 1);
	g_test_message("%s", w.text);
	g_assert_nonnull(strstr(w.text, word));
	link_decoder_free(&d);
	g_byte_array_set_size(out, 0);
	return ret;
}

static void test_refusals(void)
{
	GByteArray *out = g_byte_array_new();

	put_frame(out, 16, LINK_FAST, 0, 8, SESSION + 1);
	g_assert_cmpint(refuse(out, LINK_FAST, true, "another session"), ==, -EBADMSG);

	put_frame(out, 16, LINK_FAST, 0, 8, SESSION);
	put_frame(out, 16, LINK_FAST, 2, 8, SESSION);
	g_assert_cmpint(refuse(out, LINK_FAST, true, "sequence 2 where 1 is due"), ==, -EPROTO);

	put_frame(out, 16, LINK_FAST, 0, 8, SESSION);
	put_frame(out, 16, LINK_FAST, 0, 8, SESSION);
	g_assert_cmpint(refuse(out, LINK_FAST, true, "sequence 0 where 1 is due"), ==, -EPROTO);

	put_frame(out, 16, LINK_BULK, 0, 8, SESSION);
	g_assert_cmpint(refuse(out, LINK_FAST, true, "channel 1"), ==, -EPROTO);
	put_frame(out, 16, LINK_PLACES, 0, 8, SESSION);
	g_assert_cmpint(refuse(out, -1, true, "channel 10"), ==, -EPROTO);

	put_frame(out, 16, LINK_FAST, 0, LINK_MAX_FAST, SESSION);
	out->data[15]++;
	g_byte_array_set_size(out, LINK_HEADER_LEN);
	g_assert_cmpint(refuse(out, LINK_FAST, true, "payload of 262145 bytes"), ==, -EPROTO);

	put_frame(out, LINK_HELLO, LINK_FAST, 0, LINK_MAX_OWN, 0);
	out->data[15]++;
	g_byte_array_set_size(out, LINK_HEADER_LEN);
	g_assert_cmpint(refuse(out, -1, false, "payload of 2049 bytes"), ==, -EPROTO);

	put_frame(out, 16, LINK_FAST, 0, 8, 0);
	g_assert_cmpint(refuse(out, -1, false, "type 16 is not allowed"), ==, -EPROTO);
	put_frame(out, 0, LINK_FAST, 0, 8, SESSION);
	g_assert_cmpint(refuse(out, -1, true, "type 0 is not allowed"), ==, -EPROTO);
	put_frame(out, 15, LINK_FAST, 0, 8, SESSION);
	g_assert_cmpint(refuse(out, -1, true, "type 15 is not allowed"), ==, -EPROTO);

	g_byte_array_append(out, (const uint8_t *)"COLK\2", 5);
	g_assert_cmpint(refuse(out, -1, false, "framing version 2"), ==, -EPROTO);
	g_byte_array_append(out, (const uint8_t *)"GET / HTTP/1.1\r\n", 16);
	g_assert_cmpint(refuse(out, -1, false, "another protocol"), ==, -EPROTO);
	g_byte_array_append(out, (const uint8_t *)"\x16\3\1", 3);
	g_assert_cmpint(refuse(out, -1, false, "TLS"), ==, -EPROTO);
	g_byte_array_unref(out);
}

static int unpack(const uint8_t *payload, size_t len, unsigned stripes, const char *words)
{
	struct link_marker marker = {.sequence = 99};
	char err[160] = "";
	int r = link_marker_unpack(payload, len, stripes, &marker, err, sizeof(err));

	g_assert_true(r == 0 || (marker.sequence == 99 && strstr(err, words)));
	return r;
}

static void test_marker(void)
{
	static const uint8_t known[LINK_MARKER_LEN] = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 0x20, 0x14, 2};
	const struct link_marker marker = {0x01020304050607, 73748, 2};
	struct link_header h = {.channel = LINK_CHANNELS + 2, .len = 73748};
	struct link_marker back = {0};
	uint8_t bytes[LINK_MARKER_LEN];
	GByteArray *out = g_byte_array_new();
	char err[160];

	link_marker_pack(bytes, &marker);
	g_assert_cmpmem(bytes, sizeof(bytes), known, sizeof(known));
	g_assert_cmpint(link_marker_unpack(known, sizeof(known), 3, &back, err, sizeof(err)), ==,
	                0);
	g_assert_cmpuint(back.sequence, ==, marker.sequence);
	g_assert_cmpuint(back.len, ==, marker.len);
	g_assert_cmpuint(back.stripe, ==, marker.stripe);
	g_assert_cmpint(unpack(known, sizeof(known), 2, "a marker of stream 3, there are 2"), ==,
	                -EPROTO);
	g_assert_cmpint(unpack(known, sizeof(known), 0, "there are 0"), ==, -EPROTO);
	g_assert_cmpint(unpack(known, sizeof(known) - 1, 3, "malformed"), ==, -EPROTO);
	bytes[15] = 1;
	g_assert_cmpint(unpack(bytes, sizeof(bytes), 3, "malformed"), ==, -EPROTO);

	h.sequence = marker.sequence;
	g_assert_true(link_marker_names(&marker, &h));
	h.sequence++;
	g_assert_false(link_marker_names(&marker, &h));
	h.sequence--;
	h.len++;
	g_assert_false(link_marker_names(&marker, &h));
	h.len--;
	h.channel--;
	g_assert_false(link_marker_names(&marker, &h));

	/* On the bulk connection only, and no longer than it is. */
	put_frame(out, LINK_MARKER, LINK_FAST, 0, LINK_MARKER_LEN, SESSION);
	g_assert_cmpint(refuse(out, LINK_FAST, true, "type 7 is not allowed"), ==, -EPROTO);
	put_frame(out, LINK_MARKER, LINK_CHANNELS, 0, LINK_MARKER_LEN, SESSION);
	g_assert_cmpint(refuse(out, LINK_CHANNELS, true, "type 7 is not allowed"), ==, -EPROTO);
	put_frame(out, LINK_MARKER, LINK_BULK, 0, LINK_MARKER_LEN + 1, SESSION);
	g_assert_cmpint(refuse(out, LINK_BULK, true, "type 7 may have 16"), ==, -EPROTO);
	g_byte_array_unref(out);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/codec/known-bytes", test_known_bytes);
	g_test_add_func("/codec/cut-anywhere", test_cut_anywhere);
	g_test_add_func("/codec/long-stream", test_long_stream);
	g_test_add_func("/codec/flipped-bit", test_flipped_bit);
	g_test_add_func("/codec/refusals", test_refusals);
	g_test_add_func("/codec/marker", test_marker);
	return g_test_run();
}
