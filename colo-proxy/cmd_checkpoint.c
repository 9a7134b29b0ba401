/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/cmd.h"

#include <inttypes.h>
#include <stdio.h>

#define TIMEOUT_MS 60000

/* With an epoch the checkpoint is committed; without one it has been asked for. */
static void print_result(const json_t *result)
{
	const json_t *epoch = json_object_get(result, "epoch");

	if (!epoch) {
		printf("asked for a checkpoint; 'colo-proxy status' shows what is committed\n");
		return;
	}
	printf("checkpoint %" JSON_INTEGER_FORMAT " committed; pause %.1f ms, commit %.1f ms\n",
	       json_integer_value(epoch),
	       (double)json_integer_value(json_object_get(result, "pause_us")) / 1000,
	       (double)json_integer_value(json_object_get(result, "commit_us")) / 1000);
}

int cmd_checkpoint(const struct command *command, int argc, char **argv)
{
	char *path = NULL;
	char *socket = NULL;
	gboolean json = FALSE;
	json_t *result = NULL;
	const GOptionEntry entries[] = {
	        {"socket", 's', 0, G_OPTION_ARG_FILENAME, &path, "The daemon's control socket",
	         "PATH"},
	        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "Print JSON", NULL},
	        {NULL, 0, 0, 0, NULL, NULL, NULL},
	};
	int ret = cmd_parse(command, entries, "On the primary of a protected VM.", &argc, &argv, 1);

	if (ret == CMD_OK)
		ret = cmd_find_socket(command, path, argc > 1 ? argv[1] : NULL, &socket);
	if (ret == CMD_OK)
		ret = cmd_call(socket, "checkpoint", NULL, TIMEOUT_MS, &result);
	if (ret == CMD_OK && json)
		cmd_print_json(result);
	else if (ret == CMD_OK)
		print_result(result);
	json_decref(result);
	g_free(path);
	g_free(socket);
	return ret;
}
