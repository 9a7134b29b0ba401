/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket's server, on a GLib main context.
 *
 * Each client is in one of three states: reading a request; having one answered (nothing is read
 * meanwhile, so requests of one client never overlap); sending what is queued (nothing is read
 * either). So a client's memory is bounded by one request and one reply, and a client that does
 * not read its replies stops only itself. Events are the exception: they come without being asked
 * for, so a subscriber has a limit of its own, at which it is disconnected.
 *
 * A request token outlives its client when the client goes first, and both outlive the server:
 * whoever goes first clears the other's pointer.
 */
#include "colo-proxy/control/control.h"

#include <errno.h>
#include <glib-unix.h>
#include <glib.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define READ_STEP     4096u
#define LISTEN_LENGTH 16
#define TICK_S        5

struct client {
	struct control_server *server;
	struct client *next;
	int fd;
	GSource *watch; /* reading or writing, whichever we wait for; NULL while a request is out */
	GIOCondition waits_for;
	GString *in;
	GString *out;
	size_t sent; /* of out */
	gint64 active_us;
	bool admin;
	bool subscribed;
	bool closing;  /* close once out is sent */
	bool ended;    /* the peer will send no more */
	bool stepping; /* inside client_step(): a nested call leaves the rest to the outer one */
	struct control_request *request;
};

struct control_request {
	struct client *client; /* NULL: it has gone */
	json_t *id;            /* may be NULL */
};

struct control_server {
	int fd;
	char *path;
	ino_t inode; /* of the socket file, to remove no other's */
	GMainContext *context;
	GSource *watch;
	GSource *idle_timer;
	control_handler *handler;
	void *ctx;
	gid_t admin_gid;
	struct client *clients;
	unsigned n_clients;
};

static void client_step(struct client *client);

static void clear_source(GSource **source)
{
	if (!*source)
		return;
	g_source_destroy(*source);
	g_source_unref(*source);
	*source = NULL;
}

static void client_free(struct client *client)
{
	struct control_server *server = client->server;

	for (struct client **at = &server->clients; *at; at = &(*at)->next) {
		if (*at == client) {
			*at = client->next;
			server->n_clients--;
			break;
		}
	}
	if (client->request)
		client->request->client = NULL;
	clear_source(&client->watch);
	close(client->fd);
	g_string_free(client->in, TRUE);
	g_string_free(client->out, TRUE);
	g_free(client);
}

/* Queues one JSON line. False when memory is out. */
static bool queue_json(struct client *client, json_t *json)
{
	char *line = json ? json_dumps(json, JSON_COMPACT) : NULL;

	if (!line)
		return false;
	g_string_append(client->out, line);
	g_string_append_c(client->out, '\n');
	free(line);
	return true;
}

static void queue_error(struct client *client, json_t *id, const char *text)
{
	json_t *reply = json_pack("{s:b, s:s, s:O*}", "ok", 0, "error", text, "id", id);

	if (!reply) /* not UTF-8 */
		reply = json_pack("{s:b, s:s, s:O*}", "ok", 0, "error", "failed", "id", id);
	if (!queue_json(client, reply))
		client->closing = true;
	json_decref(reply);
}

static void queue_result(struct client *client, json_t *id, json_t *result)
{
	size_t before = client->out->len;
	json_t *reply = json_pack("{s:b, s:O, s:O*}", "ok", 1, "result", result, "id", id);

	if (!queue_json(client, reply)) {
		client->closing = true;
	} else if (client->out->len - before > CONTROL_REPLY_MAX) {
		g_string_truncate(client->out, before);
		queue_error(client, id, "the answer is larger than a reply may be");
	}
	json_decref(reply);
}

static void request_finish(struct control_request *request)
{
	struct client *client = request->client;

	if (client) {
		client->request = NULL;
		client->active_us = g_get_monotonic_time();
		client_step(client);
	}
	json_decref(request->id);
	g_free(request);
}

void control_reply(struct control_request *request, json_t *result)
{
	if (!result)
		result = json_null();
	if (request->client)
		queue_result(request->client, request->id, result);
	json_decref(result);
	request_finish(request);
}

