/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Input that the link does not take, around a cut (colo-proxy/node_mirror.c), against models of
 * the mirror, the link and the gate: they stand in the place of the libraries' objects.
 */
#include <errno.h>
#include <glib.h>

#include "colo-proxy/core/frame.h"
#include "colo-proxy/link/messages.h"
#include "colo-proxy/node_private.h"

#define FRAME_LEN 100u

static struct {
	uint32_t heard; /* frames that the mirror has and that were not asked for */
	uint64_t taken; /* by the VM */
	uint32_t room;  /* frames that the link takes */
	uint64_t sent[16];
	uint32_t sent_n, broken;
} fake;

int mirror_receive(struct mirror *m, struct frame **ret_list, unsigned max)
{
	uint32_t n = 0;

	for (; n < max && n < fake.heard; n++) {
		struct frame *frame = frame_new(FRAME_LEN);

		g_assert_nonnull(frame);
		frame->len = FRAME_LEN;
		frame->next = *ret_list;
		*ret_list = frame;
	}
	fake.heard -= n;
	return n ? (int)n : -EAGAIN;
}

int mirror_taken(struct mirror *m, uint64_t *ret_taken)
{
	*ret_taken = fake.taken;
	return 0;
}

bool mirror_aligned(const struct mirror *m)
{
	return true;
}

int mirror_align(struct mirror *m, int tap_fd)
{
	return 0;
}

size_t link_queued(const struct link *link, enum link_channel channel)
{
	return 0;
}

bool link_is_up(const struct link *link)
{
	return true;
}

int link_send(struct link *link, enum link_channel channel, uint8_t type, uint32_t epoch,
              const struct iovec *iov, int iovcnt)
{
	g_assert_cmpuint(type, ==, MSG_INPUT);
	if (!fake.room)
		return -EAGAIN;
	fake.room--;
	g_assert_cmpuint(fake.sent_n, <, G_N_ELEMENTS(fake.sent));
	fake.sent[fake.sent_n++] = u64_unpack(iov[0].iov_base);
	return 0;
}

uint32_t gate_epoch(const struct gate *gate)
{
	return 1;
}

bool gate_is_protected(const struct gate *gate)
{
	return true;
}

void gate_break(struct gate *gate, enum ckpt_cause cause, const char *what, uint64_t now)
{
	fake.broken++;
}

void node_capture(struct node *node, const struct frame *frame)
{
}

uint64_t node_steady(struct node *node)
{
	return 1;
}

/* ---- */

static struct node *node_with(struct config *config, uint64_t frames)
{
	struct node *node = g_new0(struct node, 1);

	fake = (typeof(fake)){0};
	*config = (struct config){.max_input_log_bytes = frames * FRAME_LEN,
	                          .link_buffer_bytes = 1 << 20};
	node->config = config;
	node->mirror = (struct mirror *)node; /* there is one */
	return node;
}

static void hear(struct node *node, uint32_t n)
{
	fake.heard = n;
	primary_mirror(node);
}

/* Frames 0 and 1 are on the link, 2 to 4 wait, and the VM has taken all but the last. */
static void come_to_a_cut(struct node *node)
{
	fake.room = 2;
	hear(node, 5);
	fake.taken = 4;
	primary_input_cut(node);
	g_assert_cmpuint(node->p.input_cut, ==, 4);
}

/* What is sent from here on, up to the newest. */
static void assert_sent_from(struct node *node, uint64_t first)
{
	fake.sent_n = 0;
	fake.room = G_MAXUINT32;
	primary_send_unsent(node);
	for (uint32_t i = 0; i < fake.sent_n; i++)
		g_assert_cmpuint(fake.sent[i], ==, first + i);
	g_assert_cmpuint(first + fake.sent_n, ==, node->p.input_index);
	g_assert_null(node->p.unsent.head);
	g_free(node);
}

/* The lineage from before the cut hears all, in order, as long as it could go on. */
static void test_not_committed(void)
{
	struct config config;
	struct node *node = node_with(&config, 100);

	come_to_a_cut(node);
	hear(node, 2);
	g_assert_cmpuint(fake.broken, ==, 0);
	assert_sent_from(node, 2);
}

static void test_committed(void)
{
	struct config config;
	struct node *node = node_with(&config, 100);

	come_to_a_cut(node);
	hear(node, 2);
	primary_input_committed(node);
	assert_sent_from(node, 4);
}

/* What the checkpoint has makes room for what it has not; only when nothing of that is left is
 * input lost for the new lineage. */
static void test_full(void)
{
	struct config config;
	struct node *node = node_with(&config, 3);

	come_to_a_cut(node);
	hear(node, 1);
	g_assert_cmpuint(node->p.unsent.head->index, ==, 3);
	hear(node, 1);
	g_assert_cmpuint(node->p.unsent.head->index, ==, 4);
	g_assert_cmpuint(fake.broken, ==, 0);
	assert_sent_from(node, 4);
	node = node_with(&config, 3);
	come_to_a_cut(node);
	hear(node, 3);
	g_assert_cmpuint(fake.broken, ==, 1);
	g_assert_cmpuint(node->p.unsent.head->index, ==, 4);
	input_log_clear(&node->p.unsent);
	g_free(node);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/input-cut/not-committed", test_not_committed);
	g_test_add_func("/input-cut/committed", test_committed);
	g_test_add_func("/input-cut/full", test_full);
	return g_test_run();
}
