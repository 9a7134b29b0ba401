/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "kvm/probe.h"

static enum probe_verdict cpu_verdict(const char *cpuinfo)
{
	struct probe_result result;
	g_autofree char *path = NULL;
	GError *error = NULL;
	int fd;

	fd = g_file_open_tmp("cpuinfo.XXXXXX", &path, &error);
	g_assert_no_error(error);
	(void)close(fd);
	g_file_set_contents(path, cpuinfo, -1, &error);
	g_assert_no_error(error);
	probe_kvm("/nonexistent", path, &result);
	(void)g_unlink(path);
	g_test_message("%s", result.items[PROBE_CPU_FLAGS].text);
	return result.items[PROBE_CPU_FLAGS].verdict;
}

static void test_cpuinfo(void)
{
	g_assert_cmpint(cpu_verdict("processor : 0\nflags\t\t: fpu vmx sse\n"), ==, PROBE_YES);
	g_assert_cmpint(cpu_verdict("flags : fpu svm\n"), ==, PROBE_YES);
	g_assert_cmpint(cpu_verdict("flags : fpu svm_lock xvmx vmxoff\n"), ==, PROBE_NO);
	g_assert_cmpint(cpu_verdict("vmx flags : vnmi\nflags : fpu\n"), ==, PROBE_NO);
	g_assert_cmpint(cpu_verdict("processor : 0\n"), ==, PROBE_UNKNOWN);
	g_assert_cmpint(cpu_verdict(""), ==, PROBE_UNKNOWN);
}

/* A device that is missing, or is not KVM, is a clear no; what depends on it is unknown. */
static void test_no_kvm(void)
{
	struct probe_result result;

	probe_kvm("/nonexistent", "/nonexistent", &result);
	g_assert_cmpint(result.items[PROBE_OPEN].verdict, ==, PROBE_NO);
	g_assert_nonnull(strstr(result.items[PROBE_OPEN].text, "/nonexistent"));
	g_assert_cmpint(result.items[PROBE_CPU_FLAGS].verdict, ==, PROBE_UNKNOWN);
	g_assert_cmpint(result.items[PROBE_VCPU].verdict, ==, PROBE_UNKNOWN);
	g_assert_false(probe_kvm_usable(&result));

	probe_kvm("/dev/null", "/nonexistent", &result);
	g_assert_cmpint(result.items[PROBE_OPEN].verdict, ==, PROBE_YES);
	g_assert_cmpint(result.items[PROBE_API].verdict, ==, PROBE_NO);
	g_assert_cmpint(result.items[PROBE_VCPU].verdict, ==, PROBE_UNKNOWN);
	g_assert_false(probe_kvm_usable(&result));
}

/* Whatever this host is: every item has its text, and the guest ran only where KVM is. */
static void test_host(void)
{
	struct probe_result result;

	probe_kvm("/dev/kvm", "/proc/cpuinfo", &result);
	for (unsigned int id = 0; id < PROBE_ITEM_COUNT; id++) {
		const struct probe_item *item = &result.items[id];

		g_test_message("%s: %s: %s", probe_item_name(id), probe_verdict_name(item->verdict),
		               item->text);
		g_assert_true(item->text[0] != '\0');
	}
	if (result.items[PROBE_OPEN].verdict != PROBE_YES)
		g_assert_false(probe_kvm_usable(&result));
	if (probe_kvm_usable(&result))
		g_assert_cmpint(result.items[PROBE_API].verdict, ==, PROBE_YES);
	g_assert_null(probe_item_name(PROBE_ITEM_COUNT));
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/probe/cpuinfo", test_cpuinfo);
	g_test_add_func("/probe/no-kvm", test_no_kvm);
	g_test_add_func("/probe/host", test_host);
	return g_test_run();
}
