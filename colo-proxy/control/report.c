/* SPDX-License-Identifier: GPL-2.0-or-later */
/* stats and status as JSON: one table of fields for both directions. */
#include "colo-proxy/control/report.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum field_type {
	FIELD_UINT,
	FIELD_BOOL,
	FIELD_TEXT,
	FIELD_COUNT,
	FIELD_QUEUE,
	FIELD_LAST,
	FIELD_HIST
};

/* A member, by the JSON path to it: "group.name", or "name" at the top. */
struct field {
	const char *group; /* NULL: at the top */
	const char *name;
	enum field_type type;
	size_t offset;
	size_t size; /* FIELD_TEXT: of the array */
};

/* A member designator (g.n) cannot stand in parentheses. clang-format takes #g for a directive. */
/* clang-format off */
/* NOLINTBEGIN(bugprone-macro-parentheses) */
#define TRAFFIC(n, t) {NULL, #n, (t), offsetof(struct stats_traffic, n), 0}
#define STATS(g, n, t) {#g, #n, (t), offsetof(struct stats_snapshot, g.n), 0}
#define TOP(n, t)                                                                                  \
	{NULL, #n, (t), offsetof(struct stats_snapshot, n), sizeof(((struct stats_snapshot *)0)->n)}
#define STATUS(n, t)                                                                               \
	{NULL, #n, (t), offsetof(struct status_snapshot, n), sizeof(((struct status_snapshot *)0)->n)}
#define TAKEOVER(n)                                                                                \
	{"takeover", #n, FIELD_UINT, offsetof(struct status_snapshot, takeover.n), 0}
#define POLICY(n, t)                                                                               \
	{"policy", #n, (t), offsetof(struct status_snapshot, policy.n),                            \
	 sizeof(((struct status_snapshot *)0)->policy.n)}
/* NOLINTEND(bugprone-macro-parentheses) */
/* clang-format on */

/* Members of the composite types, in the order of their structs: all are uint64_t. */
static const char *const count_names[] = {"packets", "bytes", NULL};
static const char *const queue_names[] = {"now", "high", "limit", NULL};
static const char *const last_names[] = {"last", "total", NULL};
static const char *const hist_names[] = {"count", "p50", "p99", "max", NULL};

static const struct field traffic_fields[] = {
        TRAFFIC(held, FIELD_COUNT),
        TRAFFIC(matched, FIELD_COUNT),
        TRAFFIC(mismatched, FIELD_COUNT),
        TRAFFIC(late, FIELD_COUNT),
        TRAFFIC(released_match, FIELD_COUNT),
        TRAFFIC(released_commit, FIELD_COUNT),
        TRAFFIC(released_unprotected, FIELD_COUNT),
        TRAFFIC(released_bypass, FIELD_COUNT),
        TRAFFIC(discarded, FIELD_COUNT),
        TRAFFIC(held_now, FIELD_COUNT),
        TRAFFIC(hold_us, FIELD_HIST),
};

static const struct field stats_fields[] = {
        TOP(at_ns, FIELD_UINT),
        TOP(since_ns, FIELD_UINT),
        STATS(queues, packets, FIELD_QUEUE),
        STATS(queues, bytes, FIELD_QUEUE),
        STATS(queues, flows, FIELD_QUEUE),
        STATS(queues, input_bytes, FIELD_QUEUE),
        STATS(queues, link_bytes, FIELD_QUEUE),
        STATS(queues, page_cache, FIELD_QUEUE),
        STATS(queues, kept_state, FIELD_QUEUE),
        STATS(queues, replay, FIELD_QUEUE),
        STATS(comparison, lag_us, FIELD_UINT),
        STATS(comparison, late_wait_us, FIELD_UINT),
        STATS(comparison, ranges_cut, FIELD_UINT),
        STATS(comparison, frames_cut, FIELD_UINT),
        TOP(kernel_drops, FIELD_UINT),
        STATS(checkpoints, total, FIELD_UINT),
        STATS(checkpoints, pause_us, FIELD_HIST),
        STATS(checkpoints, commit_us, FIELD_HIST),
        STATS(checkpoints, load_us, FIELD_HIST),
        STATS(checkpoints, catchup_us, FIELD_HIST),
        STATS(checkpoints, pages, FIELD_LAST),
        STATS(checkpoints, bytes, FIELD_LAST),
        STATS(checkpoints, plain_bytes, FIELD_LAST),
        STATS(checkpoints, encode_us, FIELD_HIST),
        STATS(checkpoints, encode_threads, FIELD_UINT),
        STATS(checkpoints, paused_permille, FIELD_UINT),
        STATS(dirty, samples, FIELD_UINT),
        STATS(dirty, refused, FIELD_UINT),
        STATS(dirty, rate, FIELD_UINT),
        STATS(dirty, age_ms, FIELD_UINT),
        STATS(dirty, expected_bytes, FIELD_UINT),
        STATS(encoding, zero, FIELD_UINT),
        STATS(encoding, unchanged, FIELD_UINT),
        STATS(encoding, delta, FIELD_UINT),
        STATS(encoding, compressed, FIELD_UINT),
        STATS(encoding, whole, FIELD_UINT),
        STATS(encoding, agreed, FIELD_UINT),
        STATS(encoding, holes, FIELD_UINT),
        STATS(link, rtt_us, FIELD_UINT),
        STATS(link, bytes_sent, FIELD_UINT),
        STATS(link, bytes_received, FIELD_UINT),
        STATS(link, streams, FIELD_UINT),
        STATS(input, copied, FIELD_COUNT),
        STATS(input, injected, FIELD_COUNT),
        STATS(input, dropped, FIELD_COUNT),
        STATS(replay, sent, FIELD_COUNT),
        STATS(replay, left_out, FIELD_COUNT),
        STATS(replay, kept, FIELD_COUNT),
        STATS(replay, not_kept, FIELD_COUNT),
        STATS(replay, replayed, FIELD_COUNT),
        STATS(replay, too_old, FIELD_COUNT),
        STATS(memory, qemu, FIELD_UINT),
        STATS(memory, daemon, FIELD_UINT),
        TOP(last_divergence, FIELD_TEXT),
};

static const struct field status_fields[] = {
        STATUS(name, FIELD_TEXT),
        STATUS(role, FIELD_TEXT),
        STATUS(state, FIELD_TEXT),
        {NULL, "protected", FIELD_BOOL, offsetof(struct status_snapshot, is_protected), 0},
        STATUS(epoch, FIELD_UINT),
        STATUS(lineage, FIELD_UINT),
        STATUS(committed, FIELD_UINT),
        STATUS(peer, FIELD_TEXT),
        STATUS(peer_alive, FIELD_BOOL),
        STATUS(lag_us, FIELD_UINT),
        STATUS(late_wait_us, FIELD_UINT),
        STATUS(qemu_version, FIELD_TEXT),
        STATUS(qemu_pid, FIELD_UINT),
        STATUS(accel, FIELD_TEXT),
        STATUS(datapath, FIELD_TEXT),
        STATUS(comparator, FIELD_TEXT),
        STATUS(since_ns, FIELD_UINT),
        STATUS(last_event, FIELD_TEXT),
        STATUS(message, FIELD_TEXT),
        STATUS(warning, FIELD_TEXT),
        STATUS(last_divergence, FIELD_TEXT),
        TAKEOVER(last_heard_ns),
        TAKEOVER(detected_ns),
        TAKEOVER(fenced_ns),
        TAKEOVER(live_ns),
        TAKEOVER(lineage),
        TAKEOVER(load_ns),
        TAKEOVER(loaded_bytes),
        TAKEOVER(discarded),
        TAKEOVER(replayed),
        POLICY(name, FIELD_TEXT),
        POLICY(in_force, FIELD_TEXT),
        POLICY(why, FIELD_TEXT),
        POLICY(compares, FIELD_BOOL),
        POLICY(latency_target_ms, FIELD_UINT),
        POLICY(rest_ms, FIELD_UINT),
        POLICY(max_pause_percent, FIELD_UINT),
        POLICY(epoch_us, FIELD_UINT),
        POLICY(pause_us, FIELD_UINT),
        POLICY(commit_us, FIELD_UINT),
        {"copy", "done", FIELD_UINT, offsetof(struct status_snapshot, copy_done), 0},
        {"copy", "total", FIELD_UINT, offsetof(struct status_snapshot, copy_total), 0},
};

#define N(a) (sizeof(a) / sizeof((a)[0]))

static const char *const *part_names(enum field_type type)
{
	switch (type) {
	case FIELD_COUNT:
		return count_names;
	case FIELD_QUEUE:
		return queue_names;
	case FIELD_LAST:
		return last_names;
	case FIELD_HIST:
		return hist_names;
	default:
		return NULL;
	}
}

/* JSON's integers are signed; a counter past 2^63 has been wrong for long. */
static json_t *uint_json(uint64_t value)
{
	return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

/* A text that was cut inside a character would be refused: give up the broken tail. */
static json_t *text_json(const char *text, size_t size)
{
	size_t len = strnlen(text, size);
	json_t *json = json_stringn(text, len);

	while (!json && len)
		json = json_stringn(text, --len);
	return json;
}

static json_t *field_json(const void *from, const struct field *field)
{
	const void *member = (const char *)from + field->offset;
	const char *const *names = part_names(field->type);
	json_t *object;

	switch (field->type) {
	case FIELD_UINT:
		return uint_json(*(const uint64_t *)member);
	case FIELD_BOOL:
		return json_boolean(*(const bool *)member);
	case FIELD_TEXT:
		return text_json(member, field->size);
	default:
		break;
	}
	object = json_object();
	for (size_t i = 0; names[i]; i++)
		json_object_set_new(object, names[i], uint_json(((const uint64_t *)member)[i]));
	return object;
}

/* The object that a field stands in, made when it is not there yet. */
static json_t *group_json(json_t *object, const char *group)
{
	json_t *inner = group ? json_object_get(object, group) : object;

	if (!inner) {
		inner = json_object();
		json_object_set_new(object, group, inner);
	}
	return inner;
}

static int fields_to_json(json_t *object, const void *from, const struct field *fields, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		json_t *value = field_json(from, &fields[i]);

		if (json_object_set_new(group_json(object, fields[i].group), fields[i].name,
		                        value) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int uint_from_json(const json_t *json, uint64_t *ret_value)
{
	if (!json)
		return 0;
	if (!json_is_integer(json) || json_integer_value(json) < 0)
		return -EPROTO;
	*ret_value = (uint64_t)json_integer_value(json);
	return 0;
}

static int field_from_json(const json_t *json, void *to, const struct field *field)
{
	void *member = (char *)to + field->offset;
	const char *const *names = part_names(field->type);

	if (!json)
		return 0;
	switch (field->type) {
	case FIELD_UINT:
		return uint_from_json(json, member);
	case FIELD_BOOL:
		*(bool *)member = json_is_true(json);
		return json_is_boolean(json) ? 0 : -EPROTO;
	case FIELD_TEXT:
		if (!json_is_string(json))
			return -EPROTO;
		snprintf(member, field->size, "%s", json_string_value(json));
		return 0;
	default:
		break;
	}
	if (!json_is_object(json))
		return -EPROTO;
	for (size_t i = 0; names[i]; i++) {
		int err = uint_from_json(json_object_get(json, names[i]), (uint64_t *)member + i);

		if (err < 0)
			return err;
	}
	return 0;
}

static int fields_from_json(const json_t *object, void *to, const struct field *fields, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const json_t *inner =
		        fields[i].group ? json_object_get(object, fields[i].group) : object;
		int err;

		if (inner && !json_is_object(inner))
			return -EPROTO;
		err = field_from_json(json_object_get(inner, fields[i].name), to, &fields[i]);
		if (err < 0)
			return err;
	}
	return 0;
}

json_t *stats_to_json(const struct stats_snapshot *stats)
{
	json_t *object = json_object();
	json_t *traffic = json_object();
	json_t *causes = json_object();
	int err = fields_to_json(object, stats, stats_fields, N(stats_fields));

	for (unsigned i = 0; i < STATS_CLASSES && !err; i++) {
		json_t *class = json_object();

		err = fields_to_json(class, &stats->traffic[i], traffic_fields, N(traffic_fields));
		if (json_object_set_new(traffic, stats_class_name(i), class) < 0)
			err = -ENOMEM;
	}
	for (unsigned i = 0; i < STATS_CAUSES && !err; i++)
		if (json_object_set_new(causes, stats_cause_name(i),
		                        uint_json(stats->checkpoints.cause[i])) < 0)
			err = -ENOMEM;
	if (json_object_set_new(object, "traffic", traffic) < 0 ||
	    json_object_set_new(group_json(object, "checkpoints"), "cause", causes) < 0 || err) {
		json_decref(object);
		return NULL;
	}
	return object;
}

json_t *status_to_json(const struct status_snapshot *status)
{
	json_t *object = json_object();

	if (fields_to_json(object, status, status_fields, N(status_fields)) < 0) {
		json_decref(object);
		return NULL;
	}
	return object;
}

static int causes_from_json(const json_t *causes, struct stats_snapshot *stats)
{
	for (unsigned i = 0; i < STATS_CAUSES; i++) {
		int err = uint_from_json(json_object_get(causes, stats_cause_name(i)),
		                         &stats->checkpoints.cause[i]);

		if (err < 0)
			return err;
	}
	return 0;
}

int stats_from_json(const json_t *json, struct stats_snapshot *ret_stats)
{
	struct stats_snapshot stats;
	const json_t *traffic = json_object_get(json, "traffic");
	int err;

	memset(&stats, 0, sizeof(stats));
	if (!json_is_object(json))
		return -EPROTO;
	err = fields_from_json(json, &stats, stats_fields, N(stats_fields));
	for (unsigned i = 0; i < STATS_CLASSES && !err; i++) {
		const json_t *class = json_object_get(traffic, stats_class_name(i));

		if (class && !json_is_object(class))
			err = -EPROTO;
		else if (class)
			err = fields_from_json(class, &stats.traffic[i], traffic_fields,
			                       N(traffic_fields));
	}
	if (!err)
		err = causes_from_json(
		        json_object_get(json_object_get(json, "checkpoints"), "cause"), &stats);
	if (!err)
		*ret_stats = stats;
	return err;
}

int status_from_json(const json_t *json, struct status_snapshot *ret_status)
{
	struct status_snapshot status;
	int err;

	memset(&status, 0, sizeof(status));
	if (!json_is_object(json))
		return -EPROTO;
	err = fields_from_json(json, &status, status_fields, N(status_fields));
	if (!err)
		*ret_status = status;
	return err;
}
