/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The QMP client against a scripted peer: a thread on the other end of a socketpair that plays a
 * list of lines. Steps, by first character:
 *   '<'  read one command; the rest must occur in it ("" fits all)
 *   '>'  send the rest; "%ID" stands for the last command's id, "%FIRST" for the id of the first
 *        command after the negotiation
 *   '='  wait until the test says go
 *   'x'  close
 * No QEMU takes part; tests/tools/qemu-smoke.c has the real one.
 */
#include <errno.h>
#include <glib.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "qemu-glue/colo.h"
#include "qemu-glue/dirty_sample.h"
#include "qemu-glue/qmp.h"
#include "qemu-glue/tcg_rearm.h"

#define GREETING                                                                                   \
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 3, \"minor\": 1, \"major\": 11}, "         \
	"\"package\": \"Debian\"}, \"capabilities\": [\"oob\"]}}\r\n"
#define OK       "{\"return\": {}, \"id\": \"%ID\"}\r\n"
#define EVENT(n) "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"" n "\"}\r\n"

#define SAY_GREETING ">" GREETING
#define SAY_OK       ">" OK

#define TIMEOUT_MS 120000

struct peer {
	int fd;
	int client_fd;
	const char *const *script;
	size_t cut; /* send this many bytes at most, then close */
	bool drip;  /* one byte for each send */
	size_t sent;
	char *id;
	char *first;
	unsigned int commands;
	GThread *thread;
	GMutex lock;
	GCond cond;
	int go;
};

static bool peer_send(struct peer *p, const char *text, size_t len)
{
	while (len) {
		size_t n = p->drip ? 1 : len;

		if (p->cut - p->sent < n)
			n = p->cut - p->sent;
		if (!n || send(p->fd, text, n, MSG_NOSIGNAL) != (ssize_t)n)
			return false;
		p->sent += n;
		text += n;
		len -= n;
	}
	return true;
}

static bool peer_say(struct peer *p, const char *text)
{
	g_auto(GStrv) parts = g_strsplit(text, "%ID", -1);
	g_autofree char *one = g_strjoinv(p->id ? p->id : "", parts);
	g_auto(GStrv) more = g_strsplit(one, "%FIRST", -1);
	g_autofree char *all = g_strjoinv(p->first ? p->first : "", more);

	return peer_send(p, all, strlen(all));
}

static bool peer_hear(struct peer *p, const char *want)
{
	g_autoptr(GString) line = g_string_new(NULL);
	char c = 0;
	json_t *message;

	while (c != '\n') {
		if (recv(p->fd, &c, 1, 0) != 1)
			return false;
		g_string_append_c(line, c);
	}
	g_assert_nonnull(strstr(line->str, want));
	message = json_loads(line->str, 0, NULL);
	g_assert_nonnull(message);
	g_free(p->id);
	p->id = g_strdup(json_string_value(json_object_get(message, "id")));
	g_assert_nonnull(p->id);
	if (++p->commands == 2)
		p->first = g_strdup(p->id);
	json_decref(message);
	return true;
}

static void peer_wait_go(struct peer *p)
{
	g_mutex_lock(&p->lock);
	while (!p->go)
		g_cond_wait(&p->cond, &p->lock);
	p->go--;
	g_mutex_unlock(&p->lock);
}

static void peer_go(struct peer *p)
{
	g_mutex_lock(&p->lock);
	p->go++;
	g_cond_signal(&p->cond);
	g_mutex_unlock(&p->lock);
}

static gpointer peer_main(gpointer arg)
{
	struct peer *p = arg;
	bool open = true;

	for (const char *const *s = p->script; *s && open; s++) {
		if (**s == '<')
			open = peer_hear(p, *s + 1);
		else if (**s == '>')
			open = peer_say(p, *s + 1);
		else if (**s == '=')
			peer_wait_go(p);
		else
			open = false;
	}
	shutdown(p->fd, SHUT_RDWR);
	return NULL;
}

