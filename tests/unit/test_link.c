/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "colo-proxy/link/conn.h"
#include "colo-proxy/link/link.h"
#include "colo-proxy/link/transport.h"

/*
 * Both sides in one process and on one loop. Between them, where a test wants to damage or cut
 * something, is a relay: it passes bytes on and has a hook on those from the primary.
 */

struct own {
	uint64_t got_bytes[LINK_CHANNELS];
	bool echo, pause_on_message;
};

#define PATIENCE_S 120
#include "tests/unit/link_rig.h"

/* A message of n bytes: its number, then a pattern of it. */
static int send_numbered(struct side *s, enum link_channel channel, uint64_t number, size_t n)
{
	static uint8_t pattern[LINK_MAX_BULK];
	struct iovec iov[2] = {
	        {.iov_base = &number, .iov_len = sizeof(number)},
	        {.iov_base = pattern, .iov_len = n - sizeof(number)},
	};

	memset(pattern, (int)(number * 7 + 1), n);
	return link_send(s->link, channel, 16 + (number & 7), (uint32_t)number + 3, iov, 2);
}

static void on_message(void *ctx, enum link_channel channel, uint8_t type, uint32_t epoch,
                       const uint8_t *payload, size_t len)
{
	struct side *s = ctx;
	uint64_t number;

	g_assert_cmpuint(s->ups, ==, s->downs + 1);
	g_assert_cmpuint(len, >=, sizeof(number));
	memcpy(&number, payload, sizeof(number));
	g_assert_cmpuint(number, ==, s->got[channel]);
	g_assert_cmpuint(type, ==, 16 + (number & 7));
	g_assert_cmpuint(epoch, ==, number + 3);
	g_assert_true(len == sizeof(number) || payload[len - 1] == (uint8_t)(number * 7 + 1));
	s->got[channel]++;
	s->own.got_bytes[channel] += len;
	if (s->own.echo)
		g_assert_cmpint(send_numbered(s, channel, number, len), ==, 0);
	if (s->own.pause_on_message)
		link_pause(s->link, channel, true);
	if (s->close_on_message)
		link_close(s->link, "closed in a callback");
	loop_stop(s->loop);
}

static void test_messages(const void *data)
{
	static const size_t sizes[] = {8, 9, 100, 1500, 16384, 65536, 262144, 1000000};
	struct link_counters count;
	struct test t;
	unsigned i;

	test_begin(&t, encrypted(data));
	start_session(&t);
	g_assert_cmpuint(t.p.session, ==, t.s.session);
	g_assert_cmpuint(t.p.session, !=, 0);
	g_assert_cmpstr(t.p.caps->str, ==, "of S");
	g_assert_cmpstr(t.s.caps->str, ==, "from P");
	t.s.own.echo = true;
	for (i = 0; i < G_N_ELEMENTS(sizes); i++) {
		if (sizes[i] <= LINK_MAX_FAST)
			g_assert_cmpint(send_numbered(&t.p, LINK_FAST, i, sizes[i]), ==, 0);
		g_assert_cmpint(send_numbered(&t.p, LINK_BULK, i, sizes[i]), ==, 0);
	}
	UNTIL(&t, t.p.got[LINK_BULK] == 8 && t.p.got[LINK_FAST] == 7);
	link_counters(t.p.link, LINK_FAST, &count);
	g_assert_cmpuint(count.sent_messages, ==, 7);
	g_assert_cmpuint(count.received_messages, ==, 7);
	g_assert_cmpuint(count.sent_bytes, ==, t.s.own.got_bytes[LINK_FAST]);
	g_assert_cmpuint(count.received_bytes, ==, count.sent_bytes);
	g_assert_cmpuint(link_queued(t.p.link, LINK_BULK), ==, 0);
	g_assert_cmpuint(t.p.refusals + t.s.refusals, ==, 0);
	test_end(&t);
}

