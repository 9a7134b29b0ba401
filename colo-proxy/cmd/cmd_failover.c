/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/cmd/cmd.h"

#include <stdio.h>

/* The fence command has its own timeout, at most ten minutes; this is longer. */
#define TIMEOUT_MS 660000

int cmd_failover(const struct command *command, int argc, char **argv)
{
	struct cmd_target target = {0};
	gboolean force = FALSE;
	json_t *result = NULL;
	const GOptionEntry entries[] = {
	        {"force", 0, 0, G_OPTION_ARG_NONE, &force,
	         "You know that the other host is off: take over without a fence", NULL},
	        {NULL, 0, 0, 0, NULL, NULL, NULL},
	};
	int ret = cmd_parse(
	        command, entries,
	        "With the peer alive this is a planned switch-over: the VM moves to the secondary, "
	        "and\nnothing is lost. With the peer silent, the secondary fences it first, as "
	        "configured.\nWith --force it does not: if the other host is up after all, two "
	        "machines speak for\none VM.",
	        &argc, &argv, 1, &target);

	if (ret == CMD_OK)
		ret = cmd_ask(command, &target, "failover", json_pack("{s:b}", "force", force),
		              TIMEOUT_MS, &result);
	if (result)
		printf("%s\n", json_is_string(json_object_get(result, "message"))
		                       ? json_string_value(json_object_get(result, "message"))
		                       : "done");
	json_decref(result);
	cmd_target_clear(&target);
	return ret;
}
