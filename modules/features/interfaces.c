// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * How user space and other modules reach a module: parameters, sysfs, debugfs, sysctl, procfs, a device with everything (/dev/interfaces),
 * exported functions. tests/boots/features.test.ts writes and reads; user.c uses the device.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/kobject.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/platform_device.h>
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/sysctl.h>
#include <linux/uaccess.h>
#include <net/net_namespace.h>
#include "report.h"
#include "interfaces.h"

/* Parameters. The kernel sets those of the command line before it calls the init function. */
static int doubled;
static bool initialised;

static int doubled_set(const char *text, const struct kernel_param *parameter)
{
	int value, error = kstrtoint(text, 0, &value);

	if (!error)
		doubled = 2 * value + (initialised ? 0 : 1000);
	return error;
}

static int doubled_get(char *buffer, const struct kernel_param *parameter)
{
	return scnprintf(buffer, PAGE_SIZE, "%d\n", doubled);
}

static const struct kernel_param_ops doubled_ops = { .set = doubled_set, .get = doubled_get };
module_param_cb(doubled, &doubled_ops, NULL, 0644);

static int plain = 1;
module_param(plain, int, 0644);
static char *words[4];
static int word_count;
module_param_array(words, charp, &word_count, 0444);

/* sysfs */
static struct kobject *folder;
static int stored;
static atomic_t packets, modules;

static ssize_t stored_show(struct kobject *object, struct kobj_attribute *attribute, char *buffer)
{
	return sysfs_emit(buffer, "%d\n", stored);
}

static ssize_t stored_store(struct kobject *object, struct kobj_attribute *attribute, const char *buffer, size_t length)
{
	int error = kstrtoint(buffer, 0, &stored);

	return error ? error : length;
}

static ssize_t packets_show(struct kobject *object, struct kobj_attribute *attribute, char *buffer)
{
	return sysfs_emit(buffer, "%s\n", atomic_read(&packets) ? "some" : "none");
}

static ssize_t modules_show(struct kobject *object, struct kobj_attribute *attribute, char *buffer)
{
	return sysfs_emit(buffer, "%d\n", atomic_read(&modules));
}

static struct kobj_attribute stored_attribute = __ATTR_RW(stored);
static struct kobj_attribute packets_attribute = __ATTR_RO(packets);
static struct kobj_attribute modules_attribute = __ATTR_RO(modules);
static const struct attribute *attributes[] = { &stored_attribute.attr, &packets_attribute.attr, &modules_attribute.attr, NULL };

/* Other modules come and go; packets pass the loopback device. */
static int module_changed(struct notifier_block *block, unsigned long event, void *module)
{
	if (module != THIS_MODULE && event == MODULE_STATE_LIVE)
		atomic_inc(&modules);
	return NOTIFY_OK;
}

static struct notifier_block module_block = { .notifier_call = module_changed };

static unsigned int packet(void *data, struct sk_buff *buffer, const struct nf_hook_state *state)
{
	atomic_inc(&packets);
	return NF_ACCEPT;
}

static const struct nf_hook_ops hook = { .hook = packet, .pf = NFPROTO_IPV4, .hooknum = NF_INET_LOCAL_IN };

/* debugfs and sysctl */
static struct dentry *debug;
static u32 debug_word = 5;

static int upper_show(struct seq_file *file, void *data)
{
	seq_printf(file, "debugfs of %s\n", KBUILD_MODNAME);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(upper);

static int limit = 10;

static int limit_handler(struct ctl_table *table, int write, void *buffer, size_t *length, loff_t *position)
{
	int error = proc_dointvec(table, write, buffer, length, position);

	if (!error && write && limit > 99)
		limit = 99;
	return error;
}

static struct ctl_table table[] = {
	{ .procname = "features_limit", .data = &limit, .maxlen = sizeof(int), .mode = 0644, .proc_handler = limit_handler },
	{}
};
static struct ctl_table_header *sysctl;

/* The device */
static DECLARE_WAIT_QUEUE_HEAD(readable);
static DEFINE_MUTEX(lock);
static char text[64];
static size_t text_length;
static struct page *page;

static int device_open(struct inode *inode, struct file *file)
{
	return 0;
}

static int device_release(struct inode *inode, struct file *file)
{
	return 0;
}

/* Waits for text, gives it and forgets it. */
static ssize_t device_read(struct file *file, char __user *buffer, size_t length, loff_t *position)
{
	ssize_t result;

	if (!READ_ONCE(text_length) && (file->f_flags & O_NONBLOCK))
		return -EAGAIN;
	if (wait_event_interruptible(readable, READ_ONCE(text_length)))
		return -ERESTARTSYS;
	mutex_lock(&lock);
	result = min(length, text_length);
	if (copy_to_user(buffer, text, result))
		result = -EFAULT;
	else
		WRITE_ONCE(text_length, 0);
	mutex_unlock(&lock);
	return result;
}

static ssize_t device_write(struct file *file, const char __user *buffer, size_t length, loff_t *position)
{
	ssize_t result = min(length, sizeof(text));

	mutex_lock(&lock);
	if (copy_from_user(text, buffer, result))
		result = -EFAULT;
	else
		WRITE_ONCE(text_length, result);
	mutex_unlock(&lock);
	if (result > 0)
		wake_up_interruptible(&readable);
	return result;
}

static __poll_t device_poll(struct file *file, poll_table *wait)
{
	poll_wait(file, &readable, wait);
	return READ_ONCE(text_length) ? EPOLLIN | EPOLLRDNORM : 0;
}

/* Inline accesses: the exception table entries are the module's own. */
static noinline int inline_increment(int __user *place)
{
	int value;

	if (!user_access_begin(place, sizeof(*place)))
		return -EFAULT;
	unsafe_get_user(value, place, failed);
	unsafe_put_user(value + 1, place, failed);
	user_access_end();
	return 0;
failed:
	user_access_end();
	return -EFAULT;
}

static long device_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	int __user *place = (int __user *)argument;
	int value;

	switch (command) {
	case FEATURES_INCREMENT: /* the kernel's get_user and put_user */
		if (get_user(value, place))
			return -EFAULT;
		return put_user(value + 1, place);
	case FEATURES_INCREMENT_INLINE:
		return inline_increment(place);
	default:
		return -ENOTTY;
	}
}

