/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs a fuzz target over a corpus without a fuzzer: `fuzz_NAME PATH...`, each path a file or a
 * directory (its regular files, not its subdirectories). Exit 0 when every input ran; 2 when a
 * path cannot be read, or no input was found at all, so that a lost corpus is noticed.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int report(const char *path)
{
	(void)fprintf(stderr, "%s: %s\n", path, strerror(errno));
	return -1;
}

static int replay_file(const char *path, size_t len)
{
	uint8_t *data = malloc(len ? len : 1); /* its own size: a read behind it is seen */
	FILE *f = fopen(path, "rbe");
	int rc = 0;

	if (!data || !f || fread(data, 1, len, f) != len)
		rc = report(path);
	else
		(void)LLVMFuzzerTestOneInput(data, len);
	if (f)
		(void)fclose(f);
	free(data);
	return rc;
}

static int replay(const char *path, size_t *inputs, int depth);

static int replay_directory(const char *path, size_t *inputs)
{
	const struct dirent *entry;
	DIR *dir;
	int rc = 0;

	dir = opendir(path);
	if (!dir)
		return report(path);
	while (rc == 0 && (entry = readdir(dir))) {
		char name[4096];

		if (entry->d_name[0] == '.')
			continue;
		if (snprintf(name, sizeof(name), "%s/%s", path, entry->d_name) >=
		    (int)sizeof(name)) {
			errno = ENAMETOOLONG;
			rc = report(path);
			break;
		}
		rc = replay(name, inputs, 1);
	}
	(void)closedir(dir);
	return rc;
}

static int replay(const char *path, size_t *inputs, int depth)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return report(path);
	if (S_ISDIR(st.st_mode))
		return depth == 0 ? replay_directory(path, inputs) : 0;
	(*inputs)++;
	return replay_file(path, (size_t)st.st_size);
}

int main(int argc, char **argv)
{
	size_t inputs = 0;

	for (int i = 1; i < argc; i++) {
		if (replay(argv[i], &inputs, 0) < 0)
			return 2;
	}
	if (inputs == 0) {
		(void)fprintf(stderr, "%s: no inputs; usage: %s FILE|DIRECTORY...\n", argv[0],
		              argv[0]);
		return 2;
	}
	(void)printf("%zu inputs\n", inputs);
	return 0;
}
