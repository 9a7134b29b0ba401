/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "colo-proxy/datapath/hold.h"

#include <errno.h>
#include <string.h>

const struct hold_ops *hold_by_name(const char *name)
{
	static const struct hold_ops *const all[] = {&hold_tap, &hold_nfqueue};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		if (strcmp(all[i]->name, name) == 0)
			return all[i];
	return NULL;
}

int hold_open(const struct hold_ops *ops, const struct hold_params *params, struct hold **ret_hold,
              char *err, size_t errlen)
{
	return ops->open(params, ret_hold, err, errlen);
}

int hold_fds(const struct hold *hold, int ret_fds[2])
{
	return hold->ops->fds(hold, ret_fds);
}

int hold_receive(struct hold *hold, struct frame **ret_list, unsigned max)
{
	int n = hold->ops->receive(hold, ret_list, max);

	if (n > 0)
		hold->count.received += (unsigned)n;
	return n;
}

int hold_release(struct hold *hold, struct frame *f, bool rewritten)
{
	int ret;

	if (hold->mute || hold->mode == HOLD_MODE_DROP)
		return -EPERM;
	ret = hold->ops->release(hold, f, rewritten);
	if (ret == 0)
		hold->count.released++;
	else if (ret == -EINVAL)
		hold->count.rejected++;
	return ret;
}

void hold_discard(struct hold *hold, struct frame *f)
{
	if (!f)
		return;
	hold->ops->discard(hold, f);
	hold->count.discarded++;
}

int hold_flush(struct hold *hold)
{
	return hold->ops->flush(hold);
}

int hold_set_mode(struct hold *hold, enum hold_mode mode)
{
	int ret = hold->ops->set_mode(hold, mode);

	if (ret == 0)
		hold->mode = mode;
	return ret;
}

int hold_set_mute(struct hold *hold, bool mute)
{
	int ret = hold->ops->set_mute(hold, mute);

	if (ret == 0)
		hold->mute = mute;
	return ret;
}

void hold_get_counters(struct hold *hold, struct hold_counters *ret_counters)
{
	hold->ops->counters(hold, ret_counters);
}

void hold_close(struct hold *hold)
{
	if (hold)
		hold->ops->close(hold);
}
