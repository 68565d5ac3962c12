/** Register numbers and 64-bit words as the model uses them. */

/** rax 0, rcx 1, rdx 2, rbx 3, rsp 4, rbp 5, ..., r15 15, rip 16, rflags 17. */
export type Words = BigUint64Array;
export const [RAX, RDX, RSP, RBP, RIP, FLAGS] = [0, 2, 4, 5, 16, 17];

export const word = (address: number): bigint => BigInt.asUintN(64, BigInt(address));

/** A canonical address as a signed number, else NaN. */
export function canonical(value: bigint): number {
  const signed = BigInt.asIntN(48, value);
  return BigInt.asUintN(64, signed) === value ? Number(signed) : Number.NaN;
}

/** Registers that a callee keeps. */
export const CALLEE_SAVED = [3, RBP, 12, 13, 14, 15];
/** The status flags; and those that both sides of a border share, which are these and IF. */
export const STATUS = 0x8d5n;
export const SHARED = STATUS | 0x200n;
