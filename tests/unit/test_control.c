/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The control socket against real clients: order, bounds, rights, half requests, slow readers. */
#include "colo-proxy/control/control.h"
#include "colo-proxy/control/log.h"
#include "colo-proxy/control/report.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEADLINE_US (120 * G_USEC_PER_SEC)
#define NOBODY      65534

struct fixture {
	char *dir;
	char *path;
	struct control_server *server;
	unsigned calls;
	unsigned stops;
	struct control_request *held; /* the last "later" */
};

static void handle(void *ctx, struct control_request *request, const char *command, json_t *args)
{
	struct fixture *f = ctx;

	f->calls++;
	if (!strcmp(command, "status")) {
		control_reply(request, json_deep_copy(args));
	} else if (!strcmp(command, "later")) {
		f->held = request;
	} else if (!strcmp(command, "big")) {
		size_t len = (size_t)json_integer_value(json_object_get(args, "size"));
		char *text = g_strnfill(len, 'x');

		control_reply(request, json_string(text));
		g_free(text);
	} else if (!strcmp(command, "stop")) {
		f->stops++;
		control_reply(request, NULL);
	} else if (!strcmp(command, "publish")) {
		control_server_publish(f->server, args);
		control_reply(request, json_true());
	} else {
		control_fail(request, "unknown command '%s'", command);
	}
}

static void set_up(struct fixture *f, const void *data)
{
	char err[256];

	f->dir = g_dir_make_tmp("colo-control-XXXXXX", NULL);
	f->path = g_build_filename(f->dir, "sub", "vm.sock", NULL);
	g_assert_cmpint(
	        control_server_new(f->path, (gid_t)-1, handle, f, &f->server, err, sizeof(err)), ==,
	        0);
}

static void tear_down(struct fixture *f, const void *data)
{
	char *sub = g_path_get_dirname(f->path);

	control_server_free(f->server);
	g_assert_cmpint(g_access(f->path, F_OK), ==, -1);
	g_assert_cmpint(g_rmdir(sub), ==, 0);
	g_assert_cmpint(g_rmdir(f->dir), ==, 0);
	g_free(sub);
	g_free(f->path);
	g_free(f->dir);
}

/* A non-blocking connection. */
static int dial(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
	g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
	g_assert_cmpint(fcntl(fd, F_SETFL, O_NONBLOCK), ==, 0);
	return fd;
}

static gboolean nudge(void *data)
{
	return G_SOURCE_CONTINUE;
}

/* Turns the main loop until the condition, at most for the deadline. */
#define TURN_UNTIL(condition)                                                                      \
	do {                                                                                       \
		gint64 until_ = g_get_monotonic_time() + DEADLINE_US;                              \
		guint nudge_ = g_timeout_add(5, nudge, NULL);                                      \
		while (!(condition)) {                                                             \
			g_assert_cmpint(g_get_monotonic_time(), <, until_);                        \
			g_main_context_iteration(NULL, TRUE);                                      \
		}                                                                                  \
		g_source_remove(nudge_);                                                           \
	} while (0)

/* Runs what is ready, and what that makes ready, without waiting. */
static void settle(void)
{
	for (unsigned idle = 0; idle < 5;)
		idle = g_main_context_iteration(NULL, FALSE) ? 0 : idle + 1;
}

static void put(int fd, const char *text)
{
	g_assert_cmpint(send(fd, text, strlen(text), MSG_NOSIGNAL), ==, (gssize)strlen(text));
}

/* Adds what has come to `in`; false at the end of the connection. */
static bool take(int fd, GString *in)
{
	char buf[65536];
	ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n > 0)
		g_string_append_len(in, buf, n);
	return n > 0 || (n < 0 && errno == EAGAIN);
}

/* The next line; g_free(). */
static char *get_line(int fd)
{
	GString *in = g_string_new(NULL);

	TURN_UNTIL(!take(fd, in) || strchr(in->str, '\n'));
	g_assert_nonnull(strchr(in->str, '\n'));
	g_assert_cmpuint((size_t)(strchr(in->str, '\n') - in->str), ==, in->len - 1);
	return g_string_free(in, FALSE);
}

static void expect(int fd, const char *line)
{
	char *got = get_line(fd);

	g_assert_cmpstr(got, ==, line);
	g_free(got);
}

