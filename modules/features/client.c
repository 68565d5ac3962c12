// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/* A module that depends on interfaces.c: calls it, is called back by it, reads its variable. Either may be guarded or not. */
#include "report.h"
#include "interfaces.h"

static int callback(void *data, int round)
{
	*(int *)data += 1;
	return round;
}

static int sum_feature(void)
{
	EXPECT(features_sum(1, 2, 3, 4, 5, 6, 7, 8) == 204);
	EXPECT(features_sum(-1, 0, 0, 0, 0, 0, 1L << 40, 1L << 50) == (7L << 40) + (8L << 50) - 1);
	return 0;
}

static int callback_feature(void)
{
	int calls = 0;

	EXPECT(features_call_back(callback, &calls, 10) == 45);
	EXPECT(calls == 10);
	return 0;
}

static int variable_feature(void)
{
	EXPECT(features_shared == 11);
	return 0;
}

static const struct feature features[] = {
	{ "exported function, eight arguments", sum_feature },
	{ "exported function that calls back", callback_feature },
	{ "exported variable", variable_feature },
	{}
};

static int show(struct seq_file *file, void *data)
{
	return report_features(file, features);
}

static int __init client_init(void)
{
	return proc_create_single("client", 0444, NULL, show) ? 0 : -ENOMEM;
}

static void __exit client_exit(void)
{
	remove_proc_entry("client", NULL);
}

module_init(client_init);
module_exit(client_exit);
MODULE_DESCRIPTION("Portcullis: depends on interfaces");
MODULE_LICENSE("GPL");