static void test_send_refuses(void)
{
	struct iovec big = {.iov_base = NULL, .iov_len = LINK_MAX_FAST + 1};
	struct iovec two[2] = {{.iov_len = SIZE_MAX}, {.iov_len = SIZE_MAX}};
	struct test t;

	test_begin(&t, false);
	side_start(&t.s);
	g_assert_cmpint(link_send(t.s.link, LINK_FAST, 16, 0, NULL, 0), ==, -ENOTCONN);
	t.p.params.port = link_port(t.s.link);
	side_start(&t.p);
	UNTIL(&t, t.p.ups == 1 && t.s.ups == 1);
	g_assert_cmpint(link_send(t.p.link, LINK_FAST, 15, 0, NULL, 0), ==, -EINVAL);
	g_assert_cmpint(link_send(t.p.link, LINK_CHANNELS, 16, 0, NULL, 0), ==, -EINVAL);
	g_assert_cmpint(link_send(t.p.link, LINK_FAST, 16, 0, &big, 1), ==, -EMSGSIZE);
	g_assert_cmpint(link_send(t.p.link, LINK_BULK, 16, 0, two, 2), ==, -EMSGSIZE);
	test_end(&t);
}

/* The reader pauses: the queue fills to its limit, the other channel goes on, and room() tells. */
static void test_back_pressure(const void *data)
{
	uint64_t sent = 0;
	struct test t;
	int ret;

	test_begin(&t, encrypted(data));
	t.p.params.queue_limit[LINK_BULK] = 3u << 20;
	start_session(&t);
	link_pause(t.s.link, LINK_BULK, true);
	do {
		ret = send_numbered(&t.p, LINK_BULK, sent, 200000);
		if (!ret)
			sent++;
		g_assert_cmpuint(link_queued(t.p.link, LINK_BULK), <=, 3u << 20);
		loop_turn_for(t.loop, 1);
		g_assert_cmpuint(sent, <, 1000);
	} while (!ret);
	g_assert_cmpint(ret, ==, -EAGAIN);
	g_assert_cmpuint(t.s.got[LINK_BULK], ==, 0);
	g_assert_cmpuint(t.p.rooms[LINK_BULK], ==, 0);
	g_assert_cmpint(send_numbered(&t.p, LINK_FAST, 0, 64), ==, 0);
	UNTIL(&t, t.s.got[LINK_FAST] == 1);
	link_pause(t.s.link, LINK_BULK, false);
	UNTIL(&t, t.p.rooms[LINK_BULK] == 1);
	g_assert_cmpuint(link_queued(t.p.link, LINK_BULK), <=, (3u << 20) / 2);
	g_assert_cmpint(send_numbered(&t.p, LINK_BULK, sent, 1000), ==, 0);
	sent++;
	UNTIL(&t, t.s.got[LINK_BULK] == sent);
	g_assert_cmpuint(t.p.rooms[LINK_BULK], ==, 1);
	g_assert_cmpuint(t.p.downs + t.s.downs, ==, 0);
	test_end(&t);
}

/* The queue is never empty, so it has to be moved to the front of its buffer again and again. */
static void test_long_flow(const void *data)
{
	uint64_t sent = 0;
	struct test t;

	test_begin(&t, encrypted(data));
	t.p.params.queue_limit[LINK_BULK] = 1; /* the least there is */
	start_session(&t);
	while (sent < 300) {
		unsigned rooms = t.p.rooms[LINK_BULK];

		while (!send_numbered(&t.p, LINK_BULK, sent, 150000 + sent))
			sent++;
		UNTIL(&t, t.p.rooms[LINK_BULK] == rooms + 1);
		g_assert_cmpuint(link_queued(t.p.link, LINK_BULK), >, 0);
	}
	UNTIL(&t, t.s.got[LINK_BULK] == sent);
	test_end(&t);
}

/* Much is sent, little is queued at a time, and never nothing: little memory is touched. */
static void test_queue_memory(void)
{
	static uint8_t bytes[64 << 10], sink[1 << 20];
	const struct iovec iov = {bytes, sizeof(bytes)};
	struct conn *c = conn_new(NULL, LINK_BULK);
	uint64_t sent = 0;
	int fds[2];

	g_assert_nonnull(c);
	g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), ==, 0);
	c->transport.fd = fds[0];
	g_assert_cmpint(conn_grow(c, 16 << 20), ==, 0);
	while (sent < 64 << 20) {
		while (conn_queued(c) < 256 << 10) {
			conn_put(c, LINK_TYPE_USER, 0, &iov, 1, sizeof(bytes));
			sent += sizeof(bytes);
		}
		conn_new_turn(c);
		g_assert_cmpint(conn_write(c), ==, 0);
		g_assert_cmpuint(conn_queued(c), >, 0);
		g_assert_cmpuint(c->out_tail, <, 2 << 20);
		while (read(fds[1], sink, sizeof(sink)) > 0)
			;
	}
	close(fds[1]);
	conn_free(c);
}

