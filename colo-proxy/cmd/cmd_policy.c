/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/cmd/cmd.h"
#include "colo-proxy/control/report.h"

#include <stdio.h>

#define TIMEOUT_MS 5000
#define NOT_GIVEN  G_MININT

static void add_number(json_t *args, const char *name, gint value)
{
	if (value != NOT_GIVEN)
		json_object_set_new(args, name, json_integer(value));
}

/* The daemon answers with the policy alone; status's reader knows it as a part. */
static int print_result(json_t *result)
{
	json_t *wrapped = json_pack("{s:O}", "policy", result);
	struct status_snapshot status;
	int ret = CMD_OK;

	if (wrapped && status_from_json(wrapped, &status) == 0) {
		policy_print(stdout, &status.policy);
	} else {
		fprintf(stderr, "colo-proxy: the daemon's policy cannot be read; are the versions "
		                "the same?\n");
		ret = CMD_FAILED;
	}
	json_decref(wrapped);
	return ret;
}

int cmd_policy(const struct command *command, int argc, char **argv)
{
	struct cmd_target target = {0};
	char *policy = NULL;
	gint latency = NOT_GIVEN, rest = NOT_GIVEN, max_pause = NOT_GIVEN;
	json_t *result = NULL;
	const GOptionEntry entries[] = {
	        {"set", 0, 0, G_OPTION_ARG_STRING, &policy,
	         "compare, epoch, on-output, continuous or auto", "POLICY"},
	        {"latency-target", 0, 0, G_OPTION_ARG_INT, &latency,
	         "epoch: how long output may wait for its commit", "MS"},
	        {"rest", 0, 0, G_OPTION_ARG_INT, &rest,
	         "continuous: between a commit and the next checkpoint", "MS"},
	        {"max-pause", 0, 0, G_OPTION_ARG_INT, &max_pause,
	         "The share of time that the VM may stand still", "PERCENT"},
	        {NULL, 0, 0, 0, NULL, NULL, NULL},
	};
	int ret = cmd_parse(
	        command, entries,
	        "Without --set and the others it shows what is in force, and why. A change is "
	        "that\n"
	        "daemon's until it ends; the configuration files of both hosts say what a survivor "
	        "begins with.",
	        &argc, &argv, 1, &target);

	if (ret == CMD_OK) {
		json_t *args = json_object();

		if (policy)
			json_object_set_new(args, "policy", json_string(policy));
		add_number(args, "latency_target_ms", latency);
		add_number(args, "rest_ms", rest);
		add_number(args, "max_pause_percent", max_pause);
		ret = cmd_ask(command, &target, "policy", args, TIMEOUT_MS, &result);
	}
	if (result)
		ret = print_result(result);
	json_decref(result);
	g_free(policy);
	cmd_target_clear(&target);
	return ret;
}
