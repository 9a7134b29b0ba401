/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-proxy/link/auth.h"
#include "colo-proxy/link/link.h"
#include "colo-proxy/link/streams.h"

/*
 * Sessions with streams: both sides in one process and on one loop, with the threads of their
 * stripes. Between them, where a test wants to damage, hold up or cut something, is a relay that
 * knows which connection is which by the order in which they were made.
 */

struct own {
	GRand *sizes;   /* of what is sent: the other side has the same one for what it gets */
	GRand *expects; /* of what comes */
	uint64_t sent;
};

#define PATIENCE_S 120
#include "tests/unit/link_rig.h"

#define MAX_LEN 200000u
#define LIMIT   (3u << 20)

/* Below, at and above what goes by stripe. */
static uint32_t draw_len(GRand *rand)
{
	static const uint32_t edges[] = {1, 8, 16383, 16384, 16385, 73748, MAX_LEN};

	if (g_rand_int_range(rand, 0, 4) == 0)
		return edges[g_rand_int_range(rand, 0, G_N_ELEMENTS(edges))];
	return (uint32_t)g_rand_int_range(rand, 1, MAX_LEN);
}

static void fill(uint8_t *to, uint32_t len, uint64_t number)
{
	uint64_t state = number * 0x9e3779b97f4a7c15u + len;

	for (uint32_t i = 0; i < len; i++) {
		state = state * 6364136223846793005u + 1442695040888963407u;
		to[i] = (uint8_t)(state >> 56);
	}
}

static int send_len(struct side *s, uint32_t len)
{
	static uint8_t bytes[MAX_LEN];
	struct iovec iov[2] = {
	        {.iov_base = bytes, .iov_len = len / 3},
	        {.iov_base = bytes + len / 3, .iov_len = len - len / 3},
	};
	int r;

	fill(bytes, len, s->own.sent);
	r = link_send(s->link, LINK_BULK, 16 + (s->own.sent & 7), (uint32_t)s->own.sent + 3, iov,
	              2);
	if (r == 0)
		s->own.sent++;
	return r;
}

static void on_message(void *ctx, enum link_channel channel, uint8_t type, uint32_t epoch,
                       const uint8_t *payload, size_t len)
{
	static uint8_t bytes[MAX_LEN];
	struct side *s = ctx;

	g_assert_cmpuint(s->ups, ==, s->downs + 1);
	if (channel == LINK_FAST)
		return;
	g_assert_cmpuint(type, ==, 16 + (s->got[LINK_BULK] & 7));
	g_assert_cmpuint(epoch, ==, s->got[LINK_BULK] + 3);
	if (s->own.expects)
		g_assert_cmpuint(len, ==, draw_len(s->own.expects));
	fill(bytes, (uint32_t)len, s->got[LINK_BULK]);
	g_assert_cmpmem(payload, len, bytes, len);
	s->got[LINK_BULK]++;
	if (s->close_on_message)
		link_close(s->link, "closed in a callback");
	loop_stop(s->loop);
}

static void begin(struct test *t, bool encrypt)
{
	struct side *sides[] = {&t->p, &t->s};

	test_begin(t, encrypt);
	for (unsigned i = 0; i < 2; i++) {
		sides[i]->params.streams = 3;
		sides[i]->params.queue_limit[LINK_BULK] = LIMIT;
		sides[i]->params.setup_ms = 5000;
	}
}

/* ---- the order ---- */

static void send_some(struct side *s, uint64_t total, unsigned n)
{
	while (n-- > 0 && s->own.sent < total) {
		GRand *before = g_rand_copy(s->own.sizes);

		if (send_len(s, draw_len(s->own.sizes)) == 0) {
			g_rand_free(before);
			continue;
		}
		g_rand_free(s->own.sizes);
		s->own.sizes = before;
		return;
	}
}

