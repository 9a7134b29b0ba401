/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Waiting is done on events, with a query after each: what an event announced may have passed by
 * the time it is read, so that only the queries decide. A silent QEMU is asked again every
 * REASK_MS.
 */
#include "qemu-glue/colo.h"

#include <errno.h>
#include <string.h>

#include <glib.h>

#include "qemu-glue/words.h"

#define REASK_MS      100
#define MAX_BANDWIDTH (INT64_C(1) << 40) /* bytes/s: no limit in practice */

const struct colo_tuning colo_tuning_default = {
        .checkpoint_delay_ms = COLO_DELAY_NEVER,
        .downtime_limit_ms = 20,
};

/* One call's time, shared out to the commands that it makes. */
struct budget {
	gint64 deadline; /* us, g_get_monotonic_time() */
};

static struct budget budget_of(uint64_t timeout_ms)
{
	uint64_t ms = timeout_ms > G_MAXINT32 ? G_MAXINT32 : timeout_ms;

	return (struct budget){g_get_monotonic_time() + (gint64)ms * 1000};
}

static uint64_t left_ms(struct budget budget)
{
	gint64 left = budget.deadline - g_get_monotonic_time();

	return left > 0 ? ((uint64_t)left + 999) / 1000 : 0;
}

static int command(struct qmp *q, const char *name, json_t *args, struct budget budget, char *err,
                   size_t errlen)
{
	return qmp_execute(q, name, args, left_ms(budget), NULL, err, errlen);
}

static json_t *capability(const char *name, bool state)
{
	return json_pack("{s:s, s:b}", "capability", name, "state", (int)state);
}

/*
 * "events" is a secondary's and a primary's own affair: it only makes QEMU report its migration's
 * states, so that nobody needs to poll for them.
 */
static int set_capabilities(struct qmp *q, struct budget budget, char *err, size_t errlen)
{
	json_t *caps = json_pack("[o, o, o]", capability("return-path", true),
	                         capability("x-colo", true), capability("events", true));

	return command(q, "migrate-set-capabilities", json_pack("{s:o}", "capabilities", caps),
	               budget, err, errlen);
}

int colo_prepare_secondary(struct qmp *q, const char *uri, uint64_t timeout_ms, char *err,
                           size_t errlen)
{
	struct budget budget = budget_of(timeout_ms);
	int ret = set_capabilities(q, budget, err, errlen);

	if (ret)
		return ret;
	return command(q, "migrate-incoming", json_pack("{s:s}", "uri", uri), budget, err, errlen);
}

int colo_start_primary(struct qmp *q, const char *uri, const struct colo_tuning *tuning,
                       uint64_t timeout_ms, char *err, size_t errlen)
{
	struct budget budget = budget_of(timeout_ms);
	json_t *params = json_pack("{s:I, s:I, s:I}", "x-checkpoint-delay",
	                           (json_int_t)tuning->checkpoint_delay_ms, "downtime-limit",
	                           (json_int_t)tuning->downtime_limit_ms, "max-bandwidth",
	                           (json_int_t)MAX_BANDWIDTH);
	int ret = set_capabilities(q, budget, err, errlen);

	if (ret) {
		json_decref(params);
		return ret;
	}
	ret = command(q, "migrate-set-parameters", params, budget, err, errlen);
	if (ret)
		return ret;
	qmp_drop_events(q, NULL);
	return command(q, "migrate", json_pack("{s:s}", "uri", uri), budget, err, errlen);
}

/* An integer that QEMU may also have sent as a real (see parse() in qmp.c). */
static uint64_t as_u64(const json_t *value)
{
	double real = json_is_number(value) ? json_number_value(value) : 0;

	if (json_is_integer(value) && json_integer_value(value) >= 0)
		return (uint64_t)json_integer_value(value);
	if (real >= 18446744073709551615.0)
		return UINT64_MAX;
	return real > 0 ? (uint64_t)real : 0;
}

/* `ret_reason` gets QEMU's error-desc, or "". */
static int query_migrate(struct qmp *q, uint64_t timeout_ms, struct colo_progress *ret_progress,
                         char *ret_reason, size_t reason_len, char *err, size_t errlen)
{
	json_t *reply = NULL;
	const json_t *ram;
	const char *status;
	const char *reason;
	int ret = qmp_execute(q, "query-migrate", NULL, timeout_ms, &reply, err, errlen);

	if (ret)
		return ret;
	status = json_string_value(json_object_get(reply, "status"));
	reason = json_string_value(json_object_get(reply, "error-desc"));
	ram = json_object_get(reply, "ram");
	g_strlcpy(ret_progress->status, status ? status : "none", sizeof(ret_progress->status));
	ret_progress->transferred = as_u64(json_object_get(ram, "transferred"));
	ret_progress->remaining = as_u64(json_object_get(ram, "remaining"));
	ret_progress->total = as_u64(json_object_get(ram, "total"));
	if (reason_len)
		g_strlcpy(ret_reason, reason ? reason : "", reason_len);
	json_decref(reply);
	return 0;
}

