/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line, as a user meets it: the built binary against a server in this process. The
 * binary is COLO_PROXY_BIN, or colo-proxy beside this program or in the directory above.
 */
#include "colo-proxy/control/control.h"
#include "colo-proxy/control/report.h"
#include "colo-proxy/core/packet.h"

#include <gio/gio.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEADLINE_MS 120000

static char *binary;

struct fixture {
	char *dir;
	struct control_server *server;
	unsigned stats_asked;
	unsigned status_asked;
	bool watched; /* a change of state is due once the state was shown, then the end */
	bool stopped;
	bool forced;
};

static json_t *make_stats(struct fixture *f)
{
	struct stats_snapshot stats;

	memset(&stats, 0, sizeof(stats));
	f->stats_asked++;
	stats.since_ns = 1000000000;
	stats.at_ns = 11000000000ull + f->stats_asked * 1000000000ull;
	stats.traffic[STATS_TCP].held.packets = 1000ull * f->stats_asked;
	stats.traffic[STATS_TOTAL] = stats.traffic[STATS_TCP];
	stats.checkpoints.cause[STATS_CAUSE_TIMER] = 42;
	stats_sum(&stats);
	return stats_to_json(&stats);
}

static void handle(void *ctx, struct control_request *request, const char *command, json_t *args)
{
	struct fixture *f = ctx;

	if (!strcmp(command, "status")) {
		const struct status_snapshot status = {
		        .name = "web", .role = "primary", .state = "protected", .epoch = 17};

		f->status_asked++;
		control_reply(request, status_to_json(&status));
	} else if (!strcmp(command, "stats") && f->stats_asked < 3) {
		control_reply(request, make_stats(f));
	} else if (!strcmp(command, "stop")) {
		f->stopped = true;
		control_reply(request, NULL);
	} else if (!strcmp(command, "checkpoint")) {
		control_reply(request, json_pack("{s:i, s:i, s:i}", "epoch", 18, "pause_us", 2500,
		                                 "commit_us", 30000));
	} else if (!strcmp(command, "failover")) {
		f->forced = json_is_true(json_object_get(args, "force"));
		control_reply(request, json_pack("{s:s}", "message", "switched over"));
	} else {
		control_fail(request, "no more of '%s'", command);
	}
}

static void serve(struct fixture *f, const char *name)
{
	char *path = g_strdup_printf("%s/%s.sock", f->dir, name);
	char err[256];

	g_assert_cmpint(
	        control_server_new(path, (gid_t)-1, handle, f, &f->server, err, sizeof(err)), ==,
	        0);
	g_free(path);
}

static void set_up(struct fixture *f, const void *data)
{
	f->dir = g_dir_make_tmp("colo-cli-XXXXXX", NULL);
	g_setenv("COLO_PROXY_RUN_DIR", f->dir, TRUE);
}

static void tear_down(struct fixture *f, const void *data)
{
	control_server_free(f->server);
	g_assert_cmpint(g_rmdir(f->dir), ==, 0);
	g_free(f->dir);
}

struct outcome {
	struct fixture *fixture;
	char *out;
	char *err;
	int status;
	bool done;
};

static void finished(GObject *source, GAsyncResult *result, void *data)
{
	GSubprocess *process = G_SUBPROCESS(source);
	struct outcome *outcome = data;
	GError *error = NULL;

	if (!g_subprocess_communicate_utf8_finish(process, result, &outcome->out, &outcome->err,
	                                          &error))
		g_error("%s", error->message);
	g_assert_true(g_subprocess_get_if_exited(process));
	outcome->status = g_subprocess_get_exit_status(process);
	outcome->done = true;
}

static gboolean too_late(void *data)
{
	g_error("the command did not end");
	return G_SOURCE_REMOVE;
}

/* `stop` waits for the daemon's end: end it once it was asked and has answered. */
static void end_when_stopped(struct fixture *f)
{
	if (!f->stopped || g_main_context_pending(NULL))
		return;
	control_server_free(f->server);
	f->server = NULL;
	f->stopped = false;
}

/* While the state is watched: one event after it was shown, and the end after the next. */
static void drive_watch(struct fixture *f)
{
	if (!f->watched || !f->status_asked || !f->server)
		return;
	if (f->status_asked == 1) {
		json_t *event = json_string("changed");

		control_server_publish(f->server, event);
		json_decref(event);
		f->status_asked = 2;
	} else if (f->status_asked == 3) {
		control_server_free(f->server);
		f->server = NULL;
	}
}