static void peer_start(struct peer *p, const char *const *script)
{
	int pair[2];

	g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
	p->fd = pair[0];
	p->client_fd = pair[1];
	p->script = script;
	if (!p->cut)
		p->cut = SIZE_MAX;
	g_mutex_init(&p->lock);
	g_cond_init(&p->cond);
	p->thread = g_thread_new("peer", peer_main, p);
}

/* After the client has closed its end, the peer's thread ends. */
static void peer_end(struct peer *p)
{
	g_thread_join(p->thread);
	close(p->fd);
	g_free(p->id);
	g_free(p->first);
	g_mutex_clear(&p->lock);
	g_cond_clear(&p->cond);
}

static struct qmp *must_open(struct peer *p)
{
	struct qmp *q = NULL;
	char err[256] = "";
	int ret = qmp_open(p->client_fd, TIMEOUT_MS, &q, err, sizeof(err));

	g_assert_cmpstr(err, ==, "");
	g_assert_cmpint(ret, ==, 0);
	return q;
}

static void test_execute(void)
{
	static const char *const script[] = {
	        SAY_GREETING,
	        "<\"enable\":[\"oob\"]",
	        SAY_OK,
	        "<\"execute\":\"query-status\"",
	        ">{\"return\": {\"status\": \"running\", \"running\": true}, \"id\": \"%ID\"}\r\n",
	        "<\"arguments\":{\"a\":1}",
	        ">{\"return\": [], \"id\": \"%ID\"}\r\n",
	        NULL};

	for (int drip = 0; drip < 2; drip++) {
		struct peer p = {.drip = drip};
		struct qmp *q;
		json_t *value = NULL;
		char err[256] = "";

		peer_start(&p, script);
		q = must_open(&p);
		g_assert_cmpstr(qmp_version(q), ==, "11.1.3 (Debian)");
		g_assert_cmpint(qmp_fd(q), >=, 0);
		g_assert_cmpint(
		        qmp_execute(q, "query-status", NULL, TIMEOUT_MS, &value, err, sizeof(err)),
		        ==, 0);
		g_assert_cmpstr(json_string_value(json_object_get(value, "status")), ==, "running");
		json_decref(value);
		g_assert_cmpint(qmp_execute(q, "x", json_pack("{s:i}", "a", 1), TIMEOUT_MS, NULL,
		                            err, sizeof(err)),
		                ==, 0);
		qmp_free(q);
		peer_end(&p);
	}
}

static void test_errors(void)
{
	static const char *const script[] = {SAY_GREETING,
	                                     "<",
	                                     SAY_OK,
	                                     "<",
	                                     ">{\"error\": {\"class\": \"GenericError\", \"desc\": "
	                                     "\"not so\"}, \"id\": \"%ID\"}\r\n",
	                                     "<",
	                                     ">{\"error\": {\"class\": \"CommandNotFound\", "
	                                     "\"desc\": \"none\"}, \"id\": \"%ID\"}\r\n",
	                                     "<",
	                                     SAY_OK,
	                                     NULL};
	struct peer p = {0};
	struct qmp *q;
	json_t *value = NULL;
	char err[256] = "";

	peer_start(&p, script);
	q = must_open(&p);
	g_assert_cmpint(qmp_execute(q, "migrate", NULL, TIMEOUT_MS, &value, err, sizeof(err)), ==,
	                -EREMOTEIO);
	g_assert_cmpstr(err, ==, "QMP migrate: GenericError: not so");
	g_assert_null(value);
	g_assert_cmpint(qmp_execute(q, "nope", NULL, TIMEOUT_MS, NULL, err, sizeof(err)), ==,
	                -EOPNOTSUPP);
	g_assert_cmpint(qmp_execute(q, "stop", NULL, TIMEOUT_MS, NULL, err, sizeof(err)), ==, 0);
	qmp_free(q);
	peer_end(&p);
}

#define SAMPLED(status, mode, time, unit, rate)                                                    \
	">{\"return\": {\"status\": \"" status "\", \"sample-pages\": 512, \"mode\": \"" mode      \
	"\", \"calc-time-unit\": \"" unit                                                          \
	"\", \"start-time\": 1795358377, \"calc-time\": " time rate "}, \"id\": \"%ID\"}\r\n"

