// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/* In which contexts a kernel runs functions of a module: threads, timers, work items, softirqs, interrupts, RCU, notifiers, probes. */
#include <linux/cpuhotplug.h>
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/irq_work.h>
#include <linux/kmod.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/netdevice.h>
#include <linux/percpu.h>
#include <linux/reboot.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/sort.h>
#include <linux/timer.h>
#include <linux/tracepoint.h>
#include <linux/workqueue.h>
#include <asm/fpu/api.h>
#include "report.h"

static DECLARE_COMPLETION(happened);
static atomic_t count;

static void begin(void)
{
	reinit_completion(&happened);
	atomic_set(&count, 0);
}

/* Threads */
static int thread_body(void *data)
{
	atomic_inc(&count);
	complete(&happened);
	while (!kthread_should_stop()) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (!kthread_should_stop())
			schedule_timeout(HZ / 100);
		__set_current_state(TASK_RUNNING);
	}
	return (long)data;
}

static int kthread_feature(void)
{
	struct task_struct *thread;

	begin();
	thread = kthread_run(thread_body, (void *)42L, "features");
	EXPECT(!IS_ERR(thread));
	HAPPENS(&happened);
	msleep(20);
	EXPECT(kthread_stop(thread) == 42);
	EXPECT(atomic_read(&count) == 1);
	return 0;
}

static int leaving_body(void *data)
{
	kthread_complete_and_exit(&happened, 0); /* never returns */
}

static int kthread_exit_feature(void)
{
	int thread;

	for (thread = 0; thread < 10; thread++) {
		begin();
		EXPECT(!IS_ERR(kthread_run(leaving_body, NULL, "features-exit")));
		HAPPENS(&happened);
	}
	return 0;
}

/* One on each CPU, moved along all of them. */
static int moving_body(void *data)
{
	int cpu;

	for_each_online_cpu(cpu) {
		set_cpus_allowed_ptr(current, cpumask_of(cpu));
		if (raw_smp_processor_id() == cpu)
			atomic_inc(&count);
		msleep(1);
	}
	complete(&happened);
	while (!kthread_should_stop())
		msleep(1);
	return 0;
}

static int migration_feature(void)
{
	struct task_struct *thread;

	begin();
	thread = kthread_run(moving_body, NULL, "features-move");
	EXPECT(!IS_ERR(thread));
	HAPPENS(&happened);
	kthread_stop(thread);
	EXPECT(atomic_read(&count) == num_online_cpus());
	return 0;
}

static wait_queue_head_t queue;

static int waker_body(void *data)
{
	msleep(5);
	atomic_inc(&count);
	wake_up_interruptible(&queue);
	complete(&happened);
	return 0;
}

static int wait_queue_feature(void)
{
	begin();
	init_waitqueue_head(&queue);
	EXPECT(!IS_ERR(kthread_run(waker_body, NULL, "features-wake")));
	EXPECT(wait_event_interruptible_timeout(queue, atomic_read(&count) == 1, SOON) > 0);
	HAPPENS(&happened);
	return 0;
}

/* Timers and work */
static struct timer_list timer;

static void timer_body(struct timer_list *which)
{
	if (which == &timer && in_softirq() && atomic_inc_return(&count) == 3)
		complete(&happened);
	else
		mod_timer(which, jiffies + 1);
}

static int timer_feature(void)
{
	begin();
	timer_setup(&timer, timer_body, 0);
	mod_timer(&timer, jiffies + 1);
	HAPPENS(&happened);
	del_timer_sync(&timer);
	EXPECT(atomic_read(&count) == 3);
	return 0;
}

static struct hrtimer precise;

static enum hrtimer_restart precise_body(struct hrtimer *which)
{
	if (atomic_inc_return(&count) == 5) {
		complete(&happened);
		return HRTIMER_NORESTART;
	}
	hrtimer_forward_now(which, ms_to_ktime(1));
	return HRTIMER_RESTART;
}

