/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The pre-flight check: each part of the host that is needed, how it stands, what to do. */
#include "colo-proxy/cmd/cmd.h"
#include "colo-proxy/config/config.h"
#include "colo-proxy/core/finding.h"
#include "colo-proxy/datapath/netcheck.h"
#include "colo-proxy/link/link.h"
#include "colo-proxy/link/streams.h"
#include "kvm/encode_threads.h"
#include "kvm/probe.h"
#include "kvm/tracking.h"
#include "qemu-glue/guest_memory.h"
#include "qemu-glue/versions.h"

#include <errno.h>
#include <grp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A struct finding with room for any path. */
struct item {
	char *name;
	enum finding_level level;
	char *text;
	char *advice;
};

struct check {
	GPtrArray *items;
	struct config *config; /* NULL: none was given, or it has problems */
};

static void item_free(void *data)
{
	struct item *item = data;

	g_free(item->name);
	g_free(item->text);
	g_free(item->advice);
	g_free(item);
}

static void add(struct check *check, const char *name, enum finding_level level, const char *advice,
                const char *format, ...) __attribute__((format(printf, 5, 6)));

static void add(struct check *check, const char *name, enum finding_level level, const char *advice,
                const char *format, ...)
{
	struct item *item = g_new0(struct item, 1);
	va_list args;

	va_start(args, format);
	item->text = g_strdup_vprintf(format, args);
	va_end(args);
	item->name = g_strdup(name);
	item->level = level;
	item->advice = g_strdup(advice ? advice : "");
	g_ptr_array_add(check->items, item);
}

/* Every rule, with what it gives up. */
static void check_rules(struct check *check)
{
	const struct policy *flows = &check->config->flows;

	for (uint32_t i = 0; i < flows->count; i++) {
		const struct policy_rule *rule = &flows->rule[i];
		const struct policy_rule *shadow = policy_shadowed_by(flows, i);
		char *name = g_strdup_printf("rule-%u", rule->number);
		char *text = config_rule_text(rule);

		if (shadow)
			add(check, name, FINDING_WARN, "remove it, or give it a smaller number",
			    "%s: never used, rule-%u fits all of it", text, shadow->number);
		else if (rule->action == POLICY_BYPASS)
			add(check, name, FINDING_WARN,
			    "use it for what clients can lose and repeat; commit holds it instead",
			    "%s: leaves unprotected; after a takeover the VM may not know what it "
			    "has said",
			    text);
		else
			add(check, name, FINDING_OK, NULL, "%s", text);
		g_free(text);
		g_free(name);
	}
}

static void check_config(struct check *check, const char *path)
{
	GPtrArray *problems = config_problems_new();

	if (config_load(path, problems, &check->config) == 0) {
		add(check, "config", FINDING_OK, NULL, "%s: VM %s, %s", path, check->config->name,
		    check->config->role == CONFIG_ROLE_PRIMARY ? "primary" : "secondary");
		check_rules(check);
	}
	for (unsigned i = 0; i < problems->len; i++) {
		char *text = config_problem_text(g_ptr_array_index(problems, i));

		add(check, "config", FINDING_FAIL,
		    i + 1 < problems->len ? NULL
		                          : "correct the file; 'colo-proxy check --example' "
		                            "shows every key",
		    "%s", text);
		g_free(text);
	}
	g_ptr_array_unref(problems);
}

static void check_readable(struct check *check, const char *name, const char *path)
{
	if (!path)
		return;
	if (access(path, R_OK) == 0)
		add(check, name, FINDING_OK, NULL, "%s is readable", path);
	else
		add(check, name, FINDING_FAIL, "correct the path in the configuration", "%s: %s",
		    path, strerror(errno));
}

static void check_key(struct check *check)
{
	const struct config *config = check->config;
	struct link_key key;
	char err[256];

	if (link_key_read(config->key_file, &key, err, sizeof(err)) == 0) {
		link_key_wipe(&key);
		add(check, "replication-key", FINDING_OK, NULL, "%s", config->key_file);
	} else {
		add(check, "replication-key", FINDING_FAIL,
		    "make one (umask 077; od -An -tx1 -N32 /dev/urandom > FILE) and copy it to "
		    "both hosts",
		    "%s", err);
	}
	if (config->encryption == CONFIG_ENCRYPTION_NONE)
		add(check, "encryption", FINDING_WARN,
		    "set encryption = psk unless nobody else reaches the replication link",
		    "the VM's memory and disk cross the replication link in the clear");
	if (config->comparator == CONFIG_COMPARATOR_QEMU)
		add(check, "comparator", FINDING_WARN, "use comparator = proxy",
		    "QEMU's own COLO channels are neither encrypted nor authenticated");
}