static void test_dirty_sample(void)
{
	static const struct {
		const char *answer;
		int error;
		uint64_t rate;
	} cases[] = {
	        {SAMPLED("measuring", "page-sampling", "100", "millisecond", ""), -EINPROGRESS, 0},
	        {SAMPLED("measured", "page-sampling", "100", "millisecond", ", \"dirty-rate\": 12"),
	         0, 12},
	        {SAMPLED("measured", "page-sampling", "107", "millisecond", ", \"dirty-rate\": 0"),
	         0, 0},
	        {SAMPLED("measured", "page-sampling", "99", "millisecond", ", \"dirty-rate\": 1"),
	         -EPROTO, 0},
	        {SAMPLED("measured", "page-sampling", "100", "second", ", \"dirty-rate\": 1"),
	         -EPROTO, 0},
	        {SAMPLED("measured", "dirty-ring", "100", "millisecond", ", \"dirty-rate\": 1"),
	         -EPROTO, 0},
	        {SAMPLED("measured", "page-sampling", "100", "millisecond", ", \"dirty-rate\": -1"),
	         -EPROTO, 0},
	        {SAMPLED("measured", "page-sampling", "100", "millisecond", ""), -EPROTO, 0},
	        {SAMPLED("unstarted", "page-sampling", "100", "millisecond", ""), -EPROTO, 0},
	        {SAY_OK, -EPROTO, 0},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		const char *const script[] = {SAY_GREETING,    "<",
		                              SAY_OK,          "<\"sample-pages\":8192",
		                              SAY_OK,          "<\"execute\":\"query-dirty-rate\"",
		                              cases[i].answer, NULL};
		struct peer p = {0};
		char err[256] = "";
		uint64_t rate = 77;
		struct qmp *q;

		peer_start(&p, script);
		q = must_open(&p);
		g_assert_cmpint(dirty_sample_begin(q, 100, 8192, TIMEOUT_MS, err, sizeof(err)), ==,
		                0);
		g_assert_cmpint(dirty_sample_take(q, 100, TIMEOUT_MS, &rate, err, sizeof(err)), ==,
		                cases[i].error);
		g_assert_cmpuint(rate, ==, cases[i].error ? 77 : cases[i].rate);
		g_assert_cmpint(err[0] != 0, ==, cases[i].error == -EPROTO);
		qmp_free(q);
		peer_end(&p);
	}
}

/* A command hangs; the one out of band is answered; the late reply is thrown away. */
static void test_oob(void)
{
	static const char *const script[] = {SAY_GREETING,
	                                     "<",
	                                     SAY_OK,
	                                     "<\"execute\":\"query-status\"",
	                                     "<\"exec-oob\":\"yank\"",
	                                     SAY_OK,
	                                     "<\"execute\":\"query-name\"",
	                                     ">{\"return\": {\"late\": 1}, \"id\": \"%FIRST\"}\r\n",
	                                     ">{\"return\": {\"name\": 2}, \"id\": \"%ID\"}\r\n",
	                                     NULL};
	struct peer p = {0};
	struct qmp *q;
	json_t *value = NULL;
	char err[256] = "";

	peer_start(&p, script);
	q = must_open(&p);
	g_assert_cmpint(qmp_execute(q, "query-status", NULL, 20, NULL, err, sizeof(err)), ==,
	                -ETIMEDOUT);
	g_assert_cmpstr(err, ==, "QMP query-status: no reply within 20 ms");
	g_assert_cmpint(colo_unwedge(q, TIMEOUT_MS, err, sizeof(err)), ==, 0);
	g_assert_cmpint(qmp_execute(q, "query-name", NULL, TIMEOUT_MS, &value, err, sizeof(err)),
	                ==, 0);
	g_assert_nonnull(json_object_get(value, "name"));
	json_decref(value);
	qmp_free(q);
	peer_end(&p);
}