/* Paused in the callback, message by message. */
static void test_pause_each(const void *data)
{
	struct test t;
	uint64_t i;

	test_begin(&t, encrypted(data));
	start_session(&t);
	t.s.own.pause_on_message = true;
	for (i = 0; i < 5; i++)
		g_assert_cmpint(send_numbered(&t.p, LINK_FAST, i, 20), ==, 0);
	for (i = 1; i <= 5; i++) {
		UNTIL(&t, t.s.got[LINK_FAST] == i);
		loop_turn_for(t.loop, 2);
		g_assert_cmpuint(t.s.got[LINK_FAST], ==, i);
		link_pause(t.s.link, LINK_FAST, false);
	}
	test_end(&t);
}

static void test_close_and_drop(const void *data)
{
	uint64_t first;
	struct test t;

	test_begin(&t, encrypted(data));
	start_session(&t);
	first = t.p.session;
	link_drop(t.s.link, "heartbeats are late");
	g_assert_cmpuint(t.s.downs, ==, 1);
	g_assert_cmpstr(t.s.reason, ==, "heartbeats are late");
	g_assert_false(link_is_up(t.s.link));
	UNTIL(&t, t.p.downs == 1);
	g_assert_nonnull(strstr(t.p.reason, "the peer ended the session: heartbeats are late"));
	UNTIL(&t, t.p.ups == 2 && t.s.ups == 2);
	g_assert_cmpuint(t.p.session, !=, first);
	t.p.close_on_message = true;
	g_assert_cmpint(send_numbered(&t.s, LINK_FAST, 0, 20), ==, 0);
	g_assert_cmpint(send_numbered(&t.s, LINK_FAST, 1, 20), ==, 0);
	UNTIL(&t, t.s.downs == 2);
	g_assert_cmpuint(t.p.downs, ==, 2);
	g_assert_cmpuint(t.p.got[LINK_FAST], ==, 1);
	g_assert_cmpint(send_numbered(&t.p, LINK_FAST, 0, 20), ==, -ENOTCONN);
	g_assert_nonnull(strstr(t.s.reason, "closed in a callback"));
	loop_turn_for(t.loop, 30);
	g_assert_cmpuint(t.s.ups, ==, 2);
	test_end(&t);
}

/* The other side is gone without a word, as when its process was killed. */
static void test_peer_gone(const void *data)
{
	struct test t;

	test_begin(&t, encrypted(data));
	start_session(&t);
	link_free(t.s.link);
	t.s.link = NULL;
	UNTIL(&t, t.p.downs == 1);
	g_assert_nonnull(strstr(t.p.reason, "127.0.0.1 port"));
	g_assert_cmpint(send_numbered(&t.p, LINK_FAST, 0, 20), ==, -ENOTCONN);
	UNTIL(&t, t.p.refusals == 1);
	g_assert_nonnull(strstr(t.p.refused->str, "Connection refused"));
	loop_turn_for(t.loop, 60); /* more attempts, with the same outcome */
	t.s.downs = t.s.ups;
	t.s.params.port = t.p.params.port;
	side_start(&t.s);
	UNTIL(&t, t.p.ups == 2 && t.s.ups == 2);
	g_assert_cmpuint(t.p.downs, ==, 1);
	/* The same text over and over is told once. */
	g_assert_cmpuint(t.p.refusals, ==, 1);
	test_end(&t);
}

static void test_wrong_key(const void *data)
{
	struct test t;

	test_begin(&t, encrypted(data));
	t.p.key.bytes[31] ^= 1;
	start_both(&t);
	UNTIL(&t, t.p.refusals >= 1 && t.s.refusals >= 1);
	g_assert_nonnull(strstr(t.p.refused->str, "same key file"));
	g_assert_nonnull(strstr(t.s.refused->str, "key"));
	loop_turn_for(t.loop, 50);
	g_assert_cmpuint(t.p.ups + t.s.ups, ==, 0);
	test_end(&t);
}

static void test_wrong_name(const void *data)
{
	struct test t;

	test_begin(&t, encrypted(data));
	t.p.params.vm_name = "vm2";
	start_both(&t);
	UNTIL(&t, t.p.refusals >= 1 && t.s.refusals >= 1);
	g_assert_nonnull(strstr(t.p.refused->str,
	                        "the primary's VM is \"vm2\", the secondary's is \"vm1\""));
	g_assert_nonnull(strstr(t.s.refused->str,
	                        "the primary's VM is \"vm2\", the secondary's is \"vm1\""));
	loop_turn_for(t.loop, 50);
	g_assert_cmpuint(t.p.ups + t.s.ups, ==, 0);
	test_end(&t);
}

