/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * colo-load against load_server.py on loopback: what is right passes with the right figures, and
 * each fault that the server can make is found and named. A checker that cannot fail proves
 * nothing about what it checks.
 */
#include <glib.h>
#include <glib/gstdio.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <signal.h>
#include <sys/wait.h>

static char *program;
static int http_port, tcp_port, udp_port;

struct result {
	int status; /* exit status */
	json_t *json;
	char *out, *err;
};

/* The target with %h, %t and %u replaced by the server's ports. */
static char *target_of(const char *text)
{
	GString *out = g_string_new(text);
	g_autofree char *http = g_strdup_printf("http://127.0.0.1:%d", http_port);
	g_autofree char *tcp = g_strdup_printf("127.0.0.1:%d", tcp_port);
	g_autofree char *udp = g_strdup_printf("127.0.0.1:%d", udp_port);

	g_string_replace(out, "%h", http, 0);
	g_string_replace(out, "%t", tcp, 0);
	g_string_replace(out, "%u", udp, 0);
	return g_string_free(out, FALSE);
}

/* Runs colo-load with blank-separated arguments, a deadline and --json; the last line is parsed. */
static struct result run(const char *arguments)
{
	g_autofree char *text = target_of(arguments);
	g_autofree char *line = g_strdup_printf("%s --json --deadline 120 %s", program, text);
	g_auto(GStrv) argv = g_strsplit(line, " ", -1);
	g_autoptr(GError) error = NULL;
	struct result r = {0};
	json_error_t json_error;
	int status;
	char *last;

	g_spawn_sync(NULL, argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &r.out, &r.err, &status,
	             &error);
	g_assert_no_error(error);
	g_assert_true(WIFEXITED(status));
	r.status = WEXITSTATUS(status);
	if (r.status == 2)
		return r;
	g_strchomp(r.out);
	last = strrchr(r.out, '\n');
	r.json = json_loads(last ? last + 1 : r.out, 0, &json_error);
	if (!r.json)
		g_error("%s printed \"%s\": %s", line, r.out, json_error.text);
	return r;
}

static void result_free(struct result *r)
{
	json_decref(r->json);
	g_free(r->out);
	g_free(r->err);
}

static json_int_t field(const struct result *r, const char *key)
{
	json_t *value = json_object_get(r->json, key);

	if (!json_is_integer(value))
		g_error("no integer \"%s\" in the result", key);
	return json_integer_value(value);
}

static double real(const struct result *r, const char *key)
{
	return json_number_value(json_object_get(r->json, key));
}

/* Must succeed with so many operations. */
static struct result passes(const char *arguments, json_int_t requests)
{
	struct result r = run(arguments);

	if (r.status != 0)
		g_error("colo-load %s: exit %d: %s", arguments, r.status, r.err);
	g_assert_true(json_is_true(json_object_get(r.json, "ok")));
	g_assert_cmpint(field(&r, "requests"), ==, requests);
	g_assert_cmpint(field(&r, "errors"), ==, 0);
	return r;
}

/* Must fail, for a reason that contains the words. */
static void fails(const char *arguments, const char *words)
{
	struct result r = run(arguments);

	if (r.status != 1 || !strstr(r.err, words))
		g_error("colo-load %s: exit %d, \"%s\", expected 1 and \"%s\"", arguments, r.status,
		        r.err, words);
	g_assert_true(json_is_false(json_object_get(r.json, "ok")));
	g_assert_nonnull(strstr(json_string_value(json_object_get(r.json, "error")), words));
	result_free(&r);
}

static void test_http(void)
{
	struct result r = passes("http %h/hello -c 3 -n 60", 60);

	g_assert_cmpint(field(&r, "bytes"), ==, 60 * 21);
	result_free(&r);
	r = passes("http %h/hello -c 3 -n 30 --close", 30);
	result_free(&r);
	r = passes("http %h/bytes/70001 -n 3", 3);
	g_assert_cmpint(field(&r, "bytes"), ==, 3 * 70001);
	result_free(&r);
	r = passes("http %h/eof/1000 -n 3", 3);
	result_free(&r);
}

static void test_http_faults(void)
{
	struct result r;

	fails("http %h/wronghello --expect hello", "not the expected text");
	fails("http %h/extra -n 1", "nobody asked for");
	fails("http %h/cut/1000 -d 0.2", "within an answer");
	fails("http %h/drop -d 0.2", "within an answer");
	fails("http http://127.0.0.1:1/ -d 0.2", "refused");
	fails("http %h/stall/1000/60000 -n 1 --deadline 0.3", "not finished after");
	r = run("http %h/drop -d 0.3 --allow-errors");
	g_assert_cmpint(r.status, ==, 0);
	g_assert_cmpint(field(&r, "errors"), >=, 1);
	g_assert_cmpint(field(&r, "errors"), <=, 4); /* it rests before it tries again */
	result_free(&r);
}

/* The longest gap of a download whose server rests for so long in the middle. */
static double gap_of(unsigned rest_ms)
{
	char *arguments = g_strdup_printf("download %%h/stall/200000/%u", rest_ms);
	struct result r = passes(arguments, 1);
	double gap = real(&r, "longest_gap_ms");

	g_assert_cmpint(field(&r, "longest_gap_at_ns"), >=, field(&r, "started_ns"));
	result_free(&r);
	g_free(arguments);
	return gap;
}