static void test_no_oob(void)
{
	static const char *const script[] = {
	        ">{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 0, \"major\": 9}, "
	        "\"package\": \"\"}, \"capabilities\": []}}\r\n",
	        "<qmp_capabilities", SAY_OK, NULL};
	struct peer p = {0};
	struct qmp *q;
	char err[256] = "";

	peer_start(&p, script);
	q = must_open(&p);
	g_assert_cmpstr(qmp_version(q), ==, "9.0.0");
	g_assert_cmpint(colo_unwedge(q, TIMEOUT_MS, err, sizeof(err)), ==, -EOPNOTSUPP);
	qmp_free(q);
	peer_end(&p);
}

static void count_events(void *ctx, const char *name, const json_t *data)
{
	GString *seen = ctx;

	g_string_append_printf(seen, "%s ", name);
}

static void test_events(void)
{
	static const char *const script[] = {
	        SAY_GREETING,
	        "<",
	        ">" EVENT("STOP") OK,
	        "<",
	        ">" EVENT("RESUME") "{\"return\": {}, \"id\": \"%ID\"}\r\n" EVENT("COLO_EXIT"),
	        "=",
	        ">" EVENT("SHUTDOWN"),
	        "=",
	        NULL};
	g_autoptr(GString) seen = g_string_new(NULL);
	struct peer p = {0};
	struct qmp *q;
	struct pollfd pfd = {.events = POLLIN};
	json_t *event = NULL;
	char err[256] = "";

	peer_start(&p, script);
	q = must_open(&p);
	qmp_on_event(q, count_events, seen);
	g_assert_cmpint(qmp_execute(q, "cont", NULL, TIMEOUT_MS, NULL, err, sizeof(err)), ==, 0);
	g_assert_cmpint(qmp_wait_event(q, "COLO_EXIT", TIMEOUT_MS, &event, err, sizeof(err)), ==,
	                0);
	g_assert_cmpstr(json_string_value(json_object_get(event, "event")), ==, "COLO_EXIT");
	json_decref(event);
	g_assert_cmpint(qmp_wait_event(q, NULL, 0, &event, err, sizeof(err)), ==, 0);
	g_assert_cmpstr(json_string_value(json_object_get(event, "event")), ==, "STOP");
	json_decref(event);
	qmp_drop_events(q, "RESUME");
	g_assert_cmpint(qmp_wait_event(q, NULL, 0, NULL, err, sizeof(err)), ==, -ETIMEDOUT);
	g_assert_cmpstr(seen->str, ==, "RESUME COLO_EXIT ");

	peer_go(&p); /* an event arrives while nobody calls: the loop sees the descriptor */
	pfd.fd = qmp_fd(q);
	g_assert_cmpint(poll(&pfd, 1, TIMEOUT_MS), ==, 1);
	g_assert_cmpint(qmp_dispatch(q, err, sizeof(err)), ==, 0);
	g_assert_cmpstr(seen->str, ==, "RESUME COLO_EXIT SHUTDOWN ");

	peer_go(&p); /* and it closes */
	g_assert_cmpint(poll(&pfd, 1, TIMEOUT_MS), ==, 1);
	g_assert_cmpint(qmp_dispatch(q, err, sizeof(err)), ==, -ECONNRESET);
	g_assert_cmpint(qmp_fd(q), ==, -1);
	g_assert_cmpint(qmp_execute(q, "cont", NULL, TIMEOUT_MS, NULL, err, sizeof(err)), ==,
	                -ECONNRESET);
	g_assert_nonnull(strstr(err, "closed"));
	qmp_free(q);
	peer_end(&p);
}

/* More events than the queue holds: the oldest go, and are counted. */
static void test_event_flood(void)
{
	const char *script[QMP_EVENTS_MAX + 10] = {SAY_GREETING, "<", SAY_OK, "<"};
	struct peer p = {0};
	struct qmp *q;
	json_t *event = NULL;
	char err[256] = "";
	size_t n = 4;

	script[n++] = ">" EVENT("OLDEST");
	for (int i = 0; i < QMP_EVENTS_MAX; i++)
		script[n++] = ">" EVENT("E");
	script[n++] = SAY_OK;
	peer_start(&p, script);
	q = must_open(&p);
	g_assert_cmpint(qmp_execute(q, "stop", NULL, TIMEOUT_MS, NULL, err, sizeof(err)), ==, 0);
	g_assert_cmpuint(qmp_events_lost(q), ==, 1);
	g_assert_cmpint(qmp_wait_event(q, NULL, 0, &event, err, sizeof(err)), ==, 0);
	g_assert_cmpstr(json_string_value(json_object_get(event, "event")), ==, "E");
	json_decref(event);
	qmp_free(q);
	peer_end(&p);
}

