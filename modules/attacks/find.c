// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * An attack: a program of guest root that looks for a secret through /dev/mem and /proc/kcore. Built without a C library:
 *
 *	gcc -static -nostdlib -ffreestanding -O2 -o find find.c
 *	find /dev/mem SIZE NEEDLE...	or	find /proc/kcore 0 NEEDLE...
 *
 * A needle is 32 hexadecimal digits, masked (search.h). Prints "BYTES COUNT COUNT ...": what could be read, and what was found.
 */
#include <elf.h>
#include "search.h"

#define PIECE 65536
#define PAGE 4096

/* System calls of x86-64: Linux arch/x86/entry/syscalls/syscall_64.tbl. */
static long call(long number, long a, long b, long c, long d)
{
	register long r10 asm("r10") = d;
	long result;

	asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return result;
}
#define WRITE 1
#define OPEN 2
#define PREAD 17
#define EXIT 60

static struct search search;
static unsigned char piece[PIECE] __attribute__((aligned(PAGE)));
static unsigned long total;

static void find(int file, unsigned long from, unsigned long bytes)
{
	unsigned long done, step;

	for (done = 0; done < bytes; done += step) {
		long got;

		step = bytes - done < PIECE ? bytes - done : PIECE;
		got = call(PREAD, file, (long)piece, step, from + done);
		if (got <= 0 && step > PAGE) { /* page by page where something is in the way */
			step = PAGE;
			got = call(PREAD, file, (long)piece, step, from + done);
		}
		if (got <= 0)
			continue;
		search_memory(&search, piece, got);
		total += got;
	}
}

static unsigned long number(const char *text, unsigned int base)
{
	unsigned long value = 0;

	for (; *text; text++)
		value = value * base + (*text <= '9' ? *text - '0' : *text - 'a' + 10);
	return value;
}

static void print(unsigned long value, char last)
{
	char text[24];
	int at = sizeof(text);

	text[--at] = last;
	do
		text[--at] = '0' + value % 10;
	while (value /= 10);
	call(WRITE, 1, (long)text + at, sizeof(text) - at, 0);
}

/* The direct map: the segments of /proc/kcore that name physical addresses (Linux fs/proc/kcore.c). */
static void find_kcore(int file)
{
	static unsigned char head[PAGE];
	const Elf64_Ehdr *elf = (const Elf64_Ehdr *)head;
	const Elf64_Phdr *segments;
	int i;

	if (call(PREAD, file, (long)head, sizeof(head), 0) <= (long)sizeof(*elf) || elf->e_phoff + elf->e_phnum * sizeof(*segments) > sizeof(head))
		return;
	segments = (const Elf64_Phdr *)(head + elf->e_phoff);
	for (i = 0; i < elf->e_phnum; i++) {
		if (segments[i].p_type == PT_LOAD && segments[i].p_paddr != (Elf64_Addr)-1 && segments[i].p_filesz <= 1ul << 32)
			find(file, segments[i].p_offset, segments[i].p_filesz);
	}
}

__attribute__((used)) static void run(long *stack)
{
	int count = stack[0], i, j;
	char **words = (char **)(stack + 1);
	int file = count > 2 ? call(OPEN, (long)words[1], 0, 0, 0) : -1;

	for (i = 3; i < count && search.count < NEEDLES; i++, search.count++) {
		for (j = 0; j < NEEDLE_BYTES; j++) {
			char byte[3] = { words[i][2 * j], words[i][2 * j + 1], 0 };

			((unsigned char *)search.needles[search.count].words)[j] = number(byte, 16);
		}
	}
	search_prepare(&search);
	if (file >= 0 && words[2][0] == '0')
		find_kcore(file);
	else if (file >= 0)
		find(file, 0, number(words[2], 10));
	print(total, search.count ? ' ' : '\n');
	for (i = 0; i < search.count; i++)
		print(search.found[i], i + 1 < search.count ? ' ' : '\n');
	call(EXIT, file < 0, 0, 0, 0);
}

asm(".globl _start\n_start:\n	movq %rsp, %rdi\n	andq $-16, %rsp\n	call run\n");
