// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * An attack: kernel code that tries to use MONITOR and MWAIT. Parameters (/sys/module/mwait/parameters), each tried when it is read:
 *
 *	monitor, mwait	the vector of the exception, or 256: it was executed
 *	cpuid		1: CPUID says that they exist
 *	enabled		1: IA32_MISC_ENABLE says so
 *	enable		1: it could be switched on there
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <asm/cpufeatures.h>
#include <asm/msr.h>
#include <asm/processor.h>
#include "mwait.h"

#define CPUID_MONITOR (1u << 3)

static u64 misc_enable(void)
{
	u64 value = 0;

	rdmsrl_safe(MSR_IA32_MISC_ENABLE, &value);
	return value;
}

static unsigned int enabled(void)
{
	return !!(misc_enable() & MSR_IA32_MISC_ENABLE_MWAIT);
}

static unsigned int enable(void)
{
	return wrmsrl_safe(MSR_IA32_MISC_ENABLE, misc_enable() | MSR_IA32_MISC_ENABLE_MWAIT) == 0 || enabled();
}

static unsigned int in_cpuid(void)
{
	return !!(cpuid_ecx(1) & CPUID_MONITOR) || cpuid_ebx(5);
}

static int attempt(char *buffer, const struct kernel_param *parameter)
{
	unsigned int (*try)(void) = parameter->arg;

	return scnprintf(buffer, PAGE_SIZE, "%u\n", try());
}

static const struct kernel_param_ops attempts = { .get = attempt };
module_param_cb(monitor, &attempts, try_monitor, 0444);
module_param_cb(mwait, &attempts, try_mwait, 0444);
module_param_cb(cpuid, &attempts, in_cpuid, 0444);
module_param_cb(enabled, &attempts, enabled, 0444);
module_param_cb(enable, &attempts, enable, 0444);

static int __init mwait_init(void)
{
	return 0;
}

static void __exit mwait_exit(void)
{
}

module_init(mwait_init);
module_exit(mwait_exit);
MODULE_DESCRIPTION("Tries MONITOR and MWAIT without the privilege");
MODULE_LICENSE("GPL");