/* Runs the binary with a command line, serving it meanwhile. */
static struct outcome run(struct fixture *f, const char *line)
{
	struct outcome outcome = {.fixture = f};
	GError *error = NULL;
	GSubprocess *process;
	char **argv = NULL;
	char *whole = g_strdup_printf("%s %s", binary, line);
	guint timer = g_timeout_add(DEADLINE_MS, too_late, NULL);

	g_assert_true(g_shell_parse_argv(whole, NULL, &argv, NULL));
	process = g_subprocess_newv((const char *const *)argv,
	                            G_SUBPROCESS_FLAGS_STDOUT_PIPE | G_SUBPROCESS_FLAGS_STDERR_PIPE,
	                            &error);
	g_assert_no_error(error);
	g_subprocess_communicate_utf8_async(process, NULL, NULL, finished, &outcome);
	while (!outcome.done) {
		g_main_context_iteration(NULL, TRUE);
		end_when_stopped(f);
		drive_watch(f);
	}
	g_source_remove(timer);
	g_test_message("%s -> %d\n%s%s", line, outcome.status, outcome.out, outcome.err);
	g_object_unref(process);
	g_strfreev(argv);
	g_free(whole);
	return outcome;
}

/* The exit status, and a part of standard output and of standard error; NULL: it is empty. */
static void expect(struct fixture *f, const char *line, int status, const char *out,
                   const char *err)
{
	struct outcome outcome = run(f, line);

	g_assert_cmpint(outcome.status, ==, status);
	if (out)
		g_assert_nonnull(strstr(outcome.out, out));
	else
		g_assert_cmpstr(outcome.out, ==, "");
	if (err)
		g_assert_nonnull(strstr(outcome.err, err));
	else
		g_assert_cmpstr(outcome.err, ==, "");
	g_free(outcome.out);
	g_free(outcome.err);
}

static void test_help(struct fixture *f, const void *data)
{
	static const char *const commands[] = {"start",      "stop",     "status", "stats",
	                                       "checkpoint", "failover", "check",  "version"};

	expect(f, "--help", 0, "Usage: colo-proxy COMMAND", NULL);
	expect(f, "help", 0, "Usage: colo-proxy COMMAND", NULL);
	expect(f, "", 0, "Usage: colo-proxy COMMAND", NULL);
	for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
		char *line = g_strdup_printf("%s --help", commands[i]);
		char *usage = g_strdup_printf("colo-proxy %s [OPTION", commands[i]);
		struct outcome help = run(f, "--help");

		expect(f, line, 0, usage, NULL);
		g_assert_nonnull(strstr(help.out, commands[i]));
		g_free(help.out);
		g_free(help.err);
		g_free(line);
		g_free(usage);
	}
}

static void test_usage_errors(struct fixture *f, const void *data)
{
	expect(f, "frobnicate", 2, NULL, "unknown command 'frobnicate'");
	expect(f, "status --frob", 2, NULL, "colo-proxy status: Unknown option --frob");
	expect(f, "status a b", 2, NULL, "'b' is one word too many");
	expect(f, "version x", 2, NULL, "one word too many");
	expect(f, "status ../x", 2, NULL, "'../x' is not a VM's name");
	expect(f, "status --socket /x web", 2, NULL, "exclude each other");
	expect(f, "start", 2, NULL, "give a NAME or --config FILE");
	expect(f, "start web --config x", 2, NULL, "one of them");
	expect(f, "start ./web", 2, NULL, "is not a VM's name");
	expect(f, "stats --interval 1", 2, NULL, "--interval is from 50");
	expect(f, "stats --interval x", 2, NULL, "integer");
	expect(f, "stop --timeout 0", 2, NULL, "--timeout is from 1");
	expect(f, "check --offline", 2, NULL, "--offline needs --config");
}

static void test_version(struct fixture *f, const void *data)
{
	expect(f, "version", 0, "colo-proxy " COLO_VERSION " (", NULL);
	expect(f, "--version", 0, "colo-proxy " COLO_VERSION " (", NULL);
	expect(f, "version --json", 0, "\"version\": \"" COLO_VERSION "\"", NULL);
}

