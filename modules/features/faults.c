// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * What goes wrong in modules: warnings, bugs, bad pointers, an init function that fails. Parameter `fail`: 1, init fails at once; 2, after it has
 * registered things and taken them back. Writing to /dev/faults: `warn` warns; `bug`, `null` and `wild` end the writer. (An entry of
 * /proc or sysfs could not be taken away again: the kernel waits for whoever died in it.)
 */
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/miscdevice.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include "report.h"

static int fail;
module_param(fail, int, 0444);

static atomic_t ticks;
static struct timer_list timer;

static void tick(struct timer_list *which)
{
	atomic_inc(&ticks);
	mod_timer(which, jiffies + 1);
}

static int warn_feature(void)
{
	int round, returned = 0;

	for (round = 0; round < 3; round++)
		returned += WARN_ON_ONCE(round >= 0);
	EXPECT(returned == 3);
	EXPECT(WARN(1, "a warning with %s\n", "a message"));
	EXPECT(!WARN_ON(returned == 4));
	return 0;
}

static int dying_body(void *data)
{
	complete(data);
	BUG();
	return 0;
}

static int bug_feature(void)
{
	DECLARE_COMPLETION_ONSTACK(begun);

	EXPECT(!IS_ERR(kthread_run(dying_body, &begun, "features-bug")));
	HAPPENS(&begun);
	msleep(50);
	EXPECT(atomic_read(&ticks) > 0); /* the module goes on */
	return 0;
}

static const struct feature features[] = {
	{ "WARN goes on", warn_feature },
	{ "BUG ends a thread of the module", bug_feature },
	{}
};

static int show(struct seq_file *file, void *data)
{
	return report_features(file, features);
}

static noinline int read_through(int *pointer)
{
	return READ_ONCE(*pointer);
}

static ssize_t do_write(struct file *file, const char __user *buffer, size_t length, loff_t *position)
{
	char word[8] = {};

	if (length >= sizeof(word) || copy_from_user(word, buffer, length))
		return -EINVAL;
	if (!strncmp(word, "bug", 3))
		BUG();
	if (!strncmp(word, "null", 4))
		return read_through((int *)16);
	if (!strncmp(word, "wild", 4))
		((void (*)(void))0x1000)(); /* no code there, and no kernel address: guarded, the module is quarantined */
	if (!strncmp(word, "warn", 4))
		WARN(1, "asked for\n");
	return length;
}

static const struct file_operations operations = { .owner = THIS_MODULE, .write = do_write };
static struct miscdevice device = { .minor = MISC_DYNAMIC_MINOR, .name = "faults", .fops = &operations, .mode = 0666 };

static int register_things(void)
{
	int error = misc_register(&device);

	if (error)
		return error;
	if (!proc_create_single("faults", 0444, NULL, show)) {
		misc_deregister(&device);
		return -ENOMEM;
	}
	timer_setup(&timer, tick, 0);
	mod_timer(&timer, jiffies + 1);
	return 0;
}

static void unregister_things(void)
{
	del_timer_sync(&timer);
	remove_proc_entry("faults", NULL);
	misc_deregister(&device);
}

static int __init faults_init(void)
{
	int error;

	if (fail == 1)
		return -ENODEV;
	error = register_things();
	if (error)
		return error;
	if (fail == 2) {
		msleep(20); /* the timer runs */
		unregister_things();
		return -ENODEV;
	}
	pr_info("faults: loaded\n");
	return 0;
}

static void __exit faults_exit(void)
{
	unregister_things();
}

module_init(faults_init);
module_exit(faults_exit);
MODULE_DESCRIPTION("Portcullis: what goes wrong in modules");
MODULE_LICENSE("GPL");