static void check_fence(struct check *check)
{
	const struct config *config = check->config;

	switch (config->fence) {
	case CONFIG_FENCE_OPERATOR:
		add(check, "fence", FINDING_WARN,
		    "set fence in [failover] to a command that switches the other host off",
		    "no fence: a lost peer is taken over only by 'colo-proxy failover --force'");
		break;
	case CONFIG_FENCE_NONE:
		add(check, "fence", FINDING_WARN,
		    "use a fence command wherever the link can fail while both hosts live",
		    "fence = none: takes over on lost heartbeats alone; two hosts may speak at "
		    "once");
		break;
	case CONFIG_FENCE_COMMAND:
		if (access(config->fence_argv[0], X_OK) == 0)
			add(check, "fence", FINDING_OK, NULL, "%s", config->fence_argv[0]);
		else
			add(check, "fence", FINDING_FAIL, "correct the path of the fence command",
			    "%s: %s", config->fence_argv[0], strerror(errno));
		break;
	}
}

static void check_admin_group(struct check *check)
{
	const char *name = check->config->admin_group;

	if (name && !getgrnam(name))
		add(check, "admin-group", FINDING_WARN, "create the group, or correct the name",
		    "there is no group '%s': only root can control the daemon", name);
}

static void check_configured(struct check *check)
{
	const struct config *config = check->config;

	if (!config)
		return;
	check_readable(check, "kernel", config->kernel);
	check_readable(check, "initrd", config->initrd);
	check_key(check);
	check_fence(check);
	check_admin_group(check);
}

/* Capabilities, the kernel's means of holding output, and the bridge. */
static void check_network(struct check *check)
{
	const struct config *config = check->config;
	struct netcheck_params params = {
	        .bridge = config ? config->bridge : NULL,
	        .nfqueue = config && config->datapath == CONFIG_DATAPATH_NFQUEUE,
	};
	struct finding findings[NETCHECK_MAX];
	size_t n = netcheck_run(&params, findings, NETCHECK_MAX);

	for (size_t i = 0; i < n; i++)
		add(check, findings[i].name, findings[i].level, findings[i].advice, "%s",
		    findings[i].text);
}

static enum finding_level verdict_level(enum qemu_verdict verdict)
{
	switch (verdict) {
	case QEMU_VERDICT_WORKS:
		return FINDING_OK;
	case QEMU_VERDICT_UNTESTED:
		return FINDING_WARN;
	case QEMU_VERDICT_KVM_ONLY:
	case QEMU_VERDICT_BROKEN:
		break;
	}
	return FINDING_FAIL;
}

static void check_qemu(struct check *check)
{
	char *path = config_qemu_path(check->config);
	const struct qemu_support *support;
	struct qemu_version version;
	char err[160];

	if (!path) {
		add(check, "qemu", FINDING_FAIL,
		    "run scripts/setup, or install qemu-system-x86 from trixie-backports",
		    "no qemu-system-x86_64 found");
	} else if (qemu_version_probe(path, &version, err, sizeof(err)) < 0) {
		add(check, "qemu", FINDING_FAIL, "correct qemu in [vm], or run scripts/setup", "%s",
		    err);
	} else {
		support = qemu_support_for(version);
		add(check, "qemu", verdict_level(support->verdict), support->remedy,
		    "%d.%d.%d, COLO %s: %s (%s)", version.major, version.minor, version.micro,
		    qemu_verdict_name(support->verdict), support->reason, path);
	}
	g_free(path);
}