static void test_no_daemon(struct fixture *f, const void *data)
{
	expect(f, "status", 1, NULL, "no daemon runs on this host");
	expect(f, "stats web", 1, NULL, "no daemon listens on");
	expect(f, "stop --socket /nowhere/x.sock", 1, NULL, "no daemon listens on /nowhere/x.sock");
}

static void test_status(struct fixture *f, const void *data)
{
	serve(f, "web");
	expect(f, "", 0, "NAME ", NULL);
	expect(f, "", 0, "web  ", NULL);
	expect(f, "status", 0, "web: primary, protected, NOT PROTECTED", NULL);
	expect(f, "status web", 0, "epoch        17", NULL);
	expect(f, "status --json", 0, "\"epoch\": 17", NULL);
	expect(f, "status other", 1, NULL, "no daemon listens on");
}

/* A socket that a killed daemon left does not make the choice ambiguous; a second daemon does. */
static void test_choice(struct fixture *f, const void *data)
{
	struct fixture second = {.dir = f->dir};
	char *stale = g_strdup_printf("%s/stale.sock", f->dir);

	serve(f, "web");
	g_assert_true(g_file_set_contents(stale, "", 0, NULL));
	expect(f, "status", 0, "web: primary", NULL);
	g_assert_cmpint(g_unlink(stale), ==, 0);
	serve(&second, "db");
	expect(f, "status", 2, NULL, "several daemons run; give a NAME: db web");
	expect(f, "status db", 0, "web: primary", NULL);
	control_server_free(second.server);
	g_free(stale);
}

static void test_stats(struct fixture *f, const void *data)
{
	serve(f, "web");
	expect(f, "stats", 0, "timer 42", NULL);
	expect(f, "stats --json", 0, "\"timer\": 42", NULL);
}

static void test_status_watch(struct fixture *f, const void *data)
{
	struct outcome outcome;
	char **parts;

	serve(f, "web");
	f->watched = true;
	outcome = run(f, "status --watch");
	g_assert_cmpint(outcome.status, ==, 1);
	g_assert_nonnull(strstr(outcome.err, "closed the connection"));
	parts = g_strsplit(outcome.out, "web: primary", -1);
	g_assert_cmpuint(g_strv_length(parts), ==, 3);
	g_strfreev(parts);
	g_free(outcome.out);
	g_free(outcome.err);
}

/* Without a terminal: a header, a line each time, rates from the difference; it ends with the
 * daemon. */
static void test_stats_watch(struct fixture *f, const void *data)
{
	struct outcome outcome;
	char **lines;

	serve(f, "web");
	outcome = run(f, "stats --watch --interval 50");
	g_assert_cmpint(outcome.status, ==, 1);
	g_assert_nonnull(strstr(outcome.err, "no more of 'stats'"));
	lines = g_strsplit(outcome.out, "\n", -1);
	g_assert_cmpuint(g_strv_length(lines), ==, 5);
	g_assert_nonnull(strstr(lines[0], "held/s"));
	g_assert_nonnull(strstr(lines[2], " 1000 "));
	g_assert_null(strchr(outcome.out, '\033'));
	g_strfreev(lines);
	g_free(outcome.out);
	g_free(outcome.err);

	f->stats_asked = 0;
	outcome = run(f, "stats --watch --json --interval 50");
	lines = g_strsplit(outcome.out, "\n", -1);
	g_assert_cmpuint(g_strv_length(lines), ==, 4);
	for (unsigned i = 0; i < 3; i++) {
		json_t *json = json_loads(lines[i], 0, NULL);

		g_assert_true(json_is_object(json));
		json_decref(json);
	}
	g_strfreev(lines);
	g_free(outcome.out);
	g_free(outcome.err);
}

static void test_commands(struct fixture *f, const void *data)
{
	serve(f, "web");
	expect(f, "checkpoint", 0, "checkpoint 18 committed; pause 2.5 ms, commit 30.0 ms", NULL);
	expect(f, "checkpoint --json", 0, "\"epoch\": 18", NULL);
	expect(f, "failover", 0, "switched over", NULL);
	g_assert_false(f->forced);
	expect(f, "failover web --force", 0, "switched over", NULL);
	g_assert_true(f->forced);
	expect(f, "stop", 0, NULL, NULL);
	g_assert_null(f->server);
}