/* A client that a busy machine lets wait sees the gap begin late, and shorter: the server rests for
 * longer and longer, until most of that is seen. */
static void test_gap(void)
{
	unsigned rest_ms = 100;

	while (gap_of(rest_ms) < rest_ms * 0.6) {
		rest_ms *= 2;
		g_assert_cmpuint(rest_ms, <, 20000);
	}
}

static void test_download(void)
{
	struct result r = passes("download %h -b 300007", 1);

	g_assert_cmpint(field(&r, "bytes"), ==, 300007);
	g_assert_true(json_is_null(json_object_get(r.json, "first_wrong_byte")));
	result_free(&r);

	r = passes("download %h -b 200000 -r 400000", 1);
	g_assert_cmpfloat(real(&r, "seconds"), >=, 0.3);
	result_free(&r);
}

static void test_download_faults(void)
{
	struct result r = run("download %h/bad/300000/123456");

	g_assert_cmpint(r.status, ==, 1);
	g_assert_cmpint(field(&r, "wrong"), ==, 1);
	g_assert_cmpint(field(&r, "first_wrong_byte"), ==, 123456);
	result_free(&r);
	fails("download %h/bad/300000/0", "differs from the pattern (byte 0)");
	fails("download %h/bad/300000/299999", "differs from the pattern (byte 299999)");
	fails("download %h/cut/100000", "within an answer");
	fails("download %h/short/100000 -b 100000", "length of the answer");
}

static void test_upload(void)
{
	struct result r = passes("upload %h -b 200003", 1);

	g_assert_cmpint(field(&r, "bytes"), ==, 200003);
	result_free(&r);
	fails("upload %h/upload-bad -b 1000", "the answer to the upload");
}

static void test_keepalive(void)
{
	struct result r = passes("keepalive %h -n 20 -i 1 --check-log --id good", 20);

	g_assert_cmpint(field(&r, "first_seq"), ==, 1);
	g_assert_cmpint(field(&r, "last_seq"), ==, 20);
	result_free(&r);
	r = passes("keepalive %h/hello -n 5 -i 1", 5);
	result_free(&r);
	fails("keepalive %h -n 5 -i 1 --id skip", "is seq=4, after seq=2");
	fails("keepalive %h -n 5 -i 1 --id forget --check-log", "where entry 3 must stand");
	fails("keepalive %h -n 3 -i 1 --id forget2 --check-log", "2 of 3 acknowledged entries");
	fails("keepalive %h -n 5 -i 1 --id twice --check-log", "where entry 4 must stand");
	fails("keepalive %h/eof/10 -n 2", "the server closed the connection");
}

static void test_hold(void)
{
	struct result r = passes("hold %h/hello -c 20 --until-eof", 20);

	g_assert_cmpint(field(&r, "held"), ==, 20);
	result_free(&r);
	r = passes("hold %h/hello -c 20 --warm -d 0.1", 40);
	result_free(&r);
	fails("hold %h/drop -c 2 -d 0.1", "within an answer");
	fails("hold %h/eof/5 -c 2 --warm -d 0.1", "does not keep connections open");
}

/* The trigger by signal, sent when the tool says that all are held. */
static void test_hold_signal(void)
{
	g_autofree char *target = target_of("%h/hello");
	const char *argv[] = {program, "hold", target, "-c", "5", "--json", NULL};
	g_autoptr(GError) error = NULL;
	char line[512];
	int out, status;
	GPid pid;
	FILE *f;

	g_spawn_async_with_pipes(NULL, (char **)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL,
	                         &pid, NULL, &out, NULL, &error);
	g_assert_no_error(error);
	f = fdopen(out, "r");
	g_assert_nonnull(f);
	g_assert_nonnull(fgets(line, sizeof(line), f));
	g_assert_nonnull(strstr(line, "\"event\":\"held\""));
	g_assert_cmpint(kill(pid, SIGUSR1), ==, 0);
	g_assert_nonnull(fgets(line, sizeof(line), f));
	g_assert_nonnull(strstr(line, "\"requests\":5"));
	g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
	g_assert_cmpint(status, ==, 0);
	fclose(f);
}

static void test_progress(void)
{
	struct result r = run("http %h/hello -n 40 -i 10 --progress 50");
	g_auto(GStrv) lines = g_strsplit(r.out, "\n", -1);
	json_int_t last_t = 0, last_requests = 0;
	json_error_t error;
	guint i, count = g_strv_length(lines) - 1;

	g_assert_cmpint(r.status, ==, 0);
	g_assert_cmpuint(count, >=, 3);
	for (i = 0; i < count; i++) {
		json_t *line = json_loads(lines[i], 0, &error);
		json_int_t t, bytes, requests, errors;
		double max;

		g_assert_nonnull(line);
		g_assert_cmpint(json_unpack(line, "{s:I, s:I, s:I, s:I, s:F}", "t", &t, "bytes",
		                            &bytes, "requests", &requests, "errors", &errors,
		                            "max_ms", &max),
		                ==, 0);
		g_assert_cmpint(t, >=, last_t + 49000000);
		g_assert_cmpint(requests, >=, last_requests);
		g_assert_cmpint(bytes, ==, requests * 21);
		last_t = t;
		last_requests = requests;
		json_decref(line);
	}
	g_assert_cmpint(last_requests, >, 0);
	result_free(&r);
}

