/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Configuration files from arbitrary bytes: a refusal always says why and where, and what was
 * accepted comes back the same when it is written out and read again.
 */
#include "colo-proxy/config/config.h"
#include "colo-proxy/config/table.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
	if (!holds)
		abort();
}

static void check_problems(const GPtrArray *problems, size_t lines)
{
	require(problems->len > 0);
	for (unsigned i = 0; i < problems->len; i++) {
		const struct config_problem *problem = g_ptr_array_index(problems, i);
		char *text = config_problem_text(problem);

		require(problem->line <= lines);
		require(g_utf8_validate(text, -1, NULL));
		require(*problem->text);
		g_free(text);
	}
}

static void check_same(const struct config *a, const struct config *b)
{
	for (size_t i = 0; i < config_table_len; i++) {
		char *x = config_get(a, &config_table[i]);
		char *y = config_get(b, &config_table[i]);

		require(g_strcmp0(x, y) == 0);
		g_free(x);
		g_free(y);
	}
}

static void check_accepted(const struct config *config, GPtrArray *problems)
{
	char *text = config_dump(config);
	struct config *again = NULL;

	require(problems->len == 0);
	require(config->bridge && config->tap && config->mac && config->socket && config->run_dir &&
	        config->key_file && config->extra_args && config->addresses && config->fence_argv);
	require(config_name_valid(config->name));
	require(config_parse(config->file, text, strlen(text), problems, &again) == 0);
	check_same(config, again);
	config_free(again);
	g_free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	GPtrArray *problems = config_problems_new();
	struct config *config = NULL;
	size_t lines = 1;

	for (size_t i = 0; i < size; i++)
		lines += data[i] == '\n';
	if (config_parse("fuzz.conf", (const char *)data, size, problems, &config) < 0)
		check_problems(problems, lines);
	else
		check_accepted(config, problems);
	config_free(config);
	g_ptr_array_unref(problems);
	return 0;
}
