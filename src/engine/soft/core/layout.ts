/**
 * Offsets in one virtual CPU's state block, in linear memory at `cpu`. Imported by the AssemblyScript core and by the TypeScript host side alike,
 * so: plain untyped integer constants only. Registers and flags first, in the order of the engine contract.
 *
 * Each family owns a range; add fields inside your own range.
 */

// 0x000..0x0ff: architectural integer state (contract `Registers`: 18 words)
export const GPR = 0x000; // 16 x u64: rax rcx rdx rbx rsp rbp rsi rdi r8..r15
export const RIP = 0x080; // u64, exact at block starts and whenever run() is not executing
export const RFLAGS = 0x088; // u64; while running: system flags only (DF IF TF IOPL NT RF VM AC VIF VIP ID), arithmetic flags are lazy
export const ZERO = 0x090; // u64, always 0: the "no register" of addressing
export const PAGE_BASE = 0x098; // u64, linear address of the page that is executing, less CS base (so: RIP of its first byte)

// 0x100..0x1ff: interpreter (H1). Lazy flags: operands and result are sign-extended to 64 bits.
export const LF_RESULT = 0x100; // i64
export const LF_A = 0x108; // i64
export const LF_B = 0x110; // i64
export const LF_KIND = 0x118; // u32
export const CUR_OP = 0x120; // u32, address of the record being executed: RIP of it = PAGE_BASE + its page offset
export const EVENTS = 0x124; // u32 bit set, checked at every block start; see EVENT_*
export const COUNT = 0x128; // u64, instructions executed up to the last block start
export const BUDGET = 0x130; // i64

// 0x200..0x5ff: system state (H2)
export const SEG_BASE = 0x200; // 8 x u64 in order ES CS SS DS FS GS TR LDTR
export const SEG_LIMIT = 0x240; // 8 x u32
export const SEG_SELECTOR = 0x260; // 8 x u16
export const SEG_ATTR = 0x270; // 8 x u16, contract `Segment.attributes`
export const GDTR_BASE = 0x280;
export const GDTR_LIMIT = 0x288;
export const IDTR_BASE = 0x290;
export const IDTR_LIMIT = 0x298;
export const CR0 = 0x2a0;
export const CR2 = 0x2a8;
export const CR3 = 0x2b0;
export const CR4 = 0x2b8;
export const CR8 = 0x2c0;
export const EFER = 0x2c8;
export const DR = 0x2d0; // 8 x u64
export const CPL = 0x310; // u32
export const MODE = 0x314; // u32: 0 = 16-bit code, 1 = 32-bit code, 2 = 64-bit code (CS.L), decode mode
export const FPU_OK = 0x318; // u32: bit 0 x87/MMX usable, bit 1 SSE usable (CR0, CR4 and the view taken together)
export const SHADOW = 0x31c; // u32: 1 = interrupts inhibited for one instruction (STI, MOV SS, POP SS)

// 0x600..0xbff: vector unit (H3)
export const FPR = 0x600; // 8 x 16 bytes: 64-bit significand, 16-bit sign and exponent; physical registers R0..R7
export const FCW = 0x680; // u16
export const FSW = 0x682; // u16, TOP inside
export const FTW = 0x684; // u8, abridged tag: bit set = not empty, by physical register
export const FOP = 0x686; // u16
export const FIP = 0x688; // u64
export const FDP = 0x690; // u64
export const MXCSR = 0x698; // u32
export const XMM = 0x700; // 16 x 16 bytes

// 0xc00..0xfff: exit record, read by the host side (H2 defines the fields)
export const EXIT = 0xc00;

export const STATE_SIZE = 0x1000; // then TLBs, caches and records