void control_fail(struct control_request *request, const char *format, ...)
{
	if (request->client) {
		va_list args;
		char *text;

		va_start(args, format);
		text = g_strdup_vprintf(format, args);
		va_end(args);
		queue_error(request->client, request->id, text);
		g_free(text);
	}
	request_finish(request);
}

/* Subscribes; the reply comes before the first event. */
static void subscribe(struct client *client, json_t *id)
{
	json_t *null = json_null();

	queue_result(client, id, null);
	client->subscribed = true;
}

static void handle_line(struct client *client, const char *line, size_t len)
{
	struct control_server *server = client->server;
	struct control_request *request;
	json_t *object;
	json_t *args;
	json_t *id;
	json_t *none = NULL;
	const char *command;
	char err[256];

	if (control_parse_request(line, len, &object, &command, &args, &id, err, sizeof(err)) < 0) {
		queue_error(client, NULL, err);
		return;
	}
	if (!client->admin && !control_read_only(command)) {
		queue_error(client, id,
		            "permission denied; run as root or as a member of the "
		            "daemon's admin-group");
	} else if (!strcmp(command, "events")) {
		subscribe(client, id);
	} else {
		request = g_new0(struct control_request, 1);
		request->client = client;
		request->id = json_incref(id);
		client->request = request;
		if (!args)
			args = none = json_object();
		server->handler(server->ctx, request, command, args);
		json_decref(none);
	}
	json_decref(object);
}

/*
 * Handles the next complete request, if there is one and none is out. The line is taken out of the
 * buffer first: the handler may answer at once, and the answer steps the client again.
 */
static bool handle_next(struct client *client)
{
	char *newline = memchr(client->in->str, '\n', client->in->len);
	size_t len = newline ? (size_t)(newline - client->in->str) : client->in->len;
	char *line;

	if (!newline) {
		if (len <= CONTROL_REQUEST_MAX)
			return false;
		queue_error(client, NULL, "the request is too long");
		client->closing = true;
		return false;
	}
	line = g_strndup(client->in->str, len);
	g_string_erase(client->in, 0, (gssize)len + 1);
	client->active_us = g_get_monotonic_time();
	if (len > CONTROL_REQUEST_MAX) {
		queue_error(client, NULL, "the request is too long");
		client->closing = true;
	} else {
		handle_line(client, line, len);
	}
	g_free(line);
	return true;
}

/* Sends what can be sent. False when the connection is gone. */
static bool flush(struct client *client)
{
	while (client->sent < client->out->len) {
		ssize_t n = send(client->fd, client->out->str + client->sent,
		                 client->out->len - client->sent, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			g_string_erase(client->out, 0, (gssize)client->sent);
			client->sent = 0;
			return true;
		}
		if (n < 0)
			return false;
		client->sent += (size_t)n;
		client->active_us = g_get_monotonic_time();
	}
	g_string_truncate(client->out, 0);
	client->sent = 0;
	return true;
}

/* Reads some. False at an error; the end of input is noted in `ended`. */
static bool read_some(struct client *client)
{
	char buf[READ_STEP];
	ssize_t n = recv(client->fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n > 0) {
		g_string_append_len(client->in, buf, n);
		client->active_us = g_get_monotonic_time();
	} else if (n == 0) {
		client->ended = true;
	}
	return n >= 0 || errno == EAGAIN || errno == EINTR;
}

static gboolean client_ready(int fd, GIOCondition condition, void *data)
{
	struct client *client = data;

	if (client->waits_for == G_IO_IN && !read_some(client)) {
		client_free(client);
		return G_SOURCE_REMOVE;
	}
	client_step(client);
	/* The client may be gone, and its source destroyed; or it waits on. Never look at it. */
	return G_SOURCE_CONTINUE;
}

static void client_wait(struct client *client, GIOCondition condition)
{
	if (client->watch && client->waits_for == condition)
		return;
	clear_source(&client->watch);
	client->waits_for = condition;
	if (!condition)
		return;
	client->watch = g_unix_fd_source_new(client->fd, condition);
	g_source_set_callback(client->watch, G_SOURCE_FUNC(client_ready), client, NULL);
	g_source_attach(client->watch, client->server->context);
}