static bool at_end(int fd)
{
	char c;
	ssize_t n = recv(fd, &c, 1, MSG_DONTWAIT);

	return n == 0 || (n < 0 && errno != EAGAIN);
}

static void test_simple(struct fixture *f, const void *data)
{
	int fd = dial(f->path);

	put(fd, "{\"command\":\"status\"}\n");
	expect(fd, "{\"ok\":true,\"result\":{}}\n");
	put(fd, "{\"id\":[1],\"command\":\"status\",\"arguments\":{\"a\":2}}\n");
	expect(fd, "{\"ok\":true,\"result\":{\"a\":2},\"id\":[1]}\n");
	put(fd, "{\"command\":\"nope\",\"id\":\"x\"}\n");
	expect(fd, "{\"ok\":false,\"error\":\"unknown command 'nope'\",\"id\":\"x\"}\n");
	put(fd, "{\"command\":\"stop\"}\n");
	expect(fd, "{\"ok\":true,\"result\":null}\n");
	g_assert_cmpuint(f->stops, ==, 1);
	close(fd);
	settle();
}

/* Many requests in one write: one at a time, in order. */
static void test_pipelined(struct fixture *f, const void *data)
{
	GString *in = g_string_new(NULL);
	GString *out = g_string_new(NULL);
	GString *want = g_string_new(NULL);
	int fd = dial(f->path);

	for (unsigned i = 0; i < 500; i++) {
		g_string_append_printf(out, "{\"command\":\"status\",\"id\":%u}\n", i);
		g_string_append_printf(want, "{\"ok\":true,\"result\":{},\"id\":%u}\n", i);
	}
	put(fd, out->str);
	TURN_UNTIL(!take(fd, in) || in->len >= want->len);
	g_assert_cmpstr(in->str, ==, want->str);
	close(fd);
	settle();
	g_string_free(in, TRUE);
	g_string_free(out, TRUE);
	g_string_free(want, TRUE);
}

/* A request has no effect before its newline, nor when the connection ends before it. */
static void test_half_sent(struct fixture *f, const void *data)
{
	static const char request[] = "{\"command\":\"stop\"}";

	for (size_t cut = 0; cut <= strlen(request); cut++) {
		int fd = dial(f->path);

		g_assert_cmpint(send(fd, request, cut, MSG_NOSIGNAL), ==, (gssize)cut);
		settle();
		close(fd);
		settle();
	}
	g_assert_cmpuint(f->calls, ==, 0);
	g_assert_cmpuint(f->stops, ==, 0);
}

static void test_byte_by_byte(struct fixture *f, const void *data)
{
	static const char request[] =
	        "{\"command\":\"status\",\"arguments\":{\"k\":\"\\u00e4\"}}\n";
	int fd = dial(f->path);

	for (size_t i = 0; request[i]; i++) {
		g_assert_cmpuint(f->calls, ==, 0);
		g_assert_cmpint(send(fd, request + i, 1, MSG_NOSIGNAL), ==, 1);
		settle();
	}
	expect(fd, "{\"ok\":true,\"result\":{\"k\":\"ä\"}}\n");
	close(fd);
	settle();
}

/* While an answer is out, the client's next request waits; other clients are served. */
static void test_later(struct fixture *f, const void *data)
{
	int slow = dial(f->path);
	int quick = dial(f->path);

	put(slow, "{\"command\":\"later\"}\n{\"command\":\"stop\"}\n");
	TURN_UNTIL(f->held);
	settle();
	g_assert_cmpuint(f->stops, ==, 0);
	put(quick, "{\"command\":\"status\"}\n");
	expect(quick, "{\"ok\":true,\"result\":{}}\n");
	control_fail(f->held, "%s", "not now");
	{
		GString *in = g_string_new(NULL);

		TURN_UNTIL(!take(slow, in) || g_str_has_suffix(in->str, "null}\n"));
		g_assert_cmpstr(in->str, ==,
		                "{\"ok\":false,\"error\":\"not now\"}\n"
		                "{\"ok\":true,\"result\":null}\n");
		g_string_free(in, TRUE);
	}
	g_assert_cmpuint(f->stops, ==, 1);
	close(slow);
	close(quick);
	settle();
}

