// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/* User space of interfaces.c: `user` tries /dev/interfaces and prints one line each; `user wait` opens it and reads, for ever. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "interfaces.h"

static void say(const char *name, int ok)
{
	if (ok)
		printf("@@ user %s: ok\n", name);
	else
		printf("@@ user %s: failed, %s\n", name, strerror(errno));
	fflush(stdout);
}

static int fails(int result, int error)
{
	return result < 0 && errno == error;
}

int main(int argc, char **argv)
{
	int device = open("/dev/interfaces", O_RDWR), fast = open("/dev/interfaces", O_RDWR | O_NONBLOCK);
	struct pollfd waiting = { .fd = device, .events = POLLIN };
	void *bad = (void *)0x1000; /* not mapped */
	char buffer[64], *mapped;
	int value = 41, status;

	if (device < 0)
		return 1;
	if (argc > 1) {
		printf("@@ user waits\n");
		fflush(stdout);
		return read(device, buffer, sizeof(buffer)) < 0;
	}
	say("read without waiting", fails(read(fast, buffer, 8), EAGAIN));
	say("poll without data", poll(&waiting, 1, 1) == 0);
	if (fork() == 0) {
		usleep(20000);
		_exit(write(device, "hello", 5) != 5);
	}
	say("poll waits for data", poll(&waiting, 1, -1) == 1 && waiting.revents == POLLIN);
	say("read", read(device, buffer, sizeof(buffer)) == 5 && !memcmp(buffer, "hello", 5));
	wait(&status);
	say("write", status == 0);
	if (fork() == 0) {
		usleep(20000);
		_exit(write(device, "again", 5) != 5);
	}
	say("read waits for data", read(device, buffer, sizeof(buffer)) == 5 && !memcmp(buffer, "again", 5));
	wait(&status);
	say("write from a bad address", fails(write(device, bad, 8), EFAULT));
	say("write, then read to a bad address", write(device, "x", 1) == 1 && fails(read(device, bad, 1), EFAULT));
	say("the data is still there", read(device, buffer, 8) == 1 && buffer[0] == 'x');
	say("get_user and put_user", ioctl(device, FEATURES_INCREMENT, &value) == 0 && value == 42);
	say("get_user of a bad address", fails(ioctl(device, FEATURES_INCREMENT, bad), EFAULT));
	say("get_user of a kernel address", fails(ioctl(device, FEATURES_INCREMENT, 0xffffffff81000000UL), EFAULT));
	say("inline access", ioctl(device, FEATURES_INCREMENT_INLINE, &value) == 0 && value == 43);
	say("inline access to a bad address", fails(ioctl(device, FEATURES_INCREMENT_INLINE, bad), EFAULT));
	say("unknown ioctl", fails(ioctl(device, 0x5003, 0), ENOTTY));
	mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	say("mmap", mapped != MAP_FAILED && !strcmp(mapped, "mapped"));
	say("write to the mapping", mapped != MAP_FAILED && (strcpy(mapped, "changed"), !strcmp(mapped, "changed")));
	say("get_user of a page not mapped yet", ioctl(device, FEATURES_INCREMENT, mmap(NULL, 4096, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) == 0);
	return 0;
}