static void test_encryption_differs(const void *data)
{
	struct test t;

	test_begin(&t, encrypted(data));
	t.p.params.encrypt = !t.p.params.encrypt;
	start_both(&t);
	UNTIL(&t, t.p.refusals >= 1 && t.s.refusals >= 1);
	g_assert_nonnull(strstr(t.s.refused->str, "encryption"));
	g_assert_cmpuint(t.p.ups + t.s.ups, ==, 0);
	test_end(&t);
}

static void test_second_primary(const void *data)
{
	struct side other;
	struct test t;

	test_begin(&t, encrypted(data));
	start_session(&t);
	side_init(&t, &other, LINK_PRIMARY, encrypted(data));
	other.params.port = t.p.params.port;
	side_start(&other);
	UNTIL(&t, other.refusals >= 1 && t.s.refusals >= 1);
	g_assert_nonnull(strstr(other.refused->str, "a session with the primary at 127.0.0.1"));
	g_assert_cmpint(send_numbered(&t.p, LINK_FAST, 0, 20), ==, 0);
	UNTIL(&t, t.s.got[LINK_FAST] == 1);
	/* When the first is gone, the second gets its turn. */
	link_close(t.p.link, "made way");
	UNTIL(&t, other.ups == 1 && t.s.ups == 2);
	side_fini(&other);
	test_end(&t);
}

/* Strangers on the port */

static int knock(struct test *t, const void *bytes, size_t n)
{
	struct sockaddr_in to = {
	        .sin_family = AF_INET,
	        .sin_port = htons(t->p.params.port),
	        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	g_assert_cmpint(fd, >=, 0);
	g_assert_cmpint(connect(fd, (struct sockaddr *)&to, sizeof(to)), ==, 0);
	if (n)
		g_assert_cmpint(send(fd, bytes, n, MSG_NOSIGNAL), ==, (ssize_t)n);
	return fd;
}

static void test_strangers(const void *data)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
	static const uint8_t tls[] = {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 1, 2, 3, 4, 5, 6};
	uint8_t noise[5000];
	int fds[24];
	unsigned i;
	struct test t;

	test_begin(&t, encrypted(data));
	t.s.params.setup_ms = 150;
	start_session(&t);
	for (i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)g_test_rand_int();
	noise[0] = 0x99;
	fds[0] = knock(&t, noise, sizeof(noise));
	UNTIL(&t, t.s.refusals == 1);
	fds[1] = knock(&t, http, sizeof(http) - 1);
	UNTIL(&t, t.s.refusals == 2);
	/* Half a TLS hello, half a frame and silence end by the deadline. */
	fds[2] = knock(&t, tls, sizeof(tls));
	fds[3] = knock(&t, "COLK\1\1\0", 7);
	fds[4] = knock(&t, NULL, 0);
	UNTIL(&t, t.s.refusals == 5);
	g_assert_nonnull(strstr(t.s.refused->str, "no session within 150 ms"));
	for (i = 0; i < 5; i++)
		close(fds[i]);
	/* More of them than are let in at the same time: the oldest give way. */
	for (i = 0; i < 24; i++)
		fds[i] = knock(&t, NULL, 0);
	UNTIL(&t, t.s.refusals == 5 + 24);
	g_assert_nonnull(strstr(t.s.refused->str, "gave way"));
	for (i = 0; i < 24; i++)
		close(fds[i]);
	g_assert_cmpint(send_numbered(&t.p, LINK_FAST, 0, 20), ==, 0);
	g_assert_cmpint(send_numbered(&t.s, LINK_BULK, 0, 20), ==, 0);
	UNTIL(&t, t.s.got[LINK_FAST] == 1 && t.p.got[LINK_BULK] == 1);
	g_assert_cmpuint(t.p.downs + t.s.downs, ==, 0);
	test_end(&t);
}

/* The relay */

struct relay;

struct pipe_end {
	struct relay *relay;
	struct pipe_end *other;
	struct loop_source source;
	int fd;
	bool from_primary, fast;
	uint64_t passed;
};