/* The client, or the server, may go before the answer comes. */
static void test_answer_too_late(struct fixture *f, const void *data)
{
	int fd = dial(f->path);
	char err[256];

	put(fd, "{\"command\":\"later\",\"id\":1}\n");
	TURN_UNTIL(f->held);
	close(fd);
	settle();
	control_reply(f->held, json_string("nobody hears this"));
	settle();

	f->held = NULL;
	fd = dial(f->path);
	put(fd, "{\"command\":\"later\"}\n");
	TURN_UNTIL(f->held);
	control_server_free(f->server);
	g_assert_true(at_end(fd));
	control_reply(f->held, NULL);
	close(fd);
	g_assert_cmpint(
	        control_server_new(f->path, (gid_t)-1, handle, f, &f->server, err, sizeof(err)), ==,
	        0);
}

/* The client is gone when its request is read: the answer given at once must not free it twice. */
static void test_gone_before_answer(struct fixture *f, const void *data)
{
	for (unsigned i = 0; i < 20; i++) {
		int fd = dial(f->path);

		put(fd, "{\"command\":\"status\"}\n{\"command\":\"nope\"}\n");
		close(fd);
		settle();
	}
	g_assert_cmpuint(f->calls, >=, 20);
}

static void refuse(struct fixture *f, const char *request, const char *part)
{
	int fd = dial(f->path);
	char *line;

	put(fd, request);
	line = get_line(fd);
	g_test_message("%s", line);
	g_assert_true(g_str_has_prefix(line, "{\"ok\":false,\"error\":\""));
	g_assert_nonnull(strstr(line, part));
	g_free(line);
	close(fd);
	settle();
}

static void test_refused(struct fixture *f, const void *data)
{
	refuse(f, "\n", "not JSON");
	refuse(f, "{\n", "not JSON");
	refuse(f, "[]\n", "a request is an object");
	refuse(f, "\"stop\"\n", "not JSON");
	refuse(f, "{\"command\":1}\n", "a string 'command'");
	refuse(f, "{\"command\":\"stop\",\"command\":\"stop\"}\n", "duplicate");
	refuse(f, "{\"command\":\"stop\",\"arguments\":[]}\n", "'arguments' is an object");
	refuse(f, "{\"command\":\"stop\",\"now\":1}\n", "unknown member 'now'");
	refuse(f, "{\"command\":\"stop\"}{}\n", "not JSON");
	refuse(f, "{\"command\":\"stop\",\"id\":[[[[[[[[1]]]]]]]]}\n", "nested deeper than 8");
	refuse(f, "{\"command\":\"st\xffop\"}\n", "not JSON");
	g_assert_cmpuint(f->calls, ==, 0);
	/* Brackets in strings are no depth. */
	{
		int fd = dial(f->path);

		put(fd, "{\"command\":\"status\",\"id\":\"[[[[[[[[[[[\\\"[[[\"}\n");
		expect(fd, "{\"ok\":true,\"result\":{},\"id\":\"[[[[[[[[[[[\\\"[[[\"}\n");
		close(fd);
		settle();
	}
}

/* A request that never ends is refused at the limit, and the connection closed. */
static void test_too_long(struct fixture *f, const void *data)
{
	char *blanks = g_strnfill(CONTROL_REQUEST_MAX + 1, ' ');
	GString *in = g_string_new(NULL);
	int fd = dial(f->path);
	size_t sent = 0;

	while (sent < strlen(blanks)) {
		ssize_t n = send(fd, blanks + sent, strlen(blanks) - sent, MSG_NOSIGNAL);

		if (n > 0)
			sent += (size_t)n;
		settle();
	}
	TURN_UNTIL(!take(fd, in));
	g_assert_nonnull(strstr(in->str, "too long"));
	close(fd);
	g_string_free(in, TRUE);
	g_free(blanks);
}

