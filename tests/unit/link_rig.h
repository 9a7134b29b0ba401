/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_TESTS_LINK_RIG_H
#define COLO_TESTS_LINK_RIG_H

#include <glib.h>
#include <stdbool.h>

#include <string.h>

#include "colo-proxy/link/link.h"
#include "colo-proxy/loop/loop.h"

/*
 * What the link's tests share. Both sides are in one process and on one loop, which callbacks stop,
 * so that the test looks whether what it waits for has come. A test defines PATIENCE_S, struct own,
 * which is what it keeps of a side, and on_message().
 */

#define MS 1000000ull

struct side {
	struct loop *loop;
	struct link *link;
	struct link_params params;
	struct link_key key;
	unsigned ups, downs, refusals, rooms[LINK_CHANNELS];
	uint64_t session;
	char reason[512];
	GString *refused; /* all texts, one a line */
	GString *caps;
	uint64_t got[LINK_CHANNELS]; /* messages of this session */
	bool close_on_message;
	struct own own;
};

struct test {
	struct loop *loop;
	struct loop_timer guard;
	struct side p, s;
};

static void on_up(void *ctx, const struct link_peer *peer)
{
	struct side *s = ctx;

	g_assert_cmpuint(s->ups, ==, s->downs);
	s->ups++;
	s->session = peer->session;
	g_string_assign(s->caps, "");
	g_string_append_len(s->caps, (const char *)peer->caps, (gssize)peer->caps_len);
	memset(s->got, 0, sizeof(s->got));
	loop_stop(s->loop);
}

static void on_down(void *ctx, const char *reason)
{
	struct side *s = ctx;

	g_assert_cmpuint(s->ups, ==, s->downs + 1);
	s->downs++;
	g_strlcpy(s->reason, reason, sizeof(s->reason));
	g_test_message("%s down: %s", s->params.role == LINK_PRIMARY ? "P" : "S", reason);
	loop_stop(s->loop);
}

static void on_room(void *ctx, enum link_channel channel)
{
	struct side *s = ctx;

	s->rooms[channel]++;
	loop_stop(s->loop);
}

static void on_refused(void *ctx, const char *text)
{
	struct side *s = ctx;

	s->refusals++;
	g_string_append_printf(s->refused, "%s\n", text);
	g_test_message("%s refused: %s", s->params.role == LINK_PRIMARY ? "P" : "S", text);
	loop_stop(s->loop);
}

static void on_message(void *ctx, enum link_channel channel, uint8_t type, uint32_t epoch,
                       const uint8_t *payload, size_t len);

static const struct link_ops ops = {
        .up = on_up,
        .down = on_down,
        .message = on_message,
        .room = on_room,
        .refused = on_refused,
};

static void guard_fired(void *ctx, uint64_t now)
{
	g_error("nothing more happened for " G_STRINGIFY(PATIENCE_S) " s");
}

/* Turns the loop until the condition holds. */
#define UNTIL(t, cond)                                                                             \
	do {                                                                                       \
		loop_timer_set((t)->loop, &(t)->guard, loop_clock() + PATIENCE_S * 1000 * MS);     \
		while (!(cond))                                                                    \
			g_assert_cmpint(loop_run((t)->loop), ==, 0);                               \
	} while (0)

static void tick(void *ctx, uint64_t now)
{
	loop_stop(ctx);
}

/* For so long, and at least one turn. */
static void loop_turn_for(struct loop *loop, unsigned ms)
{
	uint64_t end = loop_clock() + ms * MS;
	struct loop_timer timer = {.fire = tick, .ctx = loop};

	do {
		loop_timer_set(loop, &timer, end);
		g_assert_cmpint(loop_run(loop), ==, 0);
	} while (loop_clock() < end);
	loop_timer_clear(loop, &timer);
}

static void side_init(struct test *t, struct side *s, enum link_role role, bool encrypt)
{
	memset(s, 0, sizeof(*s));
	s->loop = t->loop;
	s->refused = g_string_new(NULL);
	s->caps = g_string_new(NULL);
	s->key.len = 32;
	memset(s->key.bytes, 0x5a, 32);
	s->params = (struct link_params){
	        .role = role,
	        .vm_name = "vm1",
	        .address = "127.0.0.1",
	        .key = &s->key,
	        .encrypt = encrypt,
	        .caps = role == LINK_PRIMARY ? "from P" : "of S",
	        .caps_len = role == LINK_PRIMARY ? 6 : 4,
	        .backoff_min_ms = 5,
	        .backoff_max_ms = 50,
	        .setup_ms = 2000,
	};
}

static void side_start(struct side *s)
{
	char err[256] = "";
	int ret = link_new(&s->link, s->loop, &s->params, &ops, s, err, sizeof(err));

	g_assert_cmpstr(err, ==, "");
	g_assert_cmpint(ret, ==, 0);
}

static void side_fini(struct side *s)
{
	link_free(s->link);
	g_string_free(s->refused, TRUE);
	g_string_free(s->caps, TRUE);
}

static void test_begin(struct test *t, bool encrypt)
{
	memset(t, 0, sizeof(*t));
	g_assert_cmpint(loop_new(&t->loop), ==, 0);
	t->guard.fire = guard_fired;
	side_init(t, &t->p, LINK_PRIMARY, encrypt);
	side_init(t, &t->s, LINK_SECONDARY, encrypt);
}

static void start_both(struct test *t)
{
	side_start(&t->s);
	t->p.params.port = link_port(t->s.link);
	side_start(&t->p);
}

static void start_session(struct test *t)
{
	start_both(t);
	UNTIL(t, t->p.ups == 1 && t->s.ups == 1);
}

static void test_end(struct test *t)
{
	side_fini(&t->p);
	side_fini(&t->s);
	loop_timer_clear(t->loop, &t->guard);
	loop_free(t->loop);
}

static const bool in_clear = false, under_tls = true;

static bool encrypted(const void *data)
{
	return *(const bool *)data;
}

static void add_both(const char *path, void (*fn)(const void *data))
{
	g_autofree char *clear = g_strdup_printf("%s/clear", path);
	g_autofree char *tls = g_strdup_printf("%s/tls", path);

	g_test_add_data_func(clear, &in_clear, fn);
	g_test_add_data_func(tls, &under_tls, fn);
}

#endif
