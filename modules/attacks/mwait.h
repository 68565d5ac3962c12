/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* MONITOR and MWAIT tried by kernel code that may not: each gives the vector of the exception, or EXECUTED. */
#include <linux/types.h>
#include <asm/asm.h>
#include <asm/extable_fixup_types.h>

#define EXECUTED 256

static u64 mwait_line __aligned(64);

static inline unsigned int try_monitor(void)
{
	unsigned long result = (unsigned long)&mwait_line;

	asm volatile("1:	monitor\n	movl %[executed], %%eax\n2:\n" _ASM_EXTABLE_FAULT(1b, 2b)
		     : "+a"(result) : "c"(0), "d"(0), [executed] "i"(EXECUTED) : "memory");
	return result;
}

static inline unsigned int try_mwait(void)
{
	unsigned long result = 0;

	asm volatile("1:	mwait\n	movl %[executed], %%eax\n2:\n" _ASM_EXTABLE_FAULT(1b, 2b)
		     : "+a"(result) : "c"(1), [executed] "i"(EXECUTED) : "memory");
	return result;
}
