/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/divert.h"

#include "colo-proxy/datapath/netif.h"
#include "colo-proxy/datapath/netlink.h"
#include "colo-proxy/datapath/tc.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static int attach_reentry(struct divert *d, const struct divert_params *params, char *err,
                          size_t errlen)
{
	int tap = netif_index(d->tap_name);
	int prog;
	int ret;

	if (tap < 0)
		return tap;
	prog = bpf_load_reentry(d->map_fd, params->mark, d->port, err, errlen);
	if (prog < 0)
		return prog;
	ret = tc_clsact(tap);
	if (ret == 0)
		ret = tc_attach(tap, TC_SIDE_INGRESS, prog);
	close(prog);
	if (ret < 0)
		return netlink_error(err, errlen, ret, "tap %s: cannot attach the filter: %s",
		                     d->tap_name, strerror(-ret));
	return 0;
}

static int attach_port(struct divert *d, const struct divert_params *params, char *err,
                       size_t errlen)
{
	struct bpf_divert divert = {
	        .map_fd = d->map_fd, .links_fd = d->links_fd, .mark = params->mark};
	int prog;
	int ret;

	divert.keep_mark = params->keep_mark;
	divert.to_ifindex = netif_index(d->tap_name);
	if (divert.to_ifindex < 0)
		return divert.to_ifindex;
	prog = bpf_load_divert(&divert, err, errlen);
	if (prog < 0)
		return prog;
	ret = tc_clsact(d->port);
	if (ret == 0)
		ret = tc_attach(d->port, params->side, prog);
	close(prog);
	if (ret < 0)
		return netlink_error(err, errlen, ret,
		                     "port %s: cannot attach the filter: %s; is there another tc "
		                     "filter of preference 1?",
		                     params->port, strerror(-ret));
	d->attached = true;
	return 0;
}

static int open_parts(struct divert *d, const struct divert_params *params, char *err,
                      size_t errlen)
{
	struct tapdev_params tap = {.name = params->tap_name, .for_daemon = true};
	int ret;

	tap.txqueuelen = params->queue;
	ret = tapdev_create(&tap, &d->tap_fd, d->tap_name, err, errlen);
	if (ret < 0)
		return ret;
	ret = tap_counters_open(&d->tap, d->tap_name);
	if (ret < 0)
		return netlink_error(err, errlen, ret, "counters of %s: %s; is sysfs there?",
		                     d->tap_name, strerror(-ret));
	d->map_fd = bpf_cells_new();
	if (d->map_fd < 0)
		return netlink_error(err, errlen, d->map_fd, "cannot create a BPF map: %s",
		                     strerror(-d->map_fd));
	if (params->learn)
		d->links_fd = bpf_links_new();
	if (params->learn && d->links_fd < 0)
		return netlink_error(err, errlen, d->links_fd, "cannot create a BPF map: %s",
		                     strerror(-d->links_fd));
	ret = divert_set_mode(d, params->mode);
	if (ret == 0)
		ret = divert_set_reentry(d, params->reentry);
	/* Without re-entry the program still is there, so that nothing written gets to the host. */
	if (ret == 0)
		ret = attach_reentry(d, params, err, errlen);
	return ret < 0 ? ret : attach_port(d, params, err, errlen);
}

int divert_open(struct divert *d, const struct divert_params *params, char *err, size_t errlen)
{
	int ret;

	memset(d, 0, sizeof(*d));
	d->tap_fd = -1;
	d->map_fd = -1;
	d->links_fd = -1;
	for (int i = 0; i < TAP_COUNTERS; i++)
		d->tap.fd[i] = -1;
	d->side = params->side;
	if (params->mark == 0)
		return netlink_error(err, errlen, -EINVAL,
		                     "mark 0 is every frame's; choose another");
	d->port = netif_index(params->port);
	if (d->port < 0)
		return netlink_error(err, errlen, d->port, "there is no interface %s",
		                     params->port);
	ret = open_parts(d, params, err, errlen);
	if (ret < 0)
		divert_close(d, false);
	return ret;
}

int divert_set_mode(struct divert *d, enum bpf_mode mode)
{
	int ret = bpf_cell_set(d->map_fd, BPF_CELL_MODE, mode);

	if (ret == 0)
		d->mode = mode;
	return ret;
}

int divert_set_reentry(struct divert *d, bool on)
{
	return bpf_cell_set(d->map_fd, BPF_CELL_REENTRY, on);
}

int divert_set_leave_ip(struct divert *d, bool on)
{
	return bpf_cell_set(d->map_fd, BPF_CELL_LEAVE_IP, on);
}

int divert_receive(struct divert *d, struct frame **ret_list, unsigned max)
{
	struct frame *list = NULL;
	struct frame **end = &list;
	unsigned n;
	int ret = 0;

	for (n = 0; n < max; n++) {
		ret = tapdev_read(&d->reader, d->tap_fd, end);
		if (ret < 0)
			break;
		end = &(*end)->next;
	}
	if (n == 0 && ret < 0 && ret != -EAGAIN)
		return ret;
	*ret_list = list;
	return (int)n;
}

void divert_close(struct divert *d, bool open_port)
{
	if (!d)
		return;
	if (d->attached && open_port)
		tc_detach(d->port, d->side);
	else if (d->attached)
		divert_set_mode(d, BPF_MODE_DROP);
	d->attached = false;
	tap_counters_close(&d->tap);
	tapdev_reader_clear(&d->reader);
	if (d->tap_fd >= 0)
		close(d->tap_fd);
	if (d->map_fd >= 0)
		close(d->map_fd);
	if (d->links_fd >= 0)
		close(d->links_fd);
	d->tap_fd = -1;
	d->map_fd = -1;
	d->links_fd = -1;
}
