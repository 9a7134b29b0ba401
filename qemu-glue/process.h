/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QEMU_GLUE_PROCESS_H
#define QEMU_GLUE_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "qemu-glue/qmp.h"

/*
 * QEMU as an owned child: it dies with the daemon (PR_SET_PDEATHSIG), holds only the descriptors
 * that it was given, and is signalled through its pidfd, so never a stranger that got its pid.
 *
 * The kernel sends the parent-death signal when the *thread* that forked ends: start QEMU only from
 * a thread that lives as long as the daemon.
 */
struct qemu_process;

struct qemu_spawn {
	char *const *argv;    /* NULL-terminated; argv[0] is the program (looked up in PATH) */
	const int *fds;       /* inherited under the same numbers; all others are closed */
	size_t n_fds;         /* each of fds[] must be 3 or more */
	const char *log_path; /* standard output and error are appended here; NULL: /dev/null */
};

/*
 * Makes a listening unix socket at `path` (an old socket file there is replaced), to be inherited
 * by QEMU as its QMP server (qemu_params.qmp_fd): clients can connect before QEMU is ready.
 * Returns the descriptor in *ret_fd (close-on-exec), 0 or a negative errno with words.
 */
int qemu_listen(const char *path, int *ret_fd, char *err, size_t errlen);

/*
 * Starts the program; returns once it has been executed (its failure to do so is this call's
 * failure). The child has its own session, so that a terminal's ^C does not reach it.
 * Network namespace, user and limits are the caller's.
 */
int qemu_process_spawn(const struct qemu_spawn *spawn, struct qemu_process **ret_process, char *err,
                       size_t errlen);
/* Kills it if it still runs, reaps it, frees. NULL is fine. */
void qemu_process_free(struct qemu_process *process);

pid_t qemu_process_pid(const struct qemu_process *process);
/* Becomes readable when the child has ended. Owned by the process object. */
int qemu_process_pidfd(const struct qemu_process *process);
/* Looks (without waiting) whether the child still runs; reaps it if not. */
bool qemu_process_running(struct qemu_process *process);
/* Waits until the child has ended. 0 or -ETIMEDOUT. */
int qemu_process_wait(struct qemu_process *process, uint64_t timeout_ms);
/* SIGKILL, and waits for the end. 0 or a negative errno. */
int qemu_process_kill(struct qemu_process *process);
/* Sends a signal. 0, or -ESRCH if the child has ended. */
int qemu_process_signal(struct qemu_process *process, int signum);

/*
 * What became of the child, in words: "runs (pid 7)", "ended with exit status 1: LAST LINES",
 * "was killed by signal 6 (Aborted): LAST LINES". The lines are the end of the log.
 */
void qemu_process_describe(struct qemu_process *process, char *buf, size_t size);

/*
 * Connects to the child's QMP socket and negotiates. Waits until it can, the child has ended (then
 * -ECHILD and the reason) or the deadline passes. The socket was made with qemu_listen().
 */
int qemu_process_qmp(struct qemu_process *process, const char *path, uint64_t timeout_ms,
                     struct qmp **ret_q, char *err, size_t errlen);

#endif
