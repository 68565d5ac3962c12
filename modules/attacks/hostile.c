// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * A hostile kernel: everything that the attack suite tries against victim.c in kernel mode. Parameters (/sys/module/hostile/parameters):
 *
 *	victim		address of the victim's table of entries
 *	text		start and end of the victim's text
 *	gadget		address of its victim_gadget
 *	private		address of its private page
 *	attack		write a name of `attacks` below: tries that one
 *	result		"gained TEXT", "nothing TEXT" or "dead TEXT"
 *	loader		what is done to the victim between its relocation and its init: text, constants or import
 */
#include <linux/completion.h>
#include <linux/hrtimer.h>
#include <linux/io.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <asm/irq_regs.h>
#include <asm/msr.h>
#include <asm/nospec-branch.h>
#include "look.h"

#define PERIOD_NS 100000
#define TURNS 3000000
#define GATE_SIZE 16

static unsigned long gadget, private, text[2];
static int text_words;
static char *loader = "";
module_param(gadget, ulong, 0644);
module_param(private, ulong, 0644);
module_param_array(text, ulong, &text_words, 0644);
module_param(loader, charp, 0644);

static bool in_text(unsigned long address)
{
	return text_words == 2 && address >= text[0] && address < text[1];
}

/* The timer that interrupts the victim. */
static struct hrtimer timer;
static unsigned int inside, seen;
static bool once;
static void (*in_victim)(struct pt_regs *regs);

static enum hrtimer_restart tick(struct hrtimer *expired)
{
	struct pt_regs *regs = get_irq_regs();

	if (regs && in_text(regs->ip)) {
		inside++;
		in_victim(regs);
	}
	if (once && seen)
		return HRTIMER_NORESTART; /* the module shall not be disturbed any more */
	hrtimer_forward_now(expired, ns_to_ktime(PERIOD_NS));
	return HRTIMER_RESTART;
}

/* Calls an entry of the module, whatever becomes of the registers that it should keep. */
static noinline long call_careless(void *entry, unsigned long argument)
{
	asm volatile("pushq %%rbp\n" ANNOTATE_RETPOLINE_SAFE "	call *%0\n	popq %%rbp\n"
		     : "+a"(entry), "+D"(argument), ASM_CALL_CONSTRAINT
		     :
		     : "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc", "memory");
	return (long)entry;
}

static long spin_under(void (*handler)(struct pt_regs *regs))
{
	long changed;

	in_victim = handler;
	hrtimer_start(&timer, ns_to_ktime(PERIOD_NS), HRTIMER_MODE_REL_PINNED_HARD);
	changed = call_careless(entries->spin, TURNS);
	hrtimer_cancel(&timer);
	return changed;
}

static void look_there(struct pt_regs *regs)
{
	look();
}

static void read_registers(struct pt_regs *regs)
{
	seen += regs->r12 == VICTIM_VALUE || regs->r13 == VICTIM_VALUE;
}

static void change_registers(struct pt_regs *regs)
{
	seen++;
	regs->r12 = 0x666;
}

static void redirect(struct pt_regs *regs)
{
	if (!seen++)
		regs->ip = gadget;
}

static void callback_port(void)
{
	entries->call(look);
	verdict(ports, "the port answers in %u of %u looks by a function that the module calls", ports, looks);
}

static void callback_msr(void)
{
	entries->call(look);
	verdict(msrs, "the MSR answers in %u of %u looks by a function that the module calls", msrs, looks);
}

static void after_return(void)
{
	long value = entries->probe();

	look();
	verdict(ports || msrs, "port %u, MSR %u after a call that read %ld", ports, msrs, value);
}

static void timer_port(void)
{
	spin_under(look_there);
	verdict(ports, "the port answers in interrupts of the module%s", inside ? "" : ", of which there were none");
}

static void timer_msr(void)
{
	spin_under(look_there);
	verdict(msrs, "the MSR answers in interrupts of the module%s", inside ? "" : ", of which there were none");
}

static void timer_reads(void)
{
	spin_under(read_registers);
	verdict(seen, "registers of the module are seen in its interrupts%s", inside ? "" : ", of which there were none");
}

static void timer_changes(void)
{
	long changed;

	once = true;
	changed = spin_under(change_registers);

	verdict(changed == 1, "a register of the module is changed by its interrupts%s", inside ? "" : ", of which there were none");
}

/* Another CPU. */
static bool stop_looking;

static int look_around(void *unused)
{
	while (!READ_ONCE(stop_looking)) {
		look();
		cond_resched();
	}
	return 0;
}

