/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "qemu-glue/versions.h"

static void test_parse(void)
{
	static const struct {
		const char *text;
		int ret;
		struct qemu_version version;
	} cases[] = {
	        {"QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright",
	         0,
	         {11, 1, 3}},
	        {"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", 0, {7, 2, 22}},
	        {"QEMU emulator version 8.2", 0, {8, 2, 0}},
	        {"11.1.3 (Debian 1:11.1.3+ds-1)", 0, {11, 1, 3}},
	        {"10.0.91", 0, {10, 0, 91}},
	        {"", -EINVAL, {0, 0, 0}},
	        {"QEMU emulator version ", -EINVAL, {0, 0, 0}},
	        {"QEMU emulator version x.1", -EINVAL, {0, 0, 0}},
	        {"11", -EINVAL, {0, 0, 0}},
	        {"11.", -EINVAL, {0, 0, 0}},
	        {"11.1.", -EINVAL, {0, 0, 0}},
	        {"-1.2.3", -EINVAL, {0, 0, 0}},
	        {"99999999999.1.1", -EINVAL, {0, 0, 0}},
	        {"bash: no such file", -EINVAL, {0, 0, 0}},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		struct qemu_version v = {-1, -1, -1};

		g_assert_cmpint(qemu_version_parse(cases[i].text, &v), ==, cases[i].ret);
		if (cases[i].ret)
			g_assert_cmpint(v.major, ==, -1); /* untouched */
		else
			g_assert_cmpint(qemu_version_compare(v, cases[i].version), ==, 0);
	}
}

static void test_from_qmp(void)
{
	struct qemu_version v = {-1, -1, -1};
	json_t *reply = json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "major", 11, "minor", 1,
	                          "micro", 3, "package", "Debian");

	g_assert_cmpint(qemu_version_from_qmp(reply, &v), ==, 0);
	g_assert_cmpint(qemu_version_compare(v, (struct qemu_version){11, 1, 3}), ==, 0);
	json_object_del(json_object_get(reply, "qemu"), "micro");
	g_assert_cmpint(qemu_version_from_qmp(reply, &v), ==, -EINVAL);
	g_assert_cmpint(qemu_version_from_qmp(NULL, &v), ==, -EINVAL);
	json_decref(reply);
}

static void test_order(void)
{
	struct qemu_version a = {11, 1, 3};

	g_assert_cmpint(qemu_version_compare(a, (struct qemu_version){11, 1, 4}), <, 0);
	g_assert_cmpint(qemu_version_compare(a, (struct qemu_version){11, 0, 9}), >, 0);
	g_assert_cmpint(qemu_version_compare(a, (struct qemu_version){9, 9, 9}), >, 0);
	g_assert_cmpint(qemu_version_compare(a, a), ==, 0);
}

/* The verdict at each edge of the table. */
static void test_verdicts(void)
{
	static const struct {
		struct qemu_version version;
		enum qemu_verdict verdict;
	} cases[] = {
	        {{4, 0, 0}, QEMU_VERDICT_BROKEN},     {{7, 1, 99}, QEMU_VERDICT_BROKEN},
	        {{7, 2, 0}, QEMU_VERDICT_KVM_ONLY},   {{7, 2, 22}, QEMU_VERDICT_KVM_ONLY},
	        {{8, 0, 0}, QEMU_VERDICT_BROKEN},     {{9, 0, 2}, QEMU_VERDICT_BROKEN},
	        {{9, 2, 0}, QEMU_VERDICT_BROKEN},     {{10, 0, 13}, QEMU_VERDICT_BROKEN},
	        {{10, 1, 9}, QEMU_VERDICT_BROKEN},    {{10, 2, 0}, QEMU_VERDICT_KVM_ONLY},
	        {{10, 2, 99}, QEMU_VERDICT_KVM_ONLY}, {{11, 0, 0}, QEMU_VERDICT_WORKS},
	        {{11, 1, 3}, QEMU_VERDICT_WORKS},     {{11, 9, 0}, QEMU_VERDICT_WORKS},
	        {{12, 0, 0}, QEMU_VERDICT_UNTESTED},  {{30, 0, 0}, QEMU_VERDICT_UNTESTED},
	};

	for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
		const struct qemu_support *row = qemu_support_for(cases[i].version);

		g_assert_cmpint(row->verdict, ==, cases[i].verdict);
		g_assert_cmpint(qemu_version_compare(row->first, cases[i].version), <=, 0);
		g_assert_true(*row->reason);
	}
	g_assert_true(qemu_support_for((struct qemu_version){11, 1, 3})->quirks &
	              QEMU_QUIRK_TCG_FLUSH);
	g_assert_true(qemu_support_for((struct qemu_version){7, 2, 0})->quirks &
	              QEMU_QUIRK_PC_ONLY);
}

static void test_check(void)
{
	char err[512] = "";

	g_assert_cmpint(qemu_support_check((struct qemu_version){11, 1, 3}, true, err, sizeof(err)),
	                ==, 0);
	g_assert_cmpstr(err, ==, "");
	g_assert_cmpint(qemu_support_check((struct qemu_version){12, 0, 0}, true, err, sizeof(err)),
	                ==, 0);
	g_assert_cmpint(qemu_support_check((struct qemu_version){7, 2, 22}, true, err, sizeof(err)),
	                ==, -EOPNOTSUPP);
	g_assert_nonnull(strstr(err, "7.2.22"));
	g_assert_nonnull(strstr(err, "TCG"));
	g_assert_nonnull(strstr(err, "Install QEMU 11.1"));
	g_assert_cmpint(qemu_support_check((struct qemu_version){10, 0, 13}, false, NULL, 0), ==,
	                -EOPNOTSUPP);
}

static void test_probe(void)
{
	struct qemu_version v = {-1, -1, -1};
	char err[256] = "";

	g_assert_cmpint(qemu_version_probe("/no/such/qemu", &v, err, sizeof(err)), ==, -ENOENT);
	g_assert_nonnull(strstr(err, "/no/such/qemu"));
	g_assert_cmpint(qemu_version_probe("/bin/true", &v, err, sizeof(err)), ==, -EINVAL);
	g_assert_cmpint(qemu_version_probe("/bin/false", &v, err, sizeof(err)), ==, -EIO);
	g_assert_cmpint(v.major, ==, -1);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/versions/parse", test_parse);
	g_test_add_func("/versions/from-qmp", test_from_qmp);
	g_test_add_func("/versions/order", test_order);
	g_test_add_func("/versions/verdicts", test_verdicts);
	g_test_add_func("/versions/check", test_check);
	g_test_add_func("/versions/probe", test_probe);
	return g_test_run();
}
