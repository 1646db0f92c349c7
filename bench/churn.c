// SPDX-License-Identifier: Apache-2.0
/*
 * Pods as a kubelet and a runtime make them, as far as the kernel can see it, and nothing else of them.
 *
 *   churn FIRST COUNT LIVING RATE WORKERS DIRECTORY...
 *
 * COUNT pods come, numbered from FIRST on, RATE a second, and LIVING of them are there at the same time. DIRECTORY is where pods'
 * cgroups are, in each hierarchy. A pod has a sandbox, with a network and processes of its own, that waits
 * until it is killed, and a container that executes two programs, has WORKERS children one after the other, and ends with
 * exit code 3. What is being made is told, a number a line.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { POD, SANDBOX, CONTAINER, CGROUPS };

#define WORKERS "--workers="

static char **roots;
static long workers;

static void must(int result, const char *what)
{
	if (result >= 0)
		return;
	perror(what);
	exit(1);
}

static void cgroup(char path[static 512], const char *root, long pod, int which)
{
	int used = snprintf(path, 512, "%s/pod%08lx-0000-4000-8000-000000000000", root, pod);

	if (which != POD)
		snprintf(path + used, 512 - used, "/%056lx%08x", pod, which);
}

static void make(long pod)
{
	char path[512];

	for (char **root = roots; *root; root++)
		for (int which = POD; which < CGROUPS; which++) {
			cgroup(path, *root, pod, which);
			must(mkdir(path, 0755), path);
		}
}

static void join(long pod, int which)
{
	char path[512];

	for (char **root = roots; *root; root++) {
		int file;

		cgroup(path, *root, pod, which);
		strcat(path, "/cgroup.procs");
		must(file = open(path, O_WRONLY), path);
		must(write(file, "0", 1), path);
		close(file);
	}
}

/* The first process of a container; of a sandbox if there is no network yet. */
static pid_t start(long pod, int which, int network)
{
	pid_t child = syscall(SYS_clone, SIGCHLD | CLONE_NEWPID | (network < 0 ? CLONE_NEWNET : 0), 0, 0, 0, 0);
	char name[32], port[32], children[32];

	must(child, "clone");
	if (child)
		return child;
	if (network >= 0)
		must(setns(network, CLONE_NEWNET), "setns");
	join(pod, which);
	snprintf(name, sizeof(name), "--pod=%ld", pod);
	snprintf(port, sizeof(port), "--listen=0.0.0.0:%ld", 1024 + pod % 60000);
	snprintf(children, sizeof(children), WORKERS "%ld", workers);
	must(execl("/proc/self/exe", which == SANDBOX ? "/pause" : "/usr/local/bin/entrypoint", name, port,
		   "--config=/etc/server/config.yaml", "--log-format=json", children, (char *)NULL), "exec");
	return 0;
}

/* What a container runs. */
static int inside(char **argv)
{
	if (!strcmp(argv[0], "/pause")) {
		prctl(PR_SET_NAME, "pause"); /* what was executed has another name */
		for (;;)
			pause();
	}
	if (!strcmp(argv[0], "/usr/local/bin/entrypoint")) {
		argv[0] = "/usr/local/bin/server";
		must(execv("/proc/self/exe", argv), "exec");
	}
	for (int left = atoi(argv[5] + strlen(WORKERS)); left > 0; left--) {
		pid_t child = fork();

		must(child, "fork");
		if (!child)
			_exit(0);
		waitpid(child, NULL, 0);
	}
	return 3;
}

static pid_t begin(long pod)
{
	char path[64];
	pid_t sandbox;
	int network, status;

	make(pod);
	sandbox = start(pod, SANDBOX, -1);
	snprintf(path, sizeof(path), "/proc/%d/ns/net", sandbox);
	must(network = open(path, O_RDONLY | O_CLOEXEC), path);
	must(waitpid(start(pod, CONTAINER, network), &status, 0), "wait");
	close(network);
	return sandbox;
}

static void end(long pod, pid_t sandbox)
{
	char path[512];

	kill(sandbox, SIGKILL);
	waitpid(sandbox, NULL, 0);
	for (char **root = roots; *root; root++)
		for (int which = CGROUPS; which-- > POD;) {
			cgroup(path, *root, pod, which);
			must(rmdir(path), path);
		}
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	long first, count, living, rate;
	pid_t *sandboxes;
	double began = now();

	if (argv[0][0] == '/' && argc == 6 && !strncmp(argv[1], "--pod=", 6))
		return inside(argv);
	if (argc < 7)
		return 2;
	first = atol(argv[1]), count = atol(argv[2]), living = atol(argv[3]), rate = atol(argv[4]);
	workers = atol(argv[5]);
	roots = argv + 6;
	sandboxes = calloc(living, sizeof(*sandboxes));
	for (long pod = 0; pod < count + living; pod++) {
		double early = began + (double)pod / rate - now();

		if (pod < count && early > 0)
			usleep(early * 1e6);
		if (pod >= living && pod - living < count)
			end(first + pod - living, sandboxes[pod % living]);
		if (pod < count) {
			sandboxes[pod % living] = begin(first + pod);
			printf("%ld\n", first + pod);
			fflush(stdout);
		}
	}
	return 0;
}