/* A client that asks for much and reads nothing stops only itself. */
static void test_slow_reader(struct fixture *f, const void *data)
{
	GString *in = g_string_new(NULL);
	int slow = dial(f->path);
	int quick = dial(f->path);

	put(slow,
	    "{\"command\":\"big\",\"arguments\":{\"size\":3000000}}\n{\"command\":\"stop\"}\n");
	TURN_UNTIL(f->calls == 1);
	settle();
	put(quick, "{\"command\":\"status\"}\n");
	expect(quick, "{\"ok\":true,\"result\":{}}\n");
	settle();
	g_assert_cmpuint(f->stops, ==, 0);
	/* When it does read, it gets all of it. */
	TURN_UNTIL(!take(slow, in) || g_str_has_suffix(in->str, "null}\n"));
	g_assert_cmpuint(in->len, ==,
	                 3000000 + strlen("{\"ok\":true,\"result\":\"\"}\n") +
	                         strlen("{\"ok\":true,\"result\":null}\n"));
	close(slow);
	close(quick);
	settle();
	g_string_free(in, TRUE);
}

static void test_answer_too_large(struct fixture *f, const void *data)
{
	int fd = dial(f->path);

	put(fd, "{\"command\":\"big\",\"arguments\":{\"size\":4194304}}\n");
	expect(fd, "{\"ok\":false,\"error\":\"the answer is larger than a reply may be\"}\n");
	close(fd);
	settle();
}

static void test_events(struct fixture *f, const void *data)
{
	json_t *event = json_pack("{s:s}", "state", "protected");
	int watcher = dial(f->path);
	int other = dial(f->path);

	put(watcher, "{\"command\":\"events\",\"id\":7}\n");
	expect(watcher, "{\"ok\":true,\"result\":null,\"id\":7}\n");
	control_server_publish(f->server, event);
	expect(watcher, "{\"event\":{\"state\":\"protected\"}}\n");
	/* From within a handler, and to the asking client itself. */
	put(watcher, "{\"command\":\"publish\",\"arguments\":{\"n\":1}}\n");
	{
		GString *in = g_string_new(NULL);

		TURN_UNTIL(!take(watcher, in) || g_str_has_suffix(in->str, "true}\n"));
		g_assert_cmpstr(in->str, ==,
		                "{\"event\":{\"n\":1}}\n{\"ok\":true,\"result\":true}\n");
		g_string_free(in, TRUE);
	}
	put(other, "{\"command\":\"status\"}\n");
	expect(other, "{\"ok\":true,\"result\":{}}\n");
	close(watcher);
	control_server_publish(f->server, event);
	settle();
	control_server_publish(f->server, event);
	close(other);
	settle();
	json_decref(event);
}

/* A subscriber that does not read is disconnected at its limit, and its memory is bounded. */
static void test_slow_subscriber(struct fixture *f, const void *data)
{
	char *text = g_strnfill(1000, 'e');
	json_t *event = json_string(text);
	GString *in = g_string_new(NULL);
	int fd = dial(f->path);

	put(fd, "{\"command\":\"events\"}\n");
	expect(fd, "{\"ok\":true,\"result\":null}\n");
	for (unsigned i = 0; i < 2000; i++) {
		control_server_publish(f->server, event);
		settle();
	}
	TURN_UNTIL(!take(fd, in));
	g_assert_cmpuint(in->len, >, 0);
	g_assert_cmpuint(in->len, <, 2000 * 1000);
	close(fd);
	json_decref(event);
	g_string_free(in, TRUE);
	g_free(text);
}

static void test_too_many(struct fixture *f, const void *data)
{
	int fds[CONTROL_CLIENTS];
	int extra;

	for (unsigned i = 0; i < CONTROL_CLIENTS; i++) {
		fds[i] = dial(f->path);
		settle();
	}
	extra = dial(f->path);
	expect(extra, "{\"ok\":false,\"error\":\"too many connections\"}\n");
	TURN_UNTIL(at_end(extra));
	close(extra);
	close(fds[0]);
	settle();
	fds[0] = dial(f->path);
	put(fds[0], "{\"command\":\"status\"}\n");
	expect(fds[0], "{\"ok\":true,\"result\":{}}\n");
	for (unsigned i = 0; i < CONTROL_CLIENTS; i++)
		close(fds[i]);
	settle();
}

