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

// 0x100..0x1ff: interpreter. Lazy flags: operands and result are sign-extended to 64 bits.
export const LF_RESULT = 0x100; // i64
export const LF_A = 0x108; // i64
export const LF_B = 0x110; // i64
export const LF_KIND = 0x118; // u32
export const CUR_OP = 0x120; // u32, address of the record being executed: RIP of it = PAGE_BASE + its page offset
export const EVENTS = 0x124; // u32 bit set, checked at every block start; see EVENT_*
export const COUNT = 0x128; // u64, instructions executed up to the last block start
export const BUDGET = 0x130; // i64
export const RUN_END = 0x138; // u64, COUNT + BUDGET as run() began: instructions so far = RUN_END - BUDGET
export const CODE_AREA = 0x140; // u32, address of this CPU's area for decoded code, set by the host before the first run()
export const CODE_AREA_SIZE = 0x144; // u32, bytes; at least 1 MiB
export const CODE_POOL = 0x148; // u32, next free byte of the record pool
export const PAUSE_EXITS = 0x14c; // u32, set by the host: PAUSE ends run()
export const STAT_BLOCKS = 0x150; // u32, blocks decoded, and likewise below
export const STAT_RECORDS = 0x154;
export const STAT_PAGE_DROPS = 0x158; // pages of decoded code dropped by writes
export const STAT_POOL_DROPS = 0x15c; // times that all decoded code was dropped, the pool being full

export const RUNNING = 0x160; // u32, 1 while a thread executes this CPU; kept only where threads are (together.ts), and likewise below
export const ASKED = 0x164; // u32, requests to this CPU so far; from any thread
export const ANSWERED = 0x168; // u32, those that it has answered
export const PURGE_WANTED = 0x16c; // u32, 1 = the next answer purges translations for writing; from any thread