struct relay {
	struct test *t;
	struct loop_source listener;
	int fd;
	struct pipe_end ends[32];
	unsigned n;
	GByteArray *fast; /* what the primary said on the fast channel of the first session */
	/* Changes the bytes; false: cut both connections of the pipe now. */
	bool (*hook)(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n);
	void (*back)(struct relay *r, uint8_t *bytes, size_t n); /* from the secondary */
	unsigned hits;
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
	/* The tests that use the relay send less than a socket buffer holds. */
	g_assert_cmpint(send(fd, bytes, n, MSG_NOSIGNAL), ==, (ssize_t)n);
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
	if (go_on && end->from_primary) {
		if (!end->passed)
			end->fast = n > 6 && buf[6] == LINK_FAST;
		if (r->hook)
			go_on = r->hook(r, end, buf, (size_t)n);
		end->passed += (size_t)n;
	} else if (go_on && r->back) {
		r->back(r, buf, (size_t)n);
	}
	if (go_on) {
		send_whole(end->other->fd, buf, (size_t)n);
	} else {
		end_close(end->other);
		end_close(end);
	}
}

static void add_end(struct relay *r, struct pipe_end *end, struct pipe_end *other, int fd,
                    bool from_primary)
{
	end->relay = r;
	end->other = other;
	end->fd = fd;
	end->from_primary = from_primary;
	g_assert_cmpint(fcntl(fd, F_SETFL, O_NONBLOCK), ==, 0);
	g_assert_cmpint(loop_add(r->t->loop, &end->source, fd, EPOLLIN, on_relay, end), ==, 0);
}

static void on_relay_accept(void *ctx, uint32_t events)
{
	struct relay *r = ctx;
	uint16_t port = r->t->p.params.port;
	int a = accept(r->fd, NULL, NULL), b;

	g_assert_cmpint(a, >=, 0);
	g_assert_cmpuint(r->n, <=, G_N_ELEMENTS(r->ends) - 2);
	r->t->p.params.port = link_port(r->t->s.link);
	b = knock(r->t, NULL, 0);
	r->t->p.params.port = port;
	add_end(r, &r->ends[r->n], &r->ends[r->n + 1], a, true);
	add_end(r, &r->ends[r->n + 1], &r->ends[r->n], b, false);
	r->n += 2;
}

/* The primary's way to the secondary leads over the relay; neither is up yet. */
static void relay_open(struct test *t, struct relay *r)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(at);

	memset(r, 0, sizeof(*r));
	r->t = t;
	r->fast = g_byte_array_new();
	r->fd = socket(AF_INET, SOCK_STREAM, 0);
	g_assert_cmpint(bind(r->fd, (struct sockaddr *)&at, sizeof(at)), ==, 0);
	g_assert_cmpint(listen(r->fd, 8), ==, 0);
	g_assert_cmpint(getsockname(r->fd, (struct sockaddr *)&at, &len), ==, 0);
	g_assert_cmpint(loop_add(t->loop, &r->listener, r->fd, EPOLLIN, on_relay_accept, r), ==, 0);
	side_start(&t->s);
	t->p.params.port = ntohs(at.sin_port);
}

static void relay_session(struct test *t, struct relay *r)
{
	relay_open(t, r);
	side_start(&t->p);
	UNTIL(t, t->p.ups == 1 && t->s.ups == 1);
}

static void relay_end(struct relay *r)
{
	unsigned i;

	for (i = 0; i < r->n; i++)
		end_close(&r->ends[i]);
	loop_del(r->t->loop, &r->listener);
	close(r->fd);
	g_byte_array_unref(r->fast);
}

static bool flip_bit(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	if (!r->hits++)
		bytes[n / 2] ^= 4;
	return true;
}

static void test_flipped_bit(const void *data)
{
	struct relay r;
	struct test t;

	test_begin(&t, encrypted(data));
	relay_session(&t, &r);
	r.hook = flip_bit;
	g_assert_cmpint(send_numbered(&t.p, LINK_BULK, 0, 5000), ==, 0);
	UNTIL(&t, t.p.downs == 1 && t.s.downs == 1);
	g_assert_cmpuint(t.s.got[LINK_BULK], ==, 0);
	if (!encrypted(data))
		g_assert_nonnull(strstr(t.s.reason, "checksum differs"));
	else
		g_assert_nonnull(strstr(t.s.reason, "TLS"));
	/* The connections that still work say why. */
	if (!encrypted(data))
		g_assert_nonnull(strstr(t.p.reason, "checksum differs"));
	UNTIL(&t, t.p.ups == 2 && t.s.ups == 2);
	g_assert_cmpint(send_numbered(&t.p, LINK_BULK, 0, 5000), ==, 0);
	UNTIL(&t, t.s.got[LINK_BULK] == 1);
	relay_end(&r);
	test_end(&t);
}