/* Both ways at a time, any sizes, now and then a pause: all in order, every byte right. */
static void test_order(const void *data)
{
	uint32_t seed = g_test_rand_int();
	uint64_t total = 200;
	bool paused[2] = {false, false};
	struct test t;
	GRand *rand = g_rand_new_with_seed(seed);

	begin(&t, encrypted(data));
	t.p.params.streams = (unsigned)g_rand_int_range(rand, 2, 9);
	t.s.params.streams = (unsigned)g_rand_int_range(rand, 2, 9);
	g_test_message("seed %u, %u and %u streams", seed, t.p.params.streams, t.s.params.streams);
	start_session(&t);
	g_assert_cmpuint(link_streams(t.p.link), ==, MIN(t.p.params.streams, t.s.params.streams));
	g_assert_cmpuint(link_streams(t.s.link), ==, link_streams(t.p.link));
	t.p.own.sizes = g_rand_new_with_seed(seed + 1);
	t.s.own.expects = g_rand_new_with_seed(seed + 1);
	t.s.own.sizes = g_rand_new_with_seed(seed + 2);
	t.p.own.expects = g_rand_new_with_seed(seed + 2);
	while (t.s.got[LINK_BULK] < total || t.p.got[LINK_BULK] < total) {
		unsigned i = (unsigned)g_rand_int_range(rand, 0, 2);

		send_some(&t.p, total, (unsigned)g_rand_int_range(rand, 0, 30));
		send_some(&t.s, total, (unsigned)g_rand_int_range(rand, 0, 30));
		g_assert_cmpuint(link_queued(t.p.link, LINK_BULK), <=, LIMIT);
		paused[i] = !paused[i] && g_rand_boolean(rand);
		link_pause(i ? t.s.link : t.p.link, LINK_BULK, paused[i]);
		loop_turn_for(t.loop, (unsigned)g_rand_int_range(rand, 0, 3));
	}
	UNTIL(&t, link_queued(t.p.link, LINK_BULK) == 0 && link_queued(t.s.link, LINK_BULK) == 0);
	g_assert_cmpuint(t.p.downs + t.s.downs + t.p.refusals + t.s.refusals, ==, 0);
	test_end(&t);
	g_rand_free(rand);
	g_rand_free(t.p.own.sizes);
	g_rand_free(t.p.own.expects);
	g_rand_free(t.s.own.sizes);
	g_rand_free(t.s.own.expects);
}

/* ---- how many ---- */

static void expect_streams(unsigned primary, unsigned secondary, unsigned streams)
{
	struct test t;

	begin(&t, false);
	t.p.params.streams = primary;
	t.s.params.streams = secondary;
	start_session(&t);
	g_assert_cmpuint(link_streams(t.p.link), ==, streams);
	g_assert_cmpuint(link_streams(t.s.link), ==, streams);
	for (unsigned i = 0; i < 6; i++) {
		g_assert_cmpint(send_len(&t.p, 1000 + 30000 * i), ==, 0);
		g_assert_cmpint(send_len(&t.s, 1000 + 30000 * i), ==, 0);
	}
	UNTIL(&t, t.p.got[LINK_BULK] == 6 && t.s.got[LINK_BULK] == 6);
	g_assert_cmpuint(t.p.refusals + t.s.refusals, ==, 0);
	test_end(&t);
}

static void test_how_many(void)
{
	static const unsigned pairs[][3] = {
	        {0, 0, 1}, {1, 8, 1}, {8, 1, 1}, {3, 0, 1},
	        {2, 2, 2}, {4, 2, 2}, {2, 8, 2}, {8, 8, 8},
	};
	struct test t;
	char err[256];

	for (unsigned i = 0; i < G_N_ELEMENTS(pairs); i++)
		expect_streams(pairs[i][0], pairs[i][1], pairs[i][2]);
	begin(&t, false);
	t.s.params.streams = LINK_STREAMS_MAX + 1;
	g_assert_cmpint(link_new(&t.s.link, t.loop, &t.s.params, &ops, &t.s, err, sizeof(err)), ==,
	                -EINVAL);
	g_assert_nonnull(strstr(err, "more than 8 streams"));
	test_end(&t);
}

static void test_choice(void)
{
	static const struct {
		struct link_streams_facts facts;
		int wish;
		unsigned streams;
	} cases[] = {
	        {{2, 1, 0}, LINK_STREAMS_AUTO, 1},
	        {{1, 4, 0}, LINK_STREAMS_AUTO, 1},
	        {{4, 1, 2}, LINK_STREAMS_AUTO, 1},
	        {{4, 1, 0}, LINK_STREAMS_AUTO, 2},
	        {{8, 1, 4}, LINK_STREAMS_AUTO, 2},
	        {{8, 2, 4}, LINK_STREAMS_AUTO, 1},
	        {{16, 4, 4}, LINK_STREAMS_AUTO, 4},
	        {{2, 1, 0}, 3, 3},
	        {{64, 1, 4}, 1, 1},
	};

	for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
		struct link_streams_choice choice;

		link_streams_choose(&cases[i].facts, cases[i].wish, &choice);
		g_assert_cmpuint(choice.streams, ==, cases[i].streams);
		g_assert_cmpint(choice.why[0], ==, '0' + (int)cases[i].streams);
	}
}