/* What is there to tell written pages by, and which of it a VM of this size would get. */
static void check_tracking(struct check *check, const struct probe_result *kvm)
{
	static const enum tracking_wish wishes[] = {
	        [CONFIG_TRACKING_AUTO] = TRACKING_AUTO,
	        [CONFIG_TRACKING_LOG] = TRACKING_LOG,
	        [CONFIG_TRACKING_RING] = TRACKING_RING,
	};
	const struct config *config = check->config;
	struct tracking_choice choice;
	struct tracking_facts facts;
	char pml[64];
	int r;

	tracking_probe("/dev/kvm", true, &facts);
	tracking_pml_text("/sys/module/kvm_intel/parameters/pml", pml, sizeof(pml));
	add(check, "kvm-dirty", FINDING_OK, NULL,
	    "dirty log yes; manual protect %s; dirty ring %u entries; page-modification logging %s",
	    probe_verdict_name(kvm->items[PROBE_DIRTY_LOG2].verdict),
	    facts.ring_bytes / TRACKING_RING_ENTRY, pml);
	if (!config)
		return;
	r = tracking_choose(&facts, config->memory_mib, wishes[config->dirty_tracking], &choice);
	add(check, "kvm-tracking", r < 0 ? FINDING_FAIL : FINDING_OK,
	    r < 0 ? "write dirty-tracking = auto or log in [vm]" : NULL, "%s", choice.why);
}

static void check_kvm(struct check *check)
{
	bool wanted = check->config && check->config->accel == CONFIG_ACCEL_KVM;
	struct probe_result result;

	probe_kvm("/dev/kvm", "/proc/cpuinfo", &result);
	if (probe_kvm_usable(&result)) {
		add(check, "kvm", FINDING_OK, NULL, "runs guests and tracks what they write");
		check_tracking(check, &result);
		if (result.items[PROBE_CPU_FLAGS].verdict == PROBE_NO)
			add(check, "kvm-processor", FINDING_WARN,
			    "if the guest does not boot, set accel = tcg in [vm]",
			    "%s; a KVM of another kind may not boot a full guest",
			    result.items[PROBE_CPU_FLAGS].text);
		return;
	}
	for (unsigned i = 0; i < PROBE_ITEM_COUNT; i++) {
		if (result.items[i].verdict != PROBE_NO)
			continue;
		add(check, "kvm", wanted ? FINDING_FAIL : FINDING_WARN,
		    wanted ? "set accel = tcg or auto in [vm], or enable virtualization"
		           : "the VM will run under TCG, which is many times slower",
		    "not usable: %s: %s", probe_item_name(i), result.items[i].text);
		return;
	}
}

/* How many threads checkpoints are compressed with here, and how many carry them. */
static void check_threads(struct check *check)
{
	const struct config *config = check->config;
	struct encode_threads_choice choice;
	struct encode_threads_facts facts = {0};
	struct link_streams_choice streams;
	struct link_streams_facts rest = {0};

	if (!config)
		return;
	processors_find("", &facts.processors);
	facts.vcpus = (unsigned int)config->smp;
	facts.packs = config->compression != CONFIG_COMPRESSION_NONE;
	encode_threads_choose(&facts, config->encode_threads, &choice);
	add(check, "encode-threads", FINDING_OK, NULL, "%s", choice.why);
	rest.processors = facts.processors.usable;
	rest.vcpus = facts.vcpus;
	rest.encoders = choice.threads;
	link_streams_choose(&rest, config->streams, &streams);
	add(check, "streams", FINDING_OK, NULL, "%s", streams.why);
}

/* Whether the secondary's VM can be read here, for pages that both have. */
static void check_agreeing(struct check *check)
{
	const struct config *config = check->config;
	const char *wish;
	int scope, r;

	if (!config)
		return;
	if (config->agreeing_pages == CONFIG_AGREEING_OFF) {
		add(check, "agreeing-pages", FINDING_OK, NULL, "off: all pages are sent");
		return;
	}
	wish = config->agreeing_pages == CONFIG_AGREEING_ON
	               ? "always"
	               : "where that takes less time on the link";
	r = guest_memory_probe(GUEST_MEMORY_YAMA, &scope);
	if (r < 0)
		add(check, "agreeing-pages", FINDING_WARN,
		    "write agreeing-pages = off, or allow process_vm_readv(2): all pages are sent",
		    "a child's memory cannot be read here: %s (Yama's ptrace_scope %d)",
		    strerror(-r), scope);
	else if (scope >= 2)
		add(check, "agreeing-pages", FINDING_WARN,
		    "set kernel.yama.ptrace_scope to 1, or add CAP_SYS_PTRACE to the unit's "
		    "CapabilityBoundingSet",
		    "Yama's ptrace_scope %d lets read a child's memory with CAP_SYS_PTRACE only; "
		    "without it all pages are sent",
		    scope);
	else
		add(check, "agreeing-pages", FINDING_OK, NULL,
		    "the VM's memory can be read here: as a secondary, pages that both VMs have "
		    "come as hashes, %s",
		    wish);
}