static void test_rr(void)
{
	struct result r = passes("rr %t -c 3 -n 100", 100);

	g_assert_cmpint(field(&r, "bytes"), ==, 6400);
	result_free(&r);
	fails("rr %t -n 700", "the echo differs from what was sent (byte 63)");
}

static void test_udp(void)
{
	struct result r = passes("udp %u -n 12 -i 20 --timeout 600", 10);

	g_assert_cmpint(field(&r, "sent"), ==, 12);
	g_assert_cmpint(field(&r, "lost"), ==, 2);
	g_assert_cmpint(field(&r, "late"), ==, 1);
	g_assert_cmpint(field(&r, "duplicates"), ==, 1);
	result_free(&r);
	fails("udp %u -n 12 -i 1 --timeout 600 --max-lost 1", "2 of 12 lost");
	fails("udp %u -n 700 -i 0 --timeout 20", "the echo differs");
	fails("udp 127.0.0.1:1 -n 2 --timeout 20", "no answer to any");
}

static void test_accept(void)
{
	struct result r = passes("accept %h -c 3 -n 60 -i 1", 60);

	g_assert_cmpint(field(&r, "accepted"), ==, 3);
	g_assert_cmpint(field(&r, "bytes"), ==, 60 * 64);
	result_free(&r);
	fails("accept %h -n 700 -i 0", "the echo differs");
}

/* Needs a raw socket. */
static void test_ping(void)
{
	struct result r = run("ping 127.0.0.1 -n 5 -i 1");

	if (r.status == 1 && strstr(r.err, "not permitted")) {
		g_test_skip("no right to open raw sockets");
		result_free(&r);
		return;
	}
	g_assert_cmpint(r.status, ==, 0);
	g_assert_cmpint(field(&r, "requests"), ==, 5);
	g_assert_cmpint(field(&r, "lost"), ==, 0);
	g_assert_cmpint(field(&r, "duplicates"), ==, 0);
	result_free(&r);
}

static void test_usage(void)
{
	static const char *const bad[] = {"http",
	                                  "nothing %t",
	                                  "http %t",
	                                  "rr %t -s 15",
	                                  "rr %t -s 65001",
	                                  "http %h -c 0",
	                                  "keepalive %h/hello --check-log"};
	size_t i;

	for (i = 0; i < G_N_ELEMENTS(bad); i++) {
		struct result r = run(bad[i]);

		g_assert_cmpint(r.status, ==, 2);
		result_free(&r);
	}
}

/* Starts the server and reads its ports. */
static GPid server_start(int *ret_stdin)
{
	g_autofree char *here = g_path_get_dirname(__FILE__);
	char *argv[] = {(char *)"/usr/bin/python3", g_build_filename(here, "load_server.py", NULL),
	                NULL};
	g_autoptr(GError) error = NULL;
	int out;
	GPid pid;
	FILE *f;

	g_spawn_async_with_pipes(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &pid,
	                         ret_stdin, &out, NULL, &error);
	g_assert_no_error(error);
	f = fdopen(out, "r");
	g_assert_nonnull(f);
	g_assert_cmpint(fscanf(f, "http=%d tcp=%d udp=%d", &http_port, &tcp_port, &udp_port), ==,
	                3);
	fclose(f);
	g_free(argv[1]);
	return pid;
}

int main(int argc, char **argv)
{
	g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
	g_autofree char *folder = g_path_get_dirname(self ? self : argv[0]);
	int input, rc;
	GPid pid;

	g_test_init(&argc, &argv, NULL);
	program = g_build_filename(folder, "colo-load", NULL);
	pid = server_start(&input);
	g_test_add_func("/colo-load/http", test_http);
	g_test_add_func("/colo-load/http-faults", test_http_faults);
	g_test_add_func("/colo-load/download", test_download);
	g_test_add_func("/colo-load/gap", test_gap);
	g_test_add_func("/colo-load/download-faults", test_download_faults);
	g_test_add_func("/colo-load/upload", test_upload);
	g_test_add_func("/colo-load/keepalive", test_keepalive);
	g_test_add_func("/colo-load/hold", test_hold);
	g_test_add_func("/colo-load/hold-signal", test_hold_signal);
	g_test_add_func("/colo-load/progress", test_progress);
	g_test_add_func("/colo-load/rr", test_rr);
	g_test_add_func("/colo-load/udp", test_udp);
	g_test_add_func("/colo-load/accept", test_accept);
	g_test_add_func("/colo-load/ping", test_ping);
	g_test_add_func("/colo-load/usage", test_usage);
	rc = g_test_run();
	g_close(input, NULL);
	waitpid(pid, NULL, 0);
	g_spawn_close_pid(pid);
	g_free(program);
	return rc;
}
