/**
 * Where the CPU tests' code and data lie, for the host oracle (native.c has the same numbers) and for the guest.
 * All below 4 GiB, so that 32-bit code reaches them; the low window serves 16-bit addresses.
 */

export interface Window {
  readonly base: number;
  readonly size: number;
  readonly code?: true;
  readonly readOnly?: true;
}

export const CODE = 0x1000_0000;
/** Behind the code window nothing is mapped. */
export const CODE_END = CODE + 0x2000;
export const DATA = 0x2000_0000;
/** The data window is two pages; the next page is not mapped. */
export const DATA_END = DATA + 0x2000;
export const READ_ONLY = 0x2000_4000;
export const LOW = 0x8000;
/** Bases of FS and GS in 64-bit mode. */
export const FS_BASE = 0x2000_0c00;
export const GS_BASE = 0x2000_0400;
/** Default address of the first instruction, and of the stack. */
export const START = CODE + 0x800;
export const STACK = DATA + 0x1c00;

export const WINDOWS: readonly Window[] = [
  { base: LOW, size: 0x2000 },
  { base: CODE, size: CODE_END - CODE, code: true },
  { base: DATA, size: 0x2000 },
  { base: READ_ONLY, size: 0x1000, readOnly: true },
];

/** Index of the window that holds an address, or -1. */
export const windowAt = (address: number): number => WINDOWS.findIndex(({ base, size }) => address >= base && address < base + size);

/** What memory holds where a case says nothing: INT3 around code, a fixed pattern elsewhere. Shared: copy before writing. */
export function background(window: Window): Uint8Array {
  let bytes = backgrounds.get(window);
  if (bytes === undefined) {
    bytes = new Uint8Array(window.size).fill(0xcc);
    if (!window.code) for (let i = 0; i < bytes.length; i++) bytes[i] = Math.imul(window.base + i, 0x9e3779b1) >>> 24;
    backgrounds.set(window, bytes);
  }
  return bytes;
}
const backgrounds = new Map<Window, Uint8Array>();

/** Code size: 64-bit code, or 32-bit or 16-bit code in compatibility mode. */
export type Bits = 16 | 32 | 64;

/**
 * Linux's user selectors; the guest's descriptor table has the same. `code16` is entry 0 of the local descriptor table: a 16-bit code
 * segment of 64 KiB whose base is CODE, so that its 16-bit instruction pointers can reach the code window.
 */
export const SELECTOR = { code16: 0x07, code32: 0x23, data: 0x2b, code64: 0x33 } as const;

export function codeSegment(bits: Bits): { selector: number; base: number } {
  return bits === 16 ? { selector: SELECTOR.code16, base: CODE } : { selector: bits === 32 ? SELECTOR.code32 : SELECTOR.code64, base: 0 };
}

/** The first address that is not canonical: bits 63 to 47 of one that is are alike (Intel SDM vol. 1, 3.3.7.1). */
const EDGE = 1n << 47n;

export const isCanonical = (address: bigint): boolean => BigInt.asIntN(48, address) === BigInt.asIntN(64, address);

/** Canonical, and within a page of addresses that are not. */
export function isAtEdge(address: bigint): boolean {
  const signed = BigInt.asIntN(64, address);
  return isCanonical(address) && (signed >= EDGE - 0x1000n || signed < 0x1000n - EDGE);
}
