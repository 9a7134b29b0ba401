/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/cmd/cmd.h"
#include "colo-proxy/control/control.h"
#include "colo-proxy/control/report.h"
#include "colo-proxy/control/report_history.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define TIMEOUT_MS   5000
#define HEADER_EVERY 20u

struct view {
	struct control_client *client;
	const char *name; /* "" when only the socket is known */
	bool json;
	bool watching;
	int checkpoints; /* of the last ones, so many */
	bool screen;     /* redraw instead of adding lines */
	unsigned shown;
	struct stats_snapshot before;
};

static void show(struct view *view, const struct stats_snapshot *stats, const json_t *result)
{
	const struct stats_snapshot *before = view->shown ? &view->before : NULL;

	if (view->json && view->watching) { /* one object a line, for programs that follow */
		json_dumpf(result, stdout, JSON_COMPACT);
		putchar('\n');
	} else if (view->json) {
		cmd_print_json(result);
	} else if (view->checkpoints) {
		history_print(stdout, result);
	} else if (!view->watching) {
		stats_print(stdout, view->name, stats);
	} else if (view->screen) {
		stats_print_screen(stdout, view->name, before, stats);
	} else {
		stats_print_line(stdout, before, stats, view->shown % HEADER_EVERY == 0);
	}
	fflush(stdout);
	view->before = *stats;
	view->shown++;
}

static int fetch_and_show(struct view *view)
{
	struct stats_snapshot stats;
	json_t *result = NULL;
	json_t *args = json_pack("{s:i}", "checkpoints", view->checkpoints);
	char err[512];
	int ret = control_client_call(view->client, "stats", args, TIMEOUT_MS, &result, err,
	                              sizeof(err));

	json_decref(args);

	if (ret == 0 && stats_from_json(result, &stats) == 0) {
		show(view, &stats, result);
		json_decref(result);
		return CMD_OK;
	}
	fprintf(stderr, "colo-proxy: %s\n",
	        ret < 0 ? err : "the daemon's figures cannot be read; are the versions the same?");
	json_decref(result);
	return CMD_FAILED;
}

/* Each interval, on the grid of the monotonic clock so that rates do not drift. */
static int watch(struct view *view, int interval_ms)
{
	struct timespec next;
	int ret;

	clock_gettime(CLOCK_MONOTONIC, &next);
	while ((ret = fetch_and_show(view)) == CMD_OK) {
		next.tv_sec += interval_ms / 1000;
		next.tv_nsec += (long)(interval_ms % 1000) * 1000000;
		if (next.tv_nsec >= 1000000000) {
			next.tv_sec++;
			next.tv_nsec -= 1000000000;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
	return ret;
}

static int run(struct view *view, const char *socket, int interval_ms)
{
	char err[512];
	int ret;

	if (control_client_open(socket, &view->client, err, sizeof(err)) < 0) {
		fprintf(stderr, "colo-proxy: %s\n", err);
		return CMD_FAILED;
	}
	view->screen = view->watching && !view->json && isatty(STDOUT_FILENO);
	ret = view->watching ? watch(view, interval_ms) : fetch_and_show(view);
	control_client_close(view->client);
	return ret;
}

int cmd_stats(const struct command *command, int argc, char **argv)
{
	struct cmd_target target = {0};
	gboolean watching = FALSE;
	gint checkpoints = 0;
	int interval_ms = 1000;
	const GOptionEntry entries[] = {
	        {"watch", 'w', 0, G_OPTION_ARG_NONE, &watching,
	         "Again and again: a screen on a terminal, else one line each time, also of JSON",
	         NULL},
	        {"interval", 'i', 0, G_OPTION_ARG_INT, &interval_ms,
	         "With --watch: how often (1000)", "MS"},
	        {"checkpoints", 'c', 0, G_OPTION_ARG_INT, &checkpoints,
	         "The last N checkpoints (256 at most), step by step; on the primary", "N"},
	        {NULL, 0, 0, 0, NULL, NULL, NULL},
	};
	struct view view = {.name = ""};
	int ret = cmd_parse(command, entries, NULL, &argc, &argv, 1, &target);

	if (ret == CMD_OK && (interval_ms < 50 || interval_ms > 3600000))
		ret = cmd_usage_error(command, "--interval is from 50 to 3600000");
	if (ret == CMD_OK && (checkpoints < 0 || checkpoints > (int)HISTORY_LEN))
		ret = cmd_usage_error(command, "--checkpoints is from 1 to %u", HISTORY_LEN);
	if (ret == CMD_OK && checkpoints && watching)
		ret = cmd_usage_error(command, "--checkpoints and --watch exclude each other");
	if (ret == CMD_OK)
		ret = cmd_find_socket(command, &target);
	if (ret == CMD_OK) {
		view.name = target.name ? target.name : "";
		view.json = target.json;
		view.watching = watching;
		view.checkpoints = checkpoints;
		ret = run(&view, target.socket, interval_ms);
	}
	cmd_target_clear(&target);
	return ret;
}
