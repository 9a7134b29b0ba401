/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/cmd.h"

#include <stdio.h>

/* The fence command has its own timeout, at most ten minutes; this is longer. */
#define TIMEOUT_MS 660000

int cmd_failover(const struct command *command, int argc, char **argv)
{
	char *path = NULL;
	char *socket = NULL;
	gboolean json = FALSE;
	gboolean force = FALSE;
	json_t *args = NULL;
	json_t *result = NULL;
	const GOptionEntry entries[] = {
	        {"socket", 's', 0, G_OPTION_ARG_FILENAME, &path, "The daemon's control socket",
	         "PATH"},
	        {"force", 0, 0, G_OPTION_ARG_NONE, &force,
	         "You know that the other host is off: take over without a fence", NULL},
	        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "Print JSON", NULL},
	        {NULL, 0, 0, 0, NULL, NULL, NULL},
	};
	int ret = cmd_parse(
	        command, entries,
	        "With the peer alive this is a planned switch-over: the VM moves to the secondary, "
	        "and\nnothing is lost. With the peer silent, the secondary fences it first, as "
	        "configured.\nWith --force it does not: if the other host is up after all, two "
	        "machines speak for\none VM.",
	        &argc, &argv, 1);

	if (ret == CMD_OK)
		ret = cmd_find_socket(command, path, argc > 1 ? argv[1] : NULL, &socket);
	if (ret == CMD_OK) {
		args = json_pack("{s:b}", "force", force);
		ret = cmd_call(socket, "failover", args, TIMEOUT_MS, &result);
	}
	if (ret == CMD_OK && json)
		cmd_print_json(result);
	else if (ret == CMD_OK)
		printf("%s\n", json_is_string(json_object_get(result, "message"))
		                       ? json_string_value(json_object_get(result, "message"))
		                       : "done");
	json_decref(args);
	json_decref(result);
	g_free(path);
	g_free(socket);
	return ret;
}