/* ---- back-pressure ---- */

/* Who does not take messages stops the one who sends, within what both may keep. */
static void test_back_pressure(const void *data)
{
	size_t last = 0;
	struct test t;
	int r;

	begin(&t, encrypted(data));
	start_session(&t);
	link_pause(t.s.link, LINK_BULK, true);
	/* Filled again until the sockets and what the receiver may keep are full as well. */
	for (unsigned still = 0; still < 10;) {
		while ((r = send_len(&t.p, 60000)) == 0)
			g_assert_cmpuint(link_queued(t.p.link, LINK_BULK), <=, LIMIT);
		g_assert_cmpint(r, ==, -EAGAIN);
		loop_turn_for(t.loop, 10);
		g_assert_cmpuint(t.p.own.sent, <, 2000); /* 120 MB */
		still = link_queued(t.p.link, LINK_BULK) == last ? still + 1 : 0;
		last = link_queued(t.p.link, LINK_BULK);
	}
	g_assert_cmpuint(t.s.got[LINK_BULK], ==, 0);
	t.p.rooms[LINK_BULK] = 0;
	loop_turn_for(t.loop, 30);
	g_assert_cmpuint(t.p.rooms[LINK_BULK], ==, 0);
	link_pause(t.s.link, LINK_BULK, false);
	UNTIL(&t, t.p.rooms[LINK_BULK] == 1);
	g_assert_cmpuint(link_queued(t.p.link, LINK_BULK), <=, LIMIT / 2);
	UNTIL(&t, t.s.got[LINK_BULK] == t.p.own.sent);
	g_assert_cmpuint(t.p.rooms[LINK_BULK], ==, 1);
	g_assert_cmpuint(t.p.downs + t.s.downs, ==, 0);
	test_end(&t);
}

/* The whole queue is with the threads, which are done before anyone looks: room() comes. */
static void test_room_at_once(void)
{
	struct test t;

	begin(&t, false);
	start_session(&t);
	for (unsigned i = 0; i < 15; i++) {
		unsigned rooms = t.p.rooms[LINK_BULK];

		while (send_len(&t.p, 150000) == 0)
			g_assert_cmpuint(t.p.own.sent - t.s.got[LINK_BULK], <, 1000); /* 150 MB */
		UNTIL(&t, t.p.rooms[LINK_BULK] == rooms + 1);
	}
	UNTIL(&t, t.s.got[LINK_BULK] == t.p.own.sent);
	test_end(&t);
}

/* ---- endings ---- */

/* The session ends in the middle of it all, on either side: no message of it comes later. */
static void test_drop(const void *data)
{
	struct test t;

	begin(&t, encrypted(data));
	start_session(&t);
	for (unsigned i = 1; i <= 5; i++) {
		while (send_len(&t.p, 100000) == 0)
			;
		while (send_len(&t.s, 50000) == 0)
			;
		loop_turn_for(t.loop, i % 3);
		link_drop(i & 1 ? t.p.link : t.s.link, "enough");
		g_assert_cmpuint(link_queued(i & 1 ? t.p.link : t.s.link, LINK_BULK), ==, 0);
		UNTIL(&t, t.p.downs == i && t.s.downs == i);
		g_assert_cmpuint(link_streams(t.p.link), ==, 0);
		UNTIL(&t, t.p.ups == i + 1 && t.s.ups == i + 1);
		t.p.own.sent = t.s.own.sent = 0;
	}
	t.s.close_on_message = true;
	g_assert_cmpint(send_len(&t.p, 100000), ==, 0);
	g_assert_cmpint(send_len(&t.p, 100000), ==, 0);
	UNTIL(&t, t.p.downs == 6 && t.s.downs == 6);
	g_assert_cmpuint(t.s.got[LINK_BULK], ==, 1);
	test_end(&t);
}

