// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * An attack: kernel code that looks for a guarded module's secret wherever a kernel can look. Parameters (/sys/module/search/parameters):
 *
 *	needle		what to look for, two masked words each (search.h)
 *	ram		physical RAM, start and end of each range
 *	memory		reading it searches all of that: "BYTES COUNT COUNT ..."
 *	text		start and end of the victim's text. A timer that fires every 100 us looks, when it interrupted that, at the registers
 *			and the stack of the interrupted code
 *	ticks, inside	how often the timer fired, and how often in the victim
 *	registers	general registers that were not zero there, but RSP
 *	stack		needles in the stacks there
 *	at, bytes_at	`at` names an address; reading `bytes_at` tells how many of the 256 bytes there are not zero
 */
#include <linux/hrtimer.h>
#include <linux/init.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched/task_stack.h>
#include <linux/vmalloc.h>
#include <asm/irq_regs.h>
#include "search.h"

#define PERIOD_NS 100000
#define MOST_RANGES 32

static unsigned long long needle[2 * NEEDLES];
static int needle_words;
module_param_array(needle, ullong, &needle_words, 0);
static unsigned long ram[2 * MOST_RANGES];
static int ram_words;
module_param_array(ram, ulong, &ram_words, 0);
static unsigned long text[2];
static int text_words;
module_param_array(text, ulong, &text_words, 0644);
static unsigned long at;
module_param(at, ulong, 0644);
static unsigned int ticks, inside, registers;
module_param(ticks, uint, 0444);
module_param(inside, uint, 0444);
module_param(registers, uint, 0444);

static struct search *everywhere, *stacks;
static struct hrtimer timer;

static int memory_get(char *buffer, const struct kernel_param *parameter)
{
	unsigned long bytes = 0;
	int i, length;

	memset(everywhere->found, 0, sizeof(everywhere->found));
	for (i = 0; i + 1 < ram_words; i += 2) {
		unsigned long from;

		for (from = ram[i]; from < ram[i + 1]; from += PAGE_SIZE) {
			search_memory(everywhere, __va(from), PAGE_SIZE);
			bytes += PAGE_SIZE;
			cond_resched();
		}
	}
	length = scnprintf(buffer, PAGE_SIZE, "%lu", bytes);
	for (i = 0; i < everywhere->count; i++)
		length += scnprintf(buffer + length, PAGE_SIZE - length, " %u", everywhere->found[i]);
	return length + scnprintf(buffer + length, PAGE_SIZE - length, "\n");
}

static const struct kernel_param_ops memory_ops = { .get = memory_get };
module_param_cb(memory, &memory_ops, NULL, 0444);

static int stack_get(char *buffer, const struct kernel_param *parameter)
{
	unsigned int sum = 0;
	int i;

	for (i = 0; i < stacks->count; i++)
		sum += stacks->found[i];
	return scnprintf(buffer, PAGE_SIZE, "%u\n", sum);
}

static const struct kernel_param_ops stack_ops = { .get = stack_get };
module_param_cb(stack, &stack_ops, NULL, 0444);

static int bytes_at_get(char *buffer, const struct kernel_param *parameter)
{
	const unsigned char *bytes = (const unsigned char *)at;
	unsigned int i, sum = 0;

	for (i = 0; at && i < 256; i++)
		sum += bytes[i] != 0;
	return scnprintf(buffer, PAGE_SIZE, "%u\n", sum);
}

static const struct kernel_param_ops bytes_at_ops = { .get = bytes_at_get };
module_param_cb(bytes_at, &bytes_at_ops, NULL, 0444);

static void look(const struct pt_regs *regs)
{
	unsigned long stack = regs->sp & ~(THREAD_SIZE - 1);

	inside++;
	registers += !!regs->ax + !!regs->bx + !!regs->cx + !!regs->dx + !!regs->si + !!regs->di + !!regs->bp + !!regs->r8 + !!regs->r9 +
		!!regs->r10 + !!regs->r11 + !!regs->r12 + !!regs->r13 + !!regs->r14 + !!regs->r15;
	if (object_is_on_stack((void *)regs->sp))
		search_memory(stacks, (void *)stack, THREAD_SIZE);
}

static enum hrtimer_restart tick(struct hrtimer *expired)
{
	const struct pt_regs *regs = get_irq_regs();

	ticks++;
	if (regs && text_words == 2 && regs->ip >= text[0] && regs->ip < text[1])
		look(regs);
	hrtimer_forward_now(expired, ns_to_ktime(PERIOD_NS));
	return HRTIMER_RESTART;
}

static struct search *prepare(void)
{
	struct search *search = vzalloc(sizeof(*search));

	if (!search)
		return NULL;
	search->count = needle_words / 2;
	memcpy(search->needles, needle, sizeof(needle));
	search_prepare(search);
	return search;
}

static int __init search_init(void)
{
	everywhere = prepare();
	stacks = prepare();
	if (!everywhere || !stacks)
		return -ENOMEM;
	hrtimer_init(&timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_HARD);
	timer.function = tick;
	hrtimer_start(&timer, ns_to_ktime(PERIOD_NS), HRTIMER_MODE_REL_HARD);
	return 0;
}

static void __exit search_exit(void)
{
	hrtimer_cancel(&timer);
	vfree(everywhere);
	vfree(stacks);
}

module_init(search_init);
module_exit(search_exit);
MODULE_DESCRIPTION("Looks for a guarded module's secret");
MODULE_LICENSE("GPL");
