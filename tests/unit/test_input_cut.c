/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Input around a cut (R5): what the link does not take (colo-proxy/node/node_mirror.c), and what
 * the VM does not take (node_cut.c, node_feed.c), against models of the taps, the mirror, the link,
 * the gate and the shadow: they stand in the place of the libraries' objects.
 */
#include <errno.h>
#include <glib.h>

#include "colo-proxy/core/frame.h"
#include "colo-proxy/link/messages.h"
#include "colo-proxy/datapath/tapdev.h"
#include "colo-proxy/node/node_private.h"

#define FRAME_LEN 100u

static struct {
	uint32_t heard; /* frames that the mirror has and that were not asked for */
	uint64_t taken; /* by the VM */
	uint32_t room;  /* frames that the link takes */
	uint64_t sent[16];
	uint8_t message[16][INPUT_HEAD_LEN + FRAME_LEN];
	uint32_t sent_n, broken;
	uint32_t made;                      /* frames that came from the network */
	uint8_t waits[16], poured[16];      /* which of them are in the VM's tap; were poured in */
	uint32_t waits_n, poured_n, copied; /* copied: of those that were poured in */
	uint32_t refuses;                   /* as often the tap says that it is full */
} fake;

/* The frame that came as number `number` from the network. */
static struct frame *new_frame(uint8_t number)
{
	struct frame *frame = frame_new(FRAME_LEN);

	g_assert_nonnull(frame);
	frame->len = FRAME_LEN;
	memset(frame->data, number, FRAME_LEN);
	return frame;
}

static void free_node(struct node *node)
{
	input_log_clear(&node->p.unsent);
	input_log_clear(&node->s.log);
	frame_queue_clear(&node->p.diverted);
	frame_queue_clear(&node->p.poured);
	g_free(node);
}

int mirror_receive(struct mirror *m, struct frame **ret_list, unsigned max)
{
	struct frame **end = ret_list;
	uint32_t n = 0;

	for (; n < max && fake.copied < fake.poured_n; n++, end = &(*end)->next)
		*end = new_frame(fake.poured[fake.copied++]);
	for (; n < max && fake.heard; n++, fake.heard--, end = &(*end)->next)
		*end = new_frame((uint8_t)fake.made++);
	return n ? (int)n : -EAGAIN;
}

int tapdev_header(int fd)
{
	return 12;
}

bool tapdev_pending(int fd)
{
	return false; /* the drain's time is over */
}

int tapdev_read(struct tapdev_reader *reader, int fd, struct frame **ret_frame)
{
	if (!fake.waits_n)
		return -EAGAIN;
	*ret_frame = new_frame(fake.waits[0]);
	memmove(fake.waits, fake.waits + 1, --fake.waits_n);
	fake.taken++;
	return 0;
}

void tapdev_reader_clear(struct tapdev_reader *reader)
{
}

int intercept_receive(struct intercept *x, struct frame **ret_list, unsigned max)
{
	return 0;
}

int intercept_set(struct intercept *x, bool on)
{
	return 0;
}

int inject_send(struct inject *in, const struct frame *f)
{
	if (fake.refuses) {
		fake.refuses--;
		return -EAGAIN;
	}
	g_assert_cmpuint(fake.poured_n, <, G_N_ELEMENTS(fake.poured));
	fake.poured[fake.poured_n++] = f->data[0];
	return 0;
}

void primary_let_stop(struct node *node)
{
}

void shadow_input(struct shadow *shadow, struct frame *frame, uint64_t now)
{
}

void shadow_input_again(struct shadow *shadow, struct frame *frame, uint64_t now)
{
}

bool shadow_has_acked(struct shadow *shadow, const struct flow_key *key, uint32_t end)
{
	return true;
}

void node_arm(struct node *node, struct loop_timer *timer, uint64_t delay_ns)
{
}

int node_send(struct node *node, enum link_channel channel, enum msg_type type, uint32_t epoch,
              const void *payload, size_t len)
{
	return 0;
}

void loop_timer_clear(struct loop *loop, struct loop_timer *timer)
{
}

uint64_t loop_clock(void)
{
	return 1;
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at)
{
}

int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
             void (*ready)(void *ctx, uint32_t events), void *ctx)
{
	return 0;
}

void loop_del(struct loop *loop, struct loop_source *source)
{
}

int loop_set_events(struct loop *loop, struct loop_source *source, uint32_t events)
{
	return 0;
}

int intercept_open(const char *port, const char *tap_name, uint32_t mark, unsigned queue,
                   struct intercept **ret_intercept, char *err, size_t errlen)
{
	return 0;
}

int intercept_fd(const struct intercept *x)
{
	return -1;
}

void intercept_close(struct intercept *x)
{
}

int inject_open(const char *port, uint32_t mark, unsigned limit, struct inject **ret_inject,
                char *err, size_t errlen)
{
	return 0;
}

bool shadow_ask_again(struct shadow *shadow)
{
	return false;
}

