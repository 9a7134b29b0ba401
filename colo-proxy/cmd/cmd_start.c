/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/cmd/cmd.h"
#include "colo-proxy/config/config.h"
#include "colo-proxy/control/log.h"
#include "colo-proxy/daemon.h"

#include <stdio.h>

/* The configuration, or every problem that it has on standard error. */
static struct config *load(const char *path)
{
	GPtrArray *problems = config_problems_new();
	struct config *config = NULL;

	config_load(path, problems, &config);
	for (unsigned i = 0; i < problems->len; i++) {
		char *text = config_problem_text(g_ptr_array_index(problems, i));

		fprintf(stderr, "%s\n", text);
		g_free(text);
	}
	g_ptr_array_unref(problems);
	return config;
}

static int start(const char *path)
{
	struct config *config = load(path);
	int ret;

	if (!config)
		return CMD_FAILED;
	log_init((enum log_level)config->log_level, config->name);
	ret = daemon_run(config);
	config_free(config);
	return ret;
}

int cmd_start(const struct command *command, int argc, char **argv)
{
	char *file = NULL;
	gboolean foreground = TRUE;
	const GOptionEntry entries[] = {
	        {"config", 'c', 0, G_OPTION_ARG_FILENAME, &file,
	         "The configuration file (default: " CONFIG_DIR "/NAME.conf)", "FILE"},
	        {"foreground", 0, 0, G_OPTION_ARG_NONE, &foreground,
	         "Stay in the foreground (always so; for scripts that say it)", NULL},
	        {NULL, 0, 0, 0, NULL, NULL, NULL},
	};
	char *path;
	int ret = cmd_parse(command, entries,
	                    "The daemon starts its QEMU, which ends with it, and runs until "
	                    "'colo-proxy stop',\nSIGTERM or SIGINT. It logs to standard error.",
	                    &argc, &argv, 1, NULL);

	if (ret == CMD_OK && !file == (argc < 2))
		ret = cmd_usage_error(command, "give a NAME or --config FILE, one of them");
	else if (ret == CMD_OK && !file && !config_name_valid(argv[1]))
		ret = cmd_usage_error(command, "'%s' is not a VM's name", argv[1]);
	if (ret == CMD_OK) {
		path = file ? g_strdup(file) : config_path(argv[1]);
		ret = start(path);
		g_free(path);
	}
	g_free(file);
	return ret;
}
