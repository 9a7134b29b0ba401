/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * QEMU writes each message as one line, so that bytes are collected up to a newline and a line is
 * parsed whole. take_line() is the only place that parses; it sorts a message into the event queue
 * or into the one slot for the reply that is being waited for.
 *
 * Invariants: `in` never holds more than QMP_MESSAGE_MAX bytes; nesting is counted before the
 * parser sees a line, since the parser recurses; `broken`, once set, stays, and the socket is
 * closed with it.
 *
 * Limits: one command in band at a time from here. A command that timed out is still in QEMU's
 * queue; QEMU takes 8 of them before it stops reading in-band commands.
 */
#include "qemu-glue/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <glib.h>

#include "qemu-glue/words.h"

struct qmp {
	int fd;
	GByteArray *in;
	size_t scanned; /* bytes of `in` known to hold no newline */
	GQueue events;  /* json_t *, oldest first */
	uint64_t lost;  /* events pushed out of the full queue */
	uint64_t next_id;
	char waiting[24]; /* the id of the reply that is waited for, or "" */
	json_t *reply;
	json_t *greeting;
	bool oob;
	int broken; /* the error that ended the connection, or 0 */
	char broken_words[256];
	char version[128];
	void (*on_event)(void *ctx, const char *name, const json_t *data);
	void *on_event_ctx;
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static uint64_t deadline_after(uint64_t timeout_ms)
{
	uint64_t now = now_ms();

	return timeout_ms > UINT64_MAX - now ? UINT64_MAX : now + timeout_ms;
}

__attribute__((format(printf, 3, 4))) static int break_off(struct qmp *q, int code, const char *fmt,
                                                           ...)
{
	va_list ap;

	if (q->broken)
		return q->broken;
	va_start(ap, fmt);
	vsnprintf(q->broken_words, sizeof(q->broken_words), fmt, ap);
	va_end(ap);
	q->broken = code;
	if (q->fd >= 0)
		close(q->fd);
	q->fd = -1;
	return code;
}

static int report_broken(const struct qmp *q, char *err, size_t errlen)
{
	return words(q->broken, err, errlen, "QMP: %s", q->broken_words);
}

/* The deepest nesting of objects and arrays; strings are skipped. */
static unsigned int nesting(const char *text, size_t len)
{
	unsigned int depth = 0;
	unsigned int deepest = 0;
	bool in_string = false;

	for (size_t i = 0; i < len; i++) {
		char c = text[i];

		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == '{' || c == '[') {
			if (++depth > deepest)
				deepest = depth;
		} else if ((c == '}' || c == ']') && depth) {
			depth--;
		}
	}
	return deepest;
}

/* QEMU has unsigned 64-bit integers, jansson has not: such a message is read with reals. */
static json_t *parse(const char *text, size_t len, json_error_t *error)
{
	json_t *message = json_loadb(text, len, JSON_REJECT_DUPLICATES, error);

	if (!message && json_error_code(error) == json_error_numeric_overflow)
		message = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL,
		                     error);
	return message;
}

static int take_event(struct qmp *q, json_t *message, const char *name)
{
	const json_t *data = json_object_get(message, "data");

	if (data && !json_is_object(data))
		return break_off(q, -EPROTO, "event %.40s with data that is no object", name);
	if (q->on_event)
		q->on_event(q->on_event_ctx, name, data);
	if (g_queue_get_length(&q->events) >= QMP_EVENTS_MAX) {
		json_decref(g_queue_pop_head(&q->events));
		q->lost++;
	}
	g_queue_push_tail(&q->events, json_incref(message));
	return 0;
}

/* A reply is kept if its id is the one waited for; others belong to commands that timed out. */
static int take_reply(struct qmp *q, json_t *message)
{
	const char *id = json_string_value(json_object_get(message, "id"));

	if (!id) {
		const json_t *error = json_object_get(message, "error");
		const char *desc = json_string_value(json_object_get(error, "desc"));

		return break_off(q, -EPROTO, "reply without id: %.120s",
		                 desc ? desc : "no error text");
	}
	if (q->waiting[0] && strcmp(id, q->waiting) == 0 && !q->reply)
		q->reply = json_incref(message);
	return 0;
}

