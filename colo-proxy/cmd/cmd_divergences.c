/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/cmd/cmd.h"
#include "colo-proxy/control/report_divergence.h"

#include <stdio.h>
#include <string.h>

#define TIMEOUT_MS 10000

static int show(const json_t *result)
{
	if (divergences_print(stdout, result) < 0) {
		fprintf(stderr, "colo-proxy: the daemon's answer cannot be read\n");
		return CMD_FAILED;
	}
	if (!json_array_size(json_object_get(result, "divergences")))
		printf("none; --all shows other causes of checkpoints, too\n");
	return CMD_OK;
}

static int write_capture(const char *path, const json_t *result)
{
	char err[256];
	int n = divergences_pcapng(path, result, err, sizeof(err));

	if (n < 0) {
		fprintf(stderr, "colo-proxy: %s\n", err);
		return CMD_FAILED;
	}
	if (strcmp(path, "-") != 0)
		printf("%d packets of %zu divergences in %s\n", n,
		       json_array_size(json_object_get(result, "divergences")), path);
	return CMD_OK;
}

int cmd_divergences(const struct command *command, int argc, char **argv)
{
	struct cmd_target target = {0};
	char *capture = NULL;
	gboolean all = FALSE;
	gint count = 256;
	json_t *result = NULL;
	const GOptionEntry entries[] = {
	        {"count", 'n', 0, G_OPTION_ARG_INT, &count, "The last N only", "N"},
	        {"all", 'a', 0, G_OPTION_ARG_NONE, &all,
	         "Other causes of checkpoints, too: timer, pressure, command, dirty, what is not "
	         "compared",
	         NULL},
	        {"pcapng", 0, 0, G_OPTION_ARG_FILENAME, &capture,
	         "Write both sides' packets, with comments; - for standard output", "FILE"},
	        {NULL, 0, 0, 0, NULL, NULL, NULL},
	};
	int ret = cmd_parse(
	        command, entries,
	        "On the primary. Shows what the two VMs said where they differed or one was late:\n"
	        "the flow, the offset in its stream, and the bytes of both around the first\n"
	        "difference, which is marked. It is payload: only those who may control the\n"
	        "daemon can see it.\n"
	        "\n"
	        "How many are kept is 'divergences' in [checkpoint]; what the secondary remembers\n"
	        "of its VM's output for this, 'recent-output'.",
	        &argc, &argv, 1, &target);

	if (ret == CMD_OK && (count < 1 || count > 1000000))
		ret = cmd_usage_error(command, "--count %d: from 1 to 1000000", count);
	if (ret == CMD_OK && target.json && capture)
		ret = cmd_usage_error(command, "--json and --pcapng exclude each other");
	if (ret == CMD_OK)
		ret = cmd_ask(command, &target, "divergences",
		              json_pack("{s:i, s:b}", "count", count, "all", all), TIMEOUT_MS,
		              &result);
	if (result)
		ret = capture ? write_capture(capture, result) : show(result);
	json_decref(result);
	g_free(capture);
	cmd_target_clear(&target);
	return ret;
}