/* A conversation that is cut after every possible byte is an error, at once and in words. */
static void test_cut(void)
{
	static const char *const script[] = {SAY_GREETING,         "<", SAY_OK, "<",
	                                     ">" EVENT("STOP") OK, NULL};
	size_t whole = 0;

	for (size_t cut = 1; !whole; cut++) {
		struct peer p = {.cut = cut};
		struct qmp *q = NULL;
		char err[256] = "";
		int ret;

		peer_start(&p, script);
		ret = qmp_open(p.client_fd, TIMEOUT_MS, &q, err, sizeof(err));
		if (ret) {
			g_assert_null(q);
			close(p.client_fd); /* still ours */
		} else {
			ret = qmp_execute(q, "stop", NULL, TIMEOUT_MS, NULL, err, sizeof(err));
			qmp_free(q);
		}
		peer_end(&p);
		if (ret == 0)
			whole = cut;
		else
			g_assert_true(ret == -ECONNRESET || ret == -EPIPE);
		g_assert_true(ret == 0 || *err);
	}
	g_assert_cmpuint(whole, >, strlen(GREETING));
}

static void expect_hostile(const char *line, const char *word)
{
	const char *const script[] = {SAY_GREETING, "<", SAY_OK, "<", line, "=", NULL};
	struct peer p = {0};
	struct qmp *q;
	json_t *value = NULL;
	char err[256] = "";

	peer_start(&p, script);
	q = must_open(&p);
	g_assert_cmpint(qmp_execute(q, "stop", NULL, TIMEOUT_MS, &value, err, sizeof(err)), ==,
	                -EPROTO);
	if (!strstr(err, word))
		g_error("\"%s\" does not say \"%s\"", err, word);
	g_assert_null(value);
	g_assert_cmpint(qmp_fd(q), ==, -1);
	g_assert_cmpint(qmp_wait_event(q, NULL, TIMEOUT_MS, NULL, err, sizeof(err)), ==, -EPROTO);
	qmp_free(q);
	peer_go(&p);
	peer_end(&p);
}

static void test_hostile(void)
{
	g_autofree char *deep = g_strnfill(QMP_DEPTH_MAX + 1, '[');
	g_autofree char *very_deep = g_strnfill(100000, '[');
	g_autofree char *blank = g_strnfill(QMP_MESSAGE_MAX + 100000, 'a');
	g_autofree char *deep_line = g_strconcat(">", deep, "\n", NULL);
	g_autofree char *very_deep_line = g_strconcat(">", very_deep, "\n", NULL);
	g_autofree char *endless = g_strconcat(">", blank, NULL);

	expect_hostile(">HTTP/1.1 400 Bad Request\r\n", "not JSON");
	expect_hostile(">{\"return\": {}, \"return\": {}, \"id\": \"%ID\"}\n", "duplicate");
	expect_hostile(">{\"return\": {\"a\": 1, \"a\": 2}, \"id\": \"%ID\"}\n", "duplicate");
	expect_hostile(">[1, 2]\n", "no object");
	expect_hostile(">{}\n", "no greeting, reply or event");
	expect_hostile(">{\"return\": {}}\n", "without id");
	expect_hostile(">{\"error\": {\"class\": \"GenericError\", \"desc\": \"what\"}}\n", "what");
	expect_hostile(">{\"event\": \"E\", \"data\": 7}\n", "no object");
	expect_hostile(">{\"event\": \"\\ud800\"}\n", "not JSON");
	expect_hostile(">\xff\xfe\n", "not JSON");
	expect_hostile(SAY_GREETING, "no greeting, reply or event");
	expect_hostile(deep_line, "nested");
	expect_hostile(very_deep_line, "nested");
	expect_hostile(endless, "longer than");
}