/* The message's length, 64 KiB more. */
static bool lengthen(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	if (!r->hits++)
		bytes[13] ^= 1;
	return true;
}

/* Nothing else comes on the channel, so that a checksum is never compared. */
static void test_longer_length(void)
{
	struct relay r;
	struct test t;

	test_begin(&t, false);
	t.s.params.user_timeout_ms = 200;
	relay_session(&t, &r);
	r.hook = lengthen;
	g_assert_cmpint(send_numbered(&t.p, LINK_BULK, 0, 5000), ==, 0);
	UNTIL(&t, t.p.downs == 1 && t.s.downs == 1);
	g_assert_cmpuint(t.s.got[LINK_BULK], ==, 0);
	g_assert_nonnull(strstr(t.s.reason, "rest of a message"));
	UNTIL(&t, t.p.ups == 2 && t.s.ups == 2);
	g_assert_cmpint(send_numbered(&t.p, LINK_BULK, 0, 5000), ==, 0);
	UNTIL(&t, t.s.got[LINK_BULK] == 1);
	relay_end(&r);
	test_end(&t);
}

/* Passes part of the message and then cuts. */
static bool cut_inside(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	if (r->hits++)
		return true;
	send_whole(end->other->fd, bytes, n / 2);
	return false;
}

static void test_cut_mid_message(const void *data)
{
	struct relay r;
	struct test t;
	uint64_t i;

	test_begin(&t, encrypted(data));
	relay_session(&t, &r);
	r.hook = cut_inside;
	g_assert_cmpint(send_numbered(&t.p, LINK_BULK, 0, 50000), ==, 0);
	UNTIL(&t, t.p.downs == 1 && t.s.downs == 1);
	g_assert_cmpuint(t.s.got[LINK_BULK], ==, 0);
	g_assert_cmpuint(strlen(t.s.reason), >, 20);
	UNTIL(&t, t.p.ups == 2 && t.s.ups == 2);
	for (i = 0; i < 3; i++)
		g_assert_cmpint(send_numbered(&t.p, LINK_BULK, i, 5000), ==, 0);
	UNTIL(&t, t.s.got[LINK_BULK] == 3);
	g_assert_cmpuint(t.p.downs + t.s.downs, ==, 2);
	relay_end(&r);
	test_end(&t);
}

/* Keeps the first message of session 1 and puts it in the place of the first of session 2. */
static bool replay_first(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	if (!end->fast || n < LINK_HEADER_LEN || bytes[5] < LINK_TYPE_USER)
		return true;
	if (!r->fast->len) {
		g_byte_array_append(r->fast, bytes, (guint)n);
	} else if (end->fd != r->ends[0].fd && !r->hits++) {
		g_assert_cmpuint(n, ==, r->fast->len);
		/* Only what depends on the session differs: the checksum. */
		g_assert_cmpmem(bytes, 24, r->fast->data, 24);
		memcpy(bytes, r->fast->data, n);
	}
	return true;
}

static void test_stale_session(void)
{
	struct relay r;
	struct test t;

	test_begin(&t, false);
	relay_session(&t, &r);
	r.hook = replay_first;
	g_assert_cmpint(send_numbered(&t.p, LINK_FAST, 0, 64), ==, 0);
	UNTIL(&t, t.s.got[LINK_FAST] == 1);
	link_drop(t.p.link, "next");
	UNTIL(&t, t.p.ups == 2 && t.s.ups == 2);
	g_assert_cmpint(send_numbered(&t.p, LINK_FAST, 0, 64), ==, 0);
	UNTIL(&t, t.s.downs == 2);
	g_assert_cmpuint(t.s.got[LINK_FAST], ==, 0);
	g_assert_nonnull(strstr(t.s.reason, "of another session"));
	relay_end(&r);
	test_end(&t);
}

/* A whole recorded setup played again: the nonces are new, so it proves nothing. */
static bool record_fast(struct relay *r, struct pipe_end *end, uint8_t *bytes, size_t n)
{
	if (end->fast)
		g_byte_array_append(r->fast, bytes, (guint)n);
	return true;
}

