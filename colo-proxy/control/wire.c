/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests and replies as text; see control.h for the form. */
#include "colo-proxy/control/control.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

bool control_read_only(const char *command)
{
	static const char *const commands[] = {"status", "stats", "version", "events"};

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(command, commands[i]))
			return true;
	return false;
}

/* Nesting is counted before parsing, so that the parser's recursion is bounded by us. */
static bool too_deep(const char *line, size_t len)
{
	unsigned depth = 0;
	bool in_string = false;

	for (size_t i = 0; i < len; i++) {
		if (in_string) {
			if (line[i] == '\\')
				i++;
			else if (line[i] == '"')
				in_string = false;
		} else if (line[i] == '"') {
			in_string = true;
		} else if (line[i] == '{' || line[i] == '[') {
			if (++depth > CONTROL_DEPTH_MAX)
				return true;
		} else if ((line[i] == '}' || line[i] == ']') && depth) {
			depth--;
		}
	}
	return false;
}

static const char *unknown_member(json_t *object)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		if (strcmp(key, "command") != 0 && strcmp(key, "arguments") != 0 &&
		    strcmp(key, "id") != 0)
			return key;
	}
	return NULL;
}

int control_parse_request(const char *line, size_t len, json_t **ret_object,
                          const char **ret_command, json_t **ret_args, json_t **ret_id, char *err,
                          size_t errlen)
{
	json_error_t error;
	json_t *object;
	json_t *args;
	const char *command;

	if (too_deep(line, len)) {
		snprintf(err, errlen, "nested deeper than %u", CONTROL_DEPTH_MAX);
		return -EINVAL;
	}
	object = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
	if (!object) {
		snprintf(err, errlen, "not JSON: %s", error.text);
		return -EINVAL;
	}
	command = json_string_value(json_object_get(object, "command"));
	args = json_object_get(object, "arguments");
	if (!json_is_object(object))
		snprintf(err, errlen, "a request is an object");
	else if (!command)
		snprintf(err, errlen, "a request has a string 'command'");
	else if (args && !json_is_object(args))
		snprintf(err, errlen, "'arguments' is an object");
	else if (unknown_member(object))
		snprintf(err, errlen, "unknown member '%.64s'; allowed: command, arguments, id",
		         unknown_member(object));
	else {
		*ret_object = object;
		*ret_command = command;
		*ret_args = args;
		*ret_id = json_object_get(object, "id");
		return 0;
	}
	json_decref(object);
	return -EINVAL;
}

int control_parse_reply(const char *line, size_t len, json_t **ret_result, char *err, size_t errlen)
{
	json_error_t error;
	json_t *object = json_loadb(line, len, JSON_REJECT_DUPLICATES, &error);
	json_t *ok = json_object_get(object, "ok");
	json_t *result = json_object_get(object, "result");
	const char *text = json_string_value(json_object_get(object, "error"));
	int ret = -EPROTO;

	if (json_is_true(ok) && result) {
		*ret_result = json_incref(result);
		ret = 0;
	} else if (json_is_false(ok) && text) {
		snprintf(err, errlen, "%s", text);
		ret = -EREMOTEIO;
	} else {
		snprintf(err, errlen, "the daemon's answer is not a reply");
	}
	json_decref(object);
	return ret;
}
