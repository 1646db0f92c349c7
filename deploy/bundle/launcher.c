/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first program of a bundle. It needs no C library of the node, and starts the bundle's
 * own loader with the bundle's own interpreter. The loader's file is called ktrace, so the
 * process has this name, too. Under the name kubectl-ktrace, a link, it is the plugin of
 * kubectl.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIXED 12

static char *below(const char *directory, const char *name)
{
	size_t size = strlen(directory) + strlen(name) + 2;
	char *path = malloc(size);

	if (path)
		snprintf(path, size, "%s/%s", directory, name);
	return path;
}

static const char *module(const char *called)
{
	const char *name = called ? strrchr(called, '/') : NULL;

	name = name ? name + 1 : called;
	return name && !strcmp(name, "kubectl-ktrace") ? "tracer.kubectl" : "tracer";
}

int main(int argc, char **argv)
{
	char self[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (length < 0) {
		perror("ktrace: /proc is not mounted: /proc/self/exe");
		return 1;
	}
	self[length] = '\0';
	*strrchr(self, '/') = '\0';

	char *loader = below(self, "lib/ktrace"), *libraries = below(self, "lib");
	char *python = below(self, "bin/" PYTHON);
	const char **words = calloc(argc + FIXED, sizeof(*words));

	if (!loader || !libraries || !python || !words) {
		perror("ktrace");
		return 1;
	}

	int n = 0;

	words[n++] = loader;
	words[n++] = "--inhibit-cache";
	words[n++] = "--library-path";
	words[n++] = libraries;
	words[n++] = python;
	words[n++] = "-IS"; /* ignores the node's own Python */
	words[n++] = "-Xutf8";
	words[n++] = "-m";
	words[n++] = module(argv[0]);
	for (int i = 1; i < argc; i++)
		words[n++] = argv[i];

	/* another locale would load files and modules of the node's C library */
	setenv("LC_ALL", "C", 1);
	execv(loader, (char **)words);
	fprintf(stderr, "ktrace: %s: %s\n  the bundle is not whole: unpack it again\n", loader,
		strerror(errno));
	return 1;
}
