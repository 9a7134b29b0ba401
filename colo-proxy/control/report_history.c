/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/control/report_history.h"

#include "colo-proxy/control/report.h"
#include "colo-proxy/core/stats.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))

/* Microseconds between two moments; 0 when one was not seen. */
static json_t *step(uint64_t from, uint64_t to)
{
	return json_integer(from && to > from ? (json_int_t)((to - from + 500) / 1000) : 0);
}

static json_t *number(uint64_t value)
{
	return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

static json_t *entry_to_json(const struct history_entry *e)
{
	return json_pack(
	        "{s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, "
	        "s:o, s:o, s:o, s:o}",
	        "epoch", number(e->epoch), "cause", stats_cause_name((enum stats_cause)e->cause),
	        "when_ns", number(e->when_ns), "request_us", step(e->asked_at, e->requested_at),
	        "drain_us", step(e->requested_at, e->replied_at), "stop_us",
	        step(e->replied_at, e->stopped_at), "flush_us", step(e->stopped_at, e->sent_at),
	        "save_us", step(e->sent_at, e->first_at), "copy_us",
	        step(e->first_at, e->captured_at), "reading_us", number(e->reading_ns / 1000),
	        "resume_us", step(e->captured_at, e->resumed_at), "pause_us",
	        step(e->stopped_at, e->resumed_at), "commit_us", number(e->commit_ns / 1000),
	        "load_us", number(e->load_ns / 1000), "encode_us", number(e->encode_ns / 1000),
	        "pages", number(e->pages), "plain_bytes", number(e->plain_bytes), "bytes",
	        number(e->bytes));
}

json_t *history_to_json(const struct history_entry *entries, uint32_t count)
{
	json_t *array = json_array();

	for (uint32_t i = 0; array && i < count; i++) {
		if (json_array_append_new(array, entry_to_json(&entries[i])) < 0) {
			json_decref(array);
			return NULL;
		}
	}
	return array;
}

static long long integer(const json_t *object, const char *name)
{
	return (long long)json_integer_value(json_object_get(object, name));
}

void history_print(FILE *out, const json_t *stats)
{
	static const char *const steps[] = {"request", "drain",  "stop",  "flush",  "save", "copy",
	                                    "reading", "resume", "pause", "commit", "load"};
	const json_t *array = json_object_get(stats, "history");
	const json_t *entry;
	char clock[48], name[32];
	size_t i;

	fprintf(out, "%-23s %6s %-10s", "times in us", "epoch", "cause");
	for (i = 0; i < N(steps); i++)
		fprintf(out, " %7s", steps[i]);
	fprintf(out, " %7s %10s %9s\n", "pages", "plain B", "link B");
	json_array_foreach(array, i, entry)
	{
		const char *cause = json_string_value(json_object_get(entry, "cause"));

		report_clock_text(clock, sizeof(clock), (uint64_t)integer(entry, "when_ns"));
		fprintf(out, "%-23s %6lld %-10s", clock, integer(entry, "epoch"),
		        cause ? cause : "?");
		for (size_t k = 0; k < N(steps); k++) {
			snprintf(name, sizeof(name), "%s_us", steps[k]);
			fprintf(out, " %7lld", integer(entry, name));
		}
		fprintf(out, " %7lld %10lld %9lld\n", integer(entry, "pages"),
		        integer(entry, "plain_bytes"), integer(entry, "bytes"));
	}
}