static int sort_message(struct qmp *q, json_t *message)
{
	const char *event = json_string_value(json_object_get(message, "event"));

	if (event)
		return take_event(q, message, event);
	if (json_object_get(message, "return") || json_object_get(message, "error"))
		return take_reply(q, message);
	if (json_is_object(json_object_get(message, "QMP")) && !q->greeting) {
		q->greeting = json_incref(message);
		return 0;
	}
	return break_off(q, -EPROTO, "a message that is no greeting, reply or event");
}

static int take_line(struct qmp *q, const char *text, size_t len)
{
	json_error_t error;
	json_t *message;
	int ret;

	while (len && (text[len - 1] == '\r' || text[len - 1] == ' '))
		len--;
	if (!len)
		return 0;
	if (nesting(text, len) > QMP_DEPTH_MAX)
		return break_off(q, -EPROTO, "a message nested deeper than %d levels",
		                 QMP_DEPTH_MAX);
	message = parse(text, len, &error);
	if (!message)
		return break_off(q, -EPROTO, "not JSON at byte %d: %.100s", error.position,
		                 error.text);
	if (json_is_object(message))
		ret = sort_message(q, message);
	else
		ret = break_off(q, -EPROTO, "a message that is no object");
	json_decref(message);
	return ret;
}

/* Takes every whole line out of `in`. */
static int take_lines(struct qmp *q)
{
	size_t start = 0;
	int ret = 0;

	while (!ret) {
		size_t from = start > q->scanned ? start : q->scanned;
		const char *base = (const char *)q->in->data;
		const char *end =
		        q->in->len > from ? memchr(base + from, '\n', q->in->len - from) : NULL;

		if (!end)
			break;
		ret = take_line(q, base + start, (size_t)(end - base) - start);
		start = (size_t)(end - base) + 1;
	}
	if (start)
		g_byte_array_remove_range(q->in, 0, (guint)start);
	q->scanned = q->in->len;
	if (!ret && q->in->len > QMP_MESSAGE_MAX)
		ret = break_off(q, -EPROTO, "a message longer than %d bytes", QMP_MESSAGE_MAX);
	return ret;
}

/* Reads once without waiting. 1: something was read; 0: nothing there; else the error. */
static int fill(struct qmp *q)
{
	guint8 chunk[16384];
	ssize_t n;
	int ret;

	do {
		n = recv(q->fd, chunk, sizeof(chunk), MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	if (n < 0)
		return break_off(q, -errno, "reading failed: %s", strerror(errno));
	if (n == 0)
		return break_off(q, -ECONNRESET, "QEMU closed the connection%s",
		                 q->in->len ? " in the middle of a message" : "");
	g_byte_array_append(q->in, chunk, (guint)n);
	ret = take_lines(q);
	return ret ? ret : 1;
}

/* Waits for `events` on the socket until the deadline: 0, -ETIMEDOUT or poll's error. */
static int wait_fd(const struct qmp *q, short events, uint64_t deadline)
{
	for (;;) {
		struct pollfd pfd = {.fd = q->fd, .events = events};
		uint64_t now = now_ms();
		uint64_t left = deadline > now ? deadline - now : 0;
		int n = poll(&pfd, 1, left > 60000 ? 60000 : (int)left);

		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0 && now_ms() >= deadline)
			return -ETIMEDOUT;
	}
}

/* Reads more input, waiting for it until the deadline. 0 or a negative errno. */
static int read_more(struct qmp *q, uint64_t deadline)
{
	int ret = fill(q);

	if (ret)
		return ret < 0 ? ret : 0;
	ret = wait_fd(q, POLLIN, deadline);
	if (ret)
		return ret;
	ret = fill(q);
	return ret < 0 ? ret : 0;
}

/* Half a command cannot be taken back: a write that stops in the middle breaks the connection. */
static int write_all(struct qmp *q, const char *text, size_t len, uint64_t deadline)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = send(q->fd, text + done, len - done, MSG_NOSIGNAL | MSG_DONTWAIT);
		int ret;

		if (n >= 0) {
			done += (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN && errno != EWOULDBLOCK)
			return break_off(q, -errno, "writing failed: %s", strerror(errno));
		ret = wait_fd(q, POLLOUT, deadline);
		if (ret == -ETIMEDOUT && done == 0)
			return ret;
		if (ret)
			return break_off(q, ret, "writing a command stopped in the middle");
	}
	return 0;
}

