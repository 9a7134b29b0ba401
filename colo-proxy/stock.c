/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/stock.h"

#include <errno.h>
#include <string.h>

#include "colo-proxy/node/node.h"
#include "qemu-glue/colo.h"

#define QMP_MS 5000

char *stock_uri(const struct config *config)
{
	const struct config_endpoint *secondary =
	        config->role == CONFIG_ROLE_PRIMARY ? &config->peer : &config->listen;
	const char *format = strchr(secondary->host, ':') ? "tcp:[%s]:%u" : "tcp:%s:%u";

	if (config->migration_transport == CONFIG_TRANSPORT_UNIX)
		return g_strconcat("unix:", config->migration_path, NULL);
	return g_strdup_printf(format, secondary->host,
	                       (unsigned)(config->qemu_base_port + CONFIG_PORT_MIGRATION));
}

static struct colo_stock_channels channels_of(const struct config *config)
{
	return (struct colo_stock_channels){
	        .host = config->listen.host,
	        .mirror_port = (uint16_t)(config->qemu_base_port + CONFIG_PORT_MIRROR),
	        .compare_port = (uint16_t)(config->qemu_base_port + CONFIG_PORT_COMPARE),
	        .run_dir = config->run_dir,
	};
}

int stock_open(struct stock *stock, char *err, size_t errlen)
{
	struct colo_stock_channels channels = channels_of(stock->vm->config);
	int r = colo_stock_open_channels(stock->vm->qmp, &channels, QMP_MS, err, errlen);

	stock->channels = r == 0;
	return r;
}

int stock_migrate(struct stock *stock, const char *uri, char *err, size_t errlen)
{
	struct colo_tuning tuning = {
	        .checkpoint_delay_ms = STOCK_CHECKPOINT_DELAY_MS,
	        .downtime_limit_ms = (uint32_t)(stock->vm->config->downtime_limit_ns / 1000000),
	};
	int r = 0;

	stock->counting = false;
	stock->stopped_us = 0;
	if (!stock->channels)
		r = stock_open(stock, err, errlen);
	if (r < 0)
		return r;
	stock->filters = true;
	r = colo_stock_prepare_primary(stock->vm->qmp, NULL, false, QMP_MS, err, errlen);
	if (r < 0)
		return r;
	return colo_start_primary(stock->vm->qmp, uri, &tuning, QMP_MS, err, errlen);
}

/* The next secondary gets sockets on which no dead connection is left. */
static int renew_channels(struct stock *stock, char *err, size_t errlen)
{
	int r = colo_stock_close_channels(stock->vm->qmp, QMP_MS, err, errlen);

	stock->channels = false;
	return r < 0 ? r : stock_open(stock, err, errlen);
}

static int leave_primary(struct stock *stock, char *err, size_t errlen)
{
	char ignored[200];
	int r;

	/* Fails when there is no channel any more: nothing hangs in it then. */
	(void)colo_unwedge(stock->vm->qmp, QMP_MS, ignored, sizeof(ignored));
	r = colo_stock_failover_primary(stock->vm->qmp, QMP_MS, err, errlen);
	if (r < 0)
		return r;
	stock->filters = false;
	return renew_channels(stock, err, errlen);
}

int stock_leave(struct stock *stock, bool primary, char *err, size_t errlen)
{
	stock->counting = false;
	if (primary)
		return leave_primary(stock, err, errlen);
	return colo_stock_failover_secondary(stock->vm->qmp, QMP_MS, err, errlen);
}

int stock_drop_filters(struct stock *stock, char *err, size_t errlen)
{
	int r;

	if (!stock->filters)
		return 0;
	r = colo_stock_remove_filters(stock->vm->qmp, QMP_MS, err, errlen);
	if (r < 0)
		return r;
	stock->filters = false;
	return renew_channels(stock, err, errlen);
}

int stock_announce(struct stock *stock, char *err, size_t errlen)
{
	return colo_announce_self(stock->vm->qmp, QMP_MS, err, errlen);
}

/* ---- what QEMU's events say ---- */

void stock_count(struct stock *stock)
{
	qmp_drop_events(stock->vm->qmp, NULL);
	stock->stopped_us = 0;
	stock->counting = true;
}

static uint64_t event_us(const json_t *event)
{
	const json_t *at = json_object_get(event, "timestamp");

	return (uint64_t)json_integer_value(json_object_get(at, "seconds")) * 1000000 +
	       (uint64_t)json_integer_value(json_object_get(at, "microseconds"));
}

static void take_event(struct stock *stock, const json_t *event, const struct stock_ops *ops,
                       void *ctx)
{
	const char *name = json_string_value(json_object_get(event, "event"));
	uint64_t at = event_us(event), now = (uint64_t)g_get_real_time();

	if (!name || !stock->counting)
		return;
	if (strcmp(name, "STOP") == 0) {
		stock->stopped_us = at;
	} else if (strcmp(name, "RESUME") == 0) {
		if (stock->stopped_us && at >= stock->stopped_us && now >= stock->stopped_us)
			ops->checkpoint(ctx, (now - stock->stopped_us) * 1000,
			                (at - stock->stopped_us) * 1000);
		stock->stopped_us = 0;
	} else if (strcmp(name, "COLO_EXIT") == 0) {
		const json_t *data = json_object_get(event, "data");
		const char *reason = json_string_value(json_object_get(data, "reason"));

		stock->counting = false;
		ops->left(ctx, reason ? reason : "no reason given");
	}
}

void stock_take_events(struct stock *stock, const struct stock_ops *ops, void *ctx)
{
	char err[200];
	json_t *event;

	while (stock->vm->qmp &&
	       qmp_wait_event(stock->vm->qmp, NULL, 0, &event, err, sizeof(err)) == 0) {
		take_event(stock, event, ops, ctx);
		json_decref(event);
	}
}