static int hrtimer_feature(void)
{
	begin();
	hrtimer_init(&precise, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
	precise.function = precise_body;
	hrtimer_start(&precise, ms_to_ktime(1), HRTIMER_MODE_REL);
	HAPPENS(&happened);
	hrtimer_cancel(&precise);
	EXPECT(atomic_read(&count) == 5);
	return 0;
}

static void work_body(struct work_struct *work)
{
	msleep(1); /* blocks in a call-out */
	atomic_inc(&count);
}

static DECLARE_WORK(work, work_body);
static DECLARE_DELAYED_WORK(delayed, work_body);

static int work_feature(void)
{
	struct workqueue_struct *own;

	begin();
	schedule_work(&work);
	flush_work(&work);
	schedule_delayed_work(&delayed, 2);
	EXPECT(flush_delayed_work(&delayed));
	EXPECT(atomic_read(&count) == 2);
	own = alloc_ordered_workqueue("features", 0);
	EXPECT(own);
	queue_work(own, &work);
	destroy_workqueue(own); /* drains it */
	EXPECT(atomic_read(&count) == 3);
	return 0;
}

static void tasklet_body(struct tasklet_struct *which)
{
	if (in_softirq())
		atomic_inc(&count);
	if (atomic_read(&count) == 2)
		complete(&happened);
}

static DECLARE_TASKLET(tasklet, tasklet_body);

static int tasklet_feature(void)
{
	begin();
	tasklet_schedule(&tasklet);
	tasklet_unlock_wait(&tasklet);
	tasklet_kill(&tasklet);
	tasklet_hi_schedule(&tasklet);
	HAPPENS(&happened);
	tasklet_kill(&tasklet);
	return 0;
}

static void irq_body(struct irq_work *which)
{
	if (in_hardirq())
		complete(&happened);
}

static int irq_work_feature(void)
{
	static struct irq_work irq;

	begin();
	init_irq_work(&irq, irq_body);
	EXPECT(irq_work_queue(&irq));
	HAPPENS(&happened);
	irq_work_sync(&irq);
	return 0;
}

static DEFINE_PER_CPU(int, own_count);

static void ipi_body(void *counts)
{
	this_cpu_inc(own_count);
	this_cpu_inc(*(int __percpu *)counts);
	atomic_inc(&count);
}

static int ipi_feature(void)
{
	int __percpu *counts = alloc_percpu(int);
	int cpu, round, sum = 0, before = 0;

	EXPECT(counts);
	begin();
	for_each_online_cpu(cpu)
		before += per_cpu(own_count, cpu);
	for (round = 0; round < 20; round++)
		on_each_cpu(ipi_body, (void __force *)counts, 1);
	for_each_online_cpu(cpu)
		sum += *per_cpu_ptr(counts, cpu) + per_cpu(own_count, cpu);
	free_percpu(counts);
	EXPECT(atomic_read(&count) == 20 * num_online_cpus());
	EXPECT(sum - before == 40 * num_online_cpus());
	return 0;
}

/* RCU */
struct element {
	int value;
	struct rcu_head rcu;
};
static struct element __rcu *current_element;

static void free_element(struct rcu_head *rcu)
{
	kfree(container_of(rcu, struct element, rcu));
	atomic_inc(&count);
	complete(&happened);
}

static int rcu_feature(void)
{
	struct element *element;
	int round, value;

	begin();
	for (round = 0; round < 10; round++) {
		struct element *old = rcu_dereference_protected(current_element, 1);

		element = kmalloc(sizeof(*element), GFP_KERNEL);
		EXPECT(element);
		element->value = round;
		rcu_assign_pointer(current_element, element);
		rcu_read_lock();
		value = rcu_dereference(current_element)->value;
		rcu_read_unlock();
		EXPECT(value == round);
		if (old)
			call_rcu(&old->rcu, free_element);
	}
	HAPPENS(&happened);
	rcu_barrier();
	EXPECT(atomic_read(&count) == 9);
	element = rcu_dereference_protected(current_element, 1);
	RCU_INIT_POINTER(current_element, NULL);
	synchronize_rcu();
	kfree(element);
	return 0;
}

/* Notifiers */
static int notified(struct notifier_block *block, unsigned long event, void *data)
{
	atomic_inc(&count);
	return NOTIFY_OK;
}

static struct notifier_block block = { .notifier_call = notified };
static BLOCKING_NOTIFIER_HEAD(own_chain);

static int notifier_feature(void)
{
	begin();
	EXPECT(!blocking_notifier_chain_register(&own_chain, &block));
	EXPECT(blocking_notifier_call_chain(&own_chain, 1, NULL) == NOTIFY_OK);
	blocking_notifier_chain_unregister(&own_chain, &block);
	EXPECT(atomic_read(&count) == 1);
	/* The kernel tells of the interfaces that there are already. */
	EXPECT(!register_netdevice_notifier(&block));
	unregister_netdevice_notifier(&block);
	EXPECT(atomic_read(&count) > 2);
	return 0;
}

static int rebooting(struct notifier_block *block, unsigned long event, void *data)
{
	pr_emerg("@@ contexts reboot notifier: %s\n", event == SYS_POWER_OFF ? "ok" : "another event");
	return NOTIFY_DONE;
}

static struct notifier_block reboot = { .notifier_call = rebooting };

static int cpu_changed(unsigned int cpu)
{
	atomic_inc(&count);
	return 0;
}

static int hotplug_feature(void)
{
	int state;

	begin();
	state = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "features:online", cpu_changed, cpu_changed);
	EXPECT(state > 0);
	EXPECT(atomic_read(&count) == num_online_cpus());
	cpuhp_remove_state(state);
	EXPECT(atomic_read(&count) == 2 * num_online_cpus());
	return 0;
}

