// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * The kernel's helpers for device registers, on memory, on ports (CMOS, and 0x80, which answers to nobody) and on an address that is neither.
 * Guarded, they are routines of the linker in the module itself; the lines are the same.
 */
#include <linux/io.h>
#include <linux/slab.h>
#include <linux/string.h>
#include "report.h"

#define BYTES 64

/* What the helpers do is seen in a buffer; the first byte lies at an odd address for some. */
static u8 *from, *to;

static void fill(void)
{
	int index;

	for (index = 0; index < BYTES; index++) {
		from[index] = 3 * index + 1;
		to[index] = 0xee;
	}
}

static int reads_feature(void)
{
	void __iomem *memory = (void __iomem *)from;

	fill();
	EXPECT(ioread8(memory + 1) == 0x04);
	EXPECT(ioread16(memory + 2) == 0x0a07);
	EXPECT(ioread32(memory + 4) == 0x1613100d);
	EXPECT(ioread16be(memory + 2) == 0x070a);
	EXPECT(ioread32be(memory + 4) == 0x0d101316);
	return 0;
}

static int writes_feature(void)
{
	static const u8 expected[] = { 0x11, 0xee, 0x33, 0x22, 0x77, 0x66, 0x55, 0x44, 0x22, 0x33, 0xee, 0xee, 0x44, 0x55, 0x66, 0x77 };
	void __iomem *memory = (void __iomem *)to;

	fill();
	iowrite8(0xabcdef11, memory);
	iowrite16(0x2233, memory + 2);
	iowrite32(0x44556677, memory + 4);
	iowrite16be(0x2233, memory + 8);
	iowrite32be(0x44556677, memory + 12);
	EXPECT(!memcmp(to, expected, sizeof(expected)));
	return 0;
}

static int repeated_feature(void)
{
	void __iomem *memory = (void __iomem *)from;
	int index;

	fill();
	ioread8_rep(memory + 5, to, 3);
	ioread16_rep(memory + 6, to + 4, 2);
	ioread32_rep(memory + 8, to + 8, 2);
	ioread8_rep(memory, to + 20, 0);
	for (index = 0; index < 3; index++)
		EXPECT(to[index] == from[5]);
	EXPECT(to[3] == 0xee && to[20] == 0xee);
	for (index = 0; index < 4; index++)
		EXPECT(to[4 + index] == from[6 + (index & 1)]);
	for (index = 0; index < 8; index++)
		EXPECT(to[8 + index] == from[8 + (index & 3)]);
	fill();
	iowrite8_rep((void __iomem *)to, from, 4);
	iowrite16_rep((void __iomem *)to + 2, from, 3);
	iowrite32_rep((void __iomem *)to + 4, from, 2);
	EXPECT(to[0] == from[3] && to[1] == 0xee);
	EXPECT(to[2] == from[4] && to[3] == from[5]);
	EXPECT(!memcmp(to + 4, from + 4, 4) && to[8] == 0xee);
	return 0;
}

static int copies_feature(void)
{
	int offset, length;

	for (offset = 0; offset < 4; offset++) {
		for (length = 0; length < 20; length++) {
			fill();
			memcpy_fromio(to + 3, (void __iomem *)from + offset, length);
			EXPECT(!memcmp(to + 3, from + offset, length) && to[3 + length] == 0xee && to[2] == 0xee);
			fill();
			memcpy_toio((void __iomem *)to + offset, from + 3, length);
			EXPECT(!memcmp(to + offset, from + 3, length) && to[offset + length] == 0xee);
			fill();
			memset_io((void __iomem *)to + offset, 0x155, length);
			EXPECT(length == 0 || (to[offset] == 0x55 && to[offset + length - 1] == 0x55));
			EXPECT(to[offset + length] == 0xee);
		}
	}
	fill();
	__iowrite32_copy((void __iomem *)to, from, 3);
	EXPECT(!memcmp(to, from, 12) && to[12] == 0xee);
	fill();
	__ioread32_copy(to, (void __iomem *)from, 3);
	EXPECT(!memcmp(to, from, 12) && to[12] == 0xee);
	fill();
	__iowrite64_copy((void __iomem *)to, from, 3);
	EXPECT(!memcmp(to, from, 24) && to[24] == 0xee);
	return 0;
}

/* The CMOS memory: index at 0x70, data at 0x71. 0x3f is nobody's. */
static int ports_feature(void)
{
	void __iomem *cmos = ioport_map(0x70, 2), *nobody = ioport_map(0x80, 4);
	u8 bytes[4] = { 1, 2, 3, 4 };
	u16 words[2];
	u32 doubles[2];

	EXPECT(cmos && nobody);
	iowrite8(0x3f, cmos);
	iowrite8(0x5a, cmos + 1);
	iowrite8(0x3f, cmos);
	EXPECT(ioread8(cmos + 1) == 0x5a);
	iowrite8(0x3f, cmos);
	iowrite8_rep(cmos + 1, bytes, 4);
	iowrite8(0x3f, cmos);
	memset(bytes, 0, sizeof(bytes));
	ioread8_rep(cmos + 1, bytes, 3);
	EXPECT(bytes[0] == 4 && bytes[2] == 4 && bytes[3] == 0);
	iowrite16(1, nobody);
	iowrite32(1, nobody);
	iowrite16be(1, nobody);
	iowrite32be(1, nobody);
	iowrite16_rep(nobody, bytes, 2);
	iowrite32_rep(nobody, bytes, 1);
	ioread16_rep(nobody, words, 2);
	ioread32_rep(nobody, doubles, 2);
	EXPECT(words[1] == (u16)ioread16(nobody) && ioread16be(nobody) <= 0xffff);
	EXPECT(doubles[1] == ioread32(nobody) && ioread32be(nobody) == swab32(doubles[1]));
	ioport_unmap(nobody);
	ioport_unmap(cmos);
	return 0;
}

/* The kernel complains once, and answers all ones. */
static int neither_feature(void)
{
	EXPECT(ioread8((void __iomem *)0x70) == 0xff);
	EXPECT(ioread16((void __iomem *)0x70) == 0xffff);
	EXPECT(ioread32((void __iomem *)0x70) == 0xffffffff);
	iowrite32(1, (void __iomem *)0x70);
	return 0;
}

static const struct feature features[] = {
	{ "reads of memory", reads_feature },
	{ "writes to memory", writes_feature },
	{ "repeated reads and writes", repeated_feature },
	{ "copies", copies_feature },
	{ "ports", ports_feature },
	{ "neither memory nor port", neither_feature },
	{}
};

static int show(struct seq_file *file, void *data)
{
	return report_features(file, features);
}

static int __init io_init(void)
{
	from = kmalloc(2 * BYTES, GFP_KERNEL);
	if (!from)
		return -ENOMEM;
	to = from + BYTES;
	if (proc_create_single("registers_io", 0444, NULL, show))
		return 0;
	kfree(from);
	return -ENOMEM;
}

static void __exit io_exit(void)
{
	remove_proc_entry("registers_io", NULL);
	kfree(from);
}

module_init(io_init);
module_exit(io_exit);
MODULE_DESCRIPTION("Portcullis: helpers for device registers");
MODULE_LICENSE("GPL");