/* Brackets in strings do not nest; integers beyond 63 bits do not break the connection. */
static void test_odd_but_right(void)
{
	static const char *const script[] = {
	        SAY_GREETING,
	        "<",
	        SAY_OK,
	        "<",
	        ">\r\n\n{\"return\": {\"text\": \"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[{\", "
	        "\"big\": 18446744073709551615}, \"id\": \"%ID\"}\n",
	        NULL};
	struct peer p = {0};
	struct qmp *q;
	json_t *value = NULL;
	char err[256] = "";

	peer_start(&p, script);
	q = must_open(&p);
	g_assert_cmpint(qmp_execute(q, "x", NULL, TIMEOUT_MS, &value, err, sizeof(err)), ==, 0);
	g_assert_cmpfloat(json_number_value(json_object_get(value, "big")), >, 1.8e19);
	json_decref(value);
	qmp_free(q);
	peer_end(&p);
}

static void test_bad_greeting(void)
{
	static const char *const greetings[] = {
	        ">{\"QMP\": {}}\n", ">{\"QMP\": {\"version\": {\"qemu\": {\"major\": \"x\"}}}}\n",
	        ">{\"QMP\": 1}\n", ">SSH-2.0-OpenSSH_9.2\r\n"};

	for (size_t i = 0; i < G_N_ELEMENTS(greetings); i++) {
		const char *const script[] = {greetings[i], NULL};
		struct peer p = {0};
		struct qmp *q = NULL;
		char err[256] = "";

		peer_start(&p, script);
		g_assert_cmpint(qmp_open(p.client_fd, TIMEOUT_MS, &q, err, sizeof(err)), ==,
		                -EPROTO);
		g_assert_null(q);
		g_assert_true(*err);
		close(p.client_fd);
		peer_end(&p);
	}
}

static void test_silent(void)
{
	static const char *const script[] = {"=", NULL};
	struct peer p = {0};
	struct qmp *q = NULL;
	char err[256] = "";

	peer_start(&p, script);
	g_assert_cmpint(qmp_open(p.client_fd, 20, &q, err, sizeof(err)), ==, -ETIMEDOUT);
	g_assert_nonnull(strstr(err, "greeting"));
	close(p.client_fd);
	peer_go(&p);
	peer_end(&p);
}

/* The primary's wait follows the migration's states, and says why one failed. */
static void test_wait_primary(void)
{
	static const char *const well[] = {
	        SAY_GREETING,
	        "<",
	        SAY_OK,
	        "<query-migrate",
	        ">{\"return\": {\"status\": \"active\", \"ram\": {\"total\": 8, "
	        "\"remaining\": 4, \"transferred\": 4}}, \"id\": \"%ID\"}\n",
	        "<query-status",
	        ">{\"return\": {\"status\": \"running\"}, \"id\": \"%ID\"}\n" EVENT("MIGRATION"),
	        "<query-migrate",
	        ">{\"return\": {\"status\": \"colo\"}, \"id\": \"%ID\"}\n",
	        "<query-status",
	        ">{\"return\": {\"status\": \"finish-migrate\"}, \"id\": \"%ID\"}\n" EVENT(
	                "RESUME"),
	        "<query-migrate",
	        ">{\"return\": {\"status\": \"colo\"}, \"id\": \"%ID\"}\n",
	        "<query-status",
	        ">{\"return\": {\"status\": \"running\"}, \"id\": \"%ID\"}\n",
	        NULL};
	static const char *const badly[] = {
	        SAY_GREETING,
	        "<",
	        SAY_OK,
	        "<query-migrate",
	        ">{\"return\": {\"status\": \"failed\", \"error-desc\": \"no "
	        "such file\"}, \"id\": \"%ID\"}\n",
	        "<query-status",
	        ">{\"return\": {\"status\": \"running\"}, \"id\": \"%ID\"}\n",
	        NULL};
	struct peer p = {0};
	struct qmp *q;
	char err[256] = "";

	peer_start(&p, well);
	q = must_open(&p);
	g_assert_cmpint(colo_wait_primary(q, TIMEOUT_MS, err, sizeof(err)), ==, 0);
	qmp_free(q);
	peer_end(&p);

	p = (struct peer){0};
	peer_start(&p, badly);
	q = must_open(&p);
	g_assert_cmpint(colo_wait_primary(q, TIMEOUT_MS, err, sizeof(err)), ==, -EIO);
	g_assert_cmpstr(err, ==, "the copy to the secondary failed: no such file");
	qmp_free(q);
	peer_end(&p);
}