/* ---- the relay ---- */

struct relay;

struct pipe_end {
	struct relay *relay;
	struct pipe_end *other;
	struct loop_source source;
	int fd;
	bool from_primary;
	unsigned place; /* as in LINK_PLACES */
};

struct relay {
	struct test *t;
	struct loop_source listener;
	int fd;
	struct pipe_end ends[64];
	unsigned n, places;
	/* Changes the bytes; false: cut both connections of the pipe now. */
	bool (*hook)(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n);
	unsigned hits;
	bool deaf[LINK_PLACES]; /* nothing is passed on there */
	GByteArray *kept;       /* what keep_stripe() has not passed on */
};

static void end_close(struct pipe_end *end)
{
	if (end->fd < 0)
		return;
	loop_del(end->relay->t->loop, &end->source);
	close(end->fd);
	end->fd = -1;
}

static void send_whole(int fd, const uint8_t *bytes, size_t n)
{
	while (n > 0) {
		struct pollfd pollfd = {.fd = fd, .events = POLLOUT};
		ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);

		if (sent < 0 && errno != EAGAIN)
			return; /* the session has just ended */
		if (sent < 0) {
			/* Stripes are read by threads, and little goes over the others. */
			g_assert_cmpint(poll(&pollfd, 1, 120000), ==, 1);
			continue;
		}
		bytes += sent;
		n -= (size_t)sent;
	}
}

static void on_relay(void *ctx, uint32_t events)
{
	struct pipe_end *end = ctx;
	struct relay *r = end->relay;
	uint8_t buf[65536];
	ssize_t n = recv(end->fd, buf, sizeof(buf), 0);
	bool go_on = n > 0;

	if (n < 0 && errno == EAGAIN)
		return;
	if (go_on && end->from_primary && r->deaf[end->place])
		return;
	if (go_on && end->from_primary && r->hook)
		go_on = r->hook(r, end, buf, (size_t)n);
	if (go_on && !(end->from_primary && r->kept && end->place >= LINK_CHANNELS)) {
		send_whole(end->other->fd, buf, (size_t)n);
	} else if (go_on) {
		loop_stop(r->t->loop);
	} else {
		end_close(end->other);
		end_close(end);
	}
}

static int dial(uint16_t port)
{
	struct sockaddr_in to = {
	        .sin_family = AF_INET,
	        .sin_port = htons(port),
	        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	g_assert_cmpint(fd, >=, 0);
	g_assert_cmpint(connect(fd, (struct sockaddr *)&to, sizeof(to)), ==, 0);
	return fd;
}

static void add_end(struct relay *r, unsigned i, unsigned other, int fd)
{
	struct pipe_end *end = &r->ends[i];

	end->relay = r;
	end->other = &r->ends[other];
	end->fd = fd;
	end->from_primary = i % 2 == 0;
	end->place = i / 2 % r->places;
	g_assert_cmpint(fcntl(fd, F_SETFL, O_NONBLOCK), ==, 0);
	g_assert_cmpint(loop_add(r->t->loop, &end->source, fd, EPOLLIN, on_relay, end), ==, 0);
}

static void on_relay_accept(void *ctx, uint32_t events)
{
	struct relay *r = ctx;
	int fd = accept(r->fd, NULL, NULL);

	g_assert_cmpint(fd, >=, 0);
	g_assert_cmpuint(r->n, <=, G_N_ELEMENTS(r->ends) - 2);
	add_end(r, r->n, r->n + 1, fd);
	add_end(r, r->n + 1, r->n, dial(link_port(r->t->s.link)));
	r->n += 2;
}

static void relay_session(struct test *t, struct relay *r)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(at);

	memset(r, 0, sizeof(*r));
	r->t = t;
	r->places = LINK_CHANNELS + t->p.params.streams;
	r->fd = socket(AF_INET, SOCK_STREAM, 0);
	g_assert_cmpint(bind(r->fd, (struct sockaddr *)&at, sizeof(at)), ==, 0);
	g_assert_cmpint(listen(r->fd, 16), ==, 0);
	g_assert_cmpint(getsockname(r->fd, (struct sockaddr *)&at, &len), ==, 0);
	g_assert_cmpint(loop_add(t->loop, &r->listener, r->fd, EPOLLIN, on_relay_accept, r), ==, 0);
	side_start(&t->s);
	t->p.params.port = ntohs(at.sin_port);
	side_start(&t->p);
	UNTIL(t, t->p.ups == 1 && t->s.ups == 1);
	g_assert_cmpuint(r->n, ==, 2 * r->places);
}