/* Probes: the kernel calls the module out of an exception, or out of its own patched text. */
static int probed(struct kprobe *probe, struct pt_regs *registers)
{
	atomic_inc(&count);
	return 0;
}

static int probe_returned(struct kretprobe_instance *instance, struct pt_regs *registers)
{
	if (regs_return_value(registers) == 0)
		atomic_inc(&count);
	return 0;
}

static int kprobe_feature(void)
{
	static struct kprobe probe;
	static struct kretprobe returns;

	begin();
	memset(&probe, 0, sizeof(probe));
	probe.symbol_name = "param_get_int";
	probe.pre_handler = probed;
	EXPECT(!register_kprobe(&probe));
	param_get_int((char[16]){}, &(struct kernel_param){ .arg = &(int){ 7 } });
	unregister_kprobe(&probe);
	EXPECT(atomic_read(&count) == 1);

	memset(&returns, 0, sizeof(returns));
	returns.kp.symbol_name = "param_set_int";
	returns.handler = probe_returned;
	returns.maxactive = 4;
	EXPECT(!register_kretprobe(&returns));
	EXPECT(!param_set_int("8", &(struct kernel_param){ .arg = &(int){ 7 } }));
	unregister_kretprobe(&returns);
	EXPECT(atomic_read(&count) == 2);
	return 0;
}

static struct tracepoint *forks;

static void find_forks(struct tracepoint *point, void *data)
{
	if (!strcmp(point->name, "sched_process_fork"))
		forks = point;
}

static void forked(void *data, struct task_struct *parent, struct task_struct *child)
{
	atomic_inc(&count);
}

static int tracepoint_feature(void)
{
	begin();
	for_each_kernel_tracepoint(find_forks, NULL);
	EXPECT(forks);
	EXPECT(!tracepoint_probe_register(forks, forked, NULL));
	EXPECT(!call_usermodehelper("/bin/true", (char *[]){ "/bin/true", NULL }, (char *[]){ NULL }, UMH_WAIT_PROC));
	tracepoint_probe_unregister(forks, forked, NULL);
	tracepoint_synchronize_unregister();
	EXPECT(atomic_read(&count) > 0);
	return 0;
}

/* Callbacks of helpers */
static int compare(const void *a, const void *b)
{
	atomic_inc(&count);
	return *(const int *)a - *(const int *)b;
}

static void construct(void *object)
{
	*(int *)object = 7;
	atomic_inc(&count);
}

