/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control protocol from arbitrary bytes. Byte 0 chooses: 0 the bytes are one request line;
 * 1 one reply line; 2 a reply's result is read as figures and as a state; else they go to a live
 * server in pieces of that size, and the server has to answer each line, in order, or close.
 */
#include "colo-proxy/control/control.h"
#include "colo-proxy/control/report.h"

#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void fuzz_request(const char *line, size_t len)
{
	const char *command = NULL;
	json_t *object = NULL;
	json_t *args = NULL;
	json_t *id = NULL;
	char err[256] = "";

	if (control_parse_request(line, len, &object, &command, &args, &id, err, sizeof(err)) < 0) {
		require(!object && !command && !args && !id && err[0]);
		return;
	}
	require(command && (!args || json_is_object(args)));
	control_read_only(command);
	json_decref(object);
}

static void fuzz_reply(const char *line, size_t len)
{
	json_t *result = NULL;
	char err[256];

	require((control_parse_reply(line, len, &result, err, sizeof(err)) == 0) == !!result);
	json_decref(result);
}

static void fuzz_report(const char *text, size_t len)
{
	json_t *json = json_loadb(text, len, 0, NULL);
	struct stats_snapshot stats;
	struct stats_snapshot stats_again;
	struct status_snapshot status;

	if (stats_from_json(json, &stats) == 0) {
		json_t *back = stats_to_json(&stats);

		require(stats_from_json(back, &stats_again) == 0);
		require(!memcmp(&stats, &stats_again, sizeof(stats)));
		json_decref(back);
	}
	if (status_from_json(json, &status) == 0) {
		json_t *back = status_to_json(&status);

		require(back);
		json_decref(back);
	}
	json_decref(json);
}

static void handle(void *ctx, struct control_request *request, const char *command, json_t *args)
{
	unsigned *calls = ctx;

	(*calls)++;
	if (command[0] == 'f')
		control_fail(request, "%s", command);
	else
		control_reply(request, json_incref(args));
}

static void turn(void)
{
	for (unsigned idle = 0; idle < 2;)
		idle = g_main_context_iteration(NULL, FALSE) ? 0 : idle + 1;
}

/* Counts the lines that came; each has to be a reply. */
static unsigned take_replies(int fd, GString *in)
{
	unsigned n = 0;
	char buf[65536];
	ssize_t len;
	char *newline;

	while ((len = recv(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		g_string_append_len(in, buf, len);
	while ((newline = memchr(in->str, '\n', in->len))) {
		json_t *json = json_loadb(in->str, (size_t)(newline - in->str), 0, NULL);

		require(json_is_boolean(json_object_get(json, "ok")));
		json_decref(json);
		g_string_erase(in, 0, newline - in->str + 1);
		n++;
	}
	return n;
}

static void fuzz_server(const char *text, size_t len, size_t piece)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct control_server *server = NULL;
	GString *in = g_string_new(NULL);
	unsigned calls = 0;
	unsigned lines = 0;
	unsigned replies = 0;
	char err[256];
	int fd;

	g_snprintf(addr.sun_path, sizeof(addr.sun_path), "/tmp/fuzz-control-%d.sock",
	           (int)getpid());
	require(control_server_new(addr.sun_path, (gid_t)-1, handle, &calls, &server, err,
	                           sizeof(err)) == 0);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	require(connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	for (size_t at = 0; at < len;) {
		ssize_t n = send(fd, text + at, MIN(piece, len - at), MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0)
			at += (size_t)n;
		else
			require(n < 0);
		turn();
		replies += take_replies(fd, in);
	}
	turn();
	replies += take_replies(fd, in);
	for (size_t i = 0; i < len; i++)
		lines += text[i] == '\n';
	require(replies == lines && calls <= lines && in->len == 0);
	close(fd);
	turn();
	control_server_free(server);
	g_string_free(in, TRUE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data + 1;

	/* The server's own limit on a line is tested elsewhere; here no line reaches it. */
	if (size < 1 || size > CONTROL_REQUEST_MAX)
		return 0;
	switch (data[0]) {
	case 0:
		fuzz_request(text, size - 1);
		break;
	case 1:
		fuzz_reply(text, size - 1);
		break;
	case 2:
		fuzz_report(text, size - 1);
		break;
	default:
		fuzz_server(text, size - 1, data[0]);
		break;
	}
	return 0;
}