/* One move: true when there is another to make at once; *ret_gone tells of the connection's end. */
static bool client_move(struct client *client, bool *ret_gone)
{
	bool alive = flush(client);
	bool idle = alive && !client->out->len && !client->request;

	*ret_gone = !alive || (idle && client->closing);
	if (*ret_gone)
		return false;
	if (!idle) { /* the answer to a request that is out steps again */
		client_wait(client, client->out->len ? G_IO_OUT : 0);
		return false;
	}
	if (handle_next(client) || client->out->len)
		return true;
	/* What is left in the buffer at the end is half a request: without effect. */
	*ret_gone = client->ended || client->closing;
	if (!*ret_gone)
		client_wait(client, G_IO_IN);
	return false;
}

/* Moves a client on as far as it goes without waiting. May free it. */
static void client_step(struct client *client)
{
	bool gone;

	if (client->stepping)
		return;
	client->stepping = true;
	while (client_move(client, &gone))
		;
	client->stepping = false;
	if (gone)
		client_free(client);
}

void control_server_publish(struct control_server *server, json_t *event)
{
	json_t *object = json_pack("{s:O}", "event", event);

	for (struct client *client = server->clients; client; client = client->next) {
		if (!client->subscribed)
			continue;
		/* Shut down, it ends at its next step; it may be in the middle of one now. */
		if (!queue_json(client, object) ||
		    client->out->len - client->sent > CONTROL_EVENTS_MAX)
			shutdown(client->fd, SHUT_RDWR);
		if (!client->stepping)
			client_wait(client, G_IO_OUT);
	}
	json_decref(object);
}

/* The peer's supplementary groups (socket(7), SO_PEERGROUPS). */
static bool peer_in_group(int fd, gid_t gid)
{
	socklen_t len = 0;
	gid_t *groups;
	bool found = false;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &len) == 0 || errno != ERANGE)
		return false;
	groups = g_malloc(len);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) == 0)
		for (size_t i = 0; i < len / sizeof(*groups); i++)
			found = found || groups[i] == gid;
	g_free(groups);
	return found;
}

static bool peer_is_admin(const struct control_server *server, int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return false;
	if (peer.uid == 0 || peer.uid == geteuid())
		return true;
	return server->admin_gid != (gid_t)-1 &&
	       (peer.gid == server->admin_gid || peer_in_group(fd, server->admin_gid));
}

static void client_new(struct control_server *server, int fd)
{
	static const char full[] = "{\"ok\":false,\"error\":\"too many connections\"}\n";
	bool admin = peer_is_admin(server, fd);
	struct client *client;

	if (server->n_clients >= (admin ? CONTROL_CLIENTS : CONTROL_CLIENTS / 2)) {
		/* A courtesy: whether it arrives does not matter. */
		(void)!send(fd, full, sizeof(full) - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
		close(fd);
		return;
	}
	client = g_new0(struct client, 1);
	client->server = server;
	client->fd = fd;
	client->admin = admin;
	client->in = g_string_new(NULL);
	client->out = g_string_new(NULL);
	client->active_us = g_get_monotonic_time();
	client->next = server->clients;
	server->clients = client;
	server->n_clients++;
	client_wait(client, G_IO_IN);
}

static gboolean server_ready(int fd, GIOCondition condition, void *data)
{
	struct control_server *server = data;
	int conn = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (conn >= 0) {
		client_new(server, conn);
	} else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
		/* Would be ready again at once: wait for the timer instead. */
		clear_source(&server->watch);
	}
	return G_SOURCE_CONTINUE;
}

static void server_watch(struct control_server *server)
{
	if (server->watch)
		return;
	server->watch = g_unix_fd_source_new(server->fd, G_IO_IN);
	g_source_set_callback(server->watch, G_SOURCE_FUNC(server_ready), server, NULL);
	g_source_attach(server->watch, server->context);
}

