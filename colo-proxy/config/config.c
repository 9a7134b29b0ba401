/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading a configuration file.
 *
 * GKeyFile gives the values but no line numbers, stops at the first syntax error, and lets a
 * repeated key win silently. So the text is scanned first: every line is classified, what is wrong
 * with it is noted, and only sound lines are handed on to GKeyFile. The scan's list of keys then
 * drives the parsing of values, and gives each message its line.
 */
#include "colo-proxy/config/config.h"
#include "colo-proxy/config/table.h"

#include <errno.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define FILE_MAX_BYTES (1u << 20)
#define PROBLEMS_MAX   100u

/* A key as it stands in the file. */
struct entry {
	char *section;
	char *key;
	unsigned line;
	bool known; /* section and key are in the table */
};

struct parse {
	const char *file;
	GPtrArray *problems;
	unsigned problems_before;
	GPtrArray *entries; /* struct entry */
	GString *sound;     /* the lines for GKeyFile */
	char *section;      /* while scanning: the one we are in */
	bool section_known;
	struct config *config;
};

static void problem_free(void *data)
{
	struct config_problem *problem = data;

	g_free(problem->file);
	g_free(problem->section);
	g_free(problem->key);
	g_free(problem->text);
	g_free(problem);
}

GPtrArray *config_problems_new(void)
{
	return g_ptr_array_new_with_free_func(problem_free);
}

char *config_problem_text(const struct config_problem *problem)
{
	GString *out = g_string_new(problem->file);

	if (problem->line)
		g_string_append_printf(out, ":%u", problem->line);
	g_string_append(out, ": ");
	if (problem->section)
		g_string_append_printf(out, "[%s]%s", problem->section, problem->key ? " " : ": ");
	if (problem->key)
		g_string_append_printf(out, "%s: ", problem->key);
	g_string_append(out, problem->text);
	return g_string_free(out, FALSE);
}

/* Notes a problem; takes over `text`. After PROBLEMS_MAX of them no more are kept. */
static void add_problem(struct parse *parse, unsigned line, const char *section, const char *key,
                        char *text)
{
	struct config_problem *problem;

	if (parse->problems->len - parse->problems_before >= PROBLEMS_MAX) {
		g_free(text);
		return;
	}
	problem = g_new0(struct config_problem, 1);
	problem->file = g_strdup(parse->file);
	problem->line = line;
	problem->section = g_strdup(section);
	problem->key = g_strdup(key);
	problem->text = text;
	g_ptr_array_add(parse->problems, problem);
}

static void entry_free(void *data)
{
	struct entry *entry = data;

	g_free(entry->section);
	g_free(entry->key);
	g_free(entry);
}

static struct entry *find_entry(const struct parse *parse, const char *section, const char *key)
{
	for (unsigned i = 0; i < parse->entries->len; i++) {
		struct entry *entry = g_ptr_array_index(parse->entries, i);

		if (!strcmp(entry->section, section) && !strcmp(entry->key, key))
			return entry;
	}
	return NULL;
}

/* The number of single-character edits between two short words (Levenshtein). */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[64];
	size_t b_len = strlen(b);

	if (b_len >= G_N_ELEMENTS(row) || strlen(a) >= G_N_ELEMENTS(row))
		return G_N_ELEMENTS(row);
	for (unsigned j = 0; j <= b_len; j++)
		row[j] = j;
	for (unsigned i = 1; a[i - 1]; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= b_len; j++) {
			unsigned change = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			row[j] = MIN(change, MIN(row[j], row[j - 1]) + 1);
		}
	}
	return row[b_len];
}

/* "; did you mean ...?", or "" when nothing is near. */
static char *suggest(const char *section, const char *key)
{
	const struct config_key *best = NULL;
	unsigned nearest = (unsigned)strlen(key ? key : section) / 3 + 2;

	for (size_t i = 0; i < config_table_len; i++) {
		const struct config_key *row = &config_table[i];
		unsigned d;

		if (key && strcmp(row->section, section) != 0)
			continue;
		d = key ? distance(key, row->key) : distance(section, row->section);
		if (d < nearest) {
			nearest = d;
			best = row;
		}
	}
	if (best)
		return g_strdup_printf("; did you mean '%s'?", key ? best->key : best->section);
	for (size_t i = 0; key && i < config_table_len; i++)
		if (!strcmp(config_table[i].key, key))
			return g_strdup_printf("; it belongs in [%s]", config_table[i].section);
	return g_strdup("");
}

static void scan_section(struct parse *parse, unsigned line, const char *name, size_t len)
{
	g_free(parse->section);
	parse->section = g_strndup(name, len);
	parse->section_known = config_section_known(parse->section);
	if (parse->section_known) {
		g_string_append_printf(parse->sound, "[%s]\n", parse->section);
	} else {
		char *hint = suggest(parse->section, NULL);

		add_problem(parse, line, parse->section, NULL,
		            g_strdup_printf("unknown section%s", hint));
		g_free(hint);
	}
}