static int callback_feature(void)
{
	int numbers[] = { 5, 3, 9, 1, 7, 2, 8 };
	struct kmem_cache *cache;
	int index, *object;

	begin();
	sort(numbers, ARRAY_SIZE(numbers), sizeof(int), compare, NULL);
	for (index = 1; index < ARRAY_SIZE(numbers); index++)
		EXPECT(numbers[index - 1] < numbers[index]);
	cache = kmem_cache_create("features", 64, 0, 0, construct);
	EXPECT(cache);
	object = kmem_cache_alloc(cache, GFP_KERNEL);
	EXPECT(object && *object == 7);
	kmem_cache_free(cache, object);
	kmem_cache_destroy(cache);
	EXPECT(atomic_read(&count) > 7);
	return 0;
}

/* More arguments than registers, outwards. Inwards: client.c. */
static int arguments_feature(void)
{
	char text[64];

	snprintf(text, sizeof(text), "%d %d %d %d %d %d %d %s %lld", 1, 2, 3, 4, 5, 6, 7, "eight", 9LL);
	EXPECT(!strcmp(text, "1 2 3 4 5 6 7 eight 9"));
	return 0;
}

static int fpu_feature(void)
{
	u64 value = 0x0123456789abcdefULL, sum = 0, got;
	int round;

	for (round = 0; round < 200; round++) {
		kernel_fpu_begin();
		asm volatile("movq %0, %%xmm3; paddq %%xmm3, %%xmm3" : : "r"(value) : "memory");
		udelay(50); /* interrupts come here */
		asm volatile("movq %%xmm3, %0" : "=r"(got) : : "memory");
		kernel_fpu_end();
		sum += got;
	}
	EXPECT(sum == 200 * 2 * value);
	return 0;
}

static int locks_feature(void)
{
	static DEFINE_SPINLOCK(spin);
	static DEFINE_MUTEX(mutex);
	static DECLARE_RWSEM(semaphore);
	unsigned long flags;

	spin_lock_irqsave(&spin, flags);
	EXPECT(irqs_disabled());
	spin_unlock_irqrestore(&spin, flags);
	EXPECT(!irqs_disabled());
	mutex_lock(&mutex);
	EXPECT(!mutex_trylock(&mutex));
	mutex_unlock(&mutex);
	down_write(&semaphore);
	EXPECT(!down_read_trylock(&semaphore));
	up_write(&semaphore);
	return 0;
}

static const struct feature features[] = {
	{ "kthread", kthread_feature },
	{ "kthread that exits by itself", kthread_exit_feature },
	{ "kthread on every CPU", migration_feature },
	{ "wait queue", wait_queue_feature },
	{ "timer", timer_feature },
	{ "hrtimer", hrtimer_feature },
	{ "work and delayed work", work_feature },
	{ "tasklet", tasklet_feature },
	{ "irq work", irq_work_feature },
	{ "IPI and per-CPU variables", ipi_feature },
	{ "call_rcu and synchronize_rcu", rcu_feature },
	{ "notifier chains", notifier_feature },
	{ "CPU hotplug callbacks", hotplug_feature },
	{ "kprobe and kretprobe handlers", kprobe_feature },
	{ "tracepoint probe", tracepoint_feature },
	{ "callbacks of helpers", callback_feature },
	{ "more arguments than registers", arguments_feature },
	{ "FPU section", fpu_feature },
	{ "locks", locks_feature },
	{}
};

static int show(struct seq_file *file, void *data)
{
	return report_features(file, features);
}

static int __init contexts_init(void)
{
	int error = register_reboot_notifier(&reboot);

	if (error)
		return error;
	if (proc_create_single("contexts", 0444, NULL, show))
		return 0;
	unregister_reboot_notifier(&reboot);
	return -ENOMEM;
}

static void __exit contexts_exit(void)
{
	remove_proc_entry("contexts", NULL);
	unregister_reboot_notifier(&reboot);
}

module_init(contexts_init);
module_exit(contexts_exit);
MODULE_DESCRIPTION("Portcullis: contexts in which a module's functions run");
MODULE_LICENSE("GPL");
