/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/cmd/cmd.h"
#include "colo-proxy/control/control.h"

#include <stdio.h>

/* Asks, then waits for the daemon's end: it closes the connection last. */
static int stop(const char *socket, int timeout_ms)
{
	struct control_client *client = NULL;
	json_t *result = NULL;
	char err[512];
	int ret = control_client_open(socket, &client, err, sizeof(err));

	if (ret == 0)
		ret = control_client_call(client, "stop", NULL, timeout_ms, &result, err,
		                          sizeof(err));
	if (ret == 0) {
		json_decref(result);
		ret = control_client_wait_close(client, timeout_ms);
		if (ret < 0)
			snprintf(err, sizeof(err), "stop: the daemon has not ended in time");
	}
	control_client_close(client);
	if (ret == 0)
		return CMD_OK;
	fprintf(stderr, "colo-proxy: %s\n", err);
	return CMD_FAILED;
}

int cmd_stop(const struct command *command, int argc, char **argv)
{
	struct cmd_target target = {0};
	int timeout_s = 30;
	const GOptionEntry entries[] = {
	        {"socket", 's', 0, G_OPTION_ARG_FILENAME, &target.path,
	         "The daemon's control socket", "PATH"},
	        {"timeout", 't', 0, G_OPTION_ARG_INT, &timeout_s, "Wait at most so long",
	         "SECONDS"},
	        {NULL, 0, 0, 0, NULL, NULL, NULL},
	};
	int ret = cmd_parse(
	        command, entries,
	        "Stops the VM on this host with the daemon. What the VM has said and "
	        "nobody has\nseen yet is not sent. On the primary, the secondary does not "
	        "take over.",
	        &argc, &argv, 1, NULL);

	target.name = argc > 1 ? argv[1] : NULL;
	if (ret == CMD_OK && (timeout_s < 1 || timeout_s > 3600))
		ret = cmd_usage_error(command, "--timeout is from 1 to 3600");
	if (ret == CMD_OK)
		ret = cmd_find_socket(command, &target);
	if (ret == CMD_OK)
		ret = stop(target.socket, timeout_s * 1000);
	cmd_target_clear(&target);
	return ret;
}