/* A line "key = value" in a known section. */
static void scan_key(struct parse *parse, unsigned line, const char *text, const char *equals)
{
	char *key = g_strchomp(g_strndup(text, (size_t)(equals - text)));
	struct entry *entry;

	if (!config_find(parse->section, key)) {
		char *hint = suggest(parse->section, key);
		char *shown = g_strescape(key, NULL);

		add_problem(parse, line, parse->section, shown,
		            g_strdup_printf("unknown key%s", hint));
		g_free(shown);
		g_free(hint);
		g_free(key);
		return;
	}
	entry = find_entry(parse, parse->section, key);
	if (entry) {
		add_problem(parse, line, parse->section, key,
		            g_strdup_printf("given twice; first in line %u", entry->line));
		g_free(key);
		return;
	}
	entry = g_new0(struct entry, 1);
	entry->section = g_strdup(parse->section);
	entry->key = key;
	entry->line = line;
	g_ptr_array_add(parse->entries, entry);
	g_string_append(parse->sound, text);
	g_string_append_c(parse->sound, '\n');
}

static void scan_line(struct parse *parse, unsigned line, char *text, size_t len)
{
	const char *equals;
	const char *end;

	if (memchr(text, '\0', len) || !g_utf8_validate(text, (gssize)len, NULL)) {
		add_problem(parse, line, NULL, NULL, g_strdup("not UTF-8 text"));
		return;
	}
	text = g_strstrip(text);
	if (!*text || *text == '#')
		return;
	end = *text == '[' ? strchr(text, ']') : NULL;
	if (end && !end[1]) {
		scan_section(parse, line, text + 1, (size_t)(end - text) - 1);
		return;
	}
	if (*text == '[') /* what follows belongs to nothing that we know */
		parse->section_known = false;
	equals = strchr(text, '=');
	if (!equals || equals == text || *text == '[')
		add_problem(parse, line, NULL, NULL,
		            g_strdup("neither '[section]' nor 'key = value' nor a '#' comment"));
	else if (!parse->section)
		add_problem(parse, line, NULL, NULL,
		            g_strdup("a key before the first '[section]'"));
	else if (parse->section_known)
		scan_key(parse, line, text, equals);
}

static void scan(struct parse *parse, const char *text, size_t len)
{
	unsigned line = 1;

	for (size_t at = 0; at < len; line++) {
		const char *newline = memchr(text + at, '\n', len - at);
		size_t line_len = newline ? (size_t)(newline - text) - at : len - at;
		char *copy = g_malloc(line_len + 1);

		memcpy(copy, text + at, line_len);
		copy[line_len] = '\0';
		scan_line(parse, line, copy, line_len);
		g_free(copy);
		at += line_len + 1;
	}
}

static void set_values(struct parse *parse, GKeyFile *values)
{
	for (unsigned i = 0; i < parse->entries->len; i++) {
		struct entry *entry = g_ptr_array_index(parse->entries, i);
		const struct config_key *key = config_find(entry->section, entry->key);
		char *value = g_key_file_get_value(values, entry->section, entry->key, NULL);
		char *why = NULL;

		if (!value)
			why = g_strdup("cannot be read");
		else if (config_set(parse->config, key, entry->key, g_strchomp(value), &why) == 0)
			entry->known = true;
		if (why)
			add_problem(parse, entry->line, entry->section, entry->key, why);
		g_free(value);
	}
}

/* Presets for what was not given, or given wrongly (so that the checks below can go on). */
static void set_presets(struct parse *parse)
{
	for (size_t i = 0; i < config_table_len; i++) {
		const struct config_key *key = &config_table[i];
		const struct entry *entry = find_entry(parse, key->section, key->key);
		char *why = NULL;

		if (entry && entry->known)
			continue;
		if (key->required && !entry) {
			char *allowed = config_allowed(key);

			add_problem(parse, 0, key->section, key->key,
			            g_strdup_printf("missing; allowed: %s", allowed));
			g_free(allowed);
		}
		/* The unit test holds the table to it: no preset is refused. */
		if (key->preset && config_set(parse->config, key, key->key, key->preset, &why) < 0)
			add_problem(parse, 0, key->section, key->key, why);
	}
}

/* FNV-1a, 32 bits: the same on every host and in every version. */
static uint32_t name_hash(const char *name)
{
	uint32_t hash = 2166136261u;

	for (; *name; name++)
		hash = (hash ^ (uint8_t)*name) * 16777619u;
	return hash;
}

static char *default_name(const char *file)
{
	char *base = g_path_get_basename(file);

	if (g_str_has_suffix(base, ".conf"))
		base[strlen(base) - strlen(".conf")] = '\0';
	return base;
}