/* Runs one call as another user in a child; its result is the exit status's word. */
static int call_as(struct fixture *f, uid_t uid, gid_t gid, gid_t extra, const char *command)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		json_t *result = NULL;
		char err[512] = "";
		int ret;

		if (setgroups(1, &extra) < 0 || setgid(gid) < 0 || setuid(uid) < 0)
			_exit(99);
		ret = control_call(f->path, command, NULL, 5000, &result, err, sizeof(err));
		_exit(ret == 0 ? 0 : ret == -EREMOTEIO && strstr(err, "denied") ? 1 : 2);
	}
	TURN_UNTIL(waitpid(pid, &status, WNOHANG) == pid);
	g_assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_rights(struct fixture *f, const void *data)
{
	struct stat st;
	char err[256];

	if (geteuid() != 0) {
		g_test_skip("needs root");
		return;
	}
	g_assert_cmpint(stat(f->path, &st), ==, 0);
	g_assert_cmpuint(st.st_mode & 0777, ==, 0600);
	control_server_free(f->server);
	g_assert_cmpint(control_server_new(f->path, 4242, handle, f, &f->server, err, sizeof(err)),
	                ==, 0);
	g_assert_cmpint(stat(f->path, &st), ==, 0);
	g_assert_cmpuint(st.st_mode & 0777, ==, 0660);
	g_assert_cmpuint(st.st_gid, ==, 4242);
	g_assert_cmpint(chmod(f->dir, 0755), ==, 0);

	g_assert_cmpint(call_as(f, NOBODY, 4242, NOBODY, "stop"), ==, 0);
	g_assert_cmpint(call_as(f, NOBODY, NOBODY, 4242, "stop"), ==, 0);
	g_assert_cmpint(call_as(f, NOBODY, NOBODY, NOBODY, "status"), ==, 2); /* by the mode */
	g_assert_cmpint(chmod(f->path, 0666), ==, 0);
	g_assert_cmpint(call_as(f, NOBODY, NOBODY, NOBODY, "status"), ==, 0);
	g_assert_cmpint(call_as(f, NOBODY, NOBODY, NOBODY, "events"), ==, 0);
	g_assert_cmpuint(f->stops, ==, 2);
	g_assert_cmpint(call_as(f, NOBODY, NOBODY, NOBODY, "stop"), ==, 1);
	g_assert_cmpint(call_as(f, NOBODY, NOBODY, NOBODY, "statu"), ==, 1);
	g_assert_cmpint(call_as(f, NOBODY, NOBODY, NOBODY, "status\n"), ==, 1);
	g_assert_cmpuint(f->stops, ==, 2);
}

static void test_address_in_use(struct fixture *f, const void *data)
{
	struct control_server *second = NULL;
	char *file = g_build_filename(f->dir, "file", NULL);
	char *stale = g_build_filename(f->dir, "stale", NULL);
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	char err[256] = "";
	int fd;

	g_assert_cmpint(
	        control_server_new(f->path, (gid_t)-1, handle, f, &second, err, sizeof(err)), ==,
	        -EADDRINUSE);
	g_assert_nonnull(strstr(err, "already listens"));
	g_assert_null(second);

	/* What is not a socket is never removed. */
	g_assert_true(g_file_set_contents(file, "precious", -1, NULL));
	g_assert_cmpint(control_server_new(file, (gid_t)-1, handle, f, &second, err, sizeof(err)),
	                ==, -EEXIST);
	g_assert_cmpint(g_unlink(file), ==, 0);

	/* What a killed daemon left is replaced. */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	g_strlcpy(addr.sun_path, stale, sizeof(addr.sun_path));
	g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
	close(fd);
	g_assert_cmpint(control_server_new(stale, (gid_t)-1, handle, f, &second, err, sizeof(err)),
	                ==, 0);
	control_server_free(second);
	control_server_free(NULL);

	second = NULL;
	{
		char *endless = g_strnfill(200, 'p');

		g_assert_cmpint(control_server_new(endless, (gid_t)-1, handle, f, &second, err,
		                                   sizeof(err)),
		                ==, -ENAMETOOLONG);
		g_free(endless);
	}
	g_free(file);
	g_free(stale);
}