int colo_query_progress(struct qmp *q, uint64_t timeout_ms, struct colo_progress *ret_progress,
                        char *err, size_t errlen)
{
	return query_migrate(q, timeout_ms, ret_progress, NULL, 0, err, errlen);
}

int colo_query_status(struct qmp *q, uint64_t timeout_ms, bool *ret_running, char *status,
                      size_t status_len, char *err, size_t errlen)
{
	json_t *reply = NULL;
	const char *text;
	int ret = qmp_execute(q, "query-status", NULL, timeout_ms, &reply, err, errlen);

	if (ret)
		return ret;
	text = json_string_value(json_object_get(reply, "status"));
	if (text) {
		*ret_running = strcmp(text, "running") == 0;
		if (status_len)
			g_strlcpy(status, text, status_len);
	} else {
		ret = words(-EPROTO, err, errlen, "QMP query-status: no status in the reply");
	}
	json_decref(reply);
	return ret;
}

/* "primary", "secondary" or "none" (QEMU's COLOMode) into `mode`. */
static int query_mode(struct qmp *q, uint64_t timeout_ms, char *mode, size_t size, char *err,
                      size_t errlen)
{
	json_t *reply = NULL;
	const char *text;
	int ret = qmp_execute(q, "query-colo-status", NULL, timeout_ms, &reply, err, errlen);

	if (ret)
		return ret;
	text = json_string_value(json_object_get(reply, "mode"));
	if (text)
		g_strlcpy(mode, text, size);
	else
		ret = words(-EPROTO, err, errlen, "QMP query-colo-status: no mode in the reply");
	json_decref(reply);
	return ret;
}

/* Waits for the next event, whichever; quiet time is no error. -ETIMEDOUT: the budget is used up.
 */
static int wait_any(struct qmp *q, struct budget budget, char *err, size_t errlen)
{
	uint64_t left = left_ms(budget);
	int ret;

	if (!left)
		return -ETIMEDOUT;
	ret = qmp_wait_event(q, NULL, left < REASK_MS ? left : REASK_MS, NULL, err, errlen);
	return ret == -ETIMEDOUT ? 0 : ret;
}

/* Waits until the VM runs with QEMU's COLO mode being `mode`. */
static int wait_running_as(struct qmp *q, const char *mode, struct budget budget, char *err,
                           size_t errlen)
{
	for (;;) {
		char is[16] = "";
		char status[32] = "";
		bool running = false;
		int ret = query_mode(q, left_ms(budget), is, sizeof(is), err, errlen);

		if (!ret)
			ret = colo_query_status(q, left_ms(budget), &running, status,
			                        sizeof(status), err, errlen);
		if (ret)
			return ret;
		if (running && strcmp(is, mode) == 0)
			return 0;
		ret = wait_any(q, budget, err, errlen);
		if (ret == -ETIMEDOUT)
			return words(ret, err, errlen,
			             "QEMU is %s with COLO mode %s; expected running and %s",
			             status, is, mode);
		if (ret)
			return ret;
	}
}

int colo_wait_primary(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen)
{
	struct budget budget = budget_of(timeout_ms);

	for (;;) {
		struct colo_progress progress;
		char reason[200];
		bool running = false;
		int ret = query_migrate(q, left_ms(budget), &progress, reason, sizeof(reason), err,
		                        errlen);

		if (!ret)
			ret = colo_query_status(q, left_ms(budget), &running, NULL, 0, err, errlen);
		if (ret)
			return ret;
		if (strcmp(progress.status, "colo") == 0 && running)
			return 0;
		if (strcmp(progress.status, "failed") == 0 ||
		    strcmp(progress.status, "cancelled") == 0 ||
		    strcmp(progress.status, "completed") == 0)
			return words(-EIO, err, errlen, "the copy to the secondary %s%s%s",
			             progress.status, *reason ? ": " : "", reason);
		ret = wait_any(q, budget, err, errlen);
		if (ret == -ETIMEDOUT)
			return words(ret, err, errlen,
			             "not in COLO after %llu ms: migration is %s, %llu of %llu MiB "
			             "left",
			             (unsigned long long)timeout_ms, progress.status,
			             (unsigned long long)(progress.remaining >> 20),
			             (unsigned long long)(progress.total >> 20));
		if (ret)
			return ret;
	}
}