static char *default_tap(const char *name)
{
	if (strlen("tap-") + strlen(name) < IFNAMSIZ)
		return g_strdup_printf("tap-%s", name);
	return g_strdup_printf("tap-%.3s%08x", name, name_hash(name));
}

static void set_derived(struct parse *parse)
{
	struct config *config = parse->config;
	uint32_t hash;

	if (!config->name)
		config->name = default_name(parse->file);
	if (!config_name_valid(config->name)) {
		const struct config_key *key = config_find("vm", "name");
		char *allowed = config_allowed(key);
		char *shown = g_strescape(config->name, NULL);

		add_problem(
		        parse, 0, "vm", "name",
		        g_strdup_printf("the file's name gives '%s'; allowed: %s", shown, allowed));
		g_free(shown);
		g_free(allowed);
	}
	hash = name_hash(config->name);
	if (!config->mac) /* 52:54:00 is what QEMU uses; locally administered */
		config->mac = g_strdup_printf("52:54:00:%02x:%02x:%02x", hash >> 16 & 0xff,
		                              hash >> 8 & 0xff, hash & 0xff);
	if (!config->tap)
		config->tap = default_tap(config->name);
	if (!config->socket)
		config->socket = g_strdup_printf(CONFIG_RUN_DIR "/%s.sock", config->name);
	if (!config->state_dir)
		config->state_dir = g_strdup_printf(CONFIG_STATE_DIR "/%s", config->name);
	if (!config->run_dir)
		config->run_dir = g_strdup_printf(CONFIG_RUN_DIR "/%s", config->name);
	if (!config->extra_args)
		config->extra_args = g_new0(char *, 1);
	if (!config->addresses)
		config->addresses = g_new0(char *, 1);
	if (!config->fence_argv)
		config->fence_argv = g_new0(char *, 1);
}

/* A problem between two keys, said at the first one's line if it has one. */
static void clash(struct parse *parse, const char *section, const char *key, const char *format,
                  ...) __attribute__((format(printf, 4, 5)));

static void clash(struct parse *parse, const char *section, const char *key, const char *format,
                  ...)
{
	const struct entry *entry = find_entry(parse, section, key);
	va_list args;

	if (entry && !entry->known)
		return; /* its value was refused already */
	va_start(args, format);
	add_problem(parse, entry ? entry->line : 0, section, key, g_strdup_vprintf(format, args));
	va_end(args);
}

static bool in_qemu_ports(const struct config *config, uint16_t port)
{
	return port >= config->qemu_base_port && port < config->qemu_base_port + CONFIG_PORTS;
}

static void check_replication(struct parse *parse)
{
	const struct config *config = parse->config;
	const struct entry *role = find_entry(parse, "replication", "role");

	if (role && role->known && config->role == CONFIG_ROLE_PRIMARY && !config->peer.host)
		clash(parse, "replication", "peer",
		      "missing; role = primary needs the secondary's ADDRESS:PORT");
	if (role && role->known && config->role == CONFIG_ROLE_SECONDARY && !config->listen.host)
		clash(parse, "replication", "listen",
		      "missing; role = secondary needs an ADDRESS:PORT of this host");
	if (config->comparator == CONFIG_COMPARATOR_QEMU &&
	    (!config->peer.host || !config->listen.host))
		clash(parse, "replication", config->peer.host ? "listen" : "peer",
		      "missing; with comparator = qemu both are needed on both hosts: QEMU's own "
		      "channels use their addresses");
	if (config->comparator == CONFIG_COMPARATOR_NONE && role && role->known &&
	    config->role == CONFIG_ROLE_SECONDARY)
		clash(parse, "checkpoint", "comparator",
		      "none on a secondary; an unprotected VM has only a primary");
	if (config->comparator == CONFIG_COMPARATOR_QEMU &&
	    ((config->peer.host && in_qemu_ports(config, config->peer.port)) ||
	     (config->listen.host && in_qemu_ports(config, config->listen.port))))
		clash(parse, "checkpoint", "qemu-base-port",
		      "its three ports, from %u on, include the port of peer or listen",
		      (unsigned)config->qemu_base_port);
}

