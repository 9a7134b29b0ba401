/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CMD_H
#define COLO_CMD_H

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>

/* The subcommands. Each is a function in a cmd_*.c of its own. */

/* Exit statuses, the same for every subcommand. */
enum cmd_exit {
	CMD_OK = 0,
	CMD_FAILED = 1, /* what was asked for did not happen, or a check failed */
	CMD_USAGE = 2,  /* the command line is wrong */
};

struct command {
	const char *name;
	const char *arguments; /* for the usage line */
	const char *summary;   /* for the list of commands, one line */
	int (*run)(const struct command *command, int argc, char **argv);
};

int cmd_start(const struct command *command, int argc, char **argv);
int cmd_stop(const struct command *command, int argc, char **argv);
int cmd_status(const struct command *command, int argc, char **argv);
int cmd_stats(const struct command *command, int argc, char **argv);
int cmd_divergences(const struct command *command, int argc, char **argv);
int cmd_checkpoint(const struct command *command, int argc, char **argv);
int cmd_policy(const struct command *command, int argc, char **argv);
int cmd_failover(const struct command *command, int argc, char **argv);
int cmd_check(const struct command *command, int argc, char **argv);
int cmd_version(const struct command *command, int argc, char **argv);

/* The short status of every daemon of this host; CMD_OK and *ret_any false when there is none. */
int cmd_status_all(bool *ret_any);

/* The daemon that a command talks to, and how it answers. All zero at first; cmd_target_clear(). */
struct cmd_target {
	char *path;       /* --socket */
	const char *name; /* the word behind the command; NULL: none was given */
	gboolean json;    /* --json */
	char *socket;     /* what cmd_find_socket() has found */
};
void cmd_target_clear(struct cmd_target *target);

/*
 * Parses options: `--help` prints to standard output and exits with 0; a wrong option is reported
 * to standard error. At most `max_words` other words may be left, and stay in argv[1...]. `more`
 * is a paragraph under the options, or NULL. With a target, --socket and --json are options beside
 * the entries (NULL: there are no others), and the word is its name. CMD_OK, with *argc what is
 * left, or CMD_USAGE.
 */
int cmd_parse(const struct command *command, const GOptionEntry *entries, const char *more,
              int *argc, char ***argv, int max_words, struct cmd_target *target);

/* Says what is wrong with the command line and where help is. Returns CMD_USAGE. */
int cmd_usage_error(const struct command *command, const char *format, ...)
        __attribute__((format(printf, 2, 3)));

/* What running daemons' sockets are looked for in: COLO_PROXY_RUN_DIR, or /run/colo-proxy. */
const char *cmd_run_dir(void);

/* The paths of all sockets there, sorted, NULL-terminated. g_strfreev(). */
char **cmd_sockets(void);

/*
 * Finds the socket to talk to: the path if given, else that of the VM of that name, else the only
 * one of a daemon that answers. CMD_OK, or CMD_FAILED or CMD_USAGE when it has been reported.
 */
int cmd_find_socket(const struct command *command, struct cmd_target *target);

/* Calls the daemon and reports failure. CMD_OK and the result (json_decref()), or CMD_FAILED. */
int cmd_call(const char *socket, const char *name, json_t *args, int timeout_ms,
             json_t **ret_result);

/*
 * Finds the daemon and calls it. `args` is given away. CMD_OK and the result (json_decref()), or,
 * when it has been printed as JSON, none; otherwise CMD_FAILED or CMD_USAGE.
 */
int cmd_ask(const struct command *command, struct cmd_target *target, const char *name,
            json_t *args, int timeout_ms, json_t **ret_result);

/* Prints the treatment of every protocol (core/protocols.h). */
void cmd_print_protocols(bool json);

/* Prints JSON for people and programs: indented, sorted as it was made. */
void cmd_print_json(const json_t *json);

#endif
