/**
 * The part of the system family that user code can run on a stock Linux host without harm: reading selectors, checking descriptors,
 * far transfers between the two user code segments, refused instructions. Selectors and descriptors are Linux's on both sides.
 */
import type { Instruction } from '../../src/engine/soft/isa/row.ts';
import { little } from './encode.ts';
import { CODE, DATA_END, SELECTOR, STACK } from './layout.ts';
import type { Plan } from './plan.ts';
import type { Random } from './state.ts';

const USER = /^(PUSH|POP|L[DEFGS]S|LAR|LSL|VERR|VERW|ARPL|CALLF|JMPF|RETF|IRET|INT|INTO|CLI|STI|IN|OUT|INS|OUTS)$/;

/** True for rows whose effect at CPL 3 a Linux host shows as it is. UMIP hides SGDT and its like;
 * SYSEXIT is #UD on AMD, #GP on Intel; INT1 under a hypervisor may report the wrong RIP. */
export function isUserVisible(row: Instruction): boolean {
  return USER.test(row.mnemonic) || row.operands.some(({ text }) => text === 'Sw') || (row.attributes.cpl0 && row.mnemonic !== 'SYSEXIT');
}

/** False for far pointers with 64-bit offsets, which AMD does not know, and far jumps with 16-bit offsets, which lead nowhere here. */
export function hasSystemSize(row: Instruction, size: number): boolean {
  if (/^L[DEFGS]S$/.test(row.mnemonic)) return size !== 64;
  return !((/^(CALLF|JMPF)$/.test(row.mnemonic) && size !== 32) || (/^(RETF|IRET)$/.test(row.mnemonic) && size === 16));
}

const SELECTORS = [0, 3, 0x10, 0x18, SELECTOR.code32, SELECTOR.data, SELECTOR.code64, 0x20, 0x28, 0x40, 0xfffb];

function codeSelector(random: Random): number {
  return random.chance(70) ? random.pick([SELECTOR.code32, SELECTOR.code64]) : random.pick(SELECTORS);
}

/**
 * What may be loaded into a segment register without changing the next case's surroundings: the selector that it holds anyway, or one that
 * faults. FS and GS get only the latter, for their bases would be lost.
 */
function loadable(register: string, random: Random): number {
  const faulting = random.pick([0x10, 0x18, 0x40, 0xfffb]);
  return /[DES]S/.test(register) && random.chance(60) ? SELECTOR.data : faulting;
}

const SEGMENTS = ['ES', 'CS', 'SS', 'DS', 'FS', 'GS'];

/** As `prepare` in specials.ts. */
export function prepareSystem(plan: Plan): void {
  const { random, row, size } = plan;
  const target = BigInt(CODE + 0x400 + 16 * random.below(32));
  const selector = codeSelector(random);
  const patch = (address: number | undefined, bytes: number[]): void => {
    if (address !== undefined && address + bytes.length <= DATA_END) plan.patches.push({ address, bytes: Uint8Array.from(bytes) });
  };
  switch (row.mnemonic) {
    case 'LAR':
    case 'LSL':
    case 'VERR':
    case 'VERW':
    case 'ARPL': {
      const value = random.pick(SELECTORS);
      if (plan.address !== undefined) patch(plan.address, little(BigInt(value), 2));
      else if (plan.rm !== 4) plan.registers.set(plan.rm, BigInt(value));
      return;
    }
    case 'POP':
      patch(STACK, little(BigInt(loadable(row.row[1], random)), size / 8));
      return;
    case 'LDS':
    case 'LES':
    case 'LFS':
    case 'LGS':
    case 'LSS':
      patch(plan.address, [...little(target, size / 8), ...little(BigInt(loadable(row.mnemonic.slice(1), random)), 2)]);
      return;
    case 'MOV': {
      // the last two segment register numbers do not exist
      plan.reg = random.chance(90) ? random.below(6) : random.below(8);
      if (row.operands[0]?.text !== 'Sw') return;
      const value = BigInt(loadable(SEGMENTS[plan.reg] ?? '', random));
      if (plan.address !== undefined) patch(plan.address, little(value, 2));
      else if (plan.rm !== 4) plan.registers.set(plan.rm, value);
      else plan.reg = 1; // MOV CS is #UD, whatever RSP holds
      return;
    }
    case 'CALLF':
    case 'JMPF':
      if (plan.address === undefined)
        plan.immediates = [
          { value: target, size: 4 },
          { value: BigInt(selector), size: 2 },
        ];
      else patch(plan.address, [...little(target, 4), ...little(BigInt(selector), 2)]);
      return;
    case 'RETF':
      patch(STACK, [...little(target, size / 8), ...little(BigInt(selector), size / 8)]);
      return;
    case 'IRET': {
      const flags = BigInt(random.next() & 0xcd5) | 0x202n;
      const stack = random.chance(85) ? SELECTOR.data : random.pick(SELECTORS);
      const words = [target, BigInt(selector), flags, BigInt(STACK + 0x40), BigInt(stack)];
      patch(
        STACK,
        words.flatMap((word) => little(word, size / 8)),
      );
      return;
    }
    case 'INT': // 3, 4 and 128 have gates for user code
      plan.immediates = [{ value: BigInt(random.pick([0, 1, 2, 5, 6, 8, 13, 14, 31, 32, 127, 129, 255])), size: 1 }];
      return;
    default:
  }
}
