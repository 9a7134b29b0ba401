/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One value of the configuration: from text, to text, and what is allowed. */
#include "colo-proxy/config/table.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#define SHOWN_MAX 80 /* bytes of a found value that a message repeats */

static void *member(const struct config *config, const struct config_key *key)
{
	return (char *)config + key->offset;
}

static char *choices_text(const struct config_choice *choices)
{
	GString *text = g_string_new(NULL);

	for (; choices->word; choices++) {
		if (text->len)
			g_string_append(text, choices[1].word ? ", " : " or ");
		g_string_append(text, choices->word);
	}
	return g_string_free(text, FALSE);
}

char *config_allowed(const struct config_key *key)
{
	switch (key->type) {
	case CONFIG_STRING:
		return g_strdup_printf("text of 1 to %" G_GUINT64_FORMAT " bytes", key->max);
	case CONFIG_NAME:
		return g_strdup(
		        "1 to 32 letters, digits, '.', '_' or '-', starting with a letter or "
		        "a digit");
	case CONFIG_PATH:
		return g_strdup_printf("an absolute path of at most %" G_GUINT64_FORMAT " bytes",
		                       key->max);
	case CONFIG_IFNAME:
		return g_strdup_printf(
		        "an interface name of 1 to %d characters without '/', ':' or "
		        "spaces",
		        IFNAMSIZ - 1);
	case CONFIG_MAC:
		return g_strdup("a unicast Ethernet address such as 52:54:00:12:34:56");
	case CONFIG_ENDPOINT:
		return g_strdup(
		        "IPV4:PORT or [IPV6]:PORT, in numbers, with a port from 1 to 65535");
	case CONFIG_ADDRESSES:
		return g_strdup("IPv4 or IPv6 addresses, separated by spaces or commas");
	case CONFIG_ARGV:
		return g_strdup("arguments, quoted as for a shell");
	case CONFIG_FENCE:
		return g_strdup("none, or a command with an absolute path, quoted as for a shell");
	case CONFIG_CHOICE:
		return choices_text(key->choices);
	case CONFIG_BOOL:
		return g_strdup("true or false");
	case CONFIG_UINT:
		return g_strdup_printf(
		        "a whole number%s%s from %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT,
		        key->unit ? " of " : "", key->unit ? key->unit : "", key->min, key->max);
	case CONFIG_RULES:
		return g_strdup("compare, commit or bypass; then any, tcp, udp, icmp, arp, "
		                "ip:NUMBER or ether:NUMBER; then any of vm ADDRESS[/BITS], vm-port "
		                "PORT[-PORT], peer ADDRESS[/BITS], peer-port PORT[-PORT]");
	}
	return g_strdup("?");
}

/* The value as a message shows it: cut, printable. */
static char *shown(const char *value)
{
	GString *text = g_string_new("'");

	for (const char *p = value; *p && p - value < SHOWN_MAX; p++)
		g_string_append_c(text, g_ascii_isprint(*p) || (*p & 0x80) ? *p : '?');
	if (strlen(value) > SHOWN_MAX) {
		char *valid = g_utf8_make_valid(text->str, -1);

		g_string_assign(text, valid);
		g_string_append(text, "...");
		g_free(valid);
	}
	g_string_append_c(text, '\'');
	return g_string_free(text, FALSE);
}

static int refuse(const struct config_key *key, const char *value, const char *why, char **ret_why)
{
	char *found = shown(value);
	char *allowed = config_allowed(key);

	*ret_why = g_strdup_printf("found %s%s%s%s; allowed: %s", found, why ? " (" : "",
	                           why ? why : "", why ? ")" : "", allowed);
	g_free(found);
	g_free(allowed);
	return -EINVAL;
}

bool config_name_valid(const char *name)
{
	size_t len = strlen(name);

	if (len < 1 || len > 32 || !g_ascii_isalnum(name[0]))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!g_ascii_isalnum(name[i]) && !strchr("._-", name[i]))
			return false;
	return true;
}

