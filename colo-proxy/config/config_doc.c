/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is made from the table for people: the example file, the reference, a dump. */
#include "colo-proxy/config/table.h"

#include <string.h>

#define COMMENT_WIDTH 78u

static const struct {
	const char *section;
	const char *about;
} sections[] = {
        {"vm", "The virtual machine. Both hosts need the same."},
        {"network", "Its network on this host."},
        {"replication", "The other host."},
        {"checkpoint", "When the secondary is brought up to date, and what may wait until then."},
        {"flows", "What is done with the VM's output, by flow: the rules are tried in the order of "
                  "their numbers, the first that fits decides, and what none fits is compared."},
        {"failover", "Who may speak when the other host is gone."},
        {"control", "This daemon."},
};

static const char *section_about(const char *section)
{
	for (size_t i = 0; i < G_N_ELEMENTS(sections); i++)
		if (!strcmp(sections[i].section, section))
			return sections[i].about;
	return "";
}

/* Appends text as comment lines, wrapped between words. */
static void append_comment(GString *out, const char *text)
{
	char **words = g_strsplit(text, " ", -1);
	size_t column = 0;

	for (char **word = words; *word; word++) {
		if (column && column + 1 + strlen(*word) > COMMENT_WIDTH) {
			g_string_append_c(out, '\n');
			column = 0;
		}
		g_string_append(out, column ? " " : "# ");
		g_string_append(out, *word);
		column += 1 + strlen(*word) + (column ? 0 : 1);
	}
	g_string_append_c(out, '\n');
	g_strfreev(words);
}

/* "Help (allowed). Default: x." */
static char *describe(const struct config_key *key)
{
	char *allowed = config_allowed(key);
	char *text;

	if (key->preset)
		text = g_strdup_printf("%s (%s). Default: %s.", key->help, allowed, key->preset);
	else if (key->derived)
		text = g_strdup_printf("%s (%s). Default: %s.", key->help, allowed, key->derived);
	else
		text = g_strdup_printf("%s (%s).%s", key->help, allowed,
		                       key->required ? " Required." : "");
	g_free(allowed);
	return text;
}

char *config_example(void)
{
	GString *out = g_string_new(NULL);
	const char *section = "";

	append_comment(out,
	               "colo-proxy: one protected VM. Copy to " CONFIG_DIR "/NAME.conf on both "
	               "hosts, and check with: colo-proxy check --config FILE");
	append_comment(out, "A line that is commented out shows the default, or an example where "
	                    "there is none. Comments stand on lines of their own.");
	for (size_t i = 0; i < config_table_len; i++) {
		const struct config_key *key = &config_table[i];
		char *text = describe(key);

		if (strcmp(section, key->section) != 0) {
			section = key->section;
			g_string_append_printf(out, "\n[%s]\n", section);
			append_comment(out, section_about(section));
		}
		g_string_append_c(out, '\n');
		append_comment(out, text);
		g_string_append_printf(out, "%s%s = %s\n", key->active ? "" : "#", key->key,
		                       key->preset ? key->preset : key->example);
		g_free(text);
	}
	return g_string_free(out, FALSE);
}

/* scdoc reads _ * [ < and \ as markup. */
static void append_escaped(GString *out, const char *text)
{
	for (; *text; text++) {
		if (strchr("_*\\[]<>#`~", *text))
			g_string_append_c(out, '\\');
		g_string_append_c(out, *text);
	}
}

char *config_reference(void)
{
	GString *out = g_string_new(NULL);
	const char *section = "";

	for (size_t i = 0; i < config_table_len; i++) {
		const struct config_key *key = &config_table[i];
		char *text = describe(key);

		if (strcmp(section, key->section) != 0) {
			section = key->section;
			g_string_append_printf(out, "%s## SECTION \\[%s\\]\n\n", i ? "\n" : "",
			                       section);
			append_escaped(out, section_about(section));
			g_string_append(out, "\n\n");
		}
		g_string_append_printf(out, "*%s*\n\t", key->key);
		append_escaped(out, text);
		g_string_append(out, "\n\n");
		g_free(text);
	}
	return g_string_free(out, FALSE);
}

char *config_dump(const struct config *config)
{
	GString *out = g_string_new(NULL);
	const char *section = "";

	for (size_t i = 0; i < config_table_len; i++) {
		const struct config_key *key = &config_table[i];
		char *value = config_get(config, key);

		if (strcmp(section, key->section) != 0) {
			section = key->section;
			g_string_append_printf(out, "[%s]\n", section);
		}
		if (value && key->type == CONFIG_RULES)
			g_string_append_printf(out, "%s\n", value);
		else if (value)
			g_string_append_printf(out, "%s = %s\n", key->key, value);
		g_free(value);
	}
	return g_string_free(out, FALSE);
}
