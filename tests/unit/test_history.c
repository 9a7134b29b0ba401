/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The last checkpoints: what belongs to which, and what is kept. */
#include "colo-proxy/control/report_history.h"
#include "colo-proxy/core/history.h"

#include <glib.h>
#include <string.h>

#define US 1000u

static struct history history;

static struct history_entry captured(uint64_t epoch, uint64_t at)
{
	return (struct history_entry){
	        .epoch = epoch,
	        .cause = 4,
	        .asked_at = at,
	        .requested_at = at + 500 * US,
	        .replied_at = at + 520 * US,
	        .sent_at = at + 1900 * US,
	        .first_at = at + 2000 * US,
	        .captured_at = at + 3000 * US,
	        .reading_ns = 700 * US,
	        .pages = 10 + epoch,
	        .plain_bytes = 100000,
	};
}

static void set_up(void)
{
	memset(&history, 0, sizeof(history));
}

static void test_ring(void)
{
	struct history_entry out[HISTORY_LEN];

	set_up();
	g_assert_null(history_find(&history, 0));
	g_assert_cmpuint(history_copy(&history, out, HISTORY_LEN), ==, 0);
	for (uint64_t i = 1; i <= HISTORY_LEN + 3; i++) {
		struct history_entry entry = captured(i, i * 1000000 * US);

		g_assert_cmpuint(history_add(&history, &entry)->epoch, ==, i);
	}
	g_assert_null(history_find(&history, 3));
	g_assert_cmpuint(history_find(&history, 4)->pages, ==, 14);
	g_assert_cmpuint(history_copy(&history, out, HISTORY_LEN), ==, HISTORY_LEN);
	g_assert_cmpuint(out[0].epoch, ==, 4);
	g_assert_cmpuint(out[HISTORY_LEN - 1].epoch, ==, HISTORY_LEN + 3);
	g_assert_cmpuint(history_copy(&history, out, 2), ==, 2);
	g_assert_cmpuint(out[0].epoch, ==, HISTORY_LEN + 2);
}

/* QEMU's events come late, and some stops are no checkpoints. */
static void test_paused(void)
{
	struct history_entry first = captured(1, 1000000 * US), second = captured(2, 2000000 * US);

	set_up();
	g_assert_null(history_paused(&history, 1000600 * US, 5000 * US));
	history_add(&history, &first);
	history_add(&history, &second);
	/* before the first; between the two; behind the second */
	g_assert_null(history_paused(&history, 1000100 * US, 5000 * US));
	g_assert_null(history_paused(&history, 1500000 * US, 5000 * US));
	g_assert_null(history_paused(&history, 2900000 * US, 5000 * US));
	g_assert_cmpuint(history_paused(&history, 1000600 * US, 5000 * US)->epoch, ==, 1);
	g_assert_cmpuint(history_paused(&history, 2000600 * US, 4000 * US)->epoch, ==, 2);
	g_assert_cmpuint(history_find(&history, 1)->resumed_at, ==, 1005600 * US);
	/* once each */
	g_assert_null(history_paused(&history, 2000700 * US, 4000 * US));
}

static json_int_t member(const json_t *entry, const char *name)
{
	g_assert_nonnull(json_object_get(entry, name));
	return json_integer_value(json_object_get(entry, name));
}

static void test_json(void)
{
	struct history_entry entry = captured(7, 1000000 * US), out[1];
	json_t *array;
	const json_t *only;

	set_up();
	history_add(&history, &entry);
	array = history_to_json(out, history_copy(&history, out, 1));
	only = json_array_get(array, 0);
	/* Not resumed, not committed yet. */
	g_assert_cmpint(member(only, "pause_us"), ==, 0);
	g_assert_cmpint(member(only, "resume_us"), ==, 0);
	json_decref(array);

	history_paused(&history, 1000600 * US, 2500 * US);
	array = history_to_json(out, history_copy(&history, out, 1));
	only = json_array_get(array, 0);
	g_assert_cmpint(member(only, "request_us"), ==, 500);
	g_assert_cmpint(member(only, "drain_us"), ==, 20);
	g_assert_cmpint(member(only, "stop_us"), ==, 80);
	g_assert_cmpint(member(only, "flush_us"), ==, 1300);
	g_assert_cmpint(member(only, "save_us"), ==, 100);
	g_assert_cmpint(member(only, "copy_us"), ==, 1000);
	g_assert_cmpint(member(only, "reading_us"), ==, 700);
	g_assert_cmpint(member(only, "resume_us"), ==, 100);
	g_assert_cmpint(member(only, "pause_us"), ==, 2500);
	g_assert_cmpint(member(only, "pages"), ==, 17);
	g_assert_cmpstr(json_string_value(json_object_get(only, "cause")), ==, "timer");
	json_decref(array);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/history/ring", test_ring);
	g_test_add_func("/history/paused", test_paused);
	g_test_add_func("/history/json", test_json);
	return g_test_run();
}
