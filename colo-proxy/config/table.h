/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef COLO_CONFIG_TABLE_H
#define COLO_CONFIG_TABLE_H

#include "colo-proxy/config/config.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The table that the configuration is made from; see config.h. */

enum config_type {
	CONFIG_STRING,    /* char *; at most `max` bytes */
	CONFIG_NAME,      /* char *; a VM name */
	CONFIG_PATH,      /* char *; absolute, at most `max` bytes */
	CONFIG_IFNAME,    /* char *; a network interface */
	CONFIG_MAC,       /* char *; a unicast Ethernet address */
	CONFIG_ENDPOINT,  /* struct config_endpoint */
	CONFIG_ADDRESSES, /* char **; IP addresses, separated by spaces or commas */
	CONFIG_ARGV,      /* char **; words, quoted as a shell would */
	CONFIG_FENCE,     /* enum config_fence, and fence_argv */
	CONFIG_CHOICE,    /* an enum: one of `choices` */
	CONFIG_BOOL,      /* bool */
	CONFIG_UINT,      /* uint64_t, min..max in `unit`, kept times `scale` */
	CONFIG_RULES,     /* struct policy; the row stands for rule-1 and all of its kind */
};

struct config_choice {
	const char *word; /* NULL ends a list */
	int value;
};

struct config_key {
	const char *section;
	const char *key;
	size_t offset;
	const char *unit; /* for people; NULL: a plain number */
	uint64_t scale;   /* 0 counts as 1 */
	uint64_t min;
	uint64_t max;
	const struct config_choice *choices;
	const char *preset;  /* the default as it would be written; NULL: none */
	const char *derived; /* with no preset: what stands in its place, in words */
	const char *example; /* with no preset: what the example file shows */
	enum config_type type;
	bool active;      /* the example file sets it: there is no sensible default */
	bool required;    /* an error when missing */
	const char *help; /* one line, no full stop */
};

/* All keys, in the order of the example file; the keys of a section stand together. */
extern const struct config_key config_table[];
extern const size_t config_table_len;

/* NULL when there is none. "rule-7" finds the row of all rules. */
const struct config_key *config_find(const char *section, const char *key);
bool config_section_known(const char *section);

/* What a key's value may be, in words: "a whole number of ms from 20 to 600000". g_free(). */
char *config_allowed(const struct config_key *key);

#define CONFIG_RULE_PREFIX "rule-"

/* The number in a rule's key; 0 when it is none. */
uint32_t config_rule_number(const char *key);

/* A rule from text. NULL, or static words for what is wrong, and *ret_rule is untouched. */
const char *config_rule_parse(struct policy_rule *ret_rule, uint32_t number, const char *text);

/* All rules, "rule-N = ..." a line, without the last newline. g_free(). */
char *config_rules_text(const struct policy *policy);

/*
 * Parses `value` into config's member; `name` is the key as it was written, which tells one rule
 * from another. 0, or -EINVAL with words in *ret_why (g_free()): what was
 * found and what is allowed.
 */
int config_set(struct config *config, const struct config_key *key, const char *name,
               const char *value, char **ret_why);

/* The member as it would be written, or NULL when it is not set; rules with their keys. g_free().
 */
char *config_get(const struct config *config, const struct config_key *key);

/* Frees the member. */
void config_clear(struct config *config, const struct config_key *key);

/* A file that sets every key to the value that it has. g_free(). */
char *config_dump(const struct config *config);

#endif
