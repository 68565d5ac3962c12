// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * Code that the kernel switches by patching: a static key and a tracepoint of the module's own. In a guarded module, whose text nobody patches, both can
 * be switched without harm and stay as compiled: /proc/switches says "works" or "stays" for each.
 */
#include <linux/jump_label.h>
#include <linux/tracepoint.h>
#include "report.h"

DECLARE_TRACE(features_tick, TP_PROTO(int value), TP_ARGS(value));
DEFINE_TRACE(features_tick, TP_PROTO(int value), TP_ARGS(value));

static DEFINE_STATIC_KEY_FALSE(key);
static int seen;

static noinline int keyed(void)
{
	return static_branch_unlikely(&key) ? 1 : 0;
}

static void probe(void *data, int value)
{
	seen += value;
}

static int show(struct seq_file *file, void *data)
{
	int before = keyed(), during, after, error;

	static_branch_enable(&key);
	during = keyed();
	static_branch_disable(&key);
	after = keyed();
	seq_printf(file, "@@ switches static key: %s\n", before || after ? "failed" : during ? "works" : "stays");

	seen = 0;
	trace_features_tick(1);
	error = register_trace_features_tick(probe, NULL);
	trace_features_tick(10);
	if (!error)
		error = unregister_trace_features_tick(probe, NULL);
	tracepoint_synchronize_unregister();
	trace_features_tick(100);
	seq_printf(file, "@@ switches tracepoint: %s\n", error || seen % 10 || seen > 10 ? "failed" : seen ? "works" : "stays");
	return 0;
}

static int __init switches_init(void)
{
	return proc_create_single("switches", 0444, NULL, show) ? 0 : -ENOMEM;
}

static void __exit switches_exit(void)
{
	remove_proc_entry("switches", NULL);
}

module_init(switches_init);
module_exit(switches_exit);
MODULE_DESCRIPTION("Portcullis: code that the kernel switches");
MODULE_LICENSE("GPL");
