/**
 * Why a module was turned away, in the guest's own log. The VMM has no way into that log but the one every kernel function has: the call that is
 * refused prints before it returns its error. The kernel is sent to its own print function, by the address that its loader wrote into the module's
 * call gate, with the text on the stack of the caller; from there it comes back to the re-entry gate, and then to where it was going anyway. All of it
 * in the untrusted view, with nothing that the guest could not do by itself.
 */
import { joinAddress, PAGE_SIZE, REG, registerAddress, setRegisterAddress } from '../engine/contract.ts';
import type { Cpu, GuestMemory } from '../engine/contract.ts';
import { GATE_SIZE, PRINT_FUNCTIONS } from '../policy/manifest.ts';
import { FRAME } from './frames.ts';
import type { Frames } from './frames.ts';
import { guestReader, ramPage } from './guest-memory.ts';
import type { ImageSource } from './image.ts';
import type { InstanceTable } from './instance-table.ts';
import type { Instance } from './instance.ts';
import { REFUSALS, VIOLATIONS } from './reasons.ts';
import type { RefusalReason } from './reasons.ts';
import type { StackAccess } from './stack.ts';

/** KERN_ERR (Linux include/linux/kern_levels.h): on the console too, also with `quiet`. */
const LEVEL = '\x013';
/** Characters of a text, and lines of one machine: kernel stacks are small, and a guest can have itself refused for ever. */
const TEXT_LIMIT = 320;
const LINES = 64;
const LINK_WORD = 8;
/** Frames of these calls belong to no instance. */
const NOBODY = 0;

/** Index of the call gate of the kernel's print function, or -1. */
const printGate = (image: ImageSource) => image.gates.findIndex((gate) => gate?.kind === 'call' && PRINT_FUNCTIONS.includes(gate.symbol));

/** A place from which to print: a module whose gates lie at `gateBase` in the guest's memory, verified or not. */
export interface Speaker {
  readonly image: ImageSource;
  readonly gateBase: number;
}

export class GuestLog {
  private lines = 0;
  /** What was told: module and reason, or instance. No more than there are lines. */
  private readonly told = new Set<string>();

  constructor(
    private readonly memory: GuestMemory,
    private readonly frames: Frames,
    private readonly stack: StackAccess,
    private readonly instances: InstanceTable,
  ) {}

  /** The CPU has just been sent back to the kernel with -1 because `module` gets nothing: says why, once for each module and reason. */
  refused(cpu: Cpu, module: string, reason: RefusalReason, speaker: Speaker | undefined): void {
    this.tell(cpu, `${module} ${reason}`, `${module}: refused, ${reason}: ${REFUSALS[reason]}`, speaker);
  }

  /** The same because the instance is quarantined: once for each. */
  quarantined(cpu: Cpu, instance: Instance): void {
    const { module, broken } = instance;
    if (broken === undefined) return;
    const text = `${module}: quarantined, ${broken}: ${VIOLATIONS[broken]}; calls of it fail from now on`;
    this.tell(cpu, `${instance.instance}`, text, instance);
  }

  private tell(cpu: Cpu, key: string, text: string, speaker: Speaker | undefined): void {
    if (this.told.has(key) || cpu.privilegeLevel !== 0) return;
    const whole = this.instances.all.filter((other) => ramPage(cpu, this.memory, other.gateBase) === other.frameAt(other.gateBase));
    if (this.say(cpu, speaker === undefined ? whole : [speaker, ...whole], text)) this.told.add(key);
  }

  /**
   * The CPU is at CPL 0 in the untrusted view: sends it by way of the print function of the first speaker that has one, once it can. False, and
   * nothing is changed, where none has, the stack cannot take it, or the limit is reached.
   */
  private say(cpu: Cpu, speakers: Iterable<Speaker>, text: string): boolean {
    if (this.lines >= LINES) return false;
    for (const { image, gateBase } of speakers) {
      const gate = printGate(image);
      if (gate < 0) continue;
      const word = guestReader(cpu, this.memory)(gateBase + gate * GATE_SIZE + LINK_WORD, 8);
      const target = word === undefined ? Number.NaN : linkWord(word);
      if (!(target < 0)) continue;
      return this.call(cpu, target, gateBase + GATE_SIZE, text);
    }
    return false;
  }

  private call(cpu: Cpu, target: number, back: number, text: string): boolean {
    const { registers } = cpu;
    const { stack } = this;
    const rsp = registerAddress(registers, REG.rsp);
    const rip = registerAddress(registers, REG.rip);
    const line = encode(text);
    // At a function's first instruction RSP is 8 less than a multiple of 16 (psABI 3.2.2), as it was for the call that is refused.
    const top = rsp - 8 - 16 * Math.ceil((line.length + 8) / 16);
    stack.begin(cpu);
    const first = stack.locate(rsp - 8);
    for (let page = top - (top & (PAGE_SIZE - 1)); page < rsp - 8; page += PAGE_SIZE)
      if (stack.locate(Math.max(page, top)) < 0) return false;
    if (first < 0 || Number.isNaN(rip)) return false;
    this.lines += 1;
    for (let at = 0; at < line.length; at++) {
      const address = top + 8 + at;
      const gpa = stack.locate(address - (address & 7)) + (address & 7);
      this.memory.bytes[gpa] = line[at];
      this.memory.written(gpa, 1);
    }
    const frame = this.frames.push(FRAME.print, NOBODY, top + 8, rip, 0, stack.same);
    const saved = this.frames.registersAt(frame) + 2 * REG.rsp;
    this.frames.registers[saved] = registers.halves[2 * REG.rsp];
    this.frames.registers[saved + 1] = registers.halves[2 * REG.rsp + 1];
    stack.store(stack.locate(top), back);
    setRegisterAddress(registers, REG.rsp, top);
    setRegisterAddress(registers, REG.rdi, top + 8);
    setRegisterAddress(registers, REG.rax, 0); // no vector registers hold arguments (psABI 3.5.7)
    setRegisterAddress(registers, REG.rip, target);
    return true;
  }

  /** A re-entry gate was reached outside a module: if it is the print function that returns, the CPU goes on as refused. */
  returned(cpu: Cpu): boolean {
    const { registers } = cpu;
    const frame = this.frames.find(FRAME.print, NOBODY, registerAddress(registers, REG.rsp));
    if (frame < 0) return false;
    this.stack.begin(cpu);
    this.frames.take(frame, this.stack.same);
    const saved = this.frames.registersAt(frame) + 2 * REG.rsp;
    registers.halves[2 * REG.rsp] = this.frames.registers[saved];
    registers.halves[2 * REG.rsp + 1] = this.frames.registers[saved + 1];
    setRegisterAddress(registers, REG.rip, this.frames.address[frame]);
    setRegisterAddress(registers, REG.rax, -1);
    return true;
  }
}

function linkWord(bytes: Uint8Array): number {
  const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return joinAddress(words.getUint32(0, true), words.getUint32(4, true));
}

/** A format without arguments, in printable ASCII, with its end. */
function encode(text: string): Uint8Array {
  const plain = text.replace(/[^\x20-\x7e]/g, '?').slice(0, TEXT_LIMIT);
  return Buffer.from(`${LEVEL}portcullis: ${plain.replaceAll('%', '%%')}\n\0`, 'latin1');
}
