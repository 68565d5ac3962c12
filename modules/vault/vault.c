// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * /dev/vault signs what is written to it, with a key that no one but this module can read: HMAC-SHA-256 (RFC 2104, FIPS 180-4).
 *
 *	write(fd, message, length)	at most 4096 bytes
 *	read(fd, signature, 32)
 *
 * The key is the secret `key`, 1 to 64 bytes, that an administrator seals into the module's grant. It and everything computed from it stay
 * in private memory: the work area lies in the private heap, and the code between the two `private code` marks runs on a private stack, calls nothing
 * outside itself, and leaves no value in a register. Only the finished signature is written to shared memory.
 *
 * A message is copied once to private memory before it is used: the kernel could change it meanwhile.
 */
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "../portcullis.h"

#define MESSAGE_BYTES 4096
#define BLOCK 64
#define DIGEST 32

/* One open file, in shared memory. */
struct request {
	u32 length;
	u8 message[MESSAGE_BYTES];
	u8 signature[DIGEST];
	bool signed_;
};

/* All that is secret, beside the key itself. */
struct work {
	u32 state[8];
	u32 schedule[64];
	u8 block[BLOCK];
	u32 filled;
	u64 length;
	u8 digest[DIGEST];
	u8 message[MESSAGE_BYTES];
};

PORTCULLIS_SECRET(key, BLOCK);
PORTCULLIS_HEAP(8192);
PORTCULLIS_STACK(crypto, 2);
static struct work *work __portcullis_private = NULL;

/* private code */

/* FIPS 180-4, 4.2.2 and 5.3.3. */
static const u32 round_constants[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
static const u32 initial_state[8] = {
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static inline u32 rotate(u32 word, unsigned int by)
{
	return (word >> by) | (word << (32 - by));
}

/* FIPS 180-4, 6.2.2. */
static noinline void compress(struct work *w)
{
	u32 a = w->state[0], b = w->state[1], c = w->state[2], d = w->state[3];
	u32 e = w->state[4], f = w->state[5], g = w->state[6], h = w->state[7];
	unsigned int t;

	for (t = 0; t < 16; t++)
		w->schedule[t] = (u32)w->block[4 * t] << 24 | (u32)w->block[4 * t + 1] << 16 | (u32)w->block[4 * t + 2] << 8 | w->block[4 * t + 3];
	for (t = 16; t < 64; t++) {
		u32 x = w->schedule[t - 15], y = w->schedule[t - 2];

		w->schedule[t] = w->schedule[t - 16] + w->schedule[t - 7] +
			(rotate(x, 7) ^ rotate(x, 18) ^ (x >> 3)) + (rotate(y, 17) ^ rotate(y, 19) ^ (y >> 10));
	}
	for (t = 0; t < 64; t++) {
		u32 one = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + round_constants[t] + w->schedule[t];
		u32 two = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));

		h = g;
		g = f;
		f = e;
		e = d + one;
		d = c;
		c = b;
		b = a;
		a = one + two;
	}
	w->state[0] += a;
	w->state[1] += b;
	w->state[2] += c;
	w->state[3] += d;
	w->state[4] += e;
	w->state[5] += f;
	w->state[6] += g;
	w->state[7] += h;
}

static void start(struct work *w)
{
	portcullis_copy(w->state, initial_state, sizeof(w->state));
	w->filled = 0;
	w->length = 0;
}

static noinline void add(struct work *w, const u8 *bytes, size_t count)
{
	w->length += count;
	while (count > 0) {
		size_t part = min_t(size_t, count, BLOCK - w->filled);

		portcullis_copy(w->block + w->filled, bytes, part);
		w->filled += part;
		bytes += part;
		count -= part;
		if (w->filled == BLOCK) {
			compress(w);
			w->filled = 0;
		}
	}
}

/* Pads (FIPS 180-4, 5.1.1) and writes the digest. */
static noinline void finish(struct work *w)
{
	u64 bits = w->length * 8;
	unsigned int i;

	w->block[w->filled++] = 0x80;
	if (w->filled > BLOCK - 8) {
		portcullis_wipe(w->block + w->filled, BLOCK - w->filled);
		compress(w);
		w->filled = 0;
	}
	portcullis_wipe(w->block + w->filled, BLOCK - 8 - w->filled);
	for (i = 0; i < 8; i++)
		w->block[BLOCK - 1 - i] = bits >> (8 * i);
	compress(w);
	for (i = 0; i < DIGEST; i++)
		w->digest[i] = w->state[i / 4] >> (24 - 8 * (i % 4));
}