// 0x200..0x5ff: system state
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
export const SHADOW = 0x31c; // u32: interrupts are held back for one instruction: 0, SHADOW_INTERRUPTS or with SHADOW_DEBUG (see SHADOW_COUNT)
export const SHARED = 0x320; // u32, address of the block that all CPUs share
export const TLB = 0x324; // u32, current translation array
export const TLB_SYS = 0x328; // u32, array of implicit supervisor accesses
export const TLB_SET = 0x32c; // u32, header of the current set
export const CODE_EPOCH = 0x330; // u32, see memory.ts: equal numbers mean equal translations and privilege of code
export const LAST_EPOCH = 0x334; // u32, last epoch number given out
export const SET_CLOCK = 0x338; // u32, for replacing the least recently used set
export const VIEW = 0x33c; // u32, address of the current view's descriptor
export const PENDING = 0x340; // u32, why the running instruction unwinds: PENDING_*
export const PENDING_VECTOR = 0x344; // u32
export const PENDING_CODE = 0x348; // u32 error code, or NO_CODE
export const DELIVERING = 0x34c; // u32, vector + 1 of the exception being delivered, 0 = none: for double faults
export const PENDING_ADDRESS = 0x350; // u64, linear address of a #PF
export const INJECTED = 0x358; // u32, vector + 1 queued by inject(), 0 = none
export const NMI_BLOCKED = 0x35c; // u32
export const NMI_PENDING = 0x360; // u32
export const WINDOW_WANTED = 0x364; // u32
export const REPLAY_COUNT = 0x368; // u32, device accesses of the current instruction that are answered
export const REPLAY_INDEX = 0x36c; // u32, how many of them its present execution has used
export const REPLAY_RIP = 0x370; // u64, RIP of that instruction
export const TRAPS = 0x378; // u32, DR6 bits of debug traps to raise before the next instruction
export const STEP_FLAGS = 0x37c; // u32, RFLAGS.TF and RF as the stepped instruction began
export const FORCED_TYPE = 0x380; // u32, EVENT_TYPE_* queued by deliver()
export const FORCED_VECTOR = 0x384; // u32
export const FORCED_CODE = 0x388; // u32
export const CPU_INDEX = 0x38c; // u32
export const FORCED_ADDRESS = 0x390; // u64
export const TIME_OFFSET = 0x398; // i64, deterministic clock: time = TIME_OFFSET + instructions * NS_PER_INSTRUCTION
export const TSC_ADJUST = 0x3a0; // i64, MSR 3Bh, and likewise below
export const TSC_AUX = 0x3a8;
export const STAR = 0x3b0;
export const LSTAR = 0x3b8;
export const CSTAR = 0x3c0;
export const SFMASK = 0x3c8;
export const KERNEL_GS_BASE = 0x3d0;
export const SYSENTER_CS = 0x3d8;
export const SYSENTER_ESP = 0x3e0;
export const SYSENTER_EIP = 0x3e8;
export const PAT = 0x3f0;
export const MISC_ENABLE = 0x3f8;
export const SPEC_CTRL = 0x400;
export const DEBUGCTL = 0x408;
export const XCR0 = 0x410;
export const EXTERNAL = 0x418; // u32, EXT bit of error codes: 1 while an event that no instruction asked for is delivered
export const DROPPED_ALL = 0x41c; // u32, 1 = DROPPED was full: all decoded code must go
export const DROPPED = 0x420; // 32 x u32, pages written by others whose decoded code must go; 0 = free
export const DROPPED_MAX = 32;
export const SHADOW_COUNT = 0x4b8; // u64, instructions completed as the shadow began: while no more are, it holds
export const GLOBAL_EPOCH = 0x4c4; // u32, like CODE_EPOCH for global pages: a change of address space keeps it
export const DELIVERY = 0x4c0; // u32, 1 while an event is delivered: device memory does not answer then
export const MONITOR_LINE = 0x4c8; // u32, address in linear memory of the line that MONITOR armed, 0 = none; from any thread
export const MWAIT_STATE = 0x4cc; // u32: 0, or MWAIT_WAITS after EXIT_MWAIT until the CPU runs again
export const MWAIT_WITHHELD = 0x4d0; // u32, set by the host: MWAIT does not wait on this CPU at present
export const RESTART_RIP = 0x4b0; // u64, RIP of the RDMSR or WRMSR that left by an exit
export const FILLS = 0x4a0; // u64, TLB fills
export const FLUSHES = 0x4a8; // u64, translation sets cleared

// 0x600..0xbff: vector unit
export const FPR = 0x600; // 8 x 16 bytes: 64-bit significand, 16-bit sign and exponent; physical registers R0..R7
export const FCW = 0x680; // u16
export const FSW = 0x682; // u16, TOP inside
export const FTW = 0x684; // u8, abridged tag: bit set = not empty, by physical register
export const FOP = 0x686; // u16
export const FIP = 0x688; // u64
export const FDP = 0x690; // u64
export const MXCSR = 0x698; // u32
export const FCS = 0x69c; // u16
export const FDS = 0x69e; // u16
export const XMM = 0x700; // 16 x 16 bytes
export const VECTOR_SCRATCH = 0x800; // 1 KiB of temporaries of one instruction

// 0xc00..0xc7f: exit record, read by the host side
export const EXIT_SIZE = 0xc04; // u32
export const EXIT_WRITE = 0xc08; // u32
export const EXIT_VALUE = 0xc0c; // u32; MWAIT: 1 = withheld
export const EXIT_PORT = 0xc10; // u32: port, MSR index, or MWAIT hints
export const EXIT_EXTENSIONS = 0xc14; // u32: MWAIT extensions, 1 for an access that the view refuses
export const EXIT_GPA = 0xc18; // f64
export const EXIT_ADDRESS = 0xc20; // f64, signed linear address
export const EXIT_TYPE = 0xc28; // u32: EVENT_TYPE_*
export const EXIT_VECTOR = 0xc2c; // u32
export const EXIT_CODE = 0xc30; // u32 error code, or NO_CODE
export const EXIT_REPLAY = 0xc34; // u32: REPLAY_*
export const EXIT_LINEAR = 0xc38; // u64, address of a #PF
export const EXIT_TARGET = 0xc40; // u32, address of the register that takes the answer of a read
export const EXIT_NEXT = 0xc48; // u64, RIP behind the instruction