/* One command of the human monitor, and what it prints. */
#define HMP(command, answer) "<" command "\"", ">{\"return\": \"" answer "\", \"id\": \"%ID\"}\n"

static int rearm(const char *const *script, bool q35, char *err, size_t errlen)
{
	struct peer p = {0};
	struct qmp *q;
	int r;

	peer_start(&p, script);
	q = must_open(&p);
	r = tcg_rearm(q, q35, TIMEOUT_MS, err, errlen);
	qmp_free(q);
	peer_end(&p);
	return r;
}

/* A PAM register is read and written back; the guest's address register is put back. */
static void test_rearm(void)
{
	static const char *const pc[] = {SAY_GREETING,
	                                 "<",
	                                 SAY_OK,
	                                 HMP("i /xw 0xcf8", "portl[0x0cf8] = 0x80001234\\r\\n"),
	                                 HMP("o /xw 0xcf8 0x80000058", ""),
	                                 HMP("i /xb 0xcfd", "portb[0x0cfd] = 0x30\\r\\n"),
	                                 HMP("o /xb 0xcfd 0x30", ""),
	                                 HMP("o /xw 0xcf8 0x80001234", ""),
	                                 NULL};
	static const char *const q35[] = {SAY_GREETING,
	                                  "<",
	                                  SAY_OK,
	                                  HMP("i /xw 0xcf8", "portl[0x0cf8] = 0x00000000\\r\\n"),
	                                  HMP("o /xw 0xcf8 0x80000090", ""),
	                                  HMP("i /xb 0xcfc", "portb[0x0cfc] = 0x10\\r\\n"),
	                                  HMP("o /xb 0xcfc 0x10", ""),
	                                  HMP("o /xw 0xcf8 0x0", ""),
	                                  NULL};
	static const char *const fails[] = {SAY_GREETING,
	                                    "<",
	                                    SAY_OK,
	                                    HMP("i /xw 0xcf8", "portl[0x0cf8] = 0x80001234\\r\\n"),
	                                    HMP("o /xw 0xcf8 0x80000058", ""),
	                                    HMP("i /xb 0xcfd", "what?"),
	                                    HMP("o /xw 0xcf8 0x80001234", ""),
	                                    NULL};
	char err[256] = "";

	g_assert_cmpint(rearm(pc, false, err, sizeof(err)), ==, 0);
	g_assert_cmpint(rearm(q35, true, err, sizeof(err)), ==, 0);
	g_assert_cmpint(rearm(fails, false, err, sizeof(err)), ==, -EPROTO);
	g_assert_cmpstr(err, ==, "reading port 0xcfd: QEMU's monitor says \"what?\"");
}

