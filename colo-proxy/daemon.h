/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_DAEMON_H
#define COLO_DAEMON_H

struct config;

/*
 * Runs the daemon of one protected VM in this process until it is told to stop. Logs its own
 * errors. Returns the process's exit status: 0 after an orderly stop.
 */
int daemon_run(const struct config *config);

#endif
