// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * A hostile kernel that takes CPUs away from victim.c: a CPU on which a thread is inside the module is switched off, gets an INIT, or finds another kernel
 * under it (kexec.c). Parameters (/sys/module/cpus/parameters), beside those of look.h:
 *
 *	gadget		address of victim_gadget
 *	attack		write a name of `attacks` below: tries that one
 *	handover	what kexec.c is started with
 */
#include <linux/completion.h>
#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/delay.h>
#include <linux/gfp.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/smp.h>
#include <asm/apicdef.h>
#include <asm/pgtable.h>
#include "look.h"

/* Turns of victim_spin: some seconds, and until the end of the machine. */
#define LONG 100000000ul
#define FOREVER -1ul
/* Long enough for a thread to be in the module, ms. */
#define SOON 50

static unsigned long gadget;
module_param(gadget, ulong, 0644);

static struct completion finished;
static unsigned long turns;
static bool undisturbed;
static long changed;
static unsigned int ended_on;

static int stay(void *unused)
{
	if (undisturbed)
		local_irq_disable();
	changed = entries->spin(turns);
	ended_on = raw_smp_processor_id();
	complete(&finished);
	return 0;
}

/* Sends a thread into the module on another CPU than the first, from which it may move; what is done to it is done on the first. */
static unsigned int send_inside(unsigned long count)
{
	unsigned int other = cpumask_any_but(cpu_online_mask, 0);
	struct task_struct *task = NULL;

	set_cpus_allowed_ptr(current, cpumask_of(0));
	init_completion(&finished);
	turns = count;
	if (other < nr_cpu_ids)
		task = kthread_create(stay, NULL, "inside");
	if (IS_ERR_OR_NULL(task)) {
		dead("no thread can be sent to another CPU");
		return nr_cpu_ids;
	}
	set_cpus_allowed_ptr(task, cpumask_of(other));
	wake_up_process(task);
	msleep(SOON);
	return other;
}

/* Runs on the CPU that goes down, when the scheduler has taken it from the thread inside. */
static int going_down(unsigned int cpu)
{
	look();
	return 0;
}

static void unplug(void)
{
	unsigned int other = send_inside(LONG);
	int state = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, "hostile", NULL, going_down);

	int error;

	if (other >= nr_cpu_ids)
		return;
	error = state < 0 ? state : remove_cpu(other);
	wait_for_completion(&finished);
	if (error) {
		dead("the CPU does not go down: %d", error);
	} else if (ended_on == other || !looks) {
		dead("the thread inside was not moved");
	} else {
		verdict(ports || msrs || changed, "%u, %u of %u looks at port and MSR on the CPU that goes down, %ld back from another CPU", ports,
			msrs, looks, changed);
	}
	add_cpu(other);
	cpuhp_remove_state_nocalls(state);
}

/* What comes before another kernel: somebody is inside, and never comes back, or nobody is. */
static void inside(void)
{
	if (send_inside(FOREVER) < nr_cpu_ids)
		nothing("there is a thread inside");
}

static void outside(void)
{
	nothing("there is none");
}

/* The program's console is the serial line, also when nothing of the kernel works any more. */
static void say(const char *text)
{
	for (; *text; text++) {
		while (!(inb(0x3fd) & 0x20))
			cpu_relax();
		outb(*text, 0x3f8);
	}
}

/*
 * What the other CPU does after INIT and start-up message, in real-address mode at START: it writes down the registers that it finds, and tries port and MSR.
 * Fields of `struct found` lie at FOUND in the same page. RDMSR of a register that is not there goes by vector 13 of the table at address 0.
 */
#define START 0x8000ul
#define FOUND 0x800
#define VECTOR_13 (13 * 4)

struct found {
	u32 registers[8];
	u32 msr;
	u8 port, there, read, done;
};