/* Builds the command's line; steals `args`. NULL if memory or the arguments do not allow it. */
static char *command_line(const char *verb, const char *command, json_t *args, const char *id)
{
	json_t *message = json_pack("{s:s, s:s}", verb, command, "id", id);
	char *text;
	char *line;

	if (!message) {
		json_decref(args);
		return NULL;
	}
	if (args && json_object_set_new(message, "arguments", args) < 0) {
		json_decref(message);
		return NULL;
	}
	text = json_dumps(message, JSON_COMPACT);
	json_decref(message);
	line = text ? g_strconcat(text, "\n", NULL) : NULL;
	free(text);
	return line;
}

static int judge_reply(json_t *reply, const char *command, json_t **ret_value, char *err,
                       size_t errlen)
{
	const json_t *error = json_object_get(reply, "error");
	const char *class = json_string_value(json_object_get(error, "class"));
	const char *desc = json_string_value(json_object_get(error, "desc"));

	if (error)
		return words(class && strcmp(class, "CommandNotFound") == 0 ? -EOPNOTSUPP
		                                                            : -EREMOTEIO,
		             err, errlen, "QMP %s: %s: %s", command, class ? class : "error",
		             desc ? desc : "no text");
	if (ret_value)
		*ret_value = json_incref(json_object_get(reply, "return"));
	return 0;
}

static int send_command(struct qmp *q, const char *verb, const char *command, json_t *args,
                        uint64_t deadline)
{
	char *line;
	int ret;

	snprintf(q->waiting, sizeof(q->waiting), "colo-%llu", (unsigned long long)++q->next_id);
	line = command_line(verb, command, args, q->waiting);
	if (!line)
		return -ENOMEM;
	ret = write_all(q, line, strlen(line), deadline);
	g_free(line);
	return ret;
}

static int run(struct qmp *q, const char *verb, const char *command, json_t *args,
               uint64_t timeout_ms, json_t **ret_value, char *err, size_t errlen)
{
	uint64_t deadline = deadline_after(timeout_ms);
	int ret;

	if (q->broken) {
		json_decref(args);
		return report_broken(q, err, errlen);
	}
	ret = send_command(q, verb, command, args, deadline);
	while (!ret && !q->reply)
		ret = read_more(q, deadline);
	q->waiting[0] = '\0';
	if (q->reply) {
		ret = judge_reply(q->reply, command, ret_value, err, errlen);
		json_decref(q->reply);
		q->reply = NULL;
		return ret;
	}
	if (q->broken)
		return words(q->broken, err, errlen, "QMP %s: %s", command, q->broken_words);
	if (ret == -ETIMEDOUT)
		return words(ret, err, errlen, "QMP %s: no reply within %llu ms", command,
		             (unsigned long long)timeout_ms);
	return words(ret, err, errlen, "QMP %s: %s", command, strerror(-ret));
}

int qmp_execute(struct qmp *q, const char *command, json_t *args, uint64_t timeout_ms,
                json_t **ret_value, char *err, size_t errlen)
{
	return run(q, "execute", command, args, timeout_ms, ret_value, err, errlen);
}

int qmp_execute_oob(struct qmp *q, const char *command, json_t *args, uint64_t timeout_ms,
                    json_t **ret_value, char *err, size_t errlen)
{
	if (!q->oob && !q->broken) {
		json_decref(args);
		return words(-EOPNOTSUPP, err, errlen,
		             "QMP %s: QEMU offers no out-of-band commands", command);
	}
	return run(q, "exec-oob", command, args, timeout_ms, ret_value, err, errlen);
}

static json_t *pop_event(struct qmp *q, const char *name)
{
	for (GList *l = q->events.head; l; l = l->next) {
		json_t *event = l->data;
		const char *is = json_string_value(json_object_get(event, "event"));

		if (!name || strcmp(is, name) == 0) {
			g_queue_delete_link(&q->events, l);
			return event;
		}
	}
	return NULL;
}

int qmp_wait_event(struct qmp *q, const char *name, uint64_t timeout_ms, json_t **ret_event,
                   char *err, size_t errlen)
{
	uint64_t deadline = deadline_after(timeout_ms);

	for (;;) {
		json_t *event = pop_event(q, name);
		int ret;

		if (event) {
			if (ret_event)
				*ret_event = event;
			else
				json_decref(event);
			return 0;
		}
		if (q->broken)
			return report_broken(q, err, errlen);
		ret = read_more(q, deadline);
		if (ret && !q->broken)
			return words(ret, err, errlen, "QMP: no %s event within %llu ms",
			             name ? name : "", (unsigned long long)timeout_ms);
	}
}

