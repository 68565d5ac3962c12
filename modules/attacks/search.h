/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Searches memory for 16-byte needles at every fourth byte. They are given with each byte changed by MASK and never changed back, so that a search
 * does not find itself.
 */
#define NEEDLES 64
#define NEEDLE_BYTES 16
#define MASK 0xa5a5a5a5a5a5a5a5ull

struct needle {
	unsigned long long words[2];
};

struct search {
	int count;
	struct needle needles[NEEDLES];
	unsigned int found[NEEDLES];
	unsigned char filter[65536]; /* 1 where the first two bytes of a needle, masked, are the index */
};

static void search_prepare(struct search *search)
{
	int i;

	for (i = 0; i < search->count; i++)
		search->filter[search->needles[i].words[0] & 0xffff] = 1;
}

static void search_memory(struct search *search, const void *memory, unsigned long bytes)
{
	const unsigned char *at = memory, *end = at + bytes;
	int i;

	for (; at + NEEDLE_BYTES <= end; at += 4) {
		if (!search->filter[(*(const unsigned short *)at ^ MASK) & 0xffff])
			continue;
		for (i = 0; i < search->count; i++) {
			const unsigned long long *words = (const unsigned long long *)at;

			if ((words[0] ^ MASK) == search->needles[i].words[0] && (words[1] ^ MASK) == search->needles[i].words[1])
				search->found[i]++;
		}
	}
}