/* The documented orders of QEMU's own comparator, command by command. */
static void test_stock_failover(void)
{
	static const char *const primary[] = {
	        SAY_GREETING,
	        "<",
	        SAY_OK,
	        "<object-del\",\"id\":\"colo-2\",\"arguments\":{\"id\":\"comp0\"}",
	        SAY_OK,
	        "<{\"id\":\"iothread1\"}",
	        SAY_OK,
	        "<{\"id\":\"m0\"}",
	        SAY_OK,
	        "<{\"id\":\"redire0\"}",
	        SAY_OK,
	        "<{\"id\":\"redire1\"}",
	        SAY_OK,
	        "<x-colo-lost-heartbeat",
	        SAY_OK,
	        "<query-colo-status",
	        ">{\"return\": {\"mode\": \"none\"}, \"id\": \"%ID\"}\n",
	        "<query-status",
	        ">{\"return\": {\"status\": \"running\"}, \"id\": \"%ID\"}\n",
	        NULL};
	static const char *const secondary[] = {
	        SAY_GREETING,
	        "<",
	        SAY_OK,
	        "<x-colo-lost-heartbeat",
	        SAY_OK,
	        "<query-colo-status",
	        ">{\"return\": {\"mode\": \"none\"}, \"id\": \"%ID\"}\n",
	        "<query-status",
	        ">{\"return\": {\"status\": \"running\"}, \"id\": \"%ID\"}\n",
	        "<{\"id\":\"f2\"}",
	        SAY_OK,
	        "<{\"id\":\"f1\"}",
	        SAY_OK,
	        "<{\"id\":\"red1\"}",
	        SAY_OK,
	        "<{\"id\":\"red0\"}",
	        SAY_OK,
	        NULL};
	struct peer p = {0};
	struct qmp *q;
	char err[256] = "";

	peer_start(&p, primary);
	q = must_open(&p);
	g_assert_cmpint(colo_stock_failover_primary(q, TIMEOUT_MS, err, sizeof(err)), ==, 0);
	qmp_free(q);
	peer_end(&p);

	p = (struct peer){0};
	peer_start(&p, secondary);
	q = must_open(&p);
	g_assert_cmpint(colo_stock_failover_secondary(q, TIMEOUT_MS, err, sizeof(err)), ==, 0);
	qmp_free(q);
	peer_end(&p);
}

static int failover_again(const char *mode, const char *status)
{
	g_autofree char *colo =
	        g_strdup_printf(">{\"return\": {\"mode\": \"%s\"}, \"id\": \"%%ID\"}\n", mode);
	g_autofree char *runs =
	        g_strdup_printf(">{\"return\": {\"status\": \"%s\"}, \"id\": \"%%ID\"}\n", status);
	const char *const script[] = {SAY_GREETING,
	                              "<",
	                              SAY_OK,
	                              "<x-colo-lost-heartbeat",
	                              ">{\"error\": {\"class\": \"GenericError\", \"desc\": "
	                              "\"no\"}, \"id\": \"%ID\"}\n",
	                              "<query-colo-status",
	                              colo,
	                              "<query-status",
	                              runs,
	                              NULL};
	struct peer p = {0};
	struct qmp *q;
	char err[256] = "";
	int ret;

	peer_start(&p, script);
	q = must_open(&p);
	ret = colo_failover_secondary(q, TIMEOUT_MS, err, sizeof(err));
	if (ret)
		g_assert_cmpstr(err, ==, "QMP x-colo-lost-heartbeat: GenericError: no");
	qmp_free(q);
	peer_end(&p);
	return ret;
}

/* QEMU has carried the order out, too late for whoever gave it, and refuses another one. */
static void test_failover_again(void)
{
	g_assert_cmpint(failover_again("none", "running"), ==, 0);
	g_assert_cmpint(failover_again("none", "inmigrate"), ==, -EREMOTEIO);
	g_assert_cmpint(failover_again("secondary", "running"), ==, -EREMOTEIO);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/qmp/execute", test_execute);
	g_test_add_func("/qmp/errors", test_errors);
	g_test_add_func("/qmp/dirty-sample", test_dirty_sample);
	g_test_add_func("/qmp/oob", test_oob);
	g_test_add_func("/qmp/no-oob", test_no_oob);
	g_test_add_func("/qmp/events", test_events);
	g_test_add_func("/qmp/event-flood", test_event_flood);
	g_test_add_func("/qmp/cut", test_cut);
	g_test_add_func("/qmp/hostile", test_hostile);
	g_test_add_func("/qmp/odd-but-right", test_odd_but_right);
	g_test_add_func("/qmp/bad-greeting", test_bad_greeting);
	g_test_add_func("/qmp/silent", test_silent);
	g_test_add_func("/colo/wait-primary", test_wait_primary);
	g_test_add_func("/colo/rearm", test_rearm);
	g_test_add_func("/colo/failover-again", test_failover_again);
	g_test_add_func("/colo/stock-failover", test_stock_failover);
	return g_test_run();
}
