/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What victim.c offers to the kernel, and hostile.c abuses. */
#ifndef VICTIM_H
#define VICTIM_H

#define VICTIM_MSR 0x40000000
#define VICTIM_PORT 0xf4
/* The MSR's value, which the VMM is told at the start; and what victim_spin has in its registers. */
#define VICTIM_VALUE 0x5ec4e7
/* In the code of victim_gadget, and in a constant. */
#define TEXT_MARK 0x6b72616d
#define CONSTANT_MARK 0x746e6174736e6f63ull

struct victim_entries {
	long (*probe)(void); /* the port's value */
	long (*call)(void (*function)(void)); /* calls it; 1 if it found its own registers changed then */
	long (*spin)(unsigned long turns); /* counts in registers; 1 if they were changed meanwhile */
	unsigned long (*flags)(void); /* RFLAGS at the entry */
	unsigned long *entered; /* calls of probe */
	unsigned long *reached; /* times that the gadget was reached, inside the module or outside */
	unsigned long *gadget; /* what the gadget read from the MSR; 0: it never ran */
};

#endif
