/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dirty log or dirty ring: the choice, and what can be tried on this machine. */
#include "kvm/tracking.h"

#include <errno.h>
#include <glib.h>
#include <string.h>
#include <unistd.h>

#define US UINT64_C(1000)

static struct tracking_facts facts(uint64_t log_us)
{
	return (struct tracking_facts){
	        .qemu_takes_ring = true, .ring_bytes = 1 << 20, .log_ns = log_us * US};
}

/* 2 us for 256 MiB: 500 us are those of 62.5 GiB. */
static void test_auto(void)
{
	struct tracking_facts f = facts(2);
	struct tracking_choice choice;

	g_assert_cmpint(tracking_choose(&f, 256, TRACKING_AUTO, &choice), ==, 0);
	g_assert_cmpuint(choice.ring_entries, ==, 0);
	g_assert_cmpuint(choice.log_ns, ==, 2 * US);
	g_assert_nonnull(strstr(choice.why, "256 MiB takes about 2 us"));
	tracking_choose(&f, 64000, TRACKING_AUTO, &choice);
	g_assert_cmpuint(choice.ring_entries, ==, 0);
	tracking_choose(&f, 65536, TRACKING_AUTO, &choice);
	g_assert_cmpuint(choice.ring_entries, ==, 65536);
	g_assert_nonnull(strstr(choice.why, "512 us"));
}

static void test_missing(void)
{
	struct tracking_facts f = facts(2000);
	struct tracking_choice choice;

	f.ring_bytes = 0;
	g_assert_cmpint(tracking_choose(&f, 65536, TRACKING_AUTO, &choice), ==, 0);
	g_assert_cmpuint(choice.ring_entries, ==, 0);
	g_assert_nonnull(strstr(choice.why, "kernel has none"));
	g_assert_cmpint(tracking_choose(&f, 65536, TRACKING_RING, &choice), ==, -ENOTSUP);
	g_assert_cmpint(tracking_choose(&f, 65536, TRACKING_LOG, &choice), ==, 0);
	f = facts(2000);
	f.qemu_takes_ring = false;
	g_assert_cmpint(tracking_choose(&f, 256, TRACKING_RING, &choice), ==, -ENOTSUP);
	g_assert_nonnull(strstr(choice.why, "this QEMU"));
	f = facts(2000);
	f.log_ns = TRACKING_LOG_UNKNOWN;
	g_assert_cmpint(tracking_choose(&f, 65536, TRACKING_AUTO, &choice), ==, 0);
	g_assert_cmpuint(choice.ring_entries, ==, 0);
}

/* As large as both allow: a power of two. */
static void test_size(void)
{
	struct tracking_facts f = facts(1);
	struct tracking_choice choice;

	g_assert_cmpint(tracking_choose(&f, 256, TRACKING_RING, &choice), ==, 0);
	g_assert_cmpuint(choice.ring_entries, ==, 65536);
	f.ring_bytes = 100000;
	g_assert_cmpint(tracking_choose(&f, 256, TRACKING_RING, &choice), ==, 0);
	g_assert_cmpuint(choice.ring_entries, ==, 4096);
	f.ring_bytes = 16 << 20;
	g_assert_cmpint(tracking_choose(&f, 256, TRACKING_RING, &choice), ==, 0);
	g_assert_cmpuint(choice.ring_entries, ==, 65536);
	f.ring_bytes = 16000;
	g_assert_cmpint(tracking_choose(&f, 256, TRACKING_RING, &choice), ==, -ENOTSUP);
}

static void test_nothing_there(void)
{
	struct tracking_facts f;
	char text[64];

	tracking_probe("/nonexistent", true, &f);
	g_assert_cmpuint(f.ring_bytes, ==, 0);
	g_assert_cmpuint(f.log_ns, ==, TRACKING_LOG_UNKNOWN);
	tracking_probe("/dev/null", true, &f);
	g_assert_cmpuint(f.log_ns, ==, TRACKING_LOG_UNKNOWN);
	tracking_pml_text("/nonexistent", text, sizeof(text));
	g_assert_nonnull(strstr(text, "not loaded"));
}

static void test_here(void)
{
	struct tracking_facts f;

	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		g_test_skip("no /dev/kvm here");
		return;
	}
	tracking_probe("/dev/kvm", true, &f);
	g_test_message("ring of %u bytes, log of 256 MiB in %lu ns", f.ring_bytes,
	               (unsigned long)f.log_ns);
	g_assert_cmpuint(f.log_ns, !=, TRACKING_LOG_UNKNOWN);
	g_assert_cmpuint(f.log_ns, >, 0);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/tracking/auto", test_auto);
	g_test_add_func("/tracking/missing", test_missing);
	g_test_add_func("/tracking/size", test_size);
	g_test_add_func("/tracking/nothing-there", test_nothing_there);
	g_test_add_func("/tracking/here", test_here);
	return g_test_run();
}