static const char *level_word(enum finding_level level)
{
	switch (level) {
	case FINDING_OK:
		return "ok";
	case FINDING_WARN:
		return "warn";
	case FINDING_FAIL:
		break;
	}
	return "fail";
}

/* The worst of all findings. */
static enum finding_level worst(const struct check *check)
{
	enum finding_level level = FINDING_OK;

	for (unsigned i = 0; i < check->items->len; i++) {
		const struct item *item = g_ptr_array_index(check->items, i);

		level = MAX(level, item->level);
	}
	return level;
}

static void print_text(const struct check *check)
{
	for (unsigned i = 0; i < check->items->len; i++) {
		const struct item *item = g_ptr_array_index(check->items, i);

		printf("%-4s  %-16s %s\n", level_word(item->level), item->name, item->text);
		if (item->advice[0])
			printf("%22s -> %s\n", "", item->advice);
	}
}

static void print_json(const struct check *check)
{
	json_t *findings = json_array();
	json_t *object;

	for (unsigned i = 0; i < check->items->len; i++) {
		const struct item *item = g_ptr_array_index(check->items, i);
		char *text = g_utf8_make_valid(item->text, -1); /* a path may be anything */

		json_array_append_new(findings,
		                      json_pack("{s:s, s:s, s:s, s:s}", "name", item->name, "level",
		                                level_word(item->level), "text", text, "advice",
		                                item->advice));
		g_free(text);
	}
	object = json_pack("{s:b, s:o}", "ok", worst(check) != FINDING_FAIL, "findings", findings);
	cmd_print_json(object);
	json_decref(object);
}

static int run(const char *file, bool offline, bool json)
{
	struct check check = {.items = g_ptr_array_new_with_free_func(item_free)};
	int ret;

	if (file)
		check_config(&check, file);
	if (!offline) {
		check_configured(&check);
		check_network(&check);
		check_qemu(&check);
		check_kvm(&check);
		check_threads(&check);
		check_agreeing(&check);
	}
	if (json)
		print_json(&check);
	else
		print_text(&check);
	ret = worst(&check) == FINDING_FAIL ? CMD_FAILED : CMD_OK;
	g_ptr_array_unref(check.items);
	config_free(check.config);
	return ret;
}

static void print_owned(char *text)
{
	fputs(text, stdout);
	g_free(text);
}

int cmd_check(const struct command *command, int argc, char **argv)
{
	char *file = NULL;
	gboolean json = FALSE;
	gboolean offline = FALSE;
	gboolean example = FALSE;
	gboolean table = FALSE;
	gboolean reference = FALSE;
	const GOptionEntry entries[] = {
	        {"config", 'c', 0, G_OPTION_ARG_FILENAME, &file,
	         "Check this file, and the host for what it asks for", "FILE"},
	        {"offline", 0, 0, G_OPTION_ARG_NONE, &offline,
	         "With --config: the file only, nothing of the host", NULL},
	        {"json", 0, 0, G_OPTION_ARG_NONE, &json, "Print JSON", NULL},
	        {"protocols", 0, 0, G_OPTION_ARG_NONE, &table,
	         "Print how each protocol of the VM's output is treated", NULL},
	        {"example", 0, 0, G_OPTION_ARG_NONE, &example,
	         "Print an example configuration with every key", NULL},
	        {"reference", 0, G_OPTION_FLAG_HIDDEN, G_OPTION_ARG_NONE, &reference,
	         "Print the key reference as scdoc text", NULL},
	        {NULL, 0, 0, 0, NULL, NULL, NULL},
	};
	int ret = cmd_parse(
	        command, entries,
	        "Each finding is ok, warn (works, with a loss) or fail. Exit status 1 when "
	        "one fails.",
	        &argc, &argv, 0, NULL);

	if (ret == CMD_OK && offline && !file)
		ret = cmd_usage_error(command, "--offline needs --config");
	else if (ret == CMD_OK && table)
		cmd_print_protocols(json);
	else if (ret == CMD_OK && example)
		print_owned(config_example());
	else if (ret == CMD_OK && reference)
		print_owned(config_reference());
	else if (ret == CMD_OK)
		ret = run(file, offline, json);
	g_free(file);
	return ret;
}