int colo_wait_secondary(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen)
{
	return wait_running_as(q, "secondary", budget_of(timeout_ms), err, errlen);
}

int colo_trigger_checkpoint(struct qmp *q, uint32_t delay_ms, uint64_t timeout_ms, char *err,
                            size_t errlen)
{
	return qmp_execute(q, "migrate-set-parameters",
	                   json_pack("{s:I}", "x-checkpoint-delay", (json_int_t)delay_ms),
	                   timeout_ms, NULL, err, errlen);
}

static bool has_left(struct qmp *q, struct budget budget)
{
	char mode[16] = "", ignored[200];
	bool running = false;
	int ret = query_mode(q, left_ms(budget), mode, sizeof(mode), ignored, sizeof(ignored));

	if (!ret)
		ret = colo_query_status(q, left_ms(budget), &running, NULL, 0, ignored,
		                        sizeof(ignored));
	return !ret && running && strcmp(mode, "none") == 0;
}

/*
 * An order that came too late for its caller is carried out all the same, and the repeated one is
 * refused (migration/colo.c in QEMU): what counts is whether QEMU has left.
 */
static int failover(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen)
{
	struct budget budget = budget_of(timeout_ms);
	int ret = command(q, "x-colo-lost-heartbeat", NULL, budget, err, errlen);

	if (ret)
		return ret == -EREMOTEIO && has_left(q, budget) ? 0 : ret;
	return wait_running_as(q, "none", budget, err, errlen);
}

int colo_failover_secondary(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen)
{
	return failover(q, timeout_ms, err, errlen);
}

int colo_failover_primary(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen)
{
	return failover(q, timeout_ms, err, errlen);
}

int colo_unwedge(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen)
{
	return qmp_execute_oob(q, "yank",
	                       json_pack("{s:[{s:s}]}", "instances", "type", "migration"),
	                       timeout_ms, NULL, err, errlen);
}

int colo_announce_self(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen)
{
	return qmp_execute(q, "announce-self",
	                   json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550, "rounds", 5,
	                             "step", 100),
	                   timeout_ms, NULL, err, errlen);
}

/* Runs `name` with {"id": X} for each id, in order. */
static int for_ids(struct qmp *q, const char *name, const char *const *ids, struct budget budget,
                   char *err, size_t errlen)
{
	int ret = 0;

	for (; *ids && !ret; ids++)
		ret = command(q, name, json_pack("{s:s}", "id", *ids), budget, err, errlen);
	return ret;
}

/* Of a primary, in the order in which they go. */
static const char *const stock_objects[] = {"comp0", "iothread1", "m0", "redire0", "redire1", NULL};

int colo_stock_failover_primary(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen)
{
	struct budget budget = budget_of(timeout_ms);
	int ret = for_ids(q, "object-del", stock_objects, budget, err, errlen);

	if (ret)
		return ret;
	return failover(q, left_ms(budget), err, errlen);
}

int colo_stock_failover_secondary(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen)
{
	static const char *const objects[] = {"f2", "f1", NULL};
	static const char *const chardevs[] = {"red1", "red0", NULL};
	struct budget budget = budget_of(timeout_ms);
	int ret = failover(q, timeout_ms, err, errlen);

	if (!ret)
		ret = for_ids(q, "object-del", objects, budget, err, errlen);
	if (!ret)
		ret = for_ids(q, "chardev-remove", chardevs, budget, err, errlen);
	return ret;
}

/* Steals `addr`. */
static int add_chardev(struct qmp *q, const char *id, json_t *addr, bool server,
                       struct budget budget, char *err, size_t errlen)
{
	json_t *args = json_pack("{s:s, s:{s:s, s:{s:o, s:b}}}", "id", id, "backend", "type",
	                         "socket", "data", "addr", addr, "server", (int)server);

	return command(q, "chardev-add", args, budget, err, errlen);
}

static json_t *inet_addr_of(const char *host, uint16_t port)
{
	char text[8];

	g_snprintf(text, sizeof(text), "%u", port);
	return json_pack("{s:s, s:{s:s, s:s}}", "type", "inet", "data", "host", host, "port", text);
}

static json_t *unix_addr_of(const char *dir, const char *name)
{
	g_autofree char *path = g_strdup_printf("%s/%s", dir, name);

	return json_pack("{s:s, s:{s:s}}", "type", "unix", "data", "path", path);
}