/* The client against servers that are absent, silent, or wrong. */
static void test_client_errors(struct fixture *f, const void *data)
{
	json_t *result = NULL;
	char *path = g_build_filename(f->dir, "none", NULL);
	char err[256];
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	g_assert_cmpint(control_call(path, "status", NULL, 100, &result, err, sizeof(err)), ==,
	                -ENOENT);
	g_assert_nonnull(strstr(err, "no daemon listens"));
	g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
	g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
	g_assert_cmpint(control_call(path, "status", NULL, 100, &result, err, sizeof(err)), ==,
	                -ECONNREFUSED);
	g_assert_cmpint(listen(fd, 1), ==, 0);
	g_assert_cmpint(control_call(path, "status", NULL, 100, &result, err, sizeof(err)), ==,
	                -ETIMEDOUT);
	close(fd);
	g_assert_cmpint(g_unlink(path), ==, 0);
	g_free(path);

	g_assert_cmpint(control_parse_reply("{\"ok\":true}", 11, &result, err, sizeof(err)), ==,
	                -EPROTO);
	g_assert_cmpint(
	        control_parse_reply("{\"ok\":1,\"result\":1}", 19, &result, err, sizeof(err)), ==,
	        -EPROTO);
	g_assert_cmpint(control_parse_reply("x", 1, &result, err, sizeof(err)), ==, -EPROTO);
	g_assert_null(result);
	control_client_close(NULL);
}

/* Fills a struct of uint64_t with distinct values. */
static void fill(void *at, size_t size)
{
	for (size_t i = 0; i < size / sizeof(uint64_t); i++)
		((uint64_t *)at)[i] = 1000 + i * 17;
}

/* What a daemon writes, a client reads back: every field has its place in the JSON. */
static void test_stats_round_trip(void)
{
	struct stats_snapshot stats;
	struct stats_snapshot back;
	json_t *json;

	fill(&stats, sizeof(stats));
	memset(stats.last_divergence, 0, sizeof(stats.last_divergence));
	memcpy(stats.last_divergence, "mismatch", 9);
	json = stats_to_json(&stats);
	g_assert_cmpint(stats_from_json(json, &back), ==, 0);
	g_assert_cmpmem(&stats, sizeof(stats), &back, sizeof(back));
	g_assert_cmpint(
	        json_integer_value(json_object_get(
	                json_object_get(json_object_get(json_object_get(json, "traffic"), "tcp"),
	                                "released_match"),
	                "packets")),
	        ==, (json_int_t)stats.traffic[STATS_TCP].released_match.packets);

	json_object_set_new(json, "kernel_drops", json_integer(-1));
	memset(&back, 1, sizeof(back));
	g_assert_cmpint(stats_from_json(json, &back), ==, -EPROTO);
	g_assert_cmpint(((unsigned char *)&back)[0], ==, 1);
	json_object_set_new(json, "kernel_drops", json_string("1"));
	g_assert_cmpint(stats_from_json(json, &back), ==, -EPROTO);
	json_decref(json);
	g_assert_cmpint(stats_from_json(NULL, &back), ==, -EPROTO);
}

static void test_status_round_trip(void)
{
	struct status_snapshot status = {
	        .name = "guest1",
	        .role = "secondary",
	        .state = "protected",
	        .is_protected = true,
	        .epoch = 3,
	        .lineage = 2,
	        .committed = 2,
	        .peer = "198.51.100.1:9900",
	        .peer_alive = true,
	        .lag_us = 1200,
	        .late_wait_us = 250000,
	        .qemu_version = "11.1.3",
	        .qemu_pid = 4711,
	        .accel = "tcg",
	        .datapath = "hold-tap",
	        .comparator = "proxy",
	        .since_ns = 1700000000000000000ull,
	        .last_event = "checkpoint 2 committed",
	        .message = "all is well",
	        .warning = "1 rule bypasses",
	        .last_divergence = "late in epoch 2",
	};
	struct status_snapshot back;
	json_t *json;

	fill(&status.takeover, sizeof(status.takeover));
	json = status_to_json(&status);
	g_assert_cmpint(status_from_json(json, &back), ==, 0);
	g_assert_cmpmem(&status, sizeof(status), &back, sizeof(back));
	g_assert_true(json_is_true(json_object_get(json, "protected")));
	json_decref(json);

	/* A text that was cut inside a character still becomes JSON. */
	memset(status.role, 'x', sizeof(status.role));
	memcpy(status.role + sizeof(status.role) - 2, "\xc3", 2);
	json = status_to_json(&status);
	g_assert_nonnull(json);
	g_assert_cmpuint(json_string_length(json_object_get(json, "role")), ==,
	                 sizeof(status.role) - 2);
	json_decref(json);
}

