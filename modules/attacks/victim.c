// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * The victim of the attack suite: a guarded module with an MSR, an I/O port and a private page, whose entries a hostile kernel (hostile.c) calls with
 * pointers, stacks, flags and interrupts of its choice. Parameter `entries`: the address of the table in victim.h.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <asm/asm.h>
#include <asm/extable_fixup_types.h>
#include "../portcullis.h"
#include "victim.h"

static u64 secret __portcullis_private = 1; /* the MSR's value, from init on */
static const u64 constants[4] = { CONSTANT_MARK, 2, 3, 4 };
static unsigned long entered, reached, gadget;
static volatile unsigned long expected;

static __always_inline u64 read_msr(void)
{
	u32 low, high;

	/* Where there is none, 0: somebody runs this outside the module. */
	asm volatile("1:	rdmsr\n2:\n" _ASM_EXTABLE_TYPE(1b, 2b, EX_TYPE_RDMSR) : "=a"(low), "=d"(high) : "c"(VICTIM_MSR));
	return (u64)high << 32 | low;
}

static long victim_probe(void)
{
	u8 value;

	entered++;
	asm volatile("inb %1, %0" : "=a"(value) : "Nd"((u16)VICTIM_PORT));
	return value;
}

/* Nobody calls it. Whoever gets here has steered the module. */
static noinline __used void victim_gadget(void)
{
	u64 value;

	reached++;
	value = read_msr();
	asm volatile("" : : "r"(TEXT_MARK));
	gadget = value;
}

static noinline unsigned long inner(void (*function)(void), unsigned long seed)
{
	unsigned long value = seed * 3 + 1;

	expected = value;
	function();
	return value != expected;
}

static long victim_call(void (*function)(void))
{
	unsigned long changed = inner(function, secret + 7);

	asm volatile("" : "+r"(changed));
	return changed;
}

static long victim_spin(unsigned long turns)
{
	register unsigned long rbx asm("rbx") = VICTIM_VALUE; /* one that real-address mode can name */
	register unsigned long r12 asm("r12") = VICTIM_VALUE;
	register unsigned long r13 asm("r13") = VICTIM_VALUE;

	asm volatile("1:	decq %0\n	jnz 1b\n" : "+m"(turns), "+r"(rbx), "+r"(r12), "+r"(r13) : : "cc");
	return rbx != VICTIM_VALUE || r12 != VICTIM_VALUE || r13 != VICTIM_VALUE;
}

static unsigned long victim_flags(void)
{
	unsigned long flags;

	asm volatile("pushfq\n	popq %0\n" : "=r"(flags) : : "memory");
	return flags;
}

static struct victim_entries table = {
	.probe = victim_probe,
	.call = victim_call,
	.spin = victim_spin,
	.flags = victim_flags,
	.entered = &entered,
	.reached = &reached,
	.gadget = &gadget,
};
static unsigned long entries;
module_param(entries, ulong, 0444);

static int __init victim_init(void)
{
	entries = (unsigned long)&table;
	secret = read_msr();
	pr_info("victim: constant %llu\n", constants[secret & 3]);
	return 0;
}

static void __exit victim_exit(void)
{
}

module_init(victim_init);
module_exit(victim_exit);
MODULE_DESCRIPTION("The victim of the attack suite");
MODULE_LICENSE("GPL");
