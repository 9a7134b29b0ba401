/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/cmd/cmd.h"

#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct command commands[] = {
        {"start", "[NAME]", "Run the daemon of one VM", cmd_start},
        {"stop", "[NAME]", "Stop a daemon and its VM on this host", cmd_stop},
        {"status", "[NAME]", "Show role, state, epoch and peer", cmd_status},
        {"stats", "[NAME]", "Show what is compared, held, released and checkpointed", cmd_stats},
        {"divergences", "[NAME]", "Show where the two VMs differed", cmd_divergences},
        {"checkpoint", "[NAME]", "Take a checkpoint now", cmd_checkpoint},
        {"policy", "[NAME]", "Show or change when checkpoints are taken", cmd_policy},
        {"failover", "[NAME]", "Take over, or hand over", cmd_failover},
        {"check", "", "Look at this host, and at a configuration file", cmd_check},
        {"version", "", "Show the version", cmd_version},
};

static void print_help(FILE *out)
{
	fprintf(out, "Usage: colo-proxy COMMAND [OPTION...] [NAME]\n"
	             "\n"
	             "Fault tolerance for a VM that runs twice, on two hosts.\n"
	             "\n"
	             "Commands:\n");
	for (size_t i = 0; i < G_N_ELEMENTS(commands); i++)
		fprintf(out, "  %-12s %s\n", commands[i].name, commands[i].summary);
	fprintf(out, "\n"
	             "  --help       This text; 'colo-proxy COMMAND --help' for a command\n"
	             "  --version    The version\n"
	             "\n"
	             "NAME chooses the VM; it may be left out when one daemon runs on this host.\n"
	             "Exit status: 0 done, 1 failed, 2 wrong command line.\n");
}

/* Without a command: how the VMs of this host are, or how to begin. */
static int run_bare(void)
{
	bool any = false;
	int status = cmd_status_all(&any);

	if (!any && status == CMD_OK)
		print_help(stdout);
	return status;
}

int main(int argc, char **argv)
{
	static char version[] = "version";

	setlocale(LC_CTYPE, "");
	signal(SIGCHLD, SIG_DFL); /* ignored by who started this, no child's exit status is known */
	if (argc < 2)
		return run_bare();
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		print_help(stdout);
		return CMD_OK;
	}
	if (!strcmp(argv[1], "--version"))
		argv[1] = version;
	for (size_t i = 0; i < G_N_ELEMENTS(commands); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(&commands[i], argc - 1, argv + 1);
	fprintf(stderr, "colo-proxy: unknown command '%s'\nTry 'colo-proxy --help'.\n", argv[1]);
	return CMD_USAGE;
}