void link_drop(struct link *link, const char *reason)
{
	g_assert_not_reached();
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
	memcpy(fake.message[fake.sent_n], iov[0].iov_base, INPUT_HEAD_LEN);
	memcpy(fake.message[fake.sent_n] + INPUT_HEAD_LEN, iov[1].iov_base, FRAME_LEN);
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
	free_node(node);
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
	free_node(node);
}

/* ---- what was taken back ---- */

/* The cut of checkpoint `epoch`, with these frames in the VM's tap, up to the end of the pause. */
static void cut(struct node *node, uint32_t epoch, const char *waits)
{
	fake.waits_n = (uint32_t)strlen(waits);
	for (uint32_t i = 0; i < fake.waits_n; i++)
		fake.waits[i] = (uint8_t)(waits[i] - '0');
	cut_begin(node);
	primary_input_cut(node);
	cut_taken(node, epoch);
	cut_end(node);
	primary_mirror(node);
}

/* A secondary's lineage that has what is below `cut` hears these frames, in this order. */
static void assert_lineage_hears(uint32_t lineage, uint64_t cut, const char *heard)
{
	struct config config;
	struct node *node = g_new0(struct node, 1);

	config = (struct config){.max_input_log_bytes = 100 * FRAME_LEN};
	node->config = &config;
	node->s.lineage = lineage;
	node->s.lineage_cut = cut;
	node->s.feeding = true;
	fake.poured_n = 0;
	for (uint32_t i = 0; i < fake.sent_n; i++)
		secondary_input(node, fake.message[i], sizeof(fake.message[i]));
	for (uint32_t i = 0; i < fake.poured_n; i++)
		g_assert_cmpint(fake.poured[i] + '0', ==, heard[i]);
	g_assert_cmpuint(fake.poured_n, ==, strlen(heard));
	free_node(node);
}

/* Of five frames the VM has not taken the last two: the lineage before the cut hears each once, and
 * the one that begins with it the two, and what follows. */
static void test_taken_back(void)
{
	struct config config;
	struct node *node = node_with(&config, 100);

	fake.room = G_MAXUINT32;
	hear(node, 5);
	fake.taken = 3;
	cut(node, 7, "34");
	g_assert_cmpuint(node->p.input_cut, ==, 5);
	hear(node, 1);
	assert_lineage_hears(6, 0, "012345");
	assert_lineage_hears(7, 5, "345");
	free_node(node);
}

/* The tap is full until the next cut, and then the VM does not take them either. */
static void test_taken_back_again(void)
{
	struct config config;
	struct node *node = node_with(&config, 100);

	fake.room = G_MAXUINT32;
	hear(node, 5);
	fake.taken = 3;
	fake.refuses = 1;
	cut(node, 7, "34"); /* nothing is poured in */
	g_assert_true(node->p.pouring);
	fake.refuses = 0;
	cut(node, 8, "");
	g_assert_cmpuint(node->p.input_cut, ==, 5);
	fake.taken = 5;
	cut(node, 9, "34"); /* they were poured in, and not taken */
	g_assert_cmpuint(node->p.input_cut, ==, 7);
	hear(node, 1);
	assert_lineage_hears(6, 0, "012345");
	assert_lineage_hears(7, 5, "345");
	assert_lineage_hears(8, 5, "345");
	assert_lineage_hears(9, 7, "345");
	free_node(node);
}

/* A copy of what was poured in is lost: nothing that follows is taken for it. */
static void test_taken_back_and_lost(void)
{
	struct config config;
	struct node *node = node_with(&config, 100);

	fake.room = G_MAXUINT32;
	hear(node, 5);
	fake.taken = 3;
	fake.waits[0] = 3;
	fake.waits[1] = 4;
	fake.waits_n = 2;
	cut_begin(node);
	primary_input_cut(node);
	cut_taken(node, 7);
	cut_end(node);
	fake.copied++; /* the mirror's queue was full */
	hear(node, 1);
	assert_lineage_hears(6, 0, "0123445");
	free_node(node);
}

/* QEMU dies before the VM stands still: the lineage has what was taken back, once. */
static void test_taken_back_in_vain(void)
{
	struct config config;
	struct node *node = node_with(&config, 100);

	fake.room = G_MAXUINT32;
	hear(node, 2);
	fake.waits[0] = 1;
	fake.waits_n = 1;
	cut_begin(node);
	cut_end(node);
	hear(node, 1);
	assert_lineage_hears(6, 0, "012");
	free_node(node);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/input-cut/not-committed", test_not_committed);
	g_test_add_func("/input-cut/committed", test_committed);
	g_test_add_func("/input-cut/full", test_full);
	g_test_add_func("/input-cut/taken-back", test_taken_back);
	g_test_add_func("/input-cut/taken-back/again", test_taken_back_again);
	g_test_add_func("/input-cut/taken-back/lost", test_taken_back_and_lost);
	g_test_add_func("/input-cut/taken-back/in-vain", test_taken_back_in_vain);
	return g_test_run();
}