// 0xc80..0xf7f: device accesses already answered for the current instruction
export const REPLAY = 0xc80;
export const REPLAY_MAX = 192;

// Result of run() and unwound(): 0 = go on (unwound only)
export const EXIT_BUDGET = 1; // the instructions of BUDGET are used up
export const EXIT_IO = 2;
export const EXIT_MMIO = 3;
export const EXIT_HALT = 4;
export const EXIT_MWAIT = 5;
export const EXIT_MSR = 6;
export const EXIT_EVENT = 7;
export const EXIT_FETCH = 8;
export const EXIT_WINDOW = 9;
export const EXIT_SHUTDOWN = 10;
export const EXIT_PAUSE = 11; // PAUSE, and PAUSE_EXITS is set
export const EXIT_KICK = 12;
export const EXIT_SHADOW_STACK = 13; // EXIT_TYPE: SHADOW_STACK_*, EXIT_LINEAR: where the return or jump would have gone

// How an exit's access is answered
export const REPLAY_NONE = 0; // a read into the register EXIT_TARGET; RIP is past the instruction
export const REPLAY_LOG = 1; // by an entry in the replay log; the instruction runs again
export const REPLAY_LOAD = 2; // a read into the register, and RIP becomes EXIT_NEXT

// Why a shadow stack stops an instruction
export const SHADOW_STACK_MISMATCH = 0;
export const SHADOW_STACK_FULL = 1;
export const SHADOW_STACK_FAR = 2;
export const SHADOW_STACK_LANDING = 3;

export const MWAIT_WAITS = 1;
export const MONITOR_LINE_SIZE = 64; // bytes, as CPUID leaf 5 says
export const SHADOW_INTERRUPTS = 1; // STI
export const SHADOW_DEBUG = 2; // MOV SS, POP SS: debug traps wait too
export const NO_CODE = 0x10000; // "no error code", "no vector"
export const PENDING_NONE = 0;
export const PENDING_FAULT = 1; // an exception; PENDING_VECTOR, _CODE, _ADDRESS
export const PENDING_EXIT = 2; // exit record filled; PENDING_VECTOR holds the exit code; the instruction runs again later

export const EVENT_TYPE_NONE = 0;
export const EVENT_TYPE_INTERRUPT = 1;
export const EVENT_TYPE_NMI = 2;
export const EVENT_TYPE_EXCEPTION = 3;
export const EVENT_TYPE_SOFTWARE = 4; // INT n, INT3, INTO
export const EVENT_TYPE_FAULT = 5; // queued by the host like an exception of the guest's own: a module view intercepts it

// Bits of EVENTS. Only bits that can be acted upon now are set: pollEvents() runs at every block while any is.
export const EVENT_KICK = 1;
export const EVENT_STEP = 2; // execute exactly one instruction, then call afterStep()
export const EVENT_FORCED = 4; // deliver()
export const EVENT_TRAP = 8; // TRAPS
export const EVENT_NMI = 16;
export const EVENT_INTERRUPT = 32; // INJECTED
export const EVENT_WINDOW = 64;
export const EVENT_DROP = 128; // DROPPED
export const EVENT_STEPPED = 512; // the one instruction of EVENT_STEP has begun; set and cleared by run.ts
export const EVENT_VIEWS = 256; // some view changed: check generations
export const EVENT_ASKED = 1024; // another CPU waits for an answer

