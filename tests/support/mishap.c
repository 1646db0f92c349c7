/* SPDX-License-Identifier: Apache-2.0
 *
 * Does one thing that ends badly: the first process of a container in the tests of `ktrace why`.
 * Linked statically, because the containers have no C library.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

static void touch_nothing(int number)
{
	(void)number;
	printf("%d", *(volatile int *)8);
}

static void touch_behind_a_file(void)
{
	int file = memfd_create("short", 0);
	char *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);

	printf("%d", *(volatile char *)page);
}

static void divide(void)
{
	volatile int one = 1, nothing = 0;

	printf("%d", one / nothing);
}

static void forbidden_call(void)
{
	struct sock_filter program[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { .len = 4, .filter = program };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
	getppid();
}

static void take(long bytes)
{
	if (mmap(NULL, bytes, PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0) ==
	    MAP_FAILED)
		exit(1);
}

/* Asks for a pipe whose table of slots takes 4 MiB in one piece, so often. With pauses in µs, as a
 * busy node may read its free lists too late to say what was missing. */
static int large_pipe(int times, unsigned int pause)
{
	int ends[2], refused = 0;

	if (pipe(ends))
		return 0;
	while (times--) {
		if (fcntl(ends[1], F_SETPIPE_SZ, 256 << 20) < 0 && errno == ENOMEM)
			refused++;
		usleep(pause);
	}
	return refused;
}

/* Asks for such pipes until some were refused, one a second. One that was granted is kept. */
static void be_refused(int times)
{
	while (times) {
		int ends[2] = { -1, -1 };

		if (pipe(ends) == 0 && fcntl(ends[1], F_SETPIPE_SZ, 256 << 20) >= 0)
			continue;
		if (errno == ENOMEM)
			times--;
		close(ends[0]);
		close(ends[1]);
		sleep(1);
	}
}

/* Lives on. The handler shows that all is done, and crashes. */
static void stay(void)
{
	signal(SIGUSR1, touch_nothing);
	for (;;)
		pause();
}

/* Takes memory until the machine has less than that, in bytes. */
static void eat(long leave)
{
	struct sysinfo now;

	while (sysinfo(&now) == 0 && now.freeram * now.mem_unit > (unsigned long)leave)
		take(1 << 20);
}

/* Whether 4 MiB are free in one piece, outside of the zone that is kept for old devices. */
static int large_piece(void)
{
	FILE *zones = fopen("/proc/buddyinfo", "r");
	char zone[16];
	int last, found = 0;

	while (fscanf(zones, " Node %*d, zone %15s %*d %*d %*d %*d %*d %*d %*d %*d %*d %*d %d", zone,
		      &last) == 2)
		found |= last && strcmp(zone, "DMA") != 0;
	fclose(zones);
	return found;
}

/* Full pipes take all memory, and then nearly all of it is given back: what each keeps is in the
 * way, and the kernel cannot move it. */
static void break_memory(void)
{
	static char data[1 << 20];
	int readers[4096], count = 0;
	struct rlimit most;

	getrlimit(RLIMIT_NOFILE, &most);
	most.rlim_cur = most.rlim_max;
	setrlimit(RLIMIT_NOFILE, &most);
	while (large_piece() && count < 4096) {
		int ends[2];

		if (pipe2(ends, O_NONBLOCK) || fcntl(ends[1], F_SETPIPE_SZ, sizeof(data)) < 0)
			break;
		write(ends[1], data, sizeof(data));
		readers[count++] = ends[0];
	}
	while (count--)
		read(readers[count], data, sizeof(data) / 16 * 15);
}

static void serve(int port, const char *how)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
	int server = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	char data[16];

	setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(server, (void *)&address, sizeof(address)) || listen(server, 1))
		exit(1);
	while (strcmp(how, "deaf") == 0)
		pause();
	for (;;) {
		int client = accept(server, NULL, NULL);
		struct pollfd readable = { .fd = client, .events = POLLIN };
		struct linger now = { .l_onoff = 1 };

		poll(&readable, 1, -1);
		if (strcmp(how, "unread") != 0)
			while (read(client, data, sizeof(data)) > 0 && strcmp(how, "linger") != 0)
				;
		if (strcmp(how, "linger") == 0)
			setsockopt(client, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		close(client);
	}
}

int main(int count, char **words)
{
	const char *what = count > 1 ? words[1] : "";

	if (strcmp(what, "segv") == 0)
		touch_nothing(0);
	if (strcmp(what, "segv-on-signal") == 0)
		stay();
	if (strcmp(what, "bus") == 0)
		touch_behind_a_file();
	if (strcmp(what, "fpe") == 0)
		divide();
	if (strcmp(what, "ill") == 0)
		__asm__ volatile("ud2");
	if (strcmp(what, "abrt") == 0)
		abort();
	if (strcmp(what, "sys") == 0)
		forbidden_call();
	if (strcmp(what, "pipe") == 0 && count > 3) {
		int stays = strcmp(words[3], "stay") == 0, refused;

		take(13 << 20); /* so that 4 MiB more are too much for the container's 16 */
		refused = large_pipe(atoi(words[2]), stays ? 500000 : 0);
		if (stays)
			stay();
		return refused ? 1 : 0;
	}
	if (strcmp(what, "kill") == 0 && count > 2)
		kill(atoi(words[2]), SIGKILL);
	if (strcmp(what, "eat") == 0)
		eat(0);
	if (strcmp(what, "lack") == 0) {
		eat(60 << 20);
		be_refused(3);
		stay();
	}
	if (strcmp(what, "fragments") == 0) {
		break_memory();
		be_refused(3);
		stay();
	}
	if (strcmp(what, "serve") == 0 && count > 3)
		serve(atoi(words[2]), words[3]);
	return 0;
}
