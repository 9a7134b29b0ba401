/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The client's side of the control socket: blocking, with a deadline for each call. */
#include "colo-proxy/control/control.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define READ_STEP 16384u

struct control_client {
	int fd;
	char *buf; /* what was read and not yet used */
	size_t len;
	size_t room;
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int explain_connect(int error, const char *path, char *err, size_t errlen)
{
	if (error == ENOENT || error == ECONNREFUSED)
		snprintf(err, errlen, "no daemon listens on %s", path);
	else if (error == EACCES)
		snprintf(err, errlen,
		         "%s: permission denied; run as root or as a member of the "
		         "daemon's admin-group",
		         path);
	else
		snprintf(err, errlen, "%s: %s", path, strerror(error));
	return -error;
}

int control_client_open(const char *path, struct control_client **ret_client, char *err,
                        size_t errlen)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct control_client *client;
	int fd;

	if (strlen(path) >= sizeof(addr.sun_path)) {
		snprintf(err, errlen, "%s: longer than a unix socket's path may be", path);
		return -ENAMETOOLONG;
	}
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		int error = errno;

		if (fd >= 0)
			close(fd);
		return explain_connect(error, path, err, errlen);
	}
	client = calloc(1, sizeof(*client));
	if (!client) {
		close(fd);
		snprintf(err, errlen, "out of memory");
		return -ENOMEM;
	}
	client->fd = fd;
	*ret_client = client;
	return 0;
}

void control_client_close(struct control_client *client)
{
	if (!client)
		return;
	close(client->fd);
	free(client->buf);
	free(client);
}

/* Waits for `events` until the deadline: 0, -ETIMEDOUT or -errno. */
static int wait_for(struct control_client *client, short events, int64_t deadline)
{
	for (;;) {
		struct pollfd pfd = {.fd = client->fd, .events = events};
		int64_t left = deadline - now_ms();
		int n = poll(&pfd, 1, left > 0 ? (int)left : 0);

		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

static int send_all(struct control_client *client, const char *data, size_t len, int64_t deadline)
{
	while (len) {
		ssize_t n = send(client->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n >= 0) {
			data += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			int err = wait_for(client, POLLOUT, deadline);

			if (err < 0)
				return err;
		} else if (errno != EINTR) {
			return errno == EPIPE ? -ECONNRESET : -errno;
		}
	}
	return 0;
}

/* Reads some more. 0, -ECONNRESET at the end, -EMSGSIZE when a line grows too long. */
static int read_some(struct control_client *client, int64_t deadline)
{
	ssize_t n;
	int err;

	if (client->room - client->len < READ_STEP) {
		size_t room = client->room ? client->room * 2 : 2 * READ_STEP;
		char *buf;

		if (client->len > CONTROL_REPLY_MAX)
			return -EMSGSIZE;
		buf = realloc(client->buf, room);
		if (!buf)
			return -ENOMEM;
		client->buf = buf;
		client->room = room;
	}
	err = wait_for(client, POLLIN, deadline);
	if (err < 0)
		return err;
	n = recv(client->fd, client->buf + client->len, client->room - client->len, MSG_DONTWAIT);
	if (n == 0)
		return -ECONNRESET;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	client->len += (size_t)n;
	return 0;
}

/* Waits for a whole line; its length without the newline. Then consume(len + 1). */
static int wait_line(struct control_client *client, int64_t deadline, size_t *ret_len)
{
	size_t seen = 0;

	for (;;) {
		char *newline = client->len > seen
		                        ? memchr(client->buf + seen, '\n', client->len - seen)
		                        : NULL;
		int err;

		if (newline) {
			*ret_len = (size_t)(newline - client->buf);
			return 0;
		}
		seen = client->len;
		err = read_some(client, deadline);
		if (err < 0)
			return err;
	}
}

static void consume(struct control_client *client, size_t len)
{
	client->len -= len;
	memmove(client->buf, client->buf + len, client->len);
}

static int explain(int error, const char *what, char *err, size_t errlen)
{
	if (error == -ETIMEDOUT)
		snprintf(err, errlen, "%s: the daemon did not answer in time", what);
	else if (error == -ECONNRESET)
		snprintf(err, errlen, "%s: the daemon closed the connection", what);
	else
		snprintf(err, errlen, "%s: %s", what, strerror(-error));
	return error;
}

int control_client_call(struct control_client *client, const char *command, json_t *args,
                        int timeout_ms, json_t **ret_result, char *err, size_t errlen)
{
	int64_t deadline = now_ms() + timeout_ms;
	json_t *request = json_pack("{s:s, s:O*}", "command", command, "arguments", args);
	char *line = request ? json_dumps(request, JSON_COMPACT) : NULL;
	size_t len = 0;
	int ret;

	json_decref(request);
	if (!line)
		return explain(-ENOMEM, command, err, errlen);
	ret = send_all(client, line, strlen(line), deadline);
	if (ret == 0)
		ret = send_all(client, "\n", 1, deadline);
	free(line);
	/* A daemon that refuses a connection says why before it closes: read also then. */
	if (ret == 0 || ret == -ECONNRESET)
		ret = wait_line(client, deadline, &len);
	if (ret < 0)
		return explain(ret, command, err, errlen);
	ret = control_parse_reply(client->buf, len, ret_result, err, errlen);
	consume(client, len + 1);
	return ret;
}

int control_client_wait_close(struct control_client *client, int timeout_ms)
{
	int64_t deadline = now_ms() + timeout_ms;

	for (;;) {
		int err = read_some(client, deadline);

		if (err == -ECONNRESET)
			return 0;
		if (err < 0)
			return err;
		client->len = 0;
	}
}

int control_client_event(struct control_client *client, int timeout_ms, json_t **ret_event,
                         char *err, size_t errlen)
{
	json_t *object;
	json_t *event;
	size_t len = 0;
	int ret = wait_line(client, now_ms() + timeout_ms, &len);

	if (ret < 0)
		return explain(ret, "events", err, errlen);
	object = json_loadb(client->buf, len, JSON_REJECT_DUPLICATES, NULL);
	consume(client, len + 1);
	event = json_object_get(object, "event");
	if (event)
		*ret_event = json_incref(event);
	json_decref(object);
	return event ? 0 : explain(-EPROTO, "events", err, errlen);
}

int control_call(const char *path, const char *command, json_t *args, int timeout_ms,
                 json_t **ret_result, char *err, size_t errlen)
{
	struct control_client *client = NULL;
	int ret = control_client_open(path, &client, err, errlen);

	if (ret < 0)
		return ret;
	ret = control_client_call(client, command, args, timeout_ms, ret_result, err, errlen);
	control_client_close(client);
	return ret;
}
