/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CONTROL_CONTROL_H
#define COLO_CONTROL_CONTROL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/*
 * The control socket: a unix stream socket, one JSON object a line in each direction.
 *
 *   request  {"command": "stats", "arguments": {...}, "id": ANY}   arguments and id optional
 *   reply    {"ok": true, "result": ..., "id": ANY}
 *            {"ok": false, "error": "what and why", "id": ANY}
 *   event    {"event": ...}             after the command "events", until the client closes
 *
 * Limits: a request line is at most CONTROL_REQUEST_MAX bytes and CONTROL_DEPTH_MAX levels deep, a
 * reply at most CONTROL_REPLY_MAX; CONTROL_CLIENTS clients, of which the unprivileged
 * may be half; one request of a client at a time (the
 * next is not read before the last one's reply is sent). Nothing is done before a request's line
 * is complete. A client that does not read blocks nobody: its output is bounded, and a subscriber
 * that falls CONTROL_EVENTS_MAX bytes behind is disconnected. A connection on which nothing
 * happens for CONTROL_IDLE_S seconds is closed, subscribers apart.
 *
 * Rights: the peer's credentials (SO_PEERCRED, SO_PEERGROUPS) decide. Root, the daemon's own user
 * and members of the admin group may do everything; everybody else whom the socket's mode lets in
 * may only ask `status`, `stats`, `version` and `events`.
 */

#define CONTROL_REQUEST_MAX 65536u
#define CONTROL_DEPTH_MAX   8u
#define CONTROL_REPLY_MAX   (4u << 20)
#define CONTROL_EVENTS_MAX  (256u << 10)
#define CONTROL_CLIENTS     32u
#define CONTROL_IDLE_S      60u

struct control_server;
struct control_request;

/*
 * Called on the server's thread for each complete, permitted request. It answers with
 * control_reply() or control_fail(), at once or later, exactly once. `args` is an object (empty
 * when the request had none), borrowed for the call.
 */
typedef void control_handler(void *ctx, struct control_request *request, const char *command,
                             json_t *args);

/*
 * Listens at `path` on the thread's default GMainContext, mode 0600, or 0660 with the group
 * `admin_gid` when that is not (gid_t)-1. A socket file that nobody listens on is replaced.
 * Returns 0, or a negative errno with words in `err`: -EADDRINUSE when a daemon answers there.
 */
int control_server_new(const char *path, gid_t admin_gid, control_handler *handler, void *ctx,
                       struct control_server **ret_server, char *err, size_t errlen);

/*
 * Closes every connection after an attempt to send what is queued, and removes the socket file.
 * Requests not yet answered stay valid and still have to be answered. Not from within the
 * handler. NULL is allowed.
 */
void control_server_free(struct control_server *server);

/* Sends {"event": EVENT} to every subscriber. Keeps no reference to `event` (borrowed). */
void control_server_publish(struct control_server *server, json_t *event);

/*
 * Answer and free a request, on the server's thread. The client may have gone: then nothing is
 * sent. control_reply() takes over `result`; NULL stands for JSON null.
 */
void control_reply(struct control_request *request, json_t *result);
void control_fail(struct control_request *request, const char *format, ...)
        __attribute__((format(printf, 2, 3)));

/* True for commands that need no right but to connect. */
bool control_read_only(const char *command);

/*
 * Reads one request line (without the newline). 0 and the parts, which live as long as
 * *ret_object (json_decref() it): *ret_args may be NULL, *ret_id may be NULL. -EINVAL with words.
 */
int control_parse_request(const char *line, size_t len, json_t **ret_object,
                          const char **ret_command, json_t **ret_args, json_t **ret_id, char *err,
                          size_t errlen);

/*
 * Reads one reply line. 0 and a new reference in *ret_result; -EREMOTEIO when the daemon refused,
 * with its words in `err`; -EPROTO when it is not a reply.
 */
int control_parse_reply(const char *line, size_t len, json_t **ret_result, char *err,
                        size_t errlen);

/* The client's side: blocking, one connection. */
struct control_client;

/* -ENOENT, -ECONNREFUSED: no daemon; -EACCES: not permitted; words in `err`. */
int control_client_open(const char *path, struct control_client **ret_client, char *err,
                        size_t errlen);
void control_client_close(struct control_client *client);

/*
 * Sends a request and waits for its reply, `timeout_ms` in all. `args` is borrowed and may be
 * NULL. Returns as control_parse_reply(), or -ETIMEDOUT, -ECONNRESET, another errno.
 */
int control_client_call(struct control_client *client, const char *command, json_t *args,
                        int timeout_ms, json_t **ret_result, char *err, size_t errlen);

/* Waits until the daemon closes the connection: 0, or -ETIMEDOUT. */
int control_client_wait_close(struct control_client *client, int timeout_ms);

/* After "events": the next event, a new reference. -ETIMEDOUT, -ECONNRESET, -EPROTO. */
int control_client_event(struct control_client *client, int timeout_ms, json_t **ret_event,
                         char *err, size_t errlen);

/* Open, call, close. */
int control_call(const char *path, const char *command, json_t *args, int timeout_ms,
                 json_t **ret_result, char *err, size_t errlen);

#endif