static bool ifname_valid(const char *name)
{
	size_t len = strlen(name);

	if (len < 1 || len >= IFNAMSIZ || !strcmp(name, ".") || !strcmp(name, ".."))
		return false;
	for (size_t i = 0; i < len; i++)
		if (!g_ascii_isgraph(name[i]) || name[i] == '/' || name[i] == ':')
			return false;
	return true;
}

static bool mac_valid(const char *mac)
{
	if (strlen(mac) != 17)
		return false;
	for (size_t i = 0; i < 17; i++)
		if (i % 3 == 2 ? mac[i] != ':' : !g_ascii_isxdigit(mac[i]))
			return false;
	/* IEEE 802: the lowest bit of the first byte marks a group address. */
	if (g_ascii_xdigit_value(mac[1]) & 1)
		return false;
	return strcmp(mac, "00:00:00:00:00:00") != 0;
}

static int set_string(struct config *config, const struct config_key *key, const char *value,
                      char **ret_why)
{
	char **slot = member(config, key);
	const char *why = NULL;
	bool good = true;

	if (!*value)
		return refuse(key, value, "nothing", ret_why);
	switch (key->type) {
	case CONFIG_NAME:
		good = config_name_valid(value);
		break;
	case CONFIG_IFNAME:
		good = ifname_valid(value);
		break;
	case CONFIG_MAC:
		good = mac_valid(value);
		break;
	case CONFIG_PATH:
		good = value[0] == '/';
		why = "not absolute";
		if (good && strlen(value) > key->max) {
			good = false;
			why = "too long";
		}
		break;
	default:
		good = strlen(value) <= key->max;
		why = "too long";
		break;
	}
	if (!good)
		return refuse(key, value, why, ret_why);
	g_free(*slot);
	*slot = g_strdup(value);
	return 0;
}

/* Decimal, or hexadecimal with 0x. No sign, no spaces, no octal. */
static int parse_number(const char *text, uint64_t *ret_number)
{
	guint64 number;
	bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');

	if (!g_ascii_string_to_unsigned(hex ? text + 2 : text, hex ? 16 : 10, 0, G_MAXUINT64,
	                                &number, NULL))
		return -EINVAL;
	*ret_number = number;
	return 0;
}

static int set_uint(struct config *config, const struct config_key *key, const char *value,
                    char **ret_why)
{
	uint64_t number;

	if (parse_number(value, &number) < 0)
		return refuse(key, value, NULL, ret_why);
	if (number < key->min)
		return refuse(key, value, "too small", ret_why);
	if (number > key->max)
		return refuse(key, value, "too large", ret_why);
	*(uint64_t *)member(config, key) = number * (key->scale ? key->scale : 1);
	return 0;
}

static int set_choice(struct config *config, const struct config_key *key, const char *value,
                      char **ret_why)
{
	for (const struct config_choice *choice = key->choices; choice->word; choice++) {
		if (!strcmp(choice->word, value)) {
			*(int *)member(config, key) = choice->value;
			return 0;
		}
	}
	return refuse(key, value, NULL, ret_why);
}

static int set_bool(struct config *config, const struct config_key *key, const char *value,
                    char **ret_why)
{
	bool yes = !strcmp(value, "true") || !strcmp(value, "yes");

	if (!yes && strcmp(value, "false") != 0 && strcmp(value, "no") != 0)
		return refuse(key, value, NULL, ret_why);
	*(bool *)member(config, key) = yes;
	return 0;
}

/* IPv6 in brackets, IPv4 without. Names are not resolved: a link must not depend on DNS. */
static bool host_valid(const char *host, size_t len, bool bracketed)
{
	unsigned char address[16];
	char text[INET6_ADDRSTRLEN];

	if (len < 1 || len >= sizeof(text))
		return false;
	memcpy(text, host, len);
	text[len] = '\0';
	return inet_pton(bracketed ? AF_INET6 : AF_INET, text, address) == 1;
}

