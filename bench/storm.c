// SPDX-License-Identifier: Apache-2.0
/*
 * Raises SIGUSR1 at a process that ignores it.
 *
 *   storm N   N signals at full speed, to a child; prints the nanoseconds of CPU time that a call took
 *             (so that whoever else runs on the machine does not count) and the child's pid
 *   storm     one a millisecond, to itself, until killed
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static pid_t ignorant_child(void)
{
	pid_t child = fork();

	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return child;
}

static void storm(long count)
{
	pid_t child = ignorant_child();
	double begin = now(), end;

	for (long i = 0; i < count; i++)
		if (kill(child, SIGUSR1))
			exit(1);
	end = now();
	printf("%.1f %d\n", (end - begin) / count, child);
	kill(child, SIGKILL);
}

int main(int argc, char **argv)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGUSR1, SIG_IGN);
	if (argc > 1) {
		storm(atol(argv[1]));
		return 0;
	}
	for (;;) {
		kill(getpid(), SIGUSR1);
		usleep(1000);
	}
}
