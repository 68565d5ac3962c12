/**
 * Private sections by name, and the layouts that the VMM and a module agree on. The other half of this file is modules/portcullis.h; a
 * test compares the two.
 */

/** Sections whose name starts so are private without being named in a policy. */
export const PRIVATE_PREFIX = '.portcullis.private';

/**
 * What the VMM tells the module: {u32 magic, u32 version, u32 held, u32 cpus, u64 start, u64 end, then at 64: u32 usable[cpus]}. All of the
 * module's private memory lies in [start, end). Words are little-endian.
 */
export const STATUS_SECTION = `${PRIVATE_PREFIX}.status`;
export const STATUS = { magic: 0, version: 4, held: 8, cpus: 12, start: 16, end: 24, usable: 64, size: 64 + 4 * 64 } as const;
/** "PORT" in memory. The guest kernel, which loads the module as well, leaves it 0. */
export const STATUS_MAGIC = 0x54524f50;
export const STATUS_VERSION = 1;
/** Virtual CPUs that the status can tell of. */
export const STATUS_CPUS = 64;

/** {u64 size of the section, u64 used, then the heap}. The linker makes it as large as the link policy says. */
export const HEAP_SECTION = `${PRIVATE_PREFIX}.heap`;
export const HEAP_HEADER = 16;
/** Most bytes of private heap. */
export const HEAP_LIMIT = 8 << 20;

/**
 * Private stacks, whole pages each: {u32 lock, u32 reserved, u64 RBP at the switch, ..., u64 kernel stack pointer at the switch}. The latter
 * points at the return address of the code that switched.
 */
export const STACK_SECTION = `${PRIVATE_PREFIX}.stack`;
export const STACK = { lock: 0, rbp: 8, kernelFromEnd: 8 } as const;

/** {u32 length, u32 reserved, then the secret}: one section for each secret that a grant can provision, named by what follows. */
export const SECRET_SECTION = `${PRIVATE_PREFIX}.secret.`;
export const SECRET_HEADER = 8;
/** Most bytes of one secret. */
export const SECRET_LIMIT = 4096;

/** Bits of `held` and `usable`. */
export const PRIVILEGE_BITS: Readonly<Record<string, number>> = { 'pci-device': 1, mwait: 2, msr: 4, 'io-port': 8, secret: 16 };
