/** Sections of code as a disassembler that is not ours (iced-x86) reads them: where instructions start, and which of them transfer control. */
import { Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register } from 'iced-x86';
import type { Section } from '../../src/elf/object.ts';
import { GATE_PORT } from '../../src/policy/manifest.ts';

export interface Transfer {
  at: number;
  end: number;
  flow: FlowControl;
  code: Code;
  mnemonic: Mnemonic;
  /** Of a near branch, as if its field were not relocated; undefined for others. */
  target: number | undefined;
  /** It goes by a word of memory whose address is relative to RIP. */
  byMemory: boolean;
  /** It goes by a register; else Register.None. */
  register: Register;
}

export interface Listing {
  transfers: readonly Transfer[];
  starts: ReadonlySet<number>;
  /** End of the instruction, by each of its bytes. */
  ends: Uint32Array;
  /** Where STAC and CLAC stand. */
  smap: ReadonlySet<number>;
  /** Where `out %al, $GATE_PORT` stands. */
  traps: readonly number[];
}

export const place = ({ name }: Section, offset: number) => `${name}+0x${offset.toString(16)}`;

/** Fails on bytes that are no instruction. INT3 is listed, an exception (UD2) is not: it ends where the monitor says. */
export function disassemble(section: Section): Listing {
  const decoder = new Decoder(64, section.data, DecoderOptions.None);
  const instruction = new Instruction();
  const transfers: Transfer[] = [];
  const starts = new Set<number>();
  const smap = new Set<number>();
  const traps: number[] = [];
  const ends = new Uint32Array(section.data.length);
  decoder.ip = 0n;
  while (decoder.canDecode) {
    const at = decoder.position;
    decoder.decodeOut(instruction);
    if (instruction.isInvalid) throw new Error(`${place(section, at)}: no instruction`);
    const end = at + instruction.length;
    starts.add(at);
    ends.fill(end, at, end);
    const { flowControl: flow, mnemonic } = instruction;
    if (mnemonic === Mnemonic.Stac || mnemonic === Mnemonic.Clac) smap.add(at);
    if (instruction.code === Code.Out_imm8_AL && instruction.immediate8 === GATE_PORT) traps.push(at);
    if (flow === FlowControl.Next || flow === FlowControl.Exception) continue;
    const operand = instruction.opCount > 0 ? instruction.op0Kind : undefined;
    transfers.push({
      at,
      end,
      flow,
      code: instruction.code,
      mnemonic,
      target: operand === OpKind.NearBranch64 ? Number(instruction.nearBranchTarget) : undefined,
      byMemory: operand === OpKind.Memory && instruction.isIpRelMemoryOperand,
      register: operand === OpKind.Register ? instruction.op0Register : Register.None,
    });
  }
  instruction.free();
  decoder.free();
  return { transfers, starts, ends, smap, traps };
}
