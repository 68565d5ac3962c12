/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * For writers of guarded modules: private memory, and which privileges are held. Nothing else; a module that includes this loads on any
 * kernel, where its private memory is ordinary memory and no privilege is held.
 *
 * Private memory is reached by the module's own code alone. So never hand a pointer into it to the kernel: the kernel would find other
 * memory at that address. That holds for memcpy, memset and the like too, which are functions of the kernel; use portcullis_copy and
 * portcullis_wipe, and name the imports that the module may have in its link policy, so that a call that the compiler made is noticed.
 *
 * Layouts are those of src/policy/private-memory.ts.
 */
#ifndef PORTCULLIS_H
#define PORTCULLIS_H

#include <linux/compiler.h>
#include <linux/errno.h>
#include <linux/linkage.h>
#include <linux/types.h>
#include <asm/processor.h>

#define PORTCULLIS_PAGE 4096

/* Private data:  static u32 counter __portcullis_private; */
#define __portcullis_private __section(".portcullis.private.data")

/* Kinds of privilege, for portcullis_holds and portcullis_usable. */
#define PORTCULLIS_PCI_DEVICE 1u
#define PORTCULLIS_MWAIT 2u
#define PORTCULLIS_MSR 4u
#define PORTCULLIS_IO_PORT 8u
#define PORTCULLIS_SECRET_KIND 16u

#define PORTCULLIS_MAGIC 0x54524f50u
#define PORTCULLIS_VERSION 1u

/* Written by the VMM. */
struct portcullis_status {
	u32 magic;
	u32 version;
	u32 held; /* kinds, for as long as this copy of the module lives */
	u32 cpus;
	u64 start; /* all private memory lies in [start, end) */
	u64 end;
	u64 reserved[4];
	u32 usable[64]; /* by virtual CPU: held kinds that can be used there now; may change at any time */
};

static volatile struct portcullis_status portcullis_status __section(".portcullis.private.status") __maybe_unused = { 0 };

/* True if the module is guarded. */
static inline bool portcullis_guarded(void)
{
	return portcullis_status.magic == PORTCULLIS_MAGIC && portcullis_status.version == PORTCULLIS_VERSION;
}

static inline bool portcullis_holds(u32 kind)
{
	return portcullis_guarded() && (portcullis_status.held & kind) == kind;
}

/* Advice: a use that the VMM has just withdrawn is refused cleanly. */
static inline bool portcullis_usable(u32 kind, unsigned int cpu)
{
	return portcullis_guarded() && cpu < portcullis_status.cpus && cpu < 64 && (portcullis_status.usable[cpu] & kind) == kind;
}

/*
 * True if [pointer, pointer + bytes) is kernel memory and touches no private memory. Pointers that came from the kernel must pass this before private
 * code writes through them, or a hostile kernel could have it overwrite its own private memory.
 */
static inline bool portcullis_shared(const volatile void *pointer, size_t bytes)
{
	u64 first = (u64)pointer;
	u64 last = first + bytes;

	return (s64)first < 0 && last >= first && (last <= portcullis_status.start || first >= portcullis_status.end);
}