static void test_replayed_setup(void)
{
	struct relay r;
	struct test t;
	uint16_t port;
	int fd;

	test_begin(&t, false);
	relay_open(&t, &r);
	r.hook = record_fast;
	side_start(&t.p);
	UNTIL(&t, t.p.ups == 1 && t.s.ups == 1);
	link_close(t.p.link, "over");
	UNTIL(&t, t.s.downs == 1);
	port = t.p.params.port;
	t.p.params.port = link_port(t.s.link);
	fd = knock(&t, r.fast->data, r.fast->len);
	t.p.params.port = port;
	UNTIL(&t, t.s.refusals == 1);
	g_assert_nonnull(strstr(t.s.refused->str, "another key"));
	close(fd);
	relay_end(&r);
	test_end(&t);
}

/* A secondary that answers everything well, and does not have the key. */
static void spoil_proof(struct relay *r, uint8_t *bytes, size_t n)
{
	struct link_header h = {.type = LINK_HELLO_REPLY, .channel = bytes[6]};

	if (n <= LINK_HEADER_LEN || bytes[5] != LINK_HELLO_REPLY)
		return;
	r->hits++;
	bytes[n - 1] ^= 1;
	h.len = (uint32_t)(n - LINK_HEADER_LEN);
	link_encode(bytes, &h, 0); /* the checksum is right again */
}

static void test_false_secondary(void)
{
	struct relay r;
	struct test t;

	test_begin(&t, false);
	relay_open(&t, &r);
	r.back = spoil_proof;
	side_start(&t.p);
	UNTIL(&t, t.p.refusals >= 1 && t.s.refusals >= 1);
	g_assert_cmpuint(r.hits, >=, 1);
	g_assert_nonnull(strstr(t.p.refused->str, "another key"));
	/* The primary proves nothing to it: it says that it refuses. */
	g_assert_nonnull(strstr(t.s.refused->str, "the peer refused: the peer has another key"));
	g_assert_cmpuint(t.p.ups + t.s.ups, ==, 0);
	relay_end(&r);
	test_end(&t);
}

static void test_params(void)
{
	static const char *const addresses[] = {"localhost", "", "1.2.3.4.5", "host.example"};
	struct test t;
	char err[256];
	unsigned i;

	test_begin(&t, true);
	for (i = 0; i < G_N_ELEMENTS(addresses); i++) {
		t.s.params.address = addresses[i];
		g_assert_cmpint(
		        link_new(&t.s.link, t.loop, &t.s.params, &ops, &t.s, err, sizeof(err)), ==,
		        -EINVAL);
		g_assert_nonnull(strstr(err, "not a numeric address"));
	}
	t.s.params.address = "127.0.0.1";
	side_start(&t.s);
	t.p.params.role = LINK_SECONDARY;
	t.p.params.port = link_port(t.s.link);
	g_assert_cmpint(link_new(&t.p.link, t.loop, &t.p.params, &ops, &t.p, err, sizeof(err)), ==,
	                -EADDRINUSE);
	g_assert_nonnull(strstr(err, "listening on 127.0.0.1"));
	test_end(&t);
}

static void test_ipv6(void)
{
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
	bool can = fd >= 0 && !bind(fd, (struct sockaddr *)&at, sizeof(at));
	struct test t;

	if (fd >= 0)
		close(fd);
	if (!can) {
		g_test_skip("no ::1 here");
		return;
	}
	test_begin(&t, true);
	t.p.params.address = t.s.params.address = "::1";
	start_session(&t);
	test_end(&t);
}

static int key_of(const char *text, int mode, struct link_key *key, char *err, size_t errlen)
{
	g_autofree char *path = NULL;
	int fd = g_file_open_tmp("colo-key-XXXXXX", &path, NULL), ret;

	g_assert_cmpint(fd, >=, 0);
	g_assert_cmpint(write(fd, text, strlen(text)), ==, (ssize_t)strlen(text));
	g_assert_cmpint(fchmod(fd, (mode_t)mode), ==, 0);
	close(fd);
	ret = link_key_read(path, key, err, errlen);
	unlink(path);
	return ret;
}

#define HEX16 "00112233445566778899aAbBcCdDeEfF"