static gboolean server_tick(void *data)
{
	struct control_server *server = data;
	gint64 oldest = g_get_monotonic_time() - (gint64)CONTROL_IDLE_S * G_USEC_PER_SEC;
	struct client *next;

	for (struct client *client = server->clients; client; client = next) {
		next = client->next;
		if (!client->subscribed && !client->request && client->active_us < oldest)
			client_free(client);
	}
	server_watch(server);
	return G_SOURCE_CONTINUE;
}

/* Removes a socket file that nobody listens on. 0, -EADDRINUSE, -EEXIST or -errno. */
static int remove_stale(const struct sockaddr_un *addr, char *err, size_t errlen)
{
	struct stat st;
	int error = 0;
	int fd;

	if (lstat(addr->sun_path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode)) {
		snprintf(err, errlen, "%s: exists and is not a socket; remove it, or set another",
		         addr->sun_path);
		return -EEXIST;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
		error = errno;
	if (fd >= 0)
		close(fd);
	if (error == ECONNREFUSED) {
		unlink(addr->sun_path);
		return 0;
	}
	snprintf(err, errlen, "%s: a daemon already listens there; stop it first", addr->sun_path);
	return -EADDRINUSE;
}

/*
 * A socket that listens at the path. Owner and mode are set between bind() and listen(), when
 * nobody can connect yet.
 */
static int listen_at(const char *path, gid_t gid, ino_t *ret_inode, char *err, size_t errlen)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	char *dir = g_path_get_dirname(path);
	struct stat st;
	int ret;
	int fd;

	g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
	ret = g_mkdir_with_parents(dir, 0755) < 0 ? -errno : 0;
	if (ret < 0)
		snprintf(err, errlen, "%s: cannot be created: %s", dir, g_strerror(-ret));
	g_free(dir);
	if (ret == 0)
		ret = remove_stale(&addr, err, errlen);
	if (ret < 0)
		return ret;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0) {
		if (chmod(path, gid == (gid_t)-1 ? 0600 : 0660) == 0 &&
		    (gid == (gid_t)-1 || chown(path, (uid_t)-1, gid) == 0) &&
		    listen(fd, LISTEN_LENGTH) == 0 && stat(path, &st) == 0) {
			*ret_inode = st.st_ino;
			return fd;
		}
		ret = -errno;
		unlink(path);
	} else {
		ret = -errno;
	}
	if (fd >= 0)
		close(fd);
	snprintf(err, errlen, "%s: cannot listen: %s", path, g_strerror(-ret));
	return ret;
}

int control_server_new(const char *path, gid_t admin_gid, control_handler *handler, void *ctx,
                       struct control_server **ret_server, char *err, size_t errlen)
{
	struct control_server *server;
	ino_t inode = 0;
	int fd;

	if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path)) {
		snprintf(err, errlen, "%s: longer than a unix socket's path may be", path);
		return -ENAMETOOLONG;
	}
	fd = listen_at(path, admin_gid, &inode, err, errlen);
	if (fd < 0)
		return fd;
	server = g_new0(struct control_server, 1);
	server->fd = fd;
	server->inode = inode;
	server->path = g_strdup(path);
	server->context = g_main_context_ref_thread_default();
	server->handler = handler;
	server->ctx = ctx;
	server->admin_gid = admin_gid;
	server_watch(server);
	server->idle_timer = g_timeout_source_new_seconds(TICK_S);
	g_source_set_callback(server->idle_timer, server_tick, server, NULL);
	g_source_attach(server->idle_timer, server->context);
	*ret_server = server;
	return 0;
}

void control_server_free(struct control_server *server)
{
	struct client *client;
	struct stat st;

	if (!server)
		return;
	while ((client = server->clients)) {
		server->clients = client->next;
		flush(client);
		client_free(client);
	}
	clear_source(&server->watch);
	clear_source(&server->idle_timer);
	close(server->fd);
	if (lstat(server->path, &st) == 0 && st.st_ino == server->inode)
		unlink(server->path);
	g_main_context_unref(server->context);
	g_free(server->path);
	g_free(server);
}