static void relay_end(struct relay *r)
{
	for (unsigned i = 0; i < r->n; i++)
		end_close(&r->ends[i]);
	loop_del(r->t->loop, &r->listener);
	close(r->fd);
}

/* ---- each kind of break ---- */

static bool is_stripe(const struct pipe_end *end)
{
	return end->place >= LINK_CHANNELS;
}

/* Bytes that begin with a marker; its fields as they are. */
static bool has_marker(const struct pipe_end *end, const uint8_t *bytes, size_t n)
{
	return end->place == LINK_BULK && n >= LINK_HEADER_LEN + LINK_MARKER_LEN &&
	       bytes[5] == LINK_MARKER;
}

/* The frame is what its sender could have sent: its checksum is right. */
static void seal(struct relay *r, uint8_t *frame)
{
	struct link_header h = {.type = frame[5], .channel = frame[6]};

	for (unsigned i = 0; i < 4; i++) {
		h.epoch = h.epoch << 8 | frame[8 + i];
		h.len = h.len << 8 | frame[12 + i];
	}
	for (unsigned i = 0; i < 8; i++)
		h.sequence = h.sequence << 8 | frame[16 + i];
	link_encode(frame, &h, r->t->p.session);
}

static bool cut_stripe(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	if (!is_stripe(end) || r->hits++)
		return true;
	send_whole(end->other->fd, bytes, n / 2);
	return false;
}

static bool flip_bit(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	if (is_stripe(end) && !r->hits++)
		bytes[100] ^= 4;
	return true;
}

static bool lengthen(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	if (is_stripe(end) && !r->hits++)
		bytes[12] = 1; /* 16 MiB more */
	return true;
}

static bool own_type(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	static const uint8_t bye[] = {'C', 'O', 'L', 'K', LINK_FRAME_VERSION, LINK_BYE};

	if (!is_stripe(end) || r->hits++)
		return true;
	memcpy(bytes, bye, sizeof(bye));
	memset(bytes + 12, 0, 4);
	seal(r, bytes);
	return true;
}

static bool other_stripe(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	if (!has_marker(end, bytes, n) || r->hits++)
		return true;
	bytes[LINK_HEADER_LEN + 12] = 3; /* the fourth of three */
	seal(r, bytes);
	return true;
}

static bool wrong_marker(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	if (!has_marker(end, bytes, n) || r->hits++)
		return true;
	bytes[LINK_HEADER_LEN + 15] = 1; /* 0 is due */
	seal(r, bytes);
	return true;
}

static bool other_length(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	if (!has_marker(end, bytes, n) || r->hits++)
		return true;
	bytes[LINK_HEADER_LEN + 11] ^= 1;
	seal(r, bytes);
	return true;
}

/* The second one says what the first one said. */
static bool marker_twice(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	const size_t frame = LINK_HEADER_LEN + LINK_MARKER_LEN;

	if (!has_marker(end, bytes, n) || n < 2 * frame || r->hits++)
		return true;
	memcpy(bytes + frame + LINK_HEADER_LEN, bytes + LINK_HEADER_LEN, LINK_MARKER_LEN);
	seal(r, bytes + frame);
	return true;
}

/* As of another session: its seed is another one. */
static bool other_session(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	if (!is_stripe(end) || n < LINK_HEADER_LEN + 20000 || r->hits++)
		return true;
	r->t->p.session++;
	seal(r, bytes);
	r->t->p.session--;
	return true;
}

/* What one message's stripe says, for the test to pass on. */
static bool keep_stripe(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	if (is_stripe(end)) {
		r->hits = end->place;
		g_byte_array_append(r->kept, bytes, (guint)n);
	}
	return true;
}

struct breakage {
	const char *name;
	bool (*hook)(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n);
	bool encrypt;
	unsigned deaf;            /* nothing comes on this place; 0: no */
	const char *words;        /* of the secondary's reason */
	unsigned user_timeout_ms; /* 0: the default */
};

