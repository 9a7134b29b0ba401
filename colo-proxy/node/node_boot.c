/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * When a primary may start its VM (R6): theory of operation
 *
 * A primary that comes back after its secondary took over must not boot the VM a second time. It
 * boots when the peer has said that it has no copy. A first start must be possible without a peer:
 * then it boots when none was found within boot-wait. But once a secondary has had a copy, silence
 * proves nothing any more, and that must be known after a power cut too: a marker file in state-dir
 * says so. It is there from before the first copy until this side has the right to speak for
 * certain. With the marker, a primary without its VM waits for the peer, or for the operator's
 * `failover --force`; and says in its heartbeats that it has none, so that a secondary which has
 * one takes over.
 *
 * A primary that finds its peer speaking becomes that one's secondary (node_reprotect.c), with the
 * marker in place. It goes when this side has the right to speak again: not yet when the right is
 * the peer's gift (a switch-over), since the peer still has the VM and an operator can give it
 * back. Then it stays until there is a copy again, which needs it anyway.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "colo-proxy/control/log.h"
#include "colo-proxy/node/node_private.h"

#define MARKER "peer-may-speak"

static struct primary *of(struct node *node)
{
	return &node->p;
}

static void marker_path(const struct node *node, char *buf, size_t size)
{
	snprintf(buf, size, "%s/" MARKER, node->config->state_dir);
}

static bool marker_is_there(const struct node *node)
{
	char path[160];

	marker_path(node, path, sizeof(path));
	if (access(path, F_OK) == 0)
		return true;
	if (errno == ENOENT)
		return false;
	log_error("cannot look for %s: %s; it is taken to be there", path, strerror(errno));
	return true;
}

static int sync_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (fd < 0)
		return -errno;
	r = fsync(fd) < 0 ? -errno : 0;
	close(fd);
	return r;
}

int node_mark(const struct node *node)
{
	char path[160];
	int fd;

	mkdir(CONFIG_STATE_DIR, 0755); /* open() says what is wrong, if anything is */
	mkdir(node->config->state_dir, 0700);
	marker_path(node, path, sizeof(path));
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	close(fd);
	return sync_dir(node->config->state_dir);
}

void primary_unmark(struct node *node)
{
	char path[160];

	marker_path(node, path, sizeof(path));
	if (unlink(path) < 0 && errno != ENOENT)
		log_warn("cannot remove %s: %s; the next start waits for the peer", path,
		         strerror(errno));
}

static void boot(struct node *node)
{
	struct primary *p = of(node);

	loop_timer_clear(node->loop, &p->boot_timer);
	if (p->vm_ordered || node->role.state == ROLE_RETIRED)
		return;
	p->vm_ordered = true;
	node->ops->order(node->ctx, ORDER_START_PRIMARY, "");
}

void primary_boot_due(void *ctx, uint64_t now)
{
	struct node *node = ctx;

	(void)now;
	if (node_proxies(node) && marker_is_there(node)) {
		node_message(node,
		             "the secondary had a copy of the VM and may speak for it. The VM is "
		             "not started before the secondary is heard. If it is off for "
		             "certain: colo-proxy failover --force");
		node_event(node, "waiting for the secondary, which may speak");
		return;
	}
	boot(node);
}

/* The operator vouches that the secondary does not speak. False when that was not the question. */
bool primary_force_boot(struct node *node)
{
	if (of(node)->vm_ordered || node->role.state == ROLE_RETIRED)
		return false;
	primary_unmark(node);
	boot(node);
	return true;
}

void primary_vm_ready(struct node *node, bool ok, const char *text)
{
	struct primary *p = of(node);

	if (!ok) {
		node_message(node, text);
		node_role(node, ROLE_EV_VM_LOST);
		return;
	}
	p->vm_up = true;
	node_event(node, "the VM runs");
	/* It may have spoken from the other host before: switches still look for it there, and a
	 * guest that boots need not say anything before it is asked. */
	if (node_proxies(node) && role_speaks(&node->role)) {
		node->s.announce_timer =
		        (struct loop_timer){.fire = secondary_announce_due, .ctx = node};
		node_announce(node);
	}
	if (p->copy_due && node->role.state == ROLE_JOINING)
		primary_copy_due(node, loop_now(node->loop));
}

void primary_link_up(struct node *node)
{
	of(node)->started_here = of(node)->changed_here = false;
	of(node)->copy_due = false;
}

/*
 * What the peer's state says about who speaks. A lineage does not outlive its session: a secondary
 * that is heard without a copy, in a session in which this side has not told it to begin, has none.
 */
void primary_heard(struct node *node, const struct heartbeat *heartbeat)
{
	struct primary *p = of(node);

	if (role_peer_leads(heartbeat->primary, heartbeat->state)) {
		if (role_gives_way(&node->role, heartbeat->term, p->vm_ordered))
			node_role(node, ROLE_EV_PEER_LEADS);
		return;
	}
	if (heartbeat->state == ROLE_ALONE || heartbeat->state == ROLE_TAKING_OVER) {
		if (!p->silent || heartbeat->state == ROLE_ALONE)
			node_role(node, ROLE_EV_PEER_SPEAKS);
		return;
	}
	if (!p->vm_ordered &&
	    (heartbeat->state == ROLE_WAITING || heartbeat->state == ROLE_JOINING)) {
		primary_unmark(node);
		boot(node);
	}
	if (!p->started_here &&
	    (heartbeat->state == ROLE_WAITING || heartbeat->state == ROLE_JOINING) &&
	    (node->role.state == ROLE_PROTECTED || node->role.state == ROLE_DECIDING ||
	     node->role.state == ROLE_STUCK))
		node_role(node, ROLE_EV_PEER_YIELDED);
	if (heartbeat->state == ROLE_JOINING)
		node_role(node, ROLE_EV_PEER_FREE);
}

/* The peer speaks, or the VM is gone: what is here says nothing any more. */
void primary_silence(struct node *node)
{
	if (!node->is_primary)
		return;
	of(node)->silent = true;
	loop_timer_clear(node->loop, &of(node)->boot_timer);
	hold_set_mode(node->hold, HOLD_MODE_DROP);
	node_event(node, "this side is silent: the VM is not here");
	if (of(node)->vm_ordered)
		node->ops->order(node->ctx, ORDER_KILL_VM, "the VM is the peer's");
}