static int set_endpoint(struct config *config, const struct config_key *key, const char *value,
                        char **ret_why)
{
	struct config_endpoint *slot = member(config, key);
	const char *colon = strrchr(value, ':');
	bool bracketed = value[0] == '[';
	size_t len;
	uint64_t port;

	if (!colon || strchr(colon, ']'))
		return refuse(key, value, "no port", ret_why);
	len = (size_t)(colon - value);
	if (parse_number(colon + 1, &port) < 0 || port < 1 || port > 65535)
		return refuse(key, value, "not a port", ret_why);
	if (bracketed && (len < 2 || value[len - 1] != ']'))
		return refuse(key, value, "not an address", ret_why);
	if (!host_valid(bracketed ? value + 1 : value, bracketed ? len - 2 : len, bracketed))
		return refuse(key, value, "not an address", ret_why);
	g_free(slot->host);
	slot->host = g_strndup(bracketed ? value + 1 : value, bracketed ? len - 2 : len);
	slot->port = (uint16_t)port;
	return 0;
}

static bool address_valid(const char *text)
{
	unsigned char address[16];

	return inet_pton(AF_INET, text, address) == 1 || inet_pton(AF_INET6, text, address) == 1;
}

static int set_addresses(struct config *config, const struct config_key *key, const char *value,
                         char **ret_why)
{
	char ***slot = member(config, key);
	char **words = g_strsplit_set(value, " \t,;", -1);
	GStrvBuilder *builder = g_strv_builder_new();
	int err = 0;

	for (char **word = words; *word && !err; word++) {
		if (!**word)
			continue;
		if (address_valid(*word))
			g_strv_builder_add(builder, *word);
		else
			err = refuse(key, *word, NULL, ret_why);
	}
	if (!err) {
		g_strfreev(*slot);
		*slot = g_strv_builder_end(builder);
	}
	g_strv_builder_unref(builder);
	g_strfreev(words);
	return err;
}

/* Words as a shell would split them; an empty value is no words. */
static int split_words(const struct config_key *key, const char *value, char ***ret_words,
                       char **ret_why)
{
	GError *error = NULL;
	char **words;
	int err;

	if (g_shell_parse_argv(value, NULL, &words, &error)) {
		*ret_words = words;
		return 0;
	}
	if (g_error_matches(error, G_SHELL_ERROR, G_SHELL_ERROR_EMPTY_STRING)) {
		*ret_words = g_new0(char *, 1);
		err = 0;
	} else {
		err = refuse(key, value, "unbalanced quotes", ret_why);
	}
	g_error_free(error);
	return err;
}

static int set_argv(struct config *config, const struct config_key *key, const char *value,
                    char **ret_why)
{
	char ***slot = member(config, key);
	char **words;
	int err = split_words(key, value, &words, ret_why);

	if (err < 0)
		return err;
	g_strfreev(*slot);
	*slot = words;
	return 0;
}

static int set_fence(struct config *config, const struct config_key *key, const char *value,
                     char **ret_why)
{
	char **words;
	int err = split_words(key, value, &words, ret_why);

	if (err < 0)
		return err;
	if (words[0] && !words[1] && !strcmp(words[0], "none")) {
		g_strfreev(words);
		words = g_new0(char *, 1);
		config->fence = CONFIG_FENCE_NONE;
	} else if (words[0] && words[0][0] == '/') {
		config->fence = CONFIG_FENCE_COMMAND;
	} else {
		g_strfreev(words);
		/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): it does not know g_strfreev() */
		return refuse(key, value, NULL, ret_why);
	}
	g_strfreev(config->fence_argv);
	config->fence_argv = words;
	return 0;
}

static int set_rule(struct config *config, const struct config_key *key, const char *name,
                    const char *value, char **ret_why)
{
	struct policy *policy = member(config, key);
	struct policy_rule rule;
	const char *why = config_rule_parse(&rule, config_rule_number(name), value);

	/* The number is not taken: a key that is given twice is refused before. */
	if (!why && policy_add(policy, &rule) < 0)
		why = "one rule too many";
	return why ? refuse(key, value, why, ret_why) : 0;
}