/* What a function prints; g_free(). */
static char *printed(void (*print)(FILE *, const struct stats_snapshot *),
                     const struct stats_snapshot *stats)
{
	char *buf = g_malloc0(65536);
	FILE *out = fmemopen(buf, 65536, "w");

	g_assert_nonnull(out);
	print(out, stats);
	fclose(out);
	return buf;
}

static void print_table(FILE *out, const struct stats_snapshot *stats)
{
	stats_print(out, "vm", stats);
}

static void print_line(FILE *out, const struct stats_snapshot *stats)
{
	struct stats_snapshot before = *stats;

	before.at_ns -= 2000000000ull;
	before.traffic[STATS_TOTAL].held.packets -= 500;
	stats_print_line(out, &before, stats, true);
}

static void test_print(void)
{
	struct stats_snapshot stats;
	char *text;

	memset(&stats, 0, sizeof(stats));
	text = printed(print_table, &stats);
	g_assert_nonnull(strstr(text, "total"));
	g_free(text);

	stats.since_ns = 1;
	stats.at_ns = 10000000001ull;
	stats.traffic[STATS_TCP].held.packets = 1234567;
	stats.traffic[STATS_TCP].hold_us = (struct hist_summary){5, 250, 2500, 2500000};
	stats.traffic[STATS_TOTAL] = stats.traffic[STATS_TCP];
	stats.checkpoints.cause[STATS_CAUSE_LATE] = 3;
	text = printed(print_table, &stats);
	g_test_message("%s", text);
	g_assert_nonnull(strstr(text, "vm: counting for 10 s"));
	g_assert_nonnull(strstr(text, "1.2M"));
	g_assert_nonnull(strstr(text, "250us"));
	g_assert_nonnull(strstr(text, "2.5ms"));
	g_assert_nonnull(strstr(text, "2.50s"));
	g_assert_nonnull(strstr(text, "late 3"));
	g_assert_null(strstr(text, "udp"));
	g_free(text);

	text = printed(print_line, &stats);
	g_test_message("%s", text);
	g_assert_nonnull(strstr(text, " 250 "));
	g_assert_cmpint(strchr(text, '\n') - text, ==, (gssize)strlen(strchr(text, '\n') + 1) - 1);
	g_free(text);
}

/* A pipe's worth of log lines. */
static char *logged(int fd)
{
	char buf[65536];
	ssize_t n = read(fd, buf, sizeof(buf) - 1);

	buf[n > 0 ? n : 0] = '\0';
	return g_strdup(buf);
}

static void test_log(void)
{
	int fds[2];
	char *text;
	char *big = g_strnfill(5000, 'b');

	g_assert_cmpint(pipe2(fds, O_NONBLOCK | O_CLOEXEC), ==, 0);
	log_set_fd(fds[1]);
	log_init(LOG_LEVEL_INFO, "vm1");
	log_debug("below the level");
	log_warn("two\nlines \033[31m%d", 5);
	text = logged(fds[0]);
	g_assert_true(
	        g_regex_match_simple("^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z vm1 "
	                             "warn: two\\?lines \\?\\[31m5\\n$",
	                             text, G_REGEX_DOLLAR_ENDONLY, 0));
	g_free(text);
	errno = ENOENT;
	log_error("%s: %m", "x");
	g_assert_cmpint(errno, ==, ENOENT);
	text = logged(fds[0]);
	g_assert_nonnull(strstr(text, "error: x: No such file or directory\n"));
	g_free(text);
	log_info("%s", big);
	text = logged(fds[0]);
	g_assert_cmpuint(strlen(text), <=, 1024);
	g_assert_true(g_str_has_suffix(text, "b\n"));
	g_free(text);
	/* One site's flood is cut, another site still speaks. */
	for (unsigned i = 0; i < 1000; i++)
		log_info("flood %u", i);
	log_info("after");
	text = logged(fds[0]);
	g_assert_nonnull(strstr(text, "flood 9\n"));
	g_assert_null(strstr(text, "flood 10\n"));
	g_assert_nonnull(strstr(text, "after\n"));
	g_free(text);
	/* When the window is over, what was left out is said. */
	{
		struct log_site site = {.window = 1, .written = 99, .suppressed = 990};

		log_write(&site, LOG_LEVEL_INFO, "again");
		text = logged(fds[0]);
		g_assert_nonnull(strstr(text, "again (990 more like this not shown)\n"));
		g_free(text);
	}
	log_set_level(LOG_LEVEL_ERROR);
	log_warn("quiet");
	text = logged(fds[0]);
	g_assert_cmpstr(text, ==, "");
	g_free(text);
	log_set_level(LOG_LEVEL_INFO);
	log_set_fd(2);
	close(fds[0]);
	close(fds[1]);
	g_free(big);
}