static void test_key_file(void)
{
	struct link_key key = {.len = 99};
	char err[256];

	g_assert_cmpint(key_of(HEX16 "\n" HEX16 "\n", 0600, &key, err, sizeof(err)), ==, 0);
	g_assert_cmpuint(key.len, ==, 32);
	g_assert_cmpuint(key.bytes[17], ==, 0x11);
	g_assert_cmpuint(key.bytes[31], ==, 0xff);
	key.len = 99;
	g_assert_cmpint(key_of(HEX16 HEX16, 0644, &key, err, sizeof(err)), ==, -EPERM);
	g_assert_nonnull(strstr(err, "chmod 600"));
	g_assert_cmpint(key_of(HEX16 "0011", 0600, &key, err, sizeof(err)), ==, -EINVAL);
	g_assert_cmpint(key_of(HEX16 HEX16 "0", 0600, &key, err, sizeof(err)), ==, -EINVAL);
	g_assert_nonnull(strstr(err, "65 hexadecimal digits"));
	g_assert_cmpint(key_of(HEX16 HEX16 "xy", 0600, &key, err, sizeof(err)), ==, -EINVAL);
	g_assert_nonnull(strstr(err, "byte 65"));
	g_assert_cmpint(link_key_read("/nonexistent/key", &key, err, sizeof(err)), ==, -ENOENT);
	g_assert_cmpint(link_key_read("/tmp", &key, err, sizeof(err)), ==, -EINVAL);
	g_assert_cmpuint(key.len, ==, 99);
}

/* A socket that takes less than a TLS record at a time: nothing is lost, nothing written twice. */
static void test_small_socket(const void *data)
{
	static uint8_t out[300000], in[300000];
	struct transport_tls *tls[2] = {NULL, NULL};
	struct link_key key = {.len = 32};
	int fds[2], small = 4096, done = 0;
	unsigned i, again = 0;
	struct transport ends[2];
	size_t sent = 0, got = 0;
	char err[256];

	for (i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 7 + i / 251);
	g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), ==, 0);
	for (i = 0; i < 2; i++) {
		g_assert_cmpint(setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)),
		                ==, 0);
		if (encrypted(data))
			g_assert_cmpint(transport_tls_new(&tls[i], &key, i), ==, 0);
		g_assert_cmpint(transport_open(&ends[i], fds[i], tls[i], i), ==, 0);
	}
	for (i = 0; done != 3 && i < 1000; i++) {
		bool want_write;

		if (!(done & 1 << i % 2) &&
		    transport_handshake(&ends[i % 2], &want_write, err, sizeof(err)) == 1)
			done |= 1 << i % 2;
	}
	g_assert_cmpint(done, ==, 3);
	while (got < sizeof(in)) {
		ssize_t n = -EAGAIN;

		if (sent < sizeof(out))
			n = transport_write(&ends[0], out + sent, sizeof(out) - sent, err,
			                    sizeof(err));
		if (n > 0) {
			sent += (size_t)n;
			continue;
		}
		g_assert_cmpint((int)n, ==, -EAGAIN);
		again++;
		n = transport_read(&ends[1], in + got, sizeof(in) - got, err, sizeof(err));
		g_assert_true(n > 0 || n == -EAGAIN);
		got += n > 0 ? (size_t)n : 0;
	}
	g_assert_cmpuint(again, >, 10);
	g_assert_cmpuint(sent, ==, sizeof(out));
	g_assert_cmpmem(in, got, out, sizeof(out));
	for (i = 0; i < 2; i++) {
		transport_close(&ends[i]);
		transport_tls_free(tls[i]);
	}
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	add_both("/link/messages", test_messages);
	g_test_add_func("/link/send-refuses", test_send_refuses);
	add_both("/link/back-pressure", test_back_pressure);
	add_both("/link/small-socket", test_small_socket);
	add_both("/link/long-flow", test_long_flow);
	g_test_add_func("/link/queue-memory", test_queue_memory);
	add_both("/link/pause-each", test_pause_each);
	add_both("/link/close-and-drop", test_close_and_drop);
	add_both("/link/peer-gone", test_peer_gone);
	add_both("/link/wrong-key", test_wrong_key);
	add_both("/link/wrong-name", test_wrong_name);
	add_both("/link/encryption-differs", test_encryption_differs);
	add_both("/link/second-primary", test_second_primary);
	add_both("/link/strangers", test_strangers);
	add_both("/link/flipped-bit", test_flipped_bit);
	g_test_add_func("/link/longer-length", test_longer_length);
	add_both("/link/cut-mid-message", test_cut_mid_message);
	g_test_add_func("/link/stale-session", test_stale_session);
	g_test_add_func("/link/replayed-setup", test_replayed_setup);
	g_test_add_func("/link/false-secondary", test_false_secondary);
	g_test_add_func("/link/params", test_params);
	g_test_add_func("/link/ipv6", test_ipv6);
	g_test_add_func("/link/key-file", test_key_file);
	return g_test_run();
}
