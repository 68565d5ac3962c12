// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * The smallest module worth guarding: it prints, keeps a counter, and has a parameter that user space reads and writes.
 *
 *   portcullis build-module modules/example/example.c
 *   portcullis link ./example.ko
 */
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

static unsigned int reads;
static unsigned int step = 1;
module_param(step, uint, 0644);
MODULE_PARM_DESC(step, "added to the counter at each reading");

/* Called by the kernel for each reading of /sys/module/example/parameters/counter: in a guarded module, a call-in. */
static int counter_get(char *buffer, const struct kernel_param *parameter)
{
	reads += step;
	return scnprintf(buffer, PAGE_SIZE, "%u\n", reads);
}

static const struct kernel_param_ops counter_ops = { .get = counter_get };
module_param_cb(counter, &counter_ops, NULL, 0444);
MODULE_PARM_DESC(counter, "sum of the steps");

static int __init example_init(void)
{
	pr_info("example: loaded, step %u\n", step);
	return 0;
}

static void __exit example_exit(void)
{
	pr_info("example: unloaded after %u\n", reads);
}

module_init(example_init);
module_exit(example_exit);
MODULE_DESCRIPTION("Portcullis example");
MODULE_LICENSE("GPL");