// Page table of linear memory: one byte a page at SHARED_FRAMES
export const FRAME_CODE = 1; // has decoded code
export const FRAME_NO_READ = 2; // denied to the untrusted view, and likewise
export const FRAME_NO_WRITE = 4;
export const FRAME_NO_EXECUTE = 8;
export const FRAME_MONITORED = 16; // MONITOR was used there
export const FRAME_NOTICED = 17; // FRAME_CODE | FRAME_MONITORED: every write is looked at
export const FRAME_CODE_SETTLED = 32; // every CPU knows of FRAME_CODE; only where threads are, and likewise
export const FRAME_MONITORED_SETTLED = 64;

// The block shared by all CPUs
export const SHARED_RAM = 0; // u32, address of guest physical address 0
export const SHARED_RAM_SIZE = 4; // u32, bytes
export const SHARED_FRAMES = 8; // u32
export const SHARED_CPU_COUNT = 12; // u32
export const SHARED_CLOCK = 16; // u32: 0 = host clock, 1 = instructions
export const SHARED_PARALLEL = 20; // u32, 1 = CPUs may run at the same time
export const SHARED_RANDOM = 24; // u64, state of the seeded generator (deterministic clock)
export const SHARED_LOCK = 32; // u32, CPU index + 1 of who may ask the others, 0 = nobody
export const SHARED_STOPPED = 36; // u32, 1 = CPUs that answered wait
export const SHARED_CPUS = 64; // u32 a CPU

// A view descriptor
export const VIEW_ID = 0; // u32, 0 = untrusted
export const VIEW_GENERATION = 4; // u32, counts changes of the view
export const VIEW_FIXED = 8; // u32, address of its fixed pages, sorted by linear address
export const VIEW_FIXED_COUNT = 12; // u32
export const VIEW_ALLOWED = 16; // u32: ALLOW_*
export const VIEW_SHADOW_STACK = 20; // u32, 1 = CALL and RET keep one
export const VIEW_SIZE = 32;
export const ALLOW_MWAIT = 1;
export const ALLOW_VECTOR = 2;

// A fixed page entry
export const FIXED_ADDRESS = 0; // u64
export const FIXED_HOST = 8; // u32
export const FIXED_PERMISSION = 12; // u32, contract PERMISSION in bits 0 to 2
export const FIXED_LANDING = 14; // u16 within it, contract FixedPage.landing; 0 = nowhere
export const FIXED_SIZE = 16;

// Translation sets of a CPU: header, then three arrays (supervisor, supervisor with AC under SMAP, user)
export const TLB_ENTRIES = 1024;
export const TLB_ENTRY_SIZE = 32;
export const TLB_ARRAY_SIZE = 0x8000;
export const TLB_SETS = 16;
export const SET_HEADER = 64;
export const TLB_SET_SIZE = 0x18040; // header and 3 arrays
export const TLB_SETS_AT = 0x1000; // offset from `cpu` of the first set
export const SET_USED = 0; // u32, 0 = holds nothing that may be used
export const SET_VIEW = 4; // u32, view id
export const SET_PCID = 8; // u32
export const SET_EPOCH = 12; // u32
export const SET_LAST_USE = 16; // u32
export const SET_GENERATION = 20; // u32, of the view when it was filled
export const SET_FILLED = 24; // 3 x u32, 1 = the array has entries
export const SET_GLOBAL = 36; // u32, epoch of global translations, shared by the sets of one view
export const LARGE_PAGES = 0x181600; // 512 bytes: filter of regions mapped by large pages
export const SHADOW_STACK = 0x181800; // 64 x {u64 return address, u64 address of its stack slot}, oldest first: no guest address leads here
export const SHADOW_STACK_MAX = 64; // contract SHADOW_STACK_DEPTH
export const SHADOW_STACK_DEPTH = 0x181c00; // u32
export const CODE_PAGES = 0x182000; // 4 KiB: filter of linear pages that the jump cache has entries of
export const CODE_PAGES_SIZE = 0x1000;
export const SYSTEM_SIZE = 0x183000; // STATE, translation sets and filters; the interpreter's caches follow

/** Deterministic clock: ns per instruction. */
export const NS_PER_INSTRUCTION = 4;