/* A block of the key with every byte changed by `pad` begins each of HMAC's two hashes. */
static noinline void start_with_key(struct work *w, const u8 *key, u32 length, u8 pad)
{
	unsigned int i;

	start(w);
	for (i = 0; i < BLOCK; i++)
		w->block[i] = (i < length ? key[i] : 0) ^ pad;
	w->length = BLOCK;
	compress(w);
}

static int sign(void *argument)
{
	struct request *request = argument;
	struct work *w = work;
	const u8 *key;
	u32 length, key_length;

	if (!portcullis_shared(request, sizeof(*request)))
		return -EFAULT;
	key = portcullis_secret(key, &key_length);
	if (!key_length || !w)
		return -ENOKEY;
	length = READ_ONCE(request->length);
	if (length > MESSAGE_BYTES)
		return -EMSGSIZE;
	portcullis_copy(w->message, request->message, length);

	start_with_key(w, key, key_length, 0x36);
	add(w, w->message, length);
	finish(w);
	portcullis_copy(w->message, w->digest, DIGEST);
	start_with_key(w, key, key_length, 0x5c);
	add(w, w->message, DIGEST);
	finish(w);

	portcullis_copy(request->signature, w->digest, DIGEST);
	portcullis_wipe(w, sizeof(*w));
	return 0;
}

/* private code ends */

PORTCULLIS_ON_STACK(sign_privately, sign, crypto, 2);

/*
 * The kernel says which file it is. A hostile one could name private memory instead, to have it read as pointers or written to.
 */
static struct request *request_of(struct file *file)
{
	struct request *request;

	if (!portcullis_shared(file, sizeof(*file)))
		return NULL;
	request = READ_ONCE(file->private_data);
	return portcullis_shared(request, sizeof(*request)) ? request : NULL;
}

static int vault_open(struct inode *inode, struct file *file)
{
	struct request *request = kzalloc(sizeof(*request), GFP_KERNEL);

	if (!request || !portcullis_shared(file, sizeof(*file)))
		return -ENOMEM;
	file->private_data = request;
	return 0;
}

static int vault_release(struct inode *inode, struct file *file)
{
	kfree(request_of(file));
	return 0;
}

static ssize_t vault_write(struct file *file, const char __user *from, size_t count, loff_t *position)
{
	struct request *request = request_of(file);
	int result;

	if (!request)
		return -EFAULT;
	if (count > MESSAGE_BYTES)
		return -EMSGSIZE;
	request->signed_ = false;
	if (copy_from_user(request->message, from, count))
		return -EFAULT;
	request->length = count;
	while ((result = sign_privately(request)) == -EBUSY) {
		if (signal_pending(current))
			return -EINTR;
		msleep(1);
	}
	if (result)
		return result;
	request->signed_ = true;
	return count;
}

/* Gives the signature once for each message. */
static ssize_t vault_read(struct file *file, char __user *to, size_t count, loff_t *position)
{
	struct request *request = request_of(file);

	if (!request)
		return -EFAULT;
	if (!request->signed_)
		return 0;
	if (count < DIGEST)
		return -EINVAL;
	request->signed_ = false;
	return copy_to_user(to, request->signature, DIGEST) ? -EFAULT : DIGEST;
}

static const struct file_operations vault_operations = {
	.owner = THIS_MODULE,
	.open = vault_open,
	.release = vault_release,
	.read = vault_read,
	.write = vault_write,
	.llseek = no_llseek,
};

static struct miscdevice vault_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "vault",
	.fops = &vault_operations,
	.mode = 0666,
};

static int __init vault_init(void)
{
	work = portcullis_alloc(sizeof(*work));
	if (!work)
		return -ENOMEM;
	pr_info("vault: %s, %s\n", portcullis_guarded() ? "guarded" : "not guarded", portcullis_holds(PORTCULLIS_SECRET_KIND) ? "with a key" : "without a key");
	return misc_register(&vault_device);
}

static void __exit vault_exit(void)
{
	misc_deregister(&vault_device);
	portcullis_free(work);
}

module_init(vault_init);
module_exit(vault_exit);
MODULE_DESCRIPTION("Signs with a key that it alone holds");
MODULE_LICENSE("GPL");
