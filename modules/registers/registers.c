// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * Uses the privileges `msr` and `io-port`. Parameters (/sys/module/registers/parameters):
 *
 *	msr	the MSR 0x40000000; "error" where there is none for this module
 *	port	the I/O port 0xf4
 *
 * The instructions stand in the module's own code: rdmsr() and inb() of the kernel may be calls of the kernel, which does not hold the privilege.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <asm/asm.h>
#include <asm/extable_fixup_types.h>
#include "../portcullis.h"

#define MSR 0x40000000
#define PORT 0xf4

static int read_msr(u64 *value)
{
	u32 low, high;
	int error = 0;

	asm volatile("1:	rdmsr\n2:\n" _ASM_EXTABLE_TYPE_REG(1b, 2b, EX_TYPE_RDMSR_SAFE, %[error])
		     : "=a"(low), "=d"(high), [error] "+r"(error) : "c"(MSR));
	*value = (u64)high << 32 | low;
	return error;
}

static int write_msr(u64 value)
{
	int error = 0;

	asm volatile("1:	wrmsr\n2:\n" _ASM_EXTABLE_TYPE_REG(1b, 2b, EX_TYPE_WRMSR_SAFE, %[error])
		     : [error] "+r"(error) : "c"(MSR), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
	return error;
}

static int msr_get(char *buffer, const struct kernel_param *parameter)
{
	u64 value;

	return read_msr(&value) ? scnprintf(buffer, PAGE_SIZE, "error\n") : scnprintf(buffer, PAGE_SIZE, "0x%llx\n", value);
}

static int msr_set(const char *text, const struct kernel_param *parameter)
{
	unsigned long long value;
	int error = kstrtoull(text, 0, &value);

	return error ? error : write_msr(value);
}

static const struct kernel_param_ops msr_ops = { .get = msr_get, .set = msr_set };
module_param_cb(msr, &msr_ops, NULL, 0644);

static int port_get(char *buffer, const struct kernel_param *parameter)
{
	u8 value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"((u16)PORT));
	return scnprintf(buffer, PAGE_SIZE, "0x%x\n", value);
}

static int port_set(const char *text, const struct kernel_param *parameter)
{
	u8 value;
	int error = kstrtou8(text, 0, &value);

	if (!error)
		asm volatile("outb %0, %1" : : "a"(value), "Nd"((u16)PORT));
	return error;
}

static const struct kernel_param_ops port_ops = { .get = port_get, .set = port_set };
module_param_cb(port, &port_ops, NULL, 0644);

static int __init registers_init(void)
{
	pr_info("registers: %s msr, %s io-port\n", portcullis_holds(PORTCULLIS_MSR) ? "holds" : "no", portcullis_holds(PORTCULLIS_IO_PORT) ? "holds" : "no");
	return 0;
}

static void __exit registers_exit(void)
{
}

module_init(registers_init);
module_exit(registers_exit);
MODULE_DESCRIPTION("Reads and writes an MSR and an I/O port that it was granted");
MODULE_LICENSE("GPL");