static void test_check(struct fixture *f, const void *data)
{
	char *path = g_build_filename(f->dir, "web.conf", NULL);
	char *line = g_strdup_printf("check --offline --config %s", path);
	char *start = g_strdup_printf("start --config %s", path);
	struct outcome example = run(f, "check --example");

	g_assert_cmpint(example.status, ==, 0);
	g_assert_true(g_file_set_contents(path, example.out, -1, NULL));
	expect(f, line, 0, "ok    config", NULL);
	g_assert_true(g_file_set_contents(path, "[vm]\nmemory = x\n", -1, NULL));
	expect(f, line, 1, "web.conf:2: [vm] memory: found 'x'", NULL);
	expect(f, start, 1, NULL, "web.conf:2: [vm] memory: found 'x'");
	g_free(line);
	line = g_strdup_printf("check --offline --json --config %s", path);
	expect(f, line, 1, "\"level\": \"fail\"", NULL);
	expect(f, "start --config /nowhere/x.conf", 1, NULL, "cannot be opened");
	g_assert_cmpint(g_unlink(path), ==, 0);
	g_free(example.out);
	g_free(example.err);
	g_free(start);
	g_free(line);
	g_free(path);
}

static char *find_binary(const char *self)
{
	const char *given = g_getenv("COLO_PROXY_BIN");
	char *dir = g_path_get_dirname(self);
	char *beside = g_build_filename(dir, "colo-proxy", NULL);
	char *above = g_build_filename(dir, "..", "colo-proxy", NULL);
	char *found = NULL;

	if (given && *given)
		found = g_strdup(given);
	else if (g_file_test(beside, G_FILE_TEST_IS_REGULAR))
		found = g_strdup(beside);
	else if (g_file_test(above, G_FILE_TEST_IS_REGULAR))
		found = g_strdup(above);
	g_free(dir);
	g_free(beside);
	g_free(above);
	return found;
}

/* docs/comparison.md shows the table as this binary prints it. */
static void test_protocols(struct fixture *f, const void *data)
{
	g_autofree char *here = g_path_get_dirname(__FILE__);
	g_autofree char *path = g_build_filename(here, "..", "..", "docs", "comparison.md", NULL);
	g_autofree char *docs = NULL;
	g_autofree char *block = NULL;
	struct outcome text = run(f, "check --protocols");
	struct outcome json = run(f, "check --protocols --json");
	json_t *all = json_loads(json.out, 0, NULL);

	g_assert_true(g_file_get_contents(path, &docs, NULL, NULL));
	g_assert_cmpint(text.status, ==, 0);
	g_assert_cmpstr(text.err, ==, "");
	block = g_strdup_printf("```\n%s```\n", text.out);
	if (!strstr(docs, block))
		g_error("docs/comparison.md does not show what check --protocols prints:\n%s",
		        text.out);
	g_assert_cmpint(json.status, ==, 0);
	g_assert_cmpuint(json_array_size(json_object_get(all, "protocols")), ==, PROTOCOL_COUNT);
	g_assert_cmpuint(json_array_size(json_object_get(all, "held_for_commit")), ==,
	                 PACKET_WHY_COUNT - 1);
	json_decref(all);
	g_free(text.out);
	g_free(text.err);
	g_free(json.out);
	g_free(json.err);
}

#define ADD(name, function)                                                                        \
	g_test_add("/cli/" name, struct fixture, NULL, set_up, function, tear_down)

int main(int argc, char **argv)
{
	int ret;

	g_test_init(&argc, &argv, NULL);
	binary = find_binary(argv[0]);
	if (!binary)
		g_error("no colo-proxy beside %s; set COLO_PROXY_BIN", argv[0]);
	ADD("help", test_help);
	ADD("usage-errors", test_usage_errors);
	ADD("version", test_version);
	ADD("no-daemon", test_no_daemon);
	ADD("status", test_status);
	ADD("choice", test_choice);
	ADD("status-watch", test_status_watch);
	ADD("stats", test_stats);
	ADD("stats-watch", test_stats_watch);
	ADD("commands", test_commands);
	ADD("check", test_check);
	ADD("protocols", test_protocols);
	ret = g_test_run();
	g_free(binary);
	return ret;
}
