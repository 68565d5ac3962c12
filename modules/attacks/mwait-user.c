// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/* An attack: user space that executes MONITOR, or with any argument MWAIT. Ends with 0 where they exist; else by a signal. */
__attribute__((used)) static void start(const long *stack)
{
	static long line;

	if (stack[0] > 1)
		__asm__ volatile("mwait" : : "a"(0), "c"(0) : "memory");
	else
		__asm__ volatile("monitor" : : "a"(&line), "c"(0), "d"(0) : "memory");
	__asm__ volatile("syscall" : : "a"(60), "D"(0) : "rcx", "r11", "memory");
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\n	call start\n");
