/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/cmd/cmd.h"
#include "colo-proxy/control/control.h"
#include "colo-proxy/control/report.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define TIMEOUT_MS 5000

/* Shows one result. CMD_FAILED when it is not a status. */
static int show(const json_t *result, bool json)
{
	struct status_snapshot status;

	if (json) {
		cmd_print_json(result);
		return CMD_OK;
	}
	if (status_from_json(result, &status) < 0) {
		fprintf(stderr, "colo-proxy: the daemon's status cannot be read; are the versions "
		                "the same?\n");
		return CMD_FAILED;
	}
	status_print(stdout, &status);
	fflush(stdout);
	return CMD_OK;
}

static int show_once(const char *socket, bool json)
{
	json_t *result = NULL;
	int ret = cmd_call(socket, "status", NULL, TIMEOUT_MS, &result);

	if (ret == CMD_OK)
		ret = show(result, json);
	json_decref(result);
	return ret;
}

/* Now, and again at each change of state, until the daemon ends. */
static int watch(const char *socket, bool json)
{
	struct control_client *client = NULL;
	json_t *result = NULL;
	char err[512];
	int ret = control_client_open(socket, &client, err, sizeof(err));

	if (ret == 0)
		ret = control_client_call(client, "events", NULL, TIMEOUT_MS, &result, err,
		                          sizeof(err));
	json_decref(result);
	while (ret == 0) {
		json_t *event = NULL;

		if (show_once(socket, json) != CMD_OK)
			break;
		do
			ret = control_client_event(client, 600000, &event, err, sizeof(err));
		while (ret == -ETIMEDOUT);
		json_decref(event);
	}
	control_client_close(client);
	if (ret < 0)
		fprintf(stderr, "colo-proxy: %s\n", err);
	return CMD_FAILED;
}

int cmd_status_all(bool *ret_any)
{
	char **paths = cmd_sockets();
	bool header = true;
	int ret = CMD_OK;

	for (char **path = paths; *path; path++) {
		struct status_snapshot status;
		json_t *result = NULL;
		char err[512];
		int call =
		        control_call(*path, "status", NULL, TIMEOUT_MS, &result, err, sizeof(err));

		if (call == -ENOENT || call == -ECONNREFUSED)
			continue; /* left behind by a daemon that is gone */
		*ret_any = true;
		if (call == 0 && status_from_json(result, &status) == 0) {
			status_print_row(stdout, &status, header);
			header = false;
		} else {
			fprintf(stderr, "colo-proxy: %s: %s\n", *path,
			        call < 0 ? err : "the status cannot be read");
			ret = CMD_FAILED;
		}
		json_decref(result);
	}
	g_strfreev(paths);
	return ret;
}

int cmd_status(const struct command *command, int argc, char **argv)
{
	struct cmd_target target = {0};
	gboolean watching = FALSE;
	const GOptionEntry entries[] = {
	        {"watch", 'w', 0, G_OPTION_ARG_NONE, &watching, "Again at every change of state",
	         NULL},
	        {NULL, 0, 0, 0, NULL, NULL, NULL},
	};
	int ret = cmd_parse(command, entries,
	                    "All VMs of this host in short: 'colo-proxy' without a command.", &argc,
	                    &argv, 1, &target);

	if (ret == CMD_OK)
		ret = cmd_find_socket(command, &target);
	if (ret == CMD_OK)
		ret = watching ? watch(target.socket, target.json)
		               : show_once(target.socket, target.json);
	cmd_target_clear(&target);
	return ret;
}
