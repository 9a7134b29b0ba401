/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <glib.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <string.h>

#include "kvm/processors.h"

/* A folder with the files that a test names, in the place of "/". */
struct root {
	char *path;
	GPtrArray *made; /* files and folders, in the order of their making */
};

static void begin(struct root *root)
{
	GError *error = NULL;

	root->path = g_dir_make_tmp("processors.XXXXXX", &error);
	g_assert_no_error(error);
	root->made = g_ptr_array_new_with_free_func(g_free);
}

static void make_folder(struct root *root, const char *path)
{
	g_autofree char *parent = g_path_get_dirname(path);

	if (g_file_test(path, G_FILE_TEST_IS_DIR))
		return;
	make_folder(root, parent);
	g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
	g_ptr_array_add(root->made, g_strdup(path));
}

static void put(struct root *root, const char *name, const char *text)
{
	char *path = g_build_filename(root->path, name, NULL);
	g_autofree char *folder = g_path_get_dirname(path);
	GError *error = NULL;

	make_folder(root, folder);
	g_file_set_contents(path, text, -1, &error);
	g_assert_no_error(error);
	g_ptr_array_add(root->made, path);
}

static void end(struct root *root)
{
	for (guint i = root->made->len; i-- > 0;)
		g_assert_cmpint(g_remove(root->made->pdata[i]), ==, 0);
	g_ptr_array_unref(root->made);
	g_assert_cmpint(g_remove(root->path), ==, 0);
	g_free(root->path);
}

static unsigned int quota(const struct root *root)
{
	struct processors p;

	processors_find(root->path, &p);
	g_assert_cmpuint(p.usable, >, 0);
	g_assert_cmpuint(p.usable, <=, p.affinity);
	return p.quota;
}

#define MOUNT_2 "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#define MOUNT_1                                                                                    \
	"30 23 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"                               \
	"32 30 0:29 / /sys/fs/cgroup/cpuset rw shared:9 - cgroup cgroup rw,cpuset\n"               \
	"33 30 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:8 - cgroup cgroup rw,cpu,cpuacct\n"

static void test_nothing(void)
{
	struct root root;

	begin(&root);
	g_assert_cmpuint(quota(&root), ==, 0);
	put(&root, "proc/self/cgroup", "0::/a\n");
	put(&root, "proc/self/mountinfo", "no mount at all\n30 23 0:26 / /x rw - \n");
	g_assert_cmpuint(quota(&root), ==, 0);
	end(&root);
}

