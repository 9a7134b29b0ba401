/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu-glue/dirty_sample.h"

#include <errno.h>
#include <string.h>

#include "qemu-glue/words.h"

#define UNIT "millisecond"

int dirty_sample_begin(struct qmp *q, uint64_t window_ms, uint64_t pages_per_gib,
                       uint64_t timeout_ms, char *err, size_t errlen)
{
	json_t *args = json_pack("{s:I, s:s, s:I, s:s}", "calc-time", (json_int_t)window_ms,
	                         "calc-time-unit", UNIT, "sample-pages", (json_int_t)pages_per_gib,
	                         "mode", "page-sampling");

	return qmp_execute(q, "calc-dirty-rate", args, timeout_ms, NULL, err, errlen);
}

int dirty_sample_read(const json_t *answer, uint64_t window_ms, uint64_t *ret_mib_per_s, char *err,
                      size_t errlen)
{
	const char *status = json_string_value(json_object_get(answer, "status"));
	const char *mode = json_string_value(json_object_get(answer, "mode"));
	const char *unit = json_string_value(json_object_get(answer, "calc-time-unit"));
	const json_t *window = json_object_get(answer, "calc-time");
	const json_t *rate = json_object_get(answer, "dirty-rate");

	if (!status || !mode || !unit || !json_is_integer(window))
		return words(-EPROTO, err, errlen,
		             "query-dirty-rate: found no status, mode and time");
	if (strcmp(status, "measuring") == 0)
		return -EINPROGRESS;
	if (strcmp(status, "measured") != 0 || !json_is_integer(rate) ||
	    json_integer_value(rate) < 0)
		return words(-EPROTO, err, errlen, "query-dirty-rate: found no rate, status %.40s",
		             status);
	/* QEMU notes how long it has taken: never less than it was asked for. */
	if (strcmp(mode, "page-sampling") != 0 || strcmp(unit, UNIT) != 0 ||
	    json_integer_value(window) < (json_int_t)window_ms)
		return words(-EPROTO, err, errlen,
		             "query-dirty-rate: found %.40s in %lld of %.40s, asked for others",
		             mode, (long long)json_integer_value(window), unit);
	*ret_mib_per_s = (uint64_t)json_integer_value(rate);
	return 0;
}

int dirty_sample_take(struct qmp *q, uint64_t window_ms, uint64_t timeout_ms,
                      uint64_t *ret_mib_per_s, char *err, size_t errlen)
{
	json_t *value = NULL;
	int r = qmp_execute(q, "query-dirty-rate", json_pack("{s:s}", "calc-time-unit", UNIT),
	                    timeout_ms, &value, err, errlen);

	if (r < 0)
		return r;
	r = dirty_sample_read(value, window_ms, ret_mib_per_s, err, errlen);
	json_decref(value);
	return r;
}
