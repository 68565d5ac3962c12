// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * Measures how long an idle CPU takes to wake, by the time-stamp counter: from right before it is wanted to its first instruction. An ordinary
 * module. Parameters (/sys/module/wake/parameters):
 *
 *	cpu	the CPU that is woken; whoever reads a measurement is moved to CPU 0 and wakes it from there
 *	count	samples, at most 300
 *	store	the kernel wants the CPU: it stores to the flags of its idle thread, and if that does not wake it (HLT) sends an interrupt
 *	ipi	an interrupt, whatever the CPU waits with
 *	thread	a thread that sleeps there is woken: to the first instruction of that thread
 *	tried, leaks	with `ipi` the handler, which has interrupted the idle module, tries MONITOR and MWAIT; how often, and how often one was executed
 *
 * The first three give one number for each sample, in ns. The first instruction is the one behind MWAIT or HLT (idle_woken of idle.c), or of the
 * interrupt's handler, whichever comes first.
 */
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <asm/apic.h>
#include <asm/irq.h>
#include <asm/msr.h>
#include <asm/tsc.h>
#include "../attacks/mwait.h"

#define SAMPLES 300
#define SPINS 10000000

static unsigned int cpu = 1;
module_param(cpu, uint, 0644);
static unsigned int count = SAMPLES;
module_param(count, uint, 0644);
static unsigned int tried, leaks;
module_param(tried, uint, 0444);
module_param(leaks, uint, 0444);

extern u64 idle_woken[]; /* of idle.c, if it is loaded */
static u64 arrived; /* 0: not yet */
static struct task_struct *sleeper;
static int wanted; /* the sleeper is to say when it came */

/* On the CPU that is woken. */
static void called(void *unused)
{
	smp_store_release(&arrived, rdtsc());
}

static void interrupted(void)
{
	u64 now = rdtsc();

	tried += 2;
	leaks += (try_monitor() == EXECUTED) + (try_mwait() == EXECUTED);
	smp_store_release(&arrived, now);
}

static int sleep(void *unused)
{
	for (;;) {
		u64 now;

		set_current_state(TASK_INTERRUPTIBLE);
		if (kthread_should_stop())
			break;
		if (!READ_ONCE(wanted))
			schedule();
		now = rdtsc();
		if (xchg(&wanted, 0))
			smp_store_release(&arrived, now);
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}

static call_single_data_t call = CSD_INIT(called, NULL);

static void wake_by_store(void)
{
	smp_call_function_single_async(cpu, &call);
}

/* A vector with a handler that a module may set; nothing else uses it here. */
static void wake_by_ipi(void)
{
	apic->send_IPI(cpu, POSTED_INTR_WAKEUP_VECTOR);
}

static void wake_thread(void)
{
	WRITE_ONCE(wanted, 1);
	wake_up_process(sleeper);
}

/* Wakes the CPU once, in ns; 0 when it does not come. `woken`: where the idle module says when, if it does. */
static u64 sample(void (*wake)(void), const volatile u64 *woken)
{
	u64 began, now, first;
	long spins = 0;

	usleep_range(1500, 2500);
	smp_store_release(&arrived, 0);
	began = rdtsc_ordered();
	wake();
	while (!(now = smp_load_acquire(&arrived))) {
		if (++spins > SPINS)
			return 0;
		cpu_relax();
	}
	first = woken ? *woken : 0;
	if (first < began || first > now)
		first = now;
	return div_u64((first - began) * 1000000, tsc_khz);
}

static int measure(char *buffer, const struct kernel_param *parameter)
{
	void (*wake)(void) = parameter->arg;
	const volatile u64 *woken = wake == wake_thread ? NULL : (const volatile u64 *)symbol_get(idle_woken);
	unsigned int i;
	int length = 0;

	if (cpu == 0 || cpu >= nr_cpu_ids || !cpu_online(cpu) || set_cpus_allowed_ptr(current, cpumask_of(0))) {
		length = -EINVAL;
		goto done;
	}
	if (wake == wake_thread) {
		sleeper = kthread_create_on_cpu(sleep, NULL, cpu, "wake/%u");
		if (IS_ERR(sleeper)) {
			length = PTR_ERR(sleeper);
			goto done;
		}
		wake_up_process(sleeper);
	}
	for (i = 0; i < min(count, (unsigned int)SAMPLES); i++)
		length += scnprintf(buffer + length, PAGE_SIZE - length, "%llu ", sample(wake, woken ? woken + cpu : NULL));
	if (wake == wake_thread)
		kthread_stop(sleeper);
	length += scnprintf(buffer + length, PAGE_SIZE - length, "\n");
done:
	if (woken)
		symbol_put(idle_woken);
	return length;
}

static const struct kernel_param_ops measurements = { .get = measure };
module_param_cb(store, &measurements, wake_by_store, 0444);
module_param_cb(ipi, &measurements, wake_by_ipi, 0444);
module_param_cb(thread, &measurements, wake_thread, 0444);

static int __init wake_init(void)
{
	kvm_set_posted_intr_wakeup_handler(interrupted);
	return 0;
}

static void __exit wake_exit(void)
{
	kvm_set_posted_intr_wakeup_handler(NULL);
}

module_init(wake_init);
module_exit(wake_exit);
MODULE_DESCRIPTION("Measures the wake-up latency of an idle CPU");
MODULE_LICENSE("GPL");