/* With JOURNAL_STREAM naming the stream: a priority, and no time of our own. */
/* Whoever reads the log stands still: nothing waits for it, and it is told afterwards. */
static void test_log_unread(void)
{
	char *text;
	int fds[2];

	g_assert_cmpint(pipe(fds), ==, 0);
	g_assert_cmpint(fcntl(fds[1], F_SETPIPE_SZ, 4096), ==, 4096);
	log_set_fd(fds[1]);
	log_init(LOG_LEVEL_INFO, "vm1");
	for (int i = 0; i < 100; i++) {
		struct log_site site = {0};

		log_write(&site, LOG_LEVEL_INFO, "%0200d", i);
	}
	text = logged(fds[0]);
	g_assert_null(strstr(text, "lost"));
	g_free(text);
	log_info("read again");
	text = logged(fds[0]);
	g_assert_true(g_str_has_suffix(text, " vm1 info: read again\n"));
	g_assert_nonnull(strstr(text, " vm1 warn: nobody read the log: "));
	g_free(text);
	log_info("and on");
	text = logged(fds[0]);
	g_assert_null(strstr(text, "lost"));
	g_free(text);
	log_set_fd(2);
	close(fds[0]);
	close(fds[1]);
}

static void test_log_journal(void)
{
	int fds[2];
	struct stat st;
	char *stream;
	char *text;

	g_assert_cmpint(pipe2(fds, O_NONBLOCK | O_CLOEXEC), ==, 0);
	g_assert_cmpint(fstat(fds[1], &st), ==, 0);
	stream = g_strdup_printf("%llu:%llu", (unsigned long long)st.st_dev,
	                         (unsigned long long)st.st_ino);
	g_setenv("JOURNAL_STREAM", stream, TRUE);
	log_init(LOG_LEVEL_INFO, "vm1");
	log_set_fd(fds[1]);
	log_warn("here");
	text = logged(fds[0]);
	g_assert_cmpstr(text, ==, "<4>vm1: here\n");
	g_unsetenv("JOURNAL_STREAM");
	log_set_fd(2);
	close(fds[0]);
	close(fds[1]);
	g_free(stream);
	g_free(text);
}

#define ADD(name, function)                                                                        \
	g_test_add("/control/" name, struct fixture, NULL, set_up, function, tear_down)

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	ADD("simple", test_simple);
	ADD("pipelined", test_pipelined);
	ADD("half-sent", test_half_sent);
	ADD("byte-by-byte", test_byte_by_byte);
	ADD("later", test_later);
	ADD("answer-too-late", test_answer_too_late);
	ADD("gone-before-answer", test_gone_before_answer);
	ADD("refused", test_refused);
	ADD("too-long", test_too_long);
	ADD("slow-reader", test_slow_reader);
	ADD("answer-too-large", test_answer_too_large);
	ADD("events", test_events);
	ADD("slow-subscriber", test_slow_subscriber);
	ADD("too-many", test_too_many);
	ADD("rights", test_rights);
	ADD("address-in-use", test_address_in_use);
	ADD("client-errors", test_client_errors);
	g_test_add_func("/report/stats-round-trip", test_stats_round_trip);
	g_test_add_func("/report/status-round-trip", test_status_round_trip);
	g_test_add_func("/report/print", test_print);
	g_test_add_func("/log/lines", test_log);
	g_test_add_func("/log/unread", test_log_unread);
	g_test_add_func("/log/journal", test_log_journal);
	return g_test_run();
}
