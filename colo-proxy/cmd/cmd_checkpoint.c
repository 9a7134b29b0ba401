/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/cmd/cmd.h"

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
	struct cmd_target target = {0};
	json_t *result = NULL;
	int ret = cmd_parse(command, NULL, "On the primary of a protected VM.", &argc, &argv, 1,
	                    &target);

	if (ret == CMD_OK)
		ret = cmd_ask(command, &target, "checkpoint", NULL, TIMEOUT_MS, &result);
	if (result)
		print_result(result);
	json_decref(result);
	cmd_target_clear(&target);
	return ret;
}