static void other_cpu(void)
{
	unsigned int other = cpumask_any_but(cpu_online_mask, 0);
	struct task_struct *task = NULL;
	unsigned int turns;

	/* Waiting for the new thread, this one could wake up on the other CPU. There it would keep the new one from running, in the module. */
	set_cpus_allowed_ptr(current, cpumask_of(0));
	if (other < nr_cpu_ids)
		task = kthread_create(look_around, NULL, "hostile");
	if (IS_ERR_OR_NULL(task)) {
		dead("there is no other CPU");
		return;
	}
	get_task_struct(task);
	kthread_bind(task, other);
	stop_looking = false;
	wake_up_process(task);
	/* How soon the other CPU comes to it is the host's business. */
	for (turns = 0; turns < 100 && (turns == 0 || !READ_ONCE(looks)); turns++)
		entries->spin(10 * TURNS);
	WRITE_ONCE(stop_looking, true);
	kthread_stop(task);
	put_task_struct(task);
	if (!looks)
		snprintf(result, sizeof(result), "dead the other CPU has not looked");
}

static void other_cpu_port(void)
{
	other_cpu();
	if (looks)
		verdict(ports, "the port answers on another CPU");
}

static void other_cpu_msr(void)
{
	other_cpu();
	if (looks)
		verdict(msrs, "the MSR answers on another CPU");
}

/* Returns with other callee-saved registers. */
void hostile_clobber(void);
asm(".pushsection .text\n"
    ".type hostile_clobber, @function\n"
    "hostile_clobber:\n"
    "	movl $0x666, %ebx\n"
    "	movl $0x666, %ebp\n"
    "	movl $0x666, %r12d\n"
    "	movl $0x666, %r13d\n"
    "	movl $0x666, %r14d\n"
    "	movl $0x666, %r15d\n"
    "	" ASM_RET
    ".size hostile_clobber, .-hostile_clobber\n"
    ".popsection\n");

static void clobber(void)
{
	long changed = call_careless(entries->call, (unsigned long)hostile_clobber);

	verdict(changed == 1, "a callee-saved register of the module is changed by a function that it calls");
}

