/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "kvm/processors.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MASK_MAX (1 << 16) /* processors that a mask has room for */

/* The first line of the file that does what `fits` asks for, without its end. Freed by the caller;
 * NULL: there is none. */
static char *find_line(const char *root, const char *path,
                       bool (*fits)(char *line, bool version_2, char **ret), bool version_2,
                       char **ret)
{
	char name[PATH_MAX], *line = NULL;
	bool found = false;
	size_t room = 0;
	FILE *f;

	snprintf(name, sizeof(name), "%s%s", root, path);
	f = fopen(name, "re");
	if (!f)
		return NULL;
	while (!found && getline(&line, &room, f) > 0) {
		line[strcspn(line, "\n")] = 0;
		found = fits(line, version_2, ret);
	}
	fclose(f);
	if (found)
		return line;
	free(line);
	return NULL;
}

/* Whether "cpu" is one of the words between commas. */
static bool names_cpu(const char *list)
{
	for (const char *at = list; *at; at += strspn(at, ",")) {
		size_t len = strcspn(at, ",");

		if (len == 3 && strncmp(at, "cpu", 3) == 0)
			return true;
		at += len;
	}
	return false;
}

/* A line of /proc/self/cgroup: "4:cpu,cpuacct:/path", "0::/path" for version 2. */
static bool is_group(char *line, bool version_2, char **ret_path)
{
	char *list = strchr(line, ':');
	char *path = list ? strchr(++list, ':') : NULL;

	if (!path)
		return false;
	*path++ = 0;
	*ret_path = path;
	return version_2 ? strncmp(line, "0:", 2) == 0 && !*list : names_cpu(list);
}

/* A line of mountinfo: "31 23 0:28 ROOT POINT rw shared:1 - cgroup2 cgroup2 rw". */
static bool is_mount(char *line, bool version_2, char **ret_fields)
{
	char *tail = strstr(line, " - "), *save, *type, *options;

	if (!tail)
		return false;
	*tail = 0;
	type = strtok_r(tail + 3, " ", &save);
	(void)strtok_r(NULL, " ", &save); /* its source */
	options = strtok_r(NULL, " ", &save);
	if (!type || !options)
		return false;
	*ret_fields = line;
	return version_2 ? strcmp(type, "cgroup2") == 0
	                 : strcmp(type, "cgroup") == 0 && names_cpu(options);
}

/* Up to two numbers of a file; how many. "max" is none. */
static int read_numbers(const char *dir, const char *file, int64_t ret[2])
{
	char name[PATH_MAX], line[80], *at = line, *end;
	int n = 0;
	FILE *f;

	if ((size_t)snprintf(name, sizeof(name), "%s/%s", dir, file) >= sizeof(name))
		return 0;
	f = fopen(name, "re");
	if (!f)
		return 0;
	if (fgets(line, sizeof(line), f)) {
		for (; n < 2; n++, at = end) {
			errno = 0;
			ret[n] = strtoll(at, &end, 10);
			if (end == at || errno)
				break;
		}
	}
	fclose(f);
	return n;
}

/* Of one group, per cent of a processor; 0: none. */
static unsigned int quota_of(const char *dir, bool version_2)
{
	int64_t quota, period, number[2];

	if (version_2) {
		if (read_numbers(dir, "cpu.max", number) < 2)
			return 0;
		quota = number[0];
		period = number[1];
	} else {
		if (read_numbers(dir, "cpu.cfs_quota_us", number) < 1)
			return 0;
		quota = number[0];
		if (read_numbers(dir, "cpu.cfs_period_us", number) < 1)
			return 0;
		period = number[0];
	}
	if (quota <= 0 || period <= 0 || quota > INT64_MAX / 100)
		return 0;
	quota = quota * 100 / period;
	return quota < 1 ? 1 : quota > UINT_MAX ? UINT_MAX : (unsigned int)quota;
}

static unsigned int stricter(unsigned int a, unsigned int b)
{
	if (a == 0 || b == 0)
		return a + b;
	return a < b ? a : b;
}

/*
 * The group's place below the mount: a mount may show a part of the hierarchy only, and a group
 * outside of what is shown (or of the namespace, "/..") has the mount's limit at least.
 */
static const char *below(const char *shown, const char *group)
{
	size_t len = strcmp(shown, "/") == 0 ? 0 : strlen(shown);

	if (strstr(group, "/..") || strncmp(group, shown, len) != 0 ||
	    (group[len] != '/' && group[len]))
		return "";
	return strcmp(group + len, "/") == 0 ? "" : group + len;
}

/* Of the process's group and all groups around it. */
static unsigned int quota_of_all(const char *root, const char *shown, const char *point,
                                 const char *group, bool version_2)
{
	char dir[PATH_MAX];
	size_t top = strlen(root) + strlen(point);
	unsigned int quota = 0;

	if ((size_t)snprintf(dir, sizeof(dir), "%s%s%s", root, point, below(shown, group)) >=
	    sizeof(dir))
		return 0;
	for (;;) {
		char *slash = strrchr(dir, '/');

		quota = stricter(quota, quota_of(dir, version_2));
		if (!slash || (size_t)(slash - dir) < top)
			return quota;
		*slash = 0;
	}
}

static unsigned int find_quota(const char *root, bool version_2)
{
	char *group, *fields, *save, *word, *shown = NULL;
	unsigned int quota = 0;
	char *group_line = find_line(root, "/proc/self/cgroup", is_group, version_2, &group);
	char *mount_line = find_line(root, "/proc/self/mountinfo", is_mount, version_2, &fields);

	if (group_line && mount_line) {
		word = strtok_r(fields, " ", &save);
		for (int i = 0; word && i < 4; i++) {
			if (i == 3)
				shown = word;
			word = strtok_r(NULL, " ", &save);
		}
		if (shown && word)
			quota = quota_of_all(root, shown, word, group, version_2);
	}
	free(group_line);
	free(mount_line);
	return quota;
}

/* The kernel refuses a mask that has no room for all that it knows. */
static unsigned int count_affinity(void)
{
	for (int most = CPU_SETSIZE; most <= MASK_MAX; most *= 2) {
		cpu_set_t *set = CPU_ALLOC((size_t)most);
		size_t size = CPU_ALLOC_SIZE((size_t)most);
		int count = 0;

		if (!set)
			return 1;
		if (sched_getaffinity(0, size, set) == 0)
			count = CPU_COUNT_S(size, set);
		CPU_FREE(set);
		if (count > 0)
			return (unsigned int)count;
	}
	return 1;
}

void processors_find(const char *root, struct processors *ret_processors)
{
	struct processors p = {.affinity = count_affinity()};
	unsigned int whole;

	p.quota = stricter(find_quota(root, true), find_quota(root, false));
	whole = p.quota < 100 ? 1 : p.quota / 100;
	p.usable = p.quota && whole < p.affinity ? whole : p.affinity;
	*ret_processors = p;
}

void processors_text(const struct processors *processors, char *buf, size_t len)
{
	const struct processors *p = processors;
	const char *s = p->usable == 1 ? "" : "s";

	if (p->usable < p->affinity)
		snprintf(buf, len, "%u processor%s (of %u, by a quota of %u.%02u)", p->usable, s,
		         p->affinity, p->quota / 100, p->quota % 100);
	else
		snprintf(buf, len, "%u processor%s", p->usable, s);
}
