/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the subcommands share: options, finding the daemon, calling it. */
#include "colo-proxy/cmd/cmd.h"
#include "colo-proxy/config/config.h"
#include "colo-proxy/control/control.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cmd_usage_error(const struct command *command, const char *format, ...)
{
	va_list args;

	fprintf(stderr, "colo-proxy %s: ", command->name);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\nTry 'colo-proxy %s --help'.\n", command->name);
	return CMD_USAGE;
}

static void add_target(GOptionContext *context, struct cmd_target *target)
{
	const GOptionEntry entries[] = {
	        {"socket", 's', 0, G_OPTION_ARG_FILENAME, &target->path,
	         "The daemon's control socket", "PATH"},
	        {"json", 0, 0, G_OPTION_ARG_NONE, &target->json, "Print JSON", NULL},
	        {NULL, 0, 0, 0, NULL, NULL, NULL},
	};

	g_option_context_add_main_entries(context, entries, NULL);
}

int cmd_parse(const struct command *command, const GOptionEntry *entries, const char *more,
              int *argc, char ***argv, int max_words, struct cmd_target *target)
{
	GOptionContext *context = g_option_context_new(command->arguments);
	char *program = g_strdup_printf("colo-proxy %s", command->name);
	GError *error = NULL;
	int ret = CMD_OK;

	g_set_prgname(program);
	g_free(program);
	g_option_context_set_summary(context, command->summary);
	g_option_context_set_description(context, more);
	if (entries)
		g_option_context_add_main_entries(context, entries, NULL);
	if (target)
		add_target(context, target);
	if (!g_option_context_parse(context, argc, argv, &error)) {
		ret = cmd_usage_error(command, "%s", error->message);
		g_error_free(error);
	} else if (*argc - 1 > max_words) {
		ret = cmd_usage_error(command, "'%s' is one word too many", (*argv)[1 + max_words]);
	} else if (target) {
		target->name = *argc > 1 ? (*argv)[1] : NULL;
	}
	g_option_context_free(context);
	return ret;
}

void cmd_target_clear(struct cmd_target *target)
{
	g_free(target->path);
	g_free(target->socket);
}

const char *cmd_run_dir(void)
{
	const char *dir = getenv("COLO_PROXY_RUN_DIR");

	return dir && *dir ? dir : CONFIG_RUN_DIR;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

char **cmd_sockets(void)
{
	GPtrArray *paths = g_ptr_array_new();
	GDir *dir = g_dir_open(cmd_run_dir(), 0, NULL);
	const char *name;

	while (dir && (name = g_dir_read_name(dir)))
		if (g_str_has_suffix(name, ".sock"))
			g_ptr_array_add(paths, g_build_filename(cmd_run_dir(), name, NULL));
	if (dir)
		g_dir_close(dir);
	g_ptr_array_sort(paths, by_name);
	g_ptr_array_add(paths, NULL);
	return (char **)g_ptr_array_free(paths, FALSE);
}

/* Whether somebody listens there: a crashed daemon leaves its socket file behind. */
static bool answers(const char *path)
{
	struct control_client *client;
	char err[256];
	int ret = control_client_open(path, &client, err, sizeof(err));

	if (ret == 0)
		control_client_close(client);
	return ret == 0 || ret == -EACCES;
}

/* The only daemon that answers. */
static int find_only(const struct command *command, char **ret_socket)
{
	char **paths = cmd_sockets();
	GString *names = g_string_new(NULL);
	char *only = NULL;
	unsigned n = 0;
	int ret = CMD_OK;

	for (char **path = paths; *path; path++) {
		char *base;

		if (!answers(*path))
			continue;
		base = g_path_get_basename(*path);
		g_string_append_printf(names, " %.*s", (int)(strlen(base) - strlen(".sock")), base);
		g_free(base);
		only = *path;
		n++;
	}
	if (n == 1) {
		*ret_socket = g_strdup(only);
	} else if (n == 0) {
		fprintf(stderr, "colo-proxy %s: no daemon runs on this host (looked in %s)\n",
		        command->name, cmd_run_dir());
		ret = CMD_FAILED;
	} else {
		ret = cmd_usage_error(command, "several daemons run; give a NAME:%s", names->str);
	}
	g_string_free(names, TRUE);
	g_strfreev(paths);
	return ret;
}

int cmd_find_socket(const struct command *command, struct cmd_target *target)
{
	const char *name = target->name;

	if (target->path && name)
		return cmd_usage_error(command, "NAME and --socket exclude each other");
	if (target->path) {
		target->socket = g_strdup(target->path);
		return CMD_OK;
	}
	if (!name)
		return find_only(command, &target->socket);
	if (!config_name_valid(name))
		return cmd_usage_error(command, "'%s' is not a VM's name", name);
	target->socket = g_strdup_printf("%s/%s.sock", cmd_run_dir(), name);
	return CMD_OK;
}

int cmd_call(const char *socket, const char *name, json_t *args, int timeout_ms,
             json_t **ret_result)
{
	char err[512];

	if (control_call(socket, name, args, timeout_ms, ret_result, err, sizeof(err)) == 0)
		return CMD_OK;
	fprintf(stderr, "colo-proxy: %s\n", err);
	return CMD_FAILED;
}

int cmd_ask(const struct command *command, struct cmd_target *target, const char *name,
            json_t *args, int timeout_ms, json_t **ret_result)
{
	int ret = cmd_find_socket(command, target);
	json_t *result = NULL;

	if (ret == CMD_OK)
		ret = cmd_call(target->socket, name, args, timeout_ms, &result);
	json_decref(args);
	if (ret == CMD_OK && target->json) {
		cmd_print_json(result);
		json_decref(result);
	} else if (ret == CMD_OK) {
		*ret_result = result;
	}
	return ret;
}

void cmd_print_json(const json_t *json)
{
	json_dumpf(json, stdout, JSON_INDENT(2));
	putchar('\n');
	fflush(stdout);
}