static void check_together(struct parse *parse)
{
	const struct config *config = parse->config;

	check_replication(parse);
	if (config->initrd && !find_entry(parse, "vm", "kernel"))
		clash(parse, "vm", "initrd", "given without kernel; set both or neither");
	if (config->append && !find_entry(parse, "vm", "kernel"))
		clash(parse, "vm", "append", "given without kernel; set both or neither");
	if (config->bridge && !strcmp(config->bridge, config->tap))
		clash(parse, "network", "tap", "the same name as the bridge; allowed: another");
	if (config->min_interval_ns > config->longest_epoch_ns)
		clash(parse, "checkpoint", "min-interval",
		      "longer than longest-epoch; allowed: at most that");
	if (config->late_timeout_ns > config->longest_epoch_ns)
		clash(parse, "checkpoint", "late-timeout",
		      "longer than longest-epoch; allowed: at most that");
	if (config->comparator != CONFIG_COMPARATOR_PROXY && config->flows.count)
		clash(parse, "checkpoint", "comparator",
		      "not proxy, with rules in [flows]; they "
		      "are this program's");
	if (config->comparator == CONFIG_COMPARATOR_QEMU &&
	    config->migration_transport == CONFIG_TRANSPORT_UNIX && !config->migration_path)
		clash(parse, "checkpoint", "migration-path",
		      "missing; migration-transport = unix needs a socket path");
}

static int by_line(const void *a, const void *b)
{
	const struct config_problem *x = *(const struct config_problem *const *)a;
	const struct config_problem *y = *(const struct config_problem *const *)b;

	/* What has no line is about what is missing: last. */
	if (!x->line != !y->line)
		return x->line ? -1 : 1;
	return x->line < y->line ? -1 : x->line > y->line;
}

static int parse_values(struct parse *parse)
{
	GKeyFile *values = g_key_file_new();
	GError *error = NULL;

	if (!g_key_file_load_from_data(values, parse->sound->str, parse->sound->len,
	                               G_KEY_FILE_NONE, &error)) {
		/* An empty file is no error of syntax; what is missing is said below. */
		if (parse->sound->len)
			add_problem(parse, 0, NULL, NULL, g_strdup(error->message));
		g_error_free(error);
	}
	set_values(parse, values);
	g_key_file_free(values);
	set_presets(parse);
	set_derived(parse);
	check_together(parse);
	return parse->problems->len > parse->problems_before ? -EINVAL : 0;
}

int config_parse(const char *file, const char *text, size_t len, GPtrArray *problems,
                 struct config **ret_config)
{
	struct parse parse = {
	        .file = file,
	        .problems = problems,
	        .problems_before = problems->len,
	        .entries = g_ptr_array_new_with_free_func(entry_free),
	        .sound = g_string_new(NULL),
	        .config = g_new0(struct config, 1),
	};
	int err;

	parse.config->file = g_strdup(file);
	scan(&parse, text, len);
	err = parse_values(&parse);
	if (err < 0)
		g_ptr_array_sort(problems, by_line);
	g_free(parse.section);
	g_string_free(parse.sound, TRUE);
	g_ptr_array_unref(parse.entries);
	if (err < 0) {
		config_free(parse.config);
		return err;
	}
	*ret_config = parse.config;
	return 0;
}

int config_load(const char *path, GPtrArray *problems, struct config **ret_config)
{
	struct parse parse = {.file = path, .problems = problems, .problems_before = problems->len};
	FILE *file = fopen(path, "re");
	char *text;
	size_t len;
	int err;

	if (!file) {
		err = -errno;
		add_problem(&parse, 0, NULL, NULL,
		            g_strdup_printf("cannot be opened: %s", g_strerror(-err)));
		return err;
	}
	text = g_malloc(FILE_MAX_BYTES + 1);
	len = fread(text, 1, FILE_MAX_BYTES + 1, file);
	if (ferror(file)) {
		err = errno ? -errno : -EIO;
		add_problem(&parse, 0, NULL, NULL,
		            g_strdup_printf("cannot be read: %s", g_strerror(-err)));
	} else if (len > FILE_MAX_BYTES) {
		err = -EINVAL;
		add_problem(&parse, 0, NULL, NULL,
		            g_strdup("larger than 1 MiB; not a configuration"));
	} else {
		err = config_parse(path, text, len, problems, ret_config);
	}
	fclose(file);
	g_free(text);
	return err;
}

void config_free(struct config *config)
{
	if (!config)
		return;
	for (size_t i = 0; i < config_table_len; i++)
		config_clear(config, &config_table[i]);
	g_free(config->file);
	g_free(config);
}

char *config_path(const char *name_or_path)
{
	if (strchr(name_or_path, '/'))
		return g_strdup(name_or_path);
	return g_strdup_printf(CONFIG_DIR "/%s.conf", name_or_path);
}

char *config_qemu_path(const struct config *config)
{
	const char *cache = g_getenv("COLO_CACHE");
	char *path;

	if (config && config->qemu)
		return g_strdup(config->qemu);
	path = g_build_filename(cache && *cache ? cache : "/var/cache/colo-proxy", "qemu", "bin",
	                        "qemu-system-x86_64", NULL);
	if (g_file_test(path, G_FILE_TEST_IS_EXECUTABLE))
		return path;
	g_free(path);
	return g_find_program_in_path("qemu-system-x86_64");
}
