// SPDX-License-Identifier: Apache-2.0
/*
 * Does one thing many times and prints the nanoseconds of CPU time that each took, so that whoever else
 * runs on the machine does not count.
 *
 *   load faults N       touches N pages of new memory
 *   load connections N  connects to itself, accepts, and closes both ends
 *   load transfers N    sends 64 KiB to itself and receives them
 *   load refused N      connects to a port on which nobody listens
 *   load packets N      sends UDP packets to itself and receives them
 *   load filtered N     sends UDP packets to a socket whose filter refuses them
 *   load dropped N      sends UDP packets to a socket whose buffer is full
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MEMORY (64L << 20)
#define CHUNK (64 << 10)

static void check(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static void faults(long count)
{
	const long page = sysconf(_SC_PAGESIZE);

	while (count > 0) {
		char *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (memory == MAP_FAILED)
			check(-1, "mmap");
		madvise(memory, MEMORY, MADV_NOHUGEPAGE);
		for (long at = 0; at < MEMORY && count > 0; at += page, count--)
			memory[at] = 1;
		munmap(memory, MEMORY);
	}
}

static int listener(struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t size = sizeof(*address);

	check(fd, "socket");
	check(bind(fd, (struct sockaddr *)address, size), "bind");
	check(listen(fd, 16), "listen");
	getsockname(fd, (struct sockaddr *)address, &size);
	return fd;
}

/* Both ends. Each connection takes another address, as a closed one keeps its pair of ports for a minute. */
static void join(int listening, struct sockaddr_in *address, long number, int ends[2])
{
	address->sin_addr.s_addr = htonl(INADDR_LOOPBACK + number % 65000);
	ends[0] = socket(AF_INET, SOCK_STREAM, 0);
	check(connect(ends[0], (struct sockaddr *)address, sizeof(*address)), "connect");
	ends[1] = accept(listening, NULL, NULL);
	check(ends[1], "accept");
}

static void connections(long count)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	int listening = listener(&address), ends[2];

	for (long i = 0; i < count; i++) {
		join(listening, &address, i, ends);
		close(ends[0]);
		close(ends[1]);
	}
}

static void transfers(long count)
{
	static char chunk[CHUNK];
	struct sockaddr_in address = {.sin_family = AF_INET};
	int listening = listener(&address), ends[2];

	join(listening, &address, 0, ends);
	for (long i = 0; i < count; i++) {
		check(send(ends[0], chunk, CHUNK, 0), "send");
		check(recv(ends[1], chunk, CHUNK, MSG_WAITALL), "recv");
	}
}

static void refused(long count)
{
	struct sockaddr_in address = {.sin_family = AF_INET};

	close(listener(&address));
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (long i = 0; i < count; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);

		if (!connect(fd, (struct sockaddr *)&address, sizeof(address)) || errno != ECONNREFUSED)
			check(-1, "a connection that was to be refused");
		close(fd);
	}
}

static int receiver(struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	socklen_t size = sizeof(*address);

	address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	check(fd, "socket");
	check(bind(fd, (struct sockaddr *)address, size), "bind");
	getsockname(fd, (struct sockaddr *)address, &size);
	return fd;
}

static void transmit(const struct sockaddr_in *address, int receiving, long count)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	char data[100] = {0};

	check(connect(fd, (const struct sockaddr *)address, sizeof(*address)), "connect");
	for (long i = 0; i < count; i++) {
		check(send(fd, data, sizeof(data), 0), "send");
		if (receiving >= 0)
			check(recv(receiving, data, sizeof(data), 0), "recv");
	}
	close(fd);
}

static void packets(long count)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	int fd = receiver(&address);

	transmit(&address, fd, count);
}

static void filtered(long count)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	struct sock_filter refuse = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog filter = {.len = 1, .filter = &refuse};
	int fd = receiver(&address);

	check(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)), "filter");
	transmit(&address, -1, count);
}

static void dropped(long count)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	int fd = receiver(&address), smallest = 1;

	check(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &smallest, sizeof(smallest)), "buffer");
	transmit(&address, -1, count);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(long);
	} loads[] = {
		{"faults", faults},
		{"connections", connections},
		{"transfers", transfers},
		{"refused", refused},
		{"packets", packets},
		{"filtered", filtered},
		{"dropped", dropped},
	};

	for (size_t i = 0; argc == 3 && i < sizeof(loads) / sizeof(*loads); i++) {
		if (!strcmp(argv[1], loads[i].name)) {
			const long count = atol(argv[2]);
			double begin = now();

			loads[i].run(count);
			printf("%.1f\n", (now() - begin) / count);
			return 0;
		}
	}
	return 2;
}
