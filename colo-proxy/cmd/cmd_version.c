/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/cmd/cmd.h"

#include <stdio.h>

int cmd_version(const struct command *command, int argc, char **argv)
{
	gboolean json = FALSE;
	const GOptionEntry entries[] = {
	        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "Print JSON", NULL},
	        {NULL, 0, 0, 0, NULL, NULL, NULL},
	};
	int ret = cmd_parse(command, entries, NULL, &argc, &argv, 0, NULL);

	if (ret != CMD_OK)
		return ret;
	if (json) {
		json_t *object =
		        json_pack("{s:s, s:s}", "version", COLO_VERSION, "build", COLO_GIT);

		cmd_print_json(object);
		json_decref(object);
	} else {
		printf("colo-proxy %s (%s)\n", COLO_VERSION, COLO_GIT);
	}
	return CMD_OK;
}