asm(".pushsection .rodata\n"
    ".code16\n"
    "start_begin:\n"
    "	movl %eax, %cs:0x800\n"
    "	movl %ebx, %cs:0x804\n"
    "	movl %ecx, %cs:0x808\n"
    "	movl %edx, %cs:0x80c\n"
    "	movl %esi, %cs:0x810\n"
    "	movl %edi, %cs:0x814\n"
    "	movl %ebp, %cs:0x818\n"
    "	movl %esp, %cs:0x81c\n"
    "	movb $1, %cs:0x825\n"
    "	movw %cs, %ax\n"
    "	movw %ax, %ss\n"
    "	movw $0x1000, %sp\n"
    "	inb $0xf4, %al\n"
    "	movb %al, %cs:0x824\n"
    "	movl $0x40000000, %ecx\n"
    "	rdmsr\n"
    "	movl %eax, %cs:0x820\n"
    "	movb $1, %cs:0x826\n"
    "start_fault:\n"
    "	movb $1, %cs:0x827\n"
    "1:	pause\n"
    "	jmp 1b\n"
    "start_end:\n"
    ".code64\n"
    ".popsection\n");
extern const char start_begin[], start_fault[], start_end[];

static void init_signal(void)
{
	void __iomem *lapic = ioremap(APIC_DEFAULT_PHYS_BASE, PAGE_SIZE);
	volatile struct found *found = __va(START + FOUND);
	unsigned int other, i, seen = 0, waited = 0;

	undisturbed = true; /* an interrupt would find it in its handler */
	other = send_inside(FOREVER);
	if (!lapic || other >= nr_cpu_ids)
		return;
	local_irq_disable();
	memset(__va(START), 0, PAGE_SIZE);
	memcpy(__va(START), start_begin, start_end - start_begin);
	found->port = 0xff;
	*(u32 *)__va(VECTOR_13) = START >> 4 << 16 | (start_fault - start_begin);
	writel(SET_XAPIC_DEST_FIELD(per_cpu(x86_cpu_to_apicid, other)), lapic + APIC_ICR2);
	writel(APIC_INT_ASSERT | APIC_INT_LEVELTRIG | APIC_DM_INIT, lapic + APIC_ICR);
	mdelay(10);
	writel(APIC_DM_STARTUP | START >> PAGE_SHIFT, lapic + APIC_ICR);
	for (; waited < 2000 && !found->done; waited++)
		mdelay(1);
	for (i = 0; i < ARRAY_SIZE(found->registers); i++)
		seen += found->registers[i] == VICTIM_VALUE;
	if (!found->done)
		dead("the CPU does not start");
	else if (entries->probe() < 0)
		gained("the CPU is still in the module after INIT: what it starts with is taken for the module's code, which is quarantined");
	else
		verdict(seen || found->port != 0xff || found->read, "after INIT the CPU finds %u registers of the module, port %02x, MSR %x", seen, found->port,
			found->msr);
	say("\n@@ result ");
	say(result);
	say("\n");
	for (;;)
		cpu_relax();
}

static const struct attack attacks[] = {
	{ "unplug", unplug },
	{ "inside", inside },
	{ "outside", outside },
	{ "init-signal", init_signal },
};

static int attack_set(const char *name, const struct kernel_param *parameter)
{
	return run_attack(attacks, ARRAY_SIZE(attacks), name);
}

static const struct kernel_param_ops attack_ops = { .set = attack_set };
module_param_cb(attack, &attack_ops, NULL, 0200);

/* A copy of the upper half of the top-level page table, so that the next kernel finds everything where it was. */
static unsigned long upper_half;

static int handover_get(char *buffer, const struct kernel_param *parameter)
{
	/* Gate 0 of the victim is on the page of its first entry gate; what is missing of the last MiB are holes below the first. */
	return scnprintf(buffer, PAGE_SIZE, "%lx %lx %lx %lx %lx %lx\n", __pa(upper_half), PAGE_OFFSET, gadget,
			 (unsigned long)entries->probe & PAGE_MASK, (unsigned long)entries->reached, roundup((unsigned long)get_num_physpages() << PAGE_SHIFT, SZ_1M));
}

static const struct kernel_param_ops handover_ops = { .get = handover_get };
module_param_cb(handover, &handover_ops, NULL, 0444);

static int __init cpus_init(void)
{
	upper_half = get_zeroed_page(GFP_KERNEL);
	if (!upper_half)
		return -ENOMEM;
	memcpy((void *)upper_half + PAGE_SIZE / 2, __va(read_cr3_pa() + PAGE_SIZE / 2), PAGE_SIZE / 2);
	return 0;
}

static void __exit cpus_exit(void)
{
	free_page(upper_half);
}

module_init(cpus_init);
module_exit(cpus_exit);
MODULE_DESCRIPTION("Takes CPUs away from a guarded module");
MODULE_LICENSE("GPL");