int config_set(struct config *config, const struct config_key *key, const char *name,
               const char *value, char **ret_why)
{
	for (const char *p = value; *p; p++)
		if (g_ascii_iscntrl(*p) && *p != '\t')
			return refuse(key, value, "a control character", ret_why);
	switch (key->type) {
	case CONFIG_STRING:
	case CONFIG_NAME:
	case CONFIG_PATH:
	case CONFIG_IFNAME:
	case CONFIG_MAC:
		return set_string(config, key, value, ret_why);
	case CONFIG_ENDPOINT:
		return set_endpoint(config, key, value, ret_why);
	case CONFIG_ADDRESSES:
		return set_addresses(config, key, value, ret_why);
	case CONFIG_ARGV:
		return set_argv(config, key, value, ret_why);
	case CONFIG_FENCE:
		return set_fence(config, key, value, ret_why);
	case CONFIG_CHOICE:
		return set_choice(config, key, value, ret_why);
	case CONFIG_BOOL:
		return set_bool(config, key, value, ret_why);
	case CONFIG_UINT:
		return set_uint(config, key, value, ret_why);
	case CONFIG_RULES:
		return set_rule(config, key, name, value, ret_why);
	}
	return refuse(key, value, NULL, ret_why);
}

static char *words_text(char **words)
{
	GString *text = g_string_new(NULL);

	for (char **word = words; word && *word; word++) {
		char *quoted = g_shell_quote(*word);

		g_string_append_printf(text, "%s%s", text->len ? " " : "", quoted);
		g_free(quoted);
	}
	return g_string_free(text, FALSE);
}

static char *choice_word(const struct config_key *key, int value)
{
	for (const struct config_choice *choice = key->choices; choice->word; choice++)
		if (choice->value == value)
			return g_strdup(choice->word);
	return NULL;
}

static char *endpoint_text(const struct config_endpoint *endpoint)
{
	if (!endpoint->host)
		return NULL;
	if (strchr(endpoint->host, ':'))
		return g_strdup_printf("[%s]:%u", endpoint->host, endpoint->port);
	return g_strdup_printf("%s:%u", endpoint->host, endpoint->port);
}

char *config_get(const struct config *config, const struct config_key *key)
{
	const void *slot = member(config, key);

	switch (key->type) {
	case CONFIG_STRING:
	case CONFIG_NAME:
	case CONFIG_PATH:
	case CONFIG_IFNAME:
	case CONFIG_MAC:
		return g_strdup(*(char *const *)slot);
	case CONFIG_ENDPOINT:
		return endpoint_text(slot);
	case CONFIG_ADDRESSES:
		return *(char **const *)slot ? g_strjoinv(" ", *(char **const *)slot) : NULL;
	case CONFIG_ARGV:
		return words_text(*(char **const *)slot);
	case CONFIG_FENCE:
		if (config->fence == CONFIG_FENCE_OPERATOR)
			return NULL;
		if (config->fence == CONFIG_FENCE_NONE)
			return g_strdup("none");
		return words_text(config->fence_argv);
	case CONFIG_CHOICE:
		return choice_word(key, *(const int *)slot);
	case CONFIG_BOOL:
		return g_strdup(*(const bool *)slot ? "true" : "false");
	case CONFIG_UINT:
		return g_strdup_printf("%" G_GUINT64_FORMAT,
		                       *(const uint64_t *)slot / (key->scale ? key->scale : 1));
	case CONFIG_RULES:
		return config->flows.count ? config_rules_text(slot) : NULL;
	}
	return NULL;
}

void config_clear(struct config *config, const struct config_key *key)
{
	void *slot = member(config, key);

	switch (key->type) {
	case CONFIG_STRING:
	case CONFIG_NAME:
	case CONFIG_PATH:
	case CONFIG_IFNAME:
	case CONFIG_MAC:
		g_clear_pointer((char **)slot, g_free);
		break;
	case CONFIG_ENDPOINT:
		g_clear_pointer(&((struct config_endpoint *)slot)->host, g_free);
		break;
	case CONFIG_ADDRESSES:
	case CONFIG_ARGV:
		g_clear_pointer((char ***)slot, g_strfreev);
		break;
	case CONFIG_FENCE:
		g_clear_pointer(&config->fence_argv, g_strfreev);
		break;
	case CONFIG_CHOICE:
	case CONFIG_BOOL:
	case CONFIG_UINT:
	case CONFIG_RULES:
		break;
	}
}