static void direction_flag(void)
{
	unsigned long flags = (unsigned long)entries->flags, irq;

	local_irq_save(irq);
	asm volatile("std\n" ANNOTATE_RETPOLINE_SAFE "	call *%0\n	cld\n"
		     : "+a"(flags), ASM_CALL_CONSTRAINT
		     :
		     : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc", "memory");
	local_irq_restore(irq);
	verdict(flags != -1ul && flags & X86_EFLAGS_DF, "the direction flag is set in the module");
}

static void change_return_address(void)
{
	unsigned long *slot = (unsigned long *)current_stack_pointer;
	unsigned int i;

	for (i = 0; i < 64; i++) {
		if (in_text(slot[i])) {
			seen++;
			slot[i] = gadget;
			return;
		}
	}
}

static void return_address(void)
{
	entries->call(change_return_address);
	verdict(*entries->gadget == VICTIM_VALUE, "a gadget of the module runs and reads its MSR (%u return addresses changed)", seen);
}

static void pointer_into_text(void)
{
	entries->call((void (*)(void))gadget);
	verdict(*entries->gadget == VICTIM_VALUE, "a gadget of the module runs, called by the module itself, and reads its MSR");
}

static void private_stack(void)
{
	unsigned long before = *entries->entered, irq;
	long value = (long)entries->probe;

	local_irq_save(irq);
	asm volatile("movq %%rsp, %%r12\n	movq %1, %%rsp\n" ANNOTATE_RETPOLINE_SAFE "	call *%0\n	movq %%r12, %%rsp\n"
		     : "+a"(value)
		     : "r"(private + 0x800)
		     : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "cc", "memory");
	local_irq_restore(irq);
	verdict(*entries->entered != before, "the module runs on a stack in its private memory");
}

/* Writes to memory that its own mapping protects. */
static bool write_through_alias(unsigned long address, const void *bytes, size_t count)
{
	struct page *page = vmalloc_to_page((void *)address);
	void *alias = page ? vmap(&page, 1, VM_MAP, PAGE_KERNEL) : NULL;

	if (!alias)
		return false;
	memcpy(alias + offset_in_page(address), bytes, count);
	vunmap(alias);
	return true;
}

static void patch_live_text(void)
{
	static const u8 code[] = { 0x31, 0xc0, 0xb0, 0x42, 0xc3 }; /* xor %eax, %eax; mov $0x42, %al; ret */
	bool written = write_through_alias(gadget, code, sizeof(code));
	bool there = !memcmp((void *)gadget, code, sizeof(code));

	verdict(there, "text of the loaded module is overwritten%s", written ? "" : ", though it could not be mapped");
}

static void after_quarantine(void)
{
	long value;

	patch_live_text();
	value = entries->probe();
	verdict(value == 0, "a module whose border was broken reads its port");
}

static void read_private(void)
{
	const u64 *words = (const u64 *)private;
	unsigned int i;

	for (i = 0; i < PAGE_SIZE / sizeof(*words); i++)
		seen += words[i] == VICTIM_VALUE;
	verdict(seen, "the secret is read at the module's own address (where the kernel finds %llu)", words[0]);
}

/* What ends in a page fault of the kernel is tried by a thread that may die of it. */
static struct completion finished;
static void (*in_thread)(void);

static int run_thread(void *unused)
{
	in_thread();
	complete(&finished);
	return 0;
}

static void sacrifice(void (*function)(void))
{
	struct task_struct *task;

	in_thread = function;
	init_completion(&finished);
	task = kthread_run(run_thread, NULL, "hostile");
	if (!IS_ERR(task))
		wait_for_completion_timeout(&finished, HZ);
	hrtimer_cancel(&timer);
}

static void jump(void)
{
	((void (*)(void))gadget)();
}

static void past_the_gates(void)
{
	sacrifice(jump);
	verdict(*entries->reached, "code of the module runs past its gates");
}

static void spin_redirected(void)
{
	spin_under(redirect);
}

static void resume_elsewhere(void)
{
	once = true;
	sacrifice(spin_redirected);
	verdict(*entries->gadget == VICTIM_VALUE, "a gadget of the module runs after an interrupt and reads its MSR");
}

static const struct attack attacks[] = {
	{ "callback-port", callback_port },
	{ "callback-msr", callback_msr },
	{ "after-return", after_return },
	{ "timer-port", timer_port },
	{ "timer-msr", timer_msr },
	{ "timer-reads", timer_reads },
	{ "timer-changes", timer_changes },
	{ "other-cpu-port", other_cpu_port },
	{ "other-cpu-msr", other_cpu_msr },
	{ "clobber", clobber },
	{ "direction-flag", direction_flag },
	{ "return-address", return_address },
	{ "pointer-into-text", pointer_into_text },
	{ "private-stack", private_stack },
	{ "patch-live-text", patch_live_text },
	{ "after-quarantine", after_quarantine },
	{ "read-private", read_private },
	{ "past-the-gates", past_the_gates },
	{ "resume-elsewhere", resume_elsewhere },
};

static int attack_set(const char *name, const struct kernel_param *parameter)
{
	inside = seen = 0;
	return run_attack(attacks, ARRAY_SIZE(attacks), name);
}

static const struct kernel_param_ops attack_ops = { .set = attack_set };
module_param_cb(attack, &attack_ops, NULL, 0200);

/* The loader: finds eight bytes in the victim and changes some. */
static unsigned long find(const struct module *module, const void *bytes, size_t count, unsigned int step)
{
	unsigned long at = (unsigned long)module->core_layout.base;
	unsigned long end = at + module->core_layout.ro_size - count;

	for (; at < end; at += step)
		if (!memcmp((void *)at, bytes, count))
			return at;
	return 0;
}

static bool in_core_text(const struct module *module, unsigned long address)
{
	unsigned long base = (unsigned long)module->core_layout.base;

	return address >= base && address < base + module->core_layout.text_size;
}

static int on_module(struct notifier_block *block, unsigned long state, void *data)
{
	struct module *module = data;
	const u32 code = TEXT_MARK;
	const u64 constant = CONSTANT_MARK;
	const u64 function = (unsigned long)_printk;
	unsigned long gate;
	unsigned long at = 0;

	if (state != MODULE_STATE_COMING || strcmp(module->name, "victim"))
		return NOTIFY_OK;
	if (sysfs_streq(loader, "text"))
		at = find(module, &code, sizeof(code), 1);
	else if (sysfs_streq(loader, "constants"))
		at = find(module, &constant, sizeof(constant), 8);
	else if (sysfs_streq(loader, "import"))
		at = find(module, &function, sizeof(function), 8);
	else
		return NOTIFY_OK;
	if (at && sysfs_streq(loader, "import")) {
		/* An entry gate: its word leads into the text. */
		for (gate = at & PAGE_MASK; !in_core_text(module, *(unsigned long *)(gate + 8)); gate += GATE_SIZE)
			;
		write_through_alias(at, &gate, sizeof(gate));
	} else if (at)
		write_through_alias(at, "?", 1);
	snprintf(result, sizeof(result), at ? "nothing changed" : "dead found nothing to change");
	return NOTIFY_OK;
}

static struct notifier_block notifier = { .notifier_call = on_module, .priority = -1 };

static int __init hostile_init(void)
{
	hrtimer_init(&timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
	timer.function = tick;
	return register_module_notifier(&notifier);
}

static void __exit hostile_exit(void)
{
	unregister_module_notifier(&notifier);
	hrtimer_cancel(&timer);
}

module_init(hostile_init);
module_exit(hostile_exit);
MODULE_DESCRIPTION("A hostile kernel");
MODULE_LICENSE("GPL");