static int add_channels(struct qmp *q, const struct colo_stock_channels *ch, struct budget budget,
                        char *err, size_t errlen)
{
	int ret = add_chardev(q, "mirror0", inet_addr_of(ch->host, ch->mirror_port), true, budget,
	                      err, errlen);

	if (!ret)
		ret = add_chardev(q, "compare1", inet_addr_of(ch->host, ch->compare_port), true,
		                  budget, err, errlen);
	if (!ret)
		ret = add_chardev(q, "compare0", unix_addr_of(ch->run_dir, "compare0"), true,
		                  budget, err, errlen);
	if (!ret)
		ret = add_chardev(q, "compare0-0", unix_addr_of(ch->run_dir, "compare0"), false,
		                  budget, err, errlen);
	if (!ret)
		ret = add_chardev(q, "compare_out", unix_addr_of(ch->run_dir, "compare_out"), true,
		                  budget, err, errlen);
	if (!ret)
		ret = add_chardev(q, "compare_out0", unix_addr_of(ch->run_dir, "compare_out"),
		                  false, budget, err, errlen);
	return ret;
}

int colo_stock_open_channels(struct qmp *q, const struct colo_stock_channels *channels,
                             uint64_t timeout_ms, char *err, size_t errlen)
{
	return add_channels(q, channels, budget_of(timeout_ms), err, errlen);
}

int colo_stock_close_channels(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen)
{
	/* Clients first: a server does not miss the end of its connection then. */
	static const char *const chardevs[] = {"compare0-0",  "compare_out0", "compare0",
	                                       "compare_out", "mirror0",      "compare1",
	                                       NULL};

	return for_ids(q, "chardev-remove", chardevs, budget_of(timeout_ms), err, errlen);
}

/* True if `reply`, an answer to qom-list, has a child called `name`. */
static bool has_child(const json_t *reply, const char *name)
{
	const json_t *property;
	size_t i;

	json_array_foreach(reply, i, property)
	{
		const char *is = json_string_value(json_object_get(property, "name"));

		if (is && strcmp(is, name) == 0)
			return true;
	}
	return false;
}

int colo_stock_remove_filters(struct qmp *q, uint64_t timeout_ms, char *err, size_t errlen)
{
	struct budget budget = budget_of(timeout_ms);
	json_t *reply = NULL;
	int ret = qmp_execute(q, "qom-list", json_pack("{s:s}", "path", "/objects"),
	                      left_ms(budget), &reply, err, errlen);

	for (size_t i = 0; stock_objects[i] && !ret; i++) {
		const char *const ids[] = {stock_objects[i], NULL};

		if (has_child(reply, ids[0]))
			ret = for_ids(q, "object-del", ids, budget, err, errlen);
	}
	json_decref(reply);
	return ret;
}

/* A filter on the NIC; `device` is the member that names its channel. */
static int add_filter(struct qmp *q, const char *type, const char *id, const char *queue,
                      const char *device, const char *chardev, bool before_rewriter,
                      struct budget budget, char *err, size_t errlen)
{
	json_t *args =
	        json_pack("{s:s, s:s, s:s, s:s, s:s, s:b}", "qom-type", type, "id", id, "netdev",
	                  "hn0", "queue", queue, device, chardev, "vnet_hdr_support", 1);

	if (before_rewriter) {
		json_object_set_new(args, "insert", json_string("before"));
		json_object_set_new(args, "position", json_string("id=rew0"));
	}
	return command(q, "object-add", args, budget, err, errlen);
}

int colo_stock_prepare_primary(struct qmp *q, const struct colo_stock_channels *channels,
                               bool was_secondary, uint64_t timeout_ms, char *err, size_t errlen)
{
	struct budget budget = budget_of(timeout_ms);
	int ret = channels ? add_channels(q, channels, budget, err, errlen) : 0;

	if (!ret)
		ret = add_filter(q, "filter-mirror", "m0", "tx", "outdev", "mirror0", was_secondary,
		                 budget, err, errlen);
	if (!ret)
		ret = add_filter(q, "filter-redirector", "redire0", "rx", "indev", "compare_out",
		                 was_secondary, budget, err, errlen);
	if (!ret)
		ret = add_filter(q, "filter-redirector", "redire1", "rx", "outdev", "compare0",
		                 was_secondary, budget, err, errlen);
	if (!ret)
		ret = command(q, "object-add",
		              json_pack("{s:s, s:s}", "qom-type", "iothread", "id", "iothread1"),
		              budget, err, errlen);
	if (!ret)
		ret = command(q, "object-add",
		              json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "qom-type",
		                        "colo-compare", "id", "comp0", "primary_in", "compare0-0",
		                        "secondary_in", "compare1", "outdev", "compare_out0",
		                        "iothread", "iothread1", "vnet_hdr_support", 1),
		              budget, err, errlen);
	return ret;
}