static vm_fault_t page_fault(struct vm_fault *fault)
{
	if (fault->pgoff)
		return VM_FAULT_SIGBUS;
	get_page(page);
	fault->page = page;
	return 0;
}

static const struct vm_operations_struct mapping = { .fault = page_fault };

static int device_mmap(struct file *file, struct vm_area_struct *area)
{
	area->vm_ops = &mapping;
	return 0;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = device_open,
	.release = device_release,
	.read = device_read,
	.write = device_write,
	.poll = device_poll,
	.unlocked_ioctl = device_ioctl,
	.mmap = device_mmap,
};

static struct miscdevice device = { .minor = MISC_DYNAMIC_MINOR, .name = "interfaces", .fops = &operations, .mode = 0666 };

/* A driver and its device */
static atomic_t probes;

static int driver_probe(struct platform_device *which)
{
	atomic_inc(&probes);
	return 0;
}

static int driver_remove(struct platform_device *which)
{
	atomic_inc(&probes);
	return 0;
}

static int driver_feature(void)
{
	static struct platform_driver driver;
	struct platform_device *which;

	atomic_set(&probes, 0);
	memset(&driver, 0, sizeof(driver));
	driver.driver.name = "features";
	driver.probe = driver_probe;
	driver.remove = driver_remove;
	EXPECT(!platform_driver_register(&driver));
	which = platform_device_register_simple("features", -1, NULL, 0);
	EXPECT(!IS_ERR(which));
	EXPECT(atomic_read(&probes) == 1);
	platform_device_unregister(which);
	EXPECT(atomic_read(&probes) == 2);
	platform_driver_unregister(&driver);
	return 0;
}

static int nofault_feature(void)
{
	unsigned long value = 0;

	EXPECT(!get_kernel_nofault(value, (unsigned long *)&stored));
	EXPECT(copy_from_kernel_nofault(&value, (void *)0xffff800000000000UL - 64, 8) == -ERANGE ||
	       copy_from_kernel_nofault(&value, (void *)0xfffffffffffff000UL, 8) == -EFAULT);
	EXPECT(copy_from_kernel_nofault(&value, (void *)0xfffffffffffff000UL, 8) == -EFAULT);
	return 0;
}

static const struct feature features[] = {
	{ "driver and device", driver_feature },
	{ "reads that may fault", nofault_feature },
	{}
};

static int show(struct seq_file *file, void *data)
{
	return report_features(file, features);
}

/* For client.c */
long features_sum(long a, long b, long c, long d, long e, long f, long g, long h)
{
	return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h;
}
EXPORT_SYMBOL_GPL(features_sum);

int features_call_back(features_callback callback, void *data, int times)
{
	int sum = 0;

	while (times-- > 0)
		sum += callback(data, times);
	return sum;
}
EXPORT_SYMBOL_GPL(features_call_back);

int features_shared = 11;
EXPORT_SYMBOL_GPL(features_shared);

static int __init interfaces_init(void)
{
	int error = -ENOMEM;

	initialised = true;
	page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	if (!page)
		return error;
	strcpy(page_address(page), "mapped");
	folder = kobject_create_and_add("features", kernel_kobj);
	if (!folder)
		goto no_folder;
	error = sysfs_create_files(folder, attributes);
	if (error)
		goto no_files;
	debug = debugfs_create_dir("features", NULL);
	debugfs_create_u32("word", 0644, debug, &debug_word);
	debugfs_create_file("upper", 0444, debug, NULL, &upper_fops);
	error = -ENOMEM;
	sysctl = register_sysctl("kernel", table);
	if (!sysctl)
		goto no_sysctl;
	error = misc_register(&device);
	if (error)
		goto no_device;
	error = nf_register_net_hook(&init_net, &hook);
	if (error)
		goto no_hook;
	error = register_module_notifier(&module_block);
	if (error)
		goto no_notifier;
	proc_create_single("interfaces", 0444, NULL, show);
	return 0;

no_notifier:
	nf_unregister_net_hook(&init_net, &hook);
no_hook:
	misc_deregister(&device);
no_device:
	unregister_sysctl_table(sysctl);
no_sysctl:
	debugfs_remove_recursive(debug);
no_files:
	kobject_put(folder);
no_folder:
	put_page(page);
	return error;
}

static void __exit interfaces_exit(void)
{
	remove_proc_entry("interfaces", NULL);
	unregister_module_notifier(&module_block);
	nf_unregister_net_hook(&init_net, &hook);
	misc_deregister(&device);
	unregister_sysctl_table(sysctl);
	debugfs_remove_recursive(debug);
	kobject_put(folder);
	put_page(page);
}

module_init(interfaces_init);
module_exit(interfaces_exit);
MODULE_DESCRIPTION("Portcullis: interfaces of a module");
MODULE_LICENSE("GPL");
