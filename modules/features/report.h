/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * The modules of this folder try what kernel modules meet: each feature is a function that gives 0, or the negated line of the expectation
 * that did not hold. Reading /proc/MODULE runs them in order and prints one line each, the same whether the module is guarded or not.
 */
#include <linux/completion.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>

#define EXPECT(condition) do { if (!(condition)) return -__LINE__; } while (0)
/* Long enough for a slow machine; a feature that works needs milliseconds. */
#define SOON (60 * HZ)
#define HAPPENS(completion) EXPECT(wait_for_completion_timeout(completion, SOON))

struct feature {
	const char *name;
	int (*run)(void);
};

static int report_features(struct seq_file *file, const struct feature *features)
{
	for (; features->name; features++) {
		int result = features->run();

		if (result)
			seq_printf(file, "@@ %s %s: failed, %d\n", KBUILD_MODNAME, features->name, result);
		else
			seq_printf(file, "@@ %s %s: ok\n", KBUILD_MODNAME, features->name);
	}
	return 0;
}
