// SPDX-License-Identifier: Apache-2.0
// Ends badly, in the way that its arguments say: alone, or as a worker of a master that goes on.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void wait_forever(void)
{
	for (;;)
		pause();
}

__attribute__((noinline)) void parse_header(volatile int *header)
{
	*header = 1;
}

static void on_signal(int number)
{
	(void)number;
	parse_header(NULL);
}

static void fill_shared_memory(void)
{
	size_t size = 128 << 20;
	int file = open("/dev/shm/buffer", O_RDWR | O_CREAT, 0600);
	if (file < 0 || ftruncate(file, size))
		exit(1);
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	memset(memory, 1, size);
}

static void eat(void)
{
	for (;;)
		memset(malloc(1 << 20), 1, 1 << 20);
}

static void spin(void)
{
	for (volatile long turns = 0;; turns++)
		;
}

static void die_with_parent(void)
{
	pid_t middle = fork();
	if (!middle) {
		if (!fork()) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			wait_forever();
		}
		sleep(1);
		exit(0);
	}
	wait_forever();
}

static void end(const char *how, const char *argument)
{
	if (!strcmp(how, "segv"))
		parse_header(NULL);
	else if (!strcmp(how, "abort"))
		abort();
	else if (!strcmp(how, "shm"))
		fill_shared_memory();
	else if (!strcmp(how, "eat"))
		eat();
	else if (!strcmp(how, "spin"))
		spin();
	else if (!strcmp(how, "pdeath"))
		die_with_parent();
	else if (!strcmp(how, "exit"))
		exit(atoi(argument));
	else if (!strcmp(how, "on-usr1")) {
		signal(SIGUSR1, on_signal);
		prctl(PR_SET_NAME, "ends-waits");
		wait_forever();
	}
}

// ends HOW [ARGUMENT], or ends worker HOW [ARGUMENT]
int main(int count, char **words)
{
	if (count < 2)
		return 64;
	if (strcmp(words[1], "worker")) {
		end(words[1], count > 2 ? words[2] : "0");
		return 0;
	}
	signal(SIGTERM, _exit);
	if (!fork()) {
		prctl(PR_SET_NAME, "ends-worker");
		end(words[2], count > 3 ? words[3] : "0");
		return 0;
	}
	wait_forever();
}
