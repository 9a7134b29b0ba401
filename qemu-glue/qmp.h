/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_QMP_H
#define QEMU_GLUE_QMP_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A client of QEMU's machine protocol (QEMU: docs/interop/qmp-spec.rst) on a unix stream socket.
 *
 * One thread. Calls block, each with its own deadline. Commands carry an id; a reply belongs to the
 * command with its id. A command whose deadline passed stays abandoned: its late reply is thrown
 * away, and out-of-band commands work meanwhile, on this same connection.
 *
 * The peer is not trusted to be sane: one message has at most QMP_MESSAGE_MAX bytes and
 * QMP_DEPTH_MAX levels, a key appears once, and what is no message of the protocol breaks the
 * connection. A broken connection stays broken: every later call returns the first error's code
 * and words.
 *
 * Errors, of all calls:
 *   -ETIMEDOUT   the deadline passed
 *   -ECONNRESET  the peer closed the connection (also -EPIPE when it did so as we wrote)
 *   -EPROTO      what came is not QMP
 *   -EREMOTEIO   QEMU answered with an error; err has its class and text
 *   -EOPNOTSUPP  QEMU does not know the command (error class CommandNotFound)
 */
#define QMP_MESSAGE_MAX (1024 * 1024)
#define QMP_DEPTH_MAX   32
#define QMP_EVENTS_MAX  256

struct qmp;

/*
 * Takes over a connected stream socket, reads the greeting and negotiates capabilities (with "oob"
 * if it is offered). On success the connection owns `fd`; on failure the caller still does.
 */
int qmp_open(int fd, uint64_t timeout_ms, struct qmp **ret_q, char *err, size_t errlen);
/* Connects to the socket at `path` and does the same. Does not wait for the path to appear. */
int qmp_connect(const char *path, uint64_t timeout_ms, struct qmp **ret_q, char *err,
                size_t errlen);
/* Closes. NULL is fine. */
void qmp_free(struct qmp *q);

/*
 * Runs a command and waits for its reply. Steals `args` (an object, or NULL for none), also on
 * failure. `ret_value` (may be NULL) receives a new reference to the reply's "return" member.
 */
int qmp_execute(struct qmp *q, const char *command, json_t *args, uint64_t timeout_ms,
                json_t **ret_value, char *err, size_t errlen);
/*
 * The same, out of band (exec-oob): QEMU runs it at once, also while its main loop hangs. Only
 * commands that QEMU marks allow-oob (yank, for one). -EOPNOTSUPP if QEMU did not offer "oob".
 */
int qmp_execute_oob(struct qmp *q, const char *command, json_t *args, uint64_t timeout_ms,
                    json_t **ret_value, char *err, size_t errlen);

/*
 * Takes the oldest event called `name` (NULL: the oldest of any name) out of the queue, waiting for
 * one if there is none. `ret_event` (may be NULL) receives a new reference to the whole event:
 * {"event", "data" (perhaps), "timestamp"}.
 *
 * The queue keeps the last QMP_EVENTS_MAX events that nobody waited for; before starting what an
 * event will end, drop the old ones.
 */
int qmp_wait_event(struct qmp *q, const char *name, uint64_t timeout_ms, json_t **ret_event,
                   char *err, size_t errlen);
/* Forgets the queued events called `name` (NULL: all). */
void qmp_drop_events(struct qmp *q, const char *name);
/* How many events the full queue has pushed out unseen since the connection was opened. */
uint64_t qmp_events_lost(const struct qmp *q);

/*
 * `fn` is called once for every event as soon as it has been read, whichever call was reading;
 * `data` is borrowed and may be NULL. It must not call back into this connection.
 */
void qmp_on_event(struct qmp *q, void (*fn)(void *ctx, const char *name, const json_t *data),
                  void *ctx);

/* The socket, to watch for input while idle; -1 once the connection broke. */
int qmp_fd(const struct qmp *q);
/* Reads what has arrived without waiting. 0, or the error that broke the connection. */
int qmp_dispatch(struct qmp *q, char *err, size_t errlen);

/* The greeting's version: "11.1.3 (Debian 1:11.1.3+ds-1)". Valid as long as the connection. */
const char *qmp_version(const struct qmp *q);

#endif
