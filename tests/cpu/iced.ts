/** The independent disassembler (iced-x86): what the CPU tests know of bytes beyond the engine's own opcode table. */
import { createRequire } from 'node:module';
import type { Bits } from './layout.ts';

// iced-x86 is CommonJS without a default export that TypeScript and Node agree on.
export const iced = createRequire(import.meta.url)('iced-x86') as typeof import('iced-x86');

/** One instruction as the disassembler sees it; names of encodings, mnemonics and features are its own. */
export interface Decoded {
  /** False for bytes that are no instruction, and for an instruction that goes on behind them; then `cut` is true. */
  valid: boolean;
  cut: boolean;
  /** Encoding, such as `Mov_Sreg_r32m16`. */
  code: string;
  mnemonic: string;
  /** All of these must exist. */
  features: string[];
  length: number;
  immediate8: number;
  /** True when the next instruction may be the one behind. */
  fallsThrough: boolean;
  /** Address that a direct branch goes to. */
  target: bigint | undefined;
  /** RFLAGS bits: what it reads, and what is undefined afterwards. */
  reads: number;
  leavesUndefined: number;
}

const FLAGS: readonly (readonly [number, number])[] = [
  [iced.RflagsBits.CF, 0x1],
  [iced.RflagsBits.PF, 0x4],
  [iced.RflagsBits.AF, 0x10],
  [iced.RflagsBits.ZF, 0x40],
  [iced.RflagsBits.SF, 0x80],
  [iced.RflagsBits.OF, 0x800],
];
const arithmeticFlags = (bits: number): number => FLAGS.reduce((flags, [bit, flag]) => (bits & bit ? flags | flag : flags), 0);

/** Decodes the first instruction of `code`, which lies at the address `at`. */
export function decode(bits: Bits, code: Uint8Array, at: number): Decoded {
  const { FlowControl, OpKind } = iced;
  const decoder = new iced.Decoder(bits, code, iced.DecoderOptions.None);
  decoder.ip = BigInt(at);
  const instruction = decoder.decode();
  const { flowControl, op0Kind } = instruction;
  const isDirect = op0Kind === OpKind.NearBranch16 || op0Kind === OpKind.NearBranch32 || op0Kind === OpKind.NearBranch64;
  const decoded: Decoded = {
    valid: !instruction.isInvalid,
    cut: decoder.lastError === iced.DecoderError.NoMoreBytes,
    code: iced.Code[instruction.code] as string,
    mnemonic: iced.Mnemonic[instruction.mnemonic] as string,
    features: [...instruction.cpuidFeatures()].map((feature) => iced.CpuidFeature[feature] as string),
    length: instruction.length,
    immediate8: instruction.immediate8,
    fallsThrough: flowControl === FlowControl.Next || flowControl === FlowControl.ConditionalBranch,
    target: isDirect ? instruction.nearBranchTarget : undefined,
    reads: arithmeticFlags(instruction.rflagsRead),
    leavesUndefined: arithmeticFlags(instruction.rflagsUndefined),
  };
  instruction.free();
  decoder.free();
  return decoded;
}