void qmp_drop_events(struct qmp *q, const char *name)
{
	json_t *event;

	while ((event = pop_event(q, name)))
		json_decref(event);
}

uint64_t qmp_events_lost(const struct qmp *q)
{
	return q->lost;
}

void qmp_on_event(struct qmp *q, void (*fn)(void *ctx, const char *name, const json_t *data),
                  void *ctx)
{
	q->on_event = fn;
	q->on_event_ctx = ctx;
}

int qmp_fd(const struct qmp *q)
{
	return q->fd;
}

int qmp_dispatch(struct qmp *q, char *err, size_t errlen)
{
	int ret = 1;

	while (!q->broken && ret > 0)
		ret = fill(q);
	return q->broken ? report_broken(q, err, errlen) : 0;
}

const char *qmp_version(const struct qmp *q)
{
	return q->version;
}

/* The greeting: {"QMP": {"version": {"qemu": {...}, "package": ""}, "capabilities": [...]}}. */
static int read_greeting(struct qmp *q, uint64_t deadline)
{
	const json_t *body;
	const json_t *caps;
	json_t *cap;
	size_t i;
	int major;
	int minor;
	int micro;
	const char *package = "";
	int ret = 0;

	while (!ret && !q->greeting)
		ret = read_more(q, deadline);
	if (ret)
		return ret;
	body = json_object_get(q->greeting, "QMP");
	if (json_unpack((json_t *)body, "{s:{s:{s:i, s:i, s:i}, s?s}}", "version", "qemu", "major",
	                &major, "minor", &minor, "micro", &micro, "package", &package) < 0)
		return break_off(q, -EPROTO, "a greeting without QEMU's version");
	snprintf(q->version, sizeof(q->version), *package ? "%d.%d.%d (%s)" : "%d.%d.%d%s", major,
	         minor, micro, package);
	caps = json_object_get(body, "capabilities");
	json_array_foreach(caps, i, cap)
	{
		if (json_is_string(cap) && strcmp(json_string_value(cap), "oob") == 0)
			q->oob = true;
	}
	return 0;
}

static int negotiate(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen)
{
	int ret = read_greeting(q, deadline_after(timeout_ms));

	if (q->broken)
		return report_broken(q, err, errlen);
	if (ret)
		return words(ret, err, errlen, "QMP: no greeting within %llu ms",
		             (unsigned long long)timeout_ms);
	return qmp_execute(q, "qmp_capabilities",
	                   q->oob ? json_pack("{s:[s]}", "enable", "oob") : NULL, timeout_ms, NULL,
	                   err, errlen);
}

int qmp_open(int fd, uint64_t timeout_ms, struct qmp **ret_q, char *err, size_t errlen)
{
	struct qmp *q = g_new0(struct qmp, 1);
	int ret;

	q->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (q->fd < 0) {
		ret = -errno;
		g_free(q);
		return words(ret, err, errlen, "QMP: cannot use the socket: %s", strerror(-ret));
	}
	q->in = g_byte_array_new();
	g_queue_init(&q->events);
	ret = negotiate(q, timeout_ms, err, errlen);
	if (ret) {
		qmp_free(q);
		return ret;
	}
	close(fd);
	*ret_q = q;
	return 0;
}

int qmp_connect(const char *path, uint64_t timeout_ms, struct qmp **ret_q, char *err, size_t errlen)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd;
	int ret;

	if (strlen(path) >= sizeof(addr.sun_path))
		return words(-ENAMETOOLONG, err, errlen,
		             "QMP: socket path %s is longer than %zu bytes; use a shorter one",
		             path, sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return words(-errno, err, errlen, "QMP: socket: %s", strerror(errno));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		ret = words(-errno, err, errlen, "QMP: connect to %s: %s", path, strerror(errno));
		close(fd);
		return ret;
	}
	ret = qmp_open(fd, timeout_ms, ret_q, err, errlen);
	if (ret)
		close(fd);
	return ret;
}

void qmp_free(struct qmp *q)
{
	if (!q)
		return;
	if (q->fd >= 0)
		close(q->fd);
	if (q->in)
		g_byte_array_unref(q->in);
	g_queue_clear_full(&q->events, (GDestroyNotify)json_decref);
	json_decref(q->reply);
	json_decref(q->greeting);
	g_free(q);
}