/* The strictest of the group and of all groups around it. */
static void test_version_2(void)
{
	struct root root;

	begin(&root);
	put(&root, "proc/self/cgroup", "1:name=systemd:/elsewhere\n0::/a/b\n");
	put(&root, "proc/self/mountinfo", "23 1 8:1 / / rw - ext4 /dev/sda1 rw\n" MOUNT_2);
	g_assert_cmpuint(quota(&root), ==, 0);
	put(&root, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
	g_assert_cmpuint(quota(&root), ==, 0);
	put(&root, "sys/fs/cgroup/a/cpu.max", "250000 100000\n");
	g_assert_cmpuint(quota(&root), ==, 250);
	put(&root, "sys/fs/cgroup/cpu.max", "40000 10000\n");
	g_assert_cmpuint(quota(&root), ==, 250);
	put(&root, "sys/fs/cgroup/elsewhere/cpu.max", "1000 100000\n");
	g_assert_cmpuint(quota(&root), ==, 250);
	end(&root);

	begin(&root);
	put(&root, "proc/self/cgroup", "0::/\n");
	put(&root, "proc/self/mountinfo", MOUNT_2);
	put(&root, "sys/fs/cgroup/cpu.max", "1 100000\n");
	g_assert_cmpuint(quota(&root), ==, 1);
	end(&root);
}

static void test_version_1(void)
{
	struct root root;

	begin(&root);
	put(&root, "proc/self/cgroup", "3:cpuset:/c\n2:cpu,cpuacct:/a\n0::/\n");
	put(&root, "proc/self/mountinfo", MOUNT_1);
	put(&root, "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n");
	put(&root, "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
	g_assert_cmpuint(quota(&root), ==, 0);
	put(&root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n");
	g_assert_cmpuint(quota(&root), ==, 0); /* of what? */
	put(&root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "50000\n");
	g_assert_cmpuint(quota(&root), ==, 300);
	end(&root);
}

/* A container sees a part of the hierarchy; a group may lie outside of its namespace. */
static void test_container(void)
{
	struct root root;

	begin(&root);
	put(&root, "proc/self/cgroup", "2:cpu:/docker/abc/inner\n");
	put(&root, "proc/self/mountinfo",
	    "33 30 0:30 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n");
	put(&root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
	put(&root, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
	g_assert_cmpuint(quota(&root), ==, 50);
	put(&root, "sys/fs/cgroup/cpu/inner/cpu.cfs_quota_us", "20000\n");
	put(&root, "sys/fs/cgroup/cpu/inner/cpu.cfs_period_us", "100000\n");
	g_assert_cmpuint(quota(&root), ==, 20);
	end(&root);

	begin(&root);
	put(&root, "proc/self/cgroup", "0::/../other\n");
	put(&root, "proc/self/mountinfo", MOUNT_2);
	put(&root, "sys/fs/cgroup/cpu.max", "70000 100000\n");
	g_assert_cmpuint(quota(&root), ==, 70);
	end(&root);
}

static void assert_text(struct processors p, const char *expected)
{
	char text[80];

	processors_text(&p, text, sizeof(text));
	g_assert_cmpstr(text, ==, expected);
}

/* What is usable is whole, one at least, and never more than the mask has. */
static void test_usable(void)
{
	cpu_set_t all, one;
	struct processors p;
	struct root root;

	begin(&root);
	put(&root, "proc/self/cgroup", "0::/\n");
	put(&root, "proc/self/mountinfo", MOUNT_2);
	put(&root, "sys/fs/cgroup/cpu.max", "99000 100000\n");
	processors_find(root.path, &p);
	g_assert_cmpuint(p.usable, ==, 1);
	put(&root, "sys/fs/cgroup/cpu.max", "9900000 100000\n");
	processors_find(root.path, &p);
	g_assert_cmpuint(p.quota, ==, 9900);
	g_assert_cmpuint(p.usable, ==, MIN(99, p.affinity));
	g_ptr_array_set_size(root.made, (gint)root.made->len - 1); /* it was made twice */
	end(&root);

	g_assert_cmpint(sched_getaffinity(0, sizeof(all), &all), ==, 0);
	processors_find("/nonexistent", &p);
	g_assert_cmpuint(p.affinity, ==, CPU_COUNT(&all));
	g_assert_cmpuint(p.usable, ==, p.affinity);
	CPU_ZERO(&one);
	for (size_t i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++) {
		if (CPU_ISSET(i, &all))
			CPU_SET(i, &one);
	}
	g_assert_cmpint(sched_setaffinity(0, sizeof(one), &one), ==, 0);
	processors_find("/nonexistent", &p);
	g_assert_cmpuint(p.usable, ==, 1);
	g_assert_cmpint(sched_setaffinity(0, sizeof(all), &all), ==, 0);

	assert_text((struct processors){1, 1, 0}, "1 processor");
	assert_text((struct processors){4, 4, 900}, "4 processors");
	assert_text((struct processors){3, 8, 350}, "3 processors (of 8, by a quota of 3.50)");
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/processors/nothing", test_nothing);
	g_test_add_func("/processors/version-2", test_version_2);
	g_test_add_func("/processors/version-1", test_version_1);
	g_test_add_func("/processors/container", test_container);
	g_test_add_func("/processors/usable", test_usable);
	return g_test_run();
}
