// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * A cpuidle driver with two states: HLT, and MONITOR/MWAIT on the idle thread's flags, which wakes by the very store with which the kernel asks for
 * the CPU: no interrupt is sent. MWAIT is a privilege that the VMM raises on a virtual CPU while it is alone on its physical core; the module asks
 * in its private memory before each wait, and falls back to HLT. On its own, on any kernel, it is a driver that halts.
 *
 * Whatever the governor picks, MWAIT is used where it can be; /sys/devices/system/cpu/cpuN/cpuidle/stateM counts what was, and root can switch
 * MWAIT off by `disable` there.
 *
 * Parameters (/sys/module/idle/parameters):
 *
 *	stale	1: takes MWAIT for usable without asking. For tests: each wait that the VMM refuses then costs one instruction, and the CPU halts
 */
#include <linux/cpuidle.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/rcupdate.h>
#include <linux/sched/idle.h>
#include <asm/msr.h>
#include "../portcullis.h"

enum { HLT, MWAIT };

#define CPUS 64

static bool stale;
module_param(stale, bool, 0644);

/* Time stamp of each CPU's first instruction after its last wait, for whoever measures wake-ups (wake.c). */
u64 idle_woken[CPUS];
EXPORT_SYMBOL_GPL(idle_woken);

/* Interrupts are off throughout: MWAIT comes back for one that is pending, and the kernel takes it when it has them on again. */
static __always_inline void wait_for_store(const volatile void *address)
{
	asm volatile("monitor" : : "a"(address), "c"(0), "d"(0) : "memory");
	if (!need_resched())
		asm volatile("mwait" : : "a"(0), "c"(1) : "memory");
}

static __always_inline void halt_with_interrupts(void)
{
	asm volatile("sti; hlt; cli" : : : "memory");
}

/* The kernel has cleared its polling flag, and RCU does not watch this CPU: no call goes out from here. */
static notrace int idle_enter(struct cpuidle_device *device, struct cpuidle_driver *driver, int index)
{
	unsigned int cpu = device->cpu;
	bool usable = (stale || portcullis_usable(PORTCULLIS_MWAIT, cpu)) && portcullis_holds(PORTCULLIS_MWAIT);

	index = HLT;
	if (usable && !device->states_usage[MWAIT].disable) {
		index = MWAIT;
		if (!current_set_polling_and_test())
			wait_for_store(&current_thread_info()->flags);
		if (cpu < CPUS)
			idle_woken[cpu] = rdtsc();
		/* Withdrawn since: then perhaps nothing was waited for. */
		usable = portcullis_usable(PORTCULLIS_MWAIT, cpu);
		if (usable || current_clr_polling_and_test()) {
			current_clr_polling();
			return index;
		}
		index = HLT;
	}
	halt_with_interrupts();
	if (cpu < CPUS)
		idle_woken[cpu] = rdtsc();
	return index;
}

/* No owner: registered devices would keep the module from ever being unloaded. */
static struct cpuidle_driver driver = {
	.name = "portcullis",
	.state_count = 2,
	.states = {
		[HLT] = { .name = "HLT", .desc = "HLT", .exit_latency = 2, .target_residency = 2, .enter = idle_enter },
		[MWAIT] = { .name = "MWAIT", .desc = "MONITOR/MWAIT", .exit_latency = 1, .target_residency = 1, .enter = idle_enter },
	},
};

static int __init idle_init(void)
{
	int error = cpuidle_register(&driver, NULL);

	if (error)
		pr_err("idle: the kernel has a cpuidle driver already, or none is allowed (error %d)\n", error);
	else
		pr_info("idle: %s\n", portcullis_holds(PORTCULLIS_MWAIT) ? "may use MWAIT" : "uses HLT");
	return error;
}

/* A CPU may still be on its way out of idle_enter: each switches to another thread before the module goes. */
static void __exit idle_exit(void)
{
	cpuidle_unregister(&driver);
	synchronize_rcu_tasks_rude();
}

module_init(idle_init);
module_exit(idle_exit);
MODULE_DESCRIPTION("cpuidle driver: HLT, and MONITOR/MWAIT where the VMM allows it");
MODULE_LICENSE("GPL");