static const struct breakage breakages[] = {
        {"cut", cut_stripe, false, 0, "stream ", 0},
        {"cut-tls", cut_stripe, true, 0, "stream ", 0},
        {"flipped-bit", flip_bit, false, 0, "checksum differs", 0},
        {"flipped-bit-tls", flip_bit, true, 0, "TLS", 0},
        {"longer-length", lengthen, false, 0, "may have 1048576", 0},
        {"own-type", own_type, false, 0, "a message of type 6, out of turn", 0},
        {"another-session", other_session, false, 0, "of another session", 0},
        {"marker-of-no-stream", other_stripe, false, 0, "a marker of stream 4, there are 3", 0},
        {"marker-wrong", wrong_marker, false, 0, "a marker of 16 bytes that is malformed", 0},
        {"marker-other-length", other_length, false, 0, "than its marker names", 0},
        /* Another message comes on that stream, or, when the others had room sooner, none:
         * after twice the default, the test would have given up. */
        {"marker-twice", marker_twice, false, 0, "stream ", 1000},
        {"stalled", NULL, false, LINK_CHANNELS, "a message has not come on stream 1", 300},
        {"stalled-tls", NULL, true, LINK_CHANNELS + 2, "a message has not come on stream 3", 300},
};

/* Ends the session once on each side, and the next one works. */
static void test_break(const void *data)
{
	const struct breakage *b = data;
	struct relay r;
	struct test t;

	begin(&t, b->encrypt);
	t.s.params.user_timeout_ms = b->user_timeout_ms;
	relay_session(&t, &r);
	r.hook = b->hook;
	r.deaf[b->deaf] = b->deaf > 0;
	for (unsigned i = 0; i < 6; i++)
		g_assert_cmpint(send_len(&t.p, 20000), ==, 0);
	UNTIL(&t, (t.p.downs == 1 && t.s.downs == 1) || t.s.got[LINK_BULK] == 6);
	g_assert_nonnull(strstr(t.s.reason, b->words));
	g_assert_cmpuint(t.s.got[LINK_BULK], <, 6);
	r.hook = NULL;
	memset(r.deaf, 0, sizeof(r.deaf));
	UNTIL(&t, t.p.ups == 2 && t.s.ups == 2);
	g_assert_cmpuint(t.p.downs + t.s.downs, ==, 2);
	t.p.own.sent = 0;
	for (unsigned i = 0; i < 6; i++)
		g_assert_cmpint(send_len(&t.p, 20000), ==, 0);
	UNTIL(&t, t.s.got[LINK_BULK] == 6);
	relay_end(&r);
	test_end(&t);
}

/* A stripe that comes in pieces, each well within the time-out, all together beyond it; false: it
 * was not waited for. */
static bool slow_stripe(unsigned timeout_ms)
{
	const unsigned pieces = 5, pause = timeout_ms * 3 / 10;
	struct pipe_end *end = NULL;
	GByteArray *kept = g_byte_array_new();
	struct relay r;
	struct test t;
	size_t piece;
	bool waited;

	begin(&t, false);
	t.s.params.user_timeout_ms = timeout_ms;
	relay_session(&t, &r);
	r.kept = kept;
	r.hook = keep_stripe;
	link_pause(t.s.link, LINK_BULK, true);
	g_assert_cmpint(send_len(&t.p, 20000), ==, 0);
	UNTIL(&t, kept->len == LINK_HEADER_LEN + 20000);
	loop_turn_for(t.loop, timeout_ms * 5 / 4);
	link_pause(t.s.link, LINK_BULK, false);
	for (unsigned i = 0; i < r.n; i += 2) {
		if (r.ends[i].place == r.hits)
			end = &r.ends[i + 1];
	}
	g_assert_nonnull(end);
	piece = kept->len / pieces;
	for (size_t at = 0; at < kept->len; at += piece) {
		send_whole(end->fd, kept->data + at, MIN(piece, kept->len - at));
		loop_turn_for(t.loop, pause);
	}
	UNTIL(&t, t.s.downs || t.s.got[LINK_BULK] == 1);
	waited = !t.s.downs;
	if (waited) {
		g_assert_cmpint(send_len(&t.p, 20000), ==, 0); /* and now nothing comes */
		UNTIL(&t, t.s.downs == 1);
		g_assert_nonnull(strstr(t.s.reason, "a message has not come"));
	}
	relay_end(&r);
	g_byte_array_unref(kept);
	test_end(&t);
	return waited;
}

