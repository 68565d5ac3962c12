/*
 * The oracle: runs small pieces of machine code on the host CPU, in user mode, and records what they did.
 *
 * Every case ends in an exception: the pages around the code are full of INT3, so that "it ran to its end" is vector 3.
 * One signal handler does everything. It stores the outcome of the case that just ended, writes the next case's registers
 * into the signal frame and returns; the kernel's sigreturn loads them all at once (CS too: 0x23 selects 32-bit code, 7 the 16-bit code
 * segment of the local table).
 *
 * Cases may be random bytes. While one runs, FS holds a base in the data window, not the C library's; and a filter on system calls (seccomp)
 * lets through four that do no harm, none of them from below 4 GiB, where all that a case may execute lies.
 *
 * stdin:  u32 count, u32 zero, then per case  { struct input, then `patches` x { u32 address, u32 length, bytes padded to 8 } }
 * stdout: per case { struct output, then `differences` x { u32 address, u32 length, bytes padded to 8 } }
 * The windows and the background pattern must equal those of layout.ts.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

struct input { uint64_t gpr[16], rip, rflags; uint8_t fx[512]; uint32_t cs, patches; };
struct output { uint32_t vector, error; uint64_t cr2, gpr[16], rip, rflags; uint8_t fx[512]; uint32_t differences, zero; };

struct window { uint32_t base, size; int code; uint8_t *before, *background; };
static struct window windows[] = {
  { 0x8000, 0x2000, 0, 0, 0 }, { 0x10000000, 0x2000, 1, 0, 0 }, { 0x20000000, 0x2000, 0, 0, 0 }, { 0x20004000, 0x1000, 0, 0, 0 },
};
enum { WINDOWS = 4, READ_ONLY = 3, GS_BASE = 0x20000400, FS_BASE = 0x20000c00, TIMED_OUT = 255, SYSTEM_CALL = 253 };

/* Order of the general registers of ucontext, in x86 encoding order. */
static const int order[16] = {
  REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
  REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15,
};

static uint8_t *next;
static long count, at = -1;
static volatile long stuck = -2;
static unsigned long library_fs; /* the C library's thread */

static void die(const char *what) { perror(what); _exit(1); }

static void *map(uint64_t where, size_t size, int protection) {
  void *page = mmap((void *)where, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | (where ? MAP_FIXED : 0), -1, 0);
  if (page == MAP_FAILED) die("mmap");
  return page;
}

static void put(const void *bytes, size_t size) {
  static const uint8_t zero[8];
  fwrite(bytes, 1, size, stdout);
  if (size & 7) fwrite(zero, 1, 8 - (size & 7), stdout);
}

/* Calls `each` for every run of 8-byte words that changed. */
static uint32_t changes(int write) {
  uint32_t found = 0;
  for (int w = 0; w < WINDOWS; w++) {
    const uint64_t *now = (const uint64_t *)(uintptr_t)windows[w].base, *was = (const uint64_t *)windows[w].before;
    if (memcmp(now, was, windows[w].size) == 0) continue;
    uint32_t words = windows[w].size / 8;
    for (uint32_t i = 0; i < words; i++) {
      if (now[i] == was[i]) continue;
      uint32_t start = i;
      while (i < words && now[i] != was[i]) i++;
      found++;
      if (!write) continue;
      uint32_t head[2] = { windows[w].base + start * 8, (i - start) * 8 };
      put(head, 8);
      put(now + start, (i - start) * 8);
    }
  }
  return found;
}

static void store(const ucontext_t *context, int number) {
  struct output out = { 0 };
  const greg_t *g = context->uc_mcontext.gregs;
  out.vector = number == SIGALRM ? TIMED_OUT : number == SIGSYS ? SYSTEM_CALL : (uint32_t)g[REG_TRAPNO];
  out.error = (uint32_t)g[REG_ERR];
  out.cr2 = out.vector == 14 ? (uint64_t)g[REG_CR2] : 0;
  for (int i = 0; i < 16; i++) out.gpr[i] = (uint64_t)g[order[i]];
  out.rip = (uint64_t)g[REG_RIP];
  out.rflags = (uint64_t)g[REG_EFL];
  memcpy(out.fx, context->uc_mcontext.fpregs, 416);
  out.differences = changes(0);
  put(&out, sizeof out);
  changes(1);
}