/* memcpy and memset(0) that stay in the module, and are not optimised away. */
static __always_inline void portcullis_copy(volatile void *to, const volatile void *from, size_t bytes)
{
	asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

static __always_inline void portcullis_wipe(volatile void *memory, size_t bytes)
{
	asm volatile("rep stosb" : "+D"(memory), "+c"(bytes) : "a"(0) : "memory");
}

/*
 * A secret that a grant can provision under this name, at most `bytes` long:
 *
 *	PORTCULLIS_SECRET(key, 64);
 *	const u8 *bytes = portcullis_secret(key, &length);	length is 0 when there is none
 */
#define PORTCULLIS_SECRET(name, bytes)                                                     \
	static struct {                                                                    \
		u32 length;                                                                \
		u32 reserved;                                                              \
		u8 value[bytes];                                                           \
	} portcullis_secret_##name __section(".portcullis.private.secret." #name) = { 0 }

#define portcullis_secret(name, bytes_out)                                                                 \
	({                                                                                                 \
		typeof(portcullis_secret_##name) *__secret = &portcullis_secret_##name;                    \
		asm volatile("" : "+r"(__secret) : : "memory"); /* the VMM writes it: no constant */       \
		*(bytes_out) = __secret->length <= sizeof(__secret->value) ? __secret->length : 0;            \
		(const u8 *)__secret->value;                                                               \
	})

/*
 * A private stack, and a way to run a function on it: what the compiler spills there, no kernel sees. Interrupts may come; the VMM delivers them on the
 * kernel stack that the call came from.
 *
 *	PORTCULLIS_STACK(crypto, 2);
 *	static int sign(void *request) { ... }		calls nothing outside the module
 *	PORTCULLIS_ON_STACK(sign_privately, sign, crypto, 2);
 *
 * `sign_privately(request)` gives what `sign` gives, or -EBUSY while another thread is on that stack: try again, after letting others run.
 * No register but the result keeps a value of `sign`.
 */
#define PORTCULLIS_STACK(name, pages)                                                      \
	static u8 portcullis_stack_##name[(pages) * PORTCULLIS_PAGE]                       \
		__aligned(PORTCULLIS_PAGE) __used __section(".portcullis.private.stack." #name) = { 0 }

#define PORTCULLIS_ON_STACK(name, function, stack, pages)                                  \
	static int function(void *argument) __used;                                        \
	int name(void *argument);                                                          \
	asm(".pushsection .text\n"                                                         \
	    ".type " #name ", @function\n"                                                 \
	    #name ":\n"                                                                    \
	    "	movl $1, %eax\n"                                                           \
	    "	xchgl %eax, portcullis_stack_" #stack "(%rip)\n"                           \
	    "	testl %eax, %eax\n"                                                        \
	    "	jnz 1f\n"                                                                  \
	    "	movq %rbp, portcullis_stack_" #stack "+8(%rip)\n"                          \
	    "	leaq portcullis_stack_" #stack "+" #pages "*4096-8(%rip), %rax\n"          \
	    "	movq %rsp, (%rax)\n"                                                       \
	    "	movq %rax, %rsp\n"                                                         \
	    "	call " #function "\n"                                                      \
	    "	popq %rsp\n"                                                               \
	    "	xorl %ecx, %ecx\n"                                                         \
	    "	xorl %edx, %edx\n"                                                         \
	    "	xorl %esi, %esi\n"                                                         \
	    "	xorl %edi, %edi\n"                                                         \
	    "	xorl %r8d, %r8d\n"                                                         \
	    "	xorl %r9d, %r9d\n"                                                         \
	    "	xorl %r10d, %r10d\n"                                                       \
	    "	xorl %r11d, %r11d\n"                                                       \
	    "	cltq\n"                                                                    \
	    "	movl $0, portcullis_stack_" #stack "(%rip)\n"                              \
	    "	" ASM_RET                                                                  \
	    "1:	movl $-16, %eax\n"                                                         \
	    "	" ASM_RET                                                                  \
	    ".size " #name ", .-" #name "\n"                                               \
	    ".popsection\n")

/*
 * The private heap. One file of the module says PORTCULLIS_HEAP(bytes): what there is on a plain kernel. The link policy's `heap` sets the size of
 * the guarded module's. Memory comes zeroed and is wiped when freed. Not for interrupt handlers.
 */
#define PORTCULLIS_HEAP(bytes)                                                             \
	static struct {                                                                    \
		u64 size;                                                                  \
		u32 lock;                                                                  \
		u32 ready;                                                                 \
		u8 memory[(bytes) - 16];                                                   \
	} portcullis_heap_section __aligned(16) __section(".portcullis.private.heap") = { .size = (bytes) }; \
	static __maybe_unused void *portcullis_alloc(size_t size)                          \
	{                                                                                  \
		return portcullis_heap_alloc((struct portcullis_heap *)&portcullis_heap_section, size); \
	}                                                                                  \
	static __maybe_unused void portcullis_free(void *memory)                           \
	{                                                                                  \
		portcullis_heap_free((struct portcullis_heap *)&portcullis_heap_section, memory); \
	}

/* A block of the heap; the next one begins `size` bytes behind. */
struct portcullis_block {
	u64 size; /* this header included; a multiple of 16 */
	u64 used;
	u8 memory[];
};

struct portcullis_heap {
	u64 size;
	u32 lock;
	u32 ready;
	struct portcullis_block first;
};

static inline struct portcullis_heap *portcullis_heap_lock(struct portcullis_heap *heap)
{
	asm volatile("" : "+r"(heap) : : "memory"); /* the linker writes the size: no constant */
	for (;;) {
		u32 taken = 1;

		asm volatile("xchgl %0, %1" : "+r"(taken), "+m"(heap->lock) : : "memory");
		if (!taken)
			return heap;
		cpu_relax();
	}
}

static inline void portcullis_heap_unlock(struct portcullis_heap *heap)
{
	asm volatile("movl $0, %0" : "=m"(heap->lock) : : "memory");
}

static inline struct portcullis_block *portcullis_block_after(struct portcullis_heap *heap, struct portcullis_block *block)
{
	u8 *next = (u8 *)block + block->size;

	return next < (u8 *)heap + heap->size ? (struct portcullis_block *)next : NULL;
}

/* First fit; NULL when nothing fits. */
static inline void *portcullis_heap_alloc(struct portcullis_heap *heap, size_t size)
{
	struct portcullis_block *block, *rest;
	void *memory = NULL;
	u64 need;

	heap = portcullis_heap_lock(heap);
	if (!heap->ready) {
		heap->first.size = (heap->size - 16) & ~15ull;
		heap->first.used = 0;
		heap->ready = 1;
	}
	need = ((u64)size + sizeof(*block) + 15) & ~15ull;
	for (block = &heap->first; block && size <= heap->size; block = portcullis_block_after(heap, block)) {
		if (block->used || block->size < need)
			continue;
		if (block->size - need > sizeof(*block)) {
			rest = (struct portcullis_block *)((u8 *)block + need);
			rest->size = block->size - need;
			rest->used = 0;
			block->size = need;
		}
		block->used = 1;
		memory = block->memory;
		portcullis_wipe(memory, block->size - sizeof(*block));
		break;
	}
	portcullis_heap_unlock(heap);
	return memory;
}

static inline void portcullis_heap_free(struct portcullis_heap *heap, void *memory)
{
	struct portcullis_block *block, *next;

	if (!memory)
		return;
	heap = portcullis_heap_lock(heap);
	block = (struct portcullis_block *)((u8 *)memory - sizeof(*block));
	portcullis_wipe(memory, block->size - sizeof(*block));
	block->used = 0;
	for (block = &heap->first; block; block = portcullis_block_after(heap, block)) {
		while (!block->used && (next = portcullis_block_after(heap, block)) && !next->used)
			block->size += next->size;
	}
	portcullis_heap_unlock(heap);
}

#endif