/* Who does not take does not wait either; a stripe that moves, however slowly, is waited for. On a
 * machine that stands still between two pieces that takes a longer time-out to see. */
static void test_slow_stripe(void)
{
	for (unsigned timeout_ms = 400; !slow_stripe(timeout_ms); timeout_ms *= 2)
		g_assert_cmpuint(timeout_ms, <, 5000);
}

/* ---- strangers ---- */

static int knock(struct test *t, uint64_t session, unsigned streams, unsigned place)
{
	uint8_t frame[LINK_HEADER_LEN + LINK_MAX_OWN];
	struct link_hello hello = {
	        .role = LINK_PRIMARY,
	        .session = session,
	        .streams = (uint8_t)streams,
	        .name = "vm1",
	        .name_len = 3,
	};
	struct link_header h = {.type = LINK_HELLO, .channel = (uint8_t)place};
	int fd = dial(link_port(t->s.link));

	h.len = (uint32_t)link_hello_encode(frame + LINK_HEADER_LEN, &hello);
	link_encode(frame, &h, 0);
	send_whole(fd, frame, LINK_HEADER_LEN + h.len);
	return fd;
}

static void refuse(struct test *t, uint64_t session, unsigned streams, unsigned place,
                   const char *words)
{
	unsigned before = t->s.refusals;
	int fd = knock(t, session, streams, place);

	UNTIL(t, t->s.refusals == before + 1);
	g_assert_nonnull(strstr(t->s.refused->str, words));
	g_string_assign(t->s.refused, "");
	close(fd);
}

/* A connection for a stream that is none, and one that has not the key. */
static void test_strangers(void)
{
	struct test t;

	begin(&t, false);
	t.s.params.setup_ms = 300;
	side_start(&t.s);
	refuse(&t, 7, 3, LINK_CHANNELS + 3, "a connection for stream 4, the session has 3");
	refuse(&t, 7, 8, LINK_CHANNELS + 7, "a connection for stream 8, the session has 3");
	refuse(&t, 7, 1, LINK_CHANNELS, "a connection for stream 1, the session has 1");
	refuse(&t, 7, 0, LINK_CHANNELS, "0 streams or a session that cannot be");
	refuse(&t, 7, 9, LINK_CHANNELS, "9 streams or a session that cannot be");
	refuse(&t, 7, 3, LINK_PLACES, "channel 10");
	refuse(&t, 7, 3, LINK_CHANNELS, "waited for the peer's proof");
	t.p.params.port = link_port(t.s.link);
	side_start(&t.p);
	UNTIL(&t, t.p.ups == 1 && t.s.ups == 1);
	/* Neither a session of its own nor this one's id gets it in. */
	refuse(&t, 7, 3, LINK_CHANNELS, "a session with the primary at 127.0.0.1");
	refuse(&t, t.s.session, 3, LINK_CHANNELS, "a session with the primary at 127.0.0.1");
	refuse(&t, t.s.session, 3, LINK_CHANNELS + 2, "a session with the primary at 127.0.0.1");
	for (unsigned i = 0; i < 6; i++)
		g_assert_cmpint(send_len(&t.p, 50000), ==, 0);
	UNTIL(&t, t.s.got[LINK_BULK] == 6);
	g_assert_cmpuint(t.p.downs + t.s.downs, ==, 0);
	test_end(&t);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	add_both("/link-stripes/order", test_order);
	g_test_add_func("/link-stripes/how-many", test_how_many);
	g_test_add_func("/link-stripes/choice", test_choice);
	add_both("/link-stripes/back-pressure", test_back_pressure);
	g_test_add_func("/link-stripes/room-at-once", test_room_at_once);
	add_both("/link-stripes/drop", test_drop);
	for (unsigned i = 0; i < G_N_ELEMENTS(breakages); i++) {
		g_autofree char *name =
		        g_strdup_printf("/link-stripes/break/%s", breakages[i].name);

		g_test_add_data_func(name, &breakages[i], test_break);
	}
	g_test_add_func("/link-stripes/slow", test_slow_stripe);
	g_test_add_func("/link-stripes/strangers", test_strangers);
	return g_test_run();
}