static void load(ucontext_t *context) {
  const struct input *in = (const struct input *)next;
  next += sizeof *in;
  for (int w = 0; w < READ_ONLY; w++) memcpy((void *)(uintptr_t)windows[w].base, windows[w].background, windows[w].size);
  for (uint32_t p = 0; p < in->patches; p++) {
    uint32_t address = ((uint32_t *)next)[0], length = ((uint32_t *)next)[1];
    memcpy((void *)(uintptr_t)address, next + 8, length);
    next += 8 + ((length + 7) & ~7u);
  }
  for (int w = 0; w < READ_ONLY; w++) memcpy(windows[w].before, (void *)(uintptr_t)windows[w].base, windows[w].size);
  greg_t *g = context->uc_mcontext.gregs;
  for (int i = 0; i < 16; i++) g[order[i]] = (greg_t)in->gpr[i];
  g[REG_RIP] = (greg_t)in->rip;
  g[REG_EFL] = (greg_t)in->rflags;
  uint16_t segments[4]; /* cs, gs, fs, ss */
  memcpy(segments, &g[REG_CSGSFS], 8);
  segments[0] = (uint16_t)in->cs;
  segments[3] = 0x2b;
  memcpy(&g[REG_CSGSFS], segments, 8);
  uint8_t *fx = (uint8_t *)context->uc_mcontext.fpregs;
  memcpy(fx, in->fx, 28);           /* FCW .. MXCSR */
  memcpy(fx + 32, in->fx + 32, 384); /* ST0..7, XMM0..15; the rest is the kernel's own */
  *(uint64_t *)(fx + 512) |= 3;     /* XSTATE_BV: x87 and SSE are present */
}

/* arch_prctl without the C library, which needs FS. */
static void set_base(long which, unsigned long base) {
  long result = SYS_arch_prctl;
  __asm__ volatile("syscall" : "+a"(result) : "D"(which), "S"(base) : "rcx", "r11", "memory");
}

static void on_signal(int number, siginfo_t *info, void *pointer) {
  (void)info;
  /* What sigreturn does not restore (NT, ID) must not leak from one case into the next. */
  __asm__ volatile("pushq $0x202; popfq" ::: "memory", "cc");
  if (number == SIGALRM) {
    if (stuck != at) { stuck = at; return; }
  }
  set_base(ARCH_SET_FS, library_fs);
  if (at >= 0) store(pointer, number);
  if (++at >= count) { fflush(stdout); _exit(0); }
  load(pointer);
  set_base(ARCH_SET_FS, FS_BASE);
}

/* From here on a system call that is not the oracle's own is a SIGSYS. */
static void forbid_system_calls(void) {
#define FIELD(name) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, name))
#define ALLOW(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define TRAP BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP)
  struct sock_filter code[] = {
    FIELD(arch), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0), TRAP,
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4), /* bits 32 to 63 */
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1), TRAP,
    FIELD(nr), ALLOW(SYS_write), ALLOW(SYS_rt_sigreturn), ALLOW(SYS_arch_prctl), ALLOW(SYS_exit_group), TRAP,
  };
  struct sock_fprog filter = { sizeof code / sizeof *code, code };
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter)) die("seccomp");
}

int main(void) {
  size_t room = 1 << 20, used = 0;
  uint8_t *buffer = malloc(room);
  for (;;) {
    size_t got = fread(buffer + used, 1, room - used, stdin);
    if (got == 0) break;
    used += got;
    if (used == room && !(buffer = realloc(buffer, room *= 2))) die("realloc");
  }
  if (used < 8) return 1;
  count = *(uint32_t *)buffer;
  next = buffer + 8;
  for (int w = 0; w < WINDOWS; w++) {
    struct window *window = &windows[w];
    map(window->base, window->size, PROT_READ | PROT_WRITE | (window->code ? PROT_EXEC : 0));
    window->before = map(0, window->size, PROT_READ | PROT_WRITE);
    window->background = map(0, window->size, PROT_READ | PROT_WRITE);
    for (uint32_t i = 0; i < window->size; i++) window->background[i] = window->code ? 0xcc : ((window->base + i) * 0x9e3779b1u) >> 24;
    memcpy((void *)(uintptr_t)window->base, window->background, window->size);
    memcpy(window->before, window->background, window->size);
  }
  if (mprotect((void *)(uintptr_t)windows[READ_ONLY].base, windows[READ_ONLY].size, PROT_READ)) die("mprotect");
  if (syscall(SYS_arch_prctl, ARCH_SET_GS, (unsigned long)GS_BASE)) die("arch_prctl");
  if (syscall(SYS_arch_prctl, ARCH_GET_FS, &library_fs)) die("arch_prctl");
  struct user_desc code16 = { .entry_number = 0, .base_addr = 0x10000000, .limit = 0xffff, .contents = 2 };
  syscall(SYS_modify_ldt, 1, &code16, sizeof code16); /* where it fails, 16-bit code is #GP: see limits.ts */
  __asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(0x2b));
  stack_t stack = { .ss_sp = map(0, 1 << 20, PROT_READ | PROT_WRITE), .ss_size = 1 << 20 };
  if (sigaltstack(&stack, 0)) die("sigaltstack");
  struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
  sigfillset(&action.sa_mask);
  static const int signals[] = { SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGSYS, SIGALRM };
  for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++) {
    if (sigaction(signals[i], &action, 0)) die("sigaction");
  }
  struct itimerval tick = { { 0, 100000 }, { 0, 100000 } };
  setitimer(ITIMER_REAL, &tick, 0);
  /* The kernel would make the stack longer for a case's address that happens to lie below it. */
  struct rlimit no_growth = { 4096, 4096 };
  if (setrlimit(RLIMIT_STACK, &no_growth)) die("setrlimit");
  static char output[1 << 16];
  setvbuf(stdout, output, _IOFBF, sizeof output);
  forbid_system_calls();
  __asm__ volatile("int3");
  return 1;
}
