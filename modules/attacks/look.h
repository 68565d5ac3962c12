/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/* What the attacks on victim.c have in common: the victim's entries, a look at its privileges from wherever the attacker is, and the verdict. */
#ifndef LOOK_H
#define LOOK_H

#include <linux/kernel.h>
#include <linux/moduleparam.h>
#include <asm/io.h>
#include <asm/msr.h>
#include "victim.h"

static unsigned long victim;
static char result[200];
module_param(victim, ulong, 0644);
module_param_string(result, result, sizeof(result), 0444);

#define entries ((struct victim_entries *)victim)
#define gained(...) snprintf(result, sizeof(result), "gained " __VA_ARGS__)
#define nothing(...) snprintf(result, sizeof(result), "nothing " __VA_ARGS__)
#define dead(...) snprintf(result, sizeof(result), "dead " __VA_ARGS__)
#define verdict(won, ...) ((won) ? gained(__VA_ARGS__) : nothing(__VA_ARGS__))

/* What a look at the privileges found, at any place. */
static unsigned int looks, ports, msrs;

static void look(void)
{
	u64 value = 0;

	looks++;
	ports += inb(VICTIM_PORT) != 0xff;
	msrs += !rdmsrl_safe(VICTIM_MSR, &value) && value == VICTIM_VALUE;
}

struct attack {
	const char *name;
	void (*run)(void);
};

/* Writing a name to the parameter `attack` tries that one. */
static int run_attack(const struct attack *attacks, unsigned int count, const char *name)
{
	unsigned int i;

	looks = ports = msrs = 0;
	dead("there is no such attack");
	for (i = 0; victim && i < count; i++) {
		if (sysfs_streq(name, attacks[i].name)) {
			attacks[i].run();
			return 0;
		}
	}
	return -EINVAL;
}

#endif
