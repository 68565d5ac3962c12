/**
 * The linked shadow stack: routines in place of `__fentry__` and `__x86_return_thunk` that keep the return addresses of the module's own functions in its
 * private memory, for an engine whose views have no shadow stack. The stack is the kernel's, and another CPU can write to it at any time; so each word of it that
 * decides something is read once, into a register, and no routine pushes or returns by it.
 *
 * `call __fentry__` becomes a jump to a stub of the function's own, which knows where its function goes on. The stub may use RAX, R10 and R11: at the start of a C function they
 * hold nothing (RAX tells a variadic function how many vector registers hold arguments, psABI 3.2.3, and the kernel is compiled without them). `jmp __x86_return_thunk` of
 * the same functions becomes a jump to `leave`, which may use R10 and R11: with -pg the compiler has no convention between two functions of its own (GCC toplev.c turns
 * -fipa-ra off), so a caller keeps nothing there. Functions without `__fentry__`, those written in assembly among them, return as they are (recorded.ts).
 */
import { UserError } from '../base/errors.ts';
import { R, SHF, SHT, STB, STT } from '../elf/constants.ts';
import type { ElfObject, ElfSymbol, Relocation, Section } from '../elf/object.ts';
import {
  CALL_SIZE,
  RANGE_SIZE,
  SHADOW,
  SHADOW_RANGES,
  SHADOW_RECORDS,
  SHADOW_RECORDS_SIZE,
  SHADOW_TEXT,
  STUB_SIZE,
} from '../policy/shadow-stack.ts';
import { DEVICE_SECTION, GATE_SECTION } from '../policy/manifest.ts';
import type { RecordedCode } from './recorded.ts';
import { isInit, THUNK_SECTION } from './section-rules.ts';

const PAGE_SIZE = 4096;

/**
 * The routines. RETURN_GATE, RANGES, RECORDS, THUNKS and STUBS are relocated (FIELDS).
 *
 *   enter:                                     R10: the return address, R11: where the function goes on
 *          cmp  $RETURN_GATE, %r10; je place
 *          lea  RANGES(%rip), %rax
 *       1: cmp  (%rax), %r10; jb 2f            it must lie in the module's code,
 *          cmp  8(%rax), %r10; jbe call
 *       2: add  $16, %rax; cmpq $0, (%rax); jne 1b
 *   foreign:
 *          ud2
 *   call:  cmpb $0xe8, -5(%r10); jne foreign   right behind a call
 *          movslq -4(%r10), %rax; lea 5(%rax,%r10), %rax
 *          cmp  %r11, %rax; je place           of this very function,
 *          cmp  $THUNKS + 5, %rax; jb other    or by pointer,
 *          cmp  $THUNKS end + 5, %rax; jb place
 *   other: shl  $32, %r11; mov %r10d, %r10d; or %r10, %r11; mov %rax, %r10
 *          lea  RANGES(%rip), %rax
 *       1: cmp  (%rax), %r10; jb 2f            or of another function of the module,
 *          cmp  8(%rax), %r10; jbe called
 *       2: add  $16, %rax; cmpq $0, (%rax); jne 1b
 *          jmp  foreign
 *   called: mov -4(%r10), %eax; add %r10d, %eax
 *          cmpb $0xe9, -5(%r10); movslq %r11d, %r10; jne unpack
 *          cmp  $STUBS, %eax; jb unpack        which, if it has a stub,
 *          cmp  $STUBS end, %eax; jae unpack
 *          sar  $32, %r11
 *          BUCKET eax
 *       1: cmp  %rsp, RECORDS(%rax); je 2f     has left its record when it jumped here
 *          add  $16, %al; jnz 1b
 *          jmp  foreign
 *       2: cmp  %r10, RECORDS + 8(%rax); jne foreign
 *          jmp  *%r11
 *   unpack: sar $32, %r11
 *   place: BUCKET eax
 *       1: cmp  %rsp, RECORDS(%rax); je 3f     what is there is of a call that never returned
 *          cmpq $0, RECORDS(%rax); jne 2f
 *          lock btsq $63, RECORDS(%rax); jnc 3f
 *       2: add  $16, %al; jnz 1b
 *   full:  ud2
 *       3: mov  %r10, RECORDS + 8(%rax); mov %rsp, RECORDS(%rax)
 *          jmp  *%r11
 *
 *   leave: BUCKET r10d
 *       1: cmp  %rsp, RECORDS(%r10); je 2f
 *          add  $16, %r10b; jnz 1b
 *   differs:
 *          ud2
 *       2: mov  RECORDS + 8(%r10), %r11; cmp (%rsp), %r11; jne differs
 *          movq $0, RECORDS(%r10)
 *          lea  8(%rsp), %rsp
 *   gone:  jmp  *%r11
 *
 * BUCKET: imul $0x9e3779b1, %esp, REG; shr $14, REG; xor low byte, low byte (recordBucket).
 */
export const ROUTINES = Uint8Array.from(
  Buffer.from(
    '4981fa000000000f84c6000000488d05000000004c3b1072064c3b5008760c4883c0104883380075eb0f0b41807afbe875f7496342fc4a8d4410054c39d80f84' +
      '8f000000483d000000007208483d00000000727f49c1e3204589d24d09d34989c2488d05000000004c3b1072064c3b5008760c4883c0104883380075ebebaa41' +
      '8b42fc4401d041807afbe94d63d3753f3d0000000072383d00000000733149c1fb2069c4b179379ec1e80e30c04839a0000000007409041075f3e96affffff4c' +
      '3990000000000f855dffffff41ffe349c1fb2069c4b179379ec1e80e30c04839a000000000741c4883b80000000000750cf0480fbaa8000000003f7306041075' +
      'dd0f0b4c8990000000004889a00000000041ffe3cccccccccccccccccccccccc' +
      '4469d4b179379e41c1ea0e4530d24939a20000000074084180c21075f10f0b4d8b9a000000004c3b1c2475f149c7820000000000000000488d64240841ffe3cc',
    'hex',
  ),
);
/** `mov (%rsp), %r10; lea BODY(%rip), %r11; jmp enter`. */
const STUB = [0x4c, 0x8b, 0x14, 0x24, 0x4c, 0x8d, 0x1d, 0, 0, 0, 0, 0xe9, 0, 0, 0, 0];
export const STUB_BODY = 7;
const STUB_JUMP = 12;

type FieldTarget = 'returnGate' | 'ranges' | 'records' | 'thunks' | 'thunksEnd' | 'stubs' | 'stubsEnd';
/** Relocated fields of ROUTINES: offset, what they name, and what is added to it (before what the field's type asks for). */
const FIELDS: readonly (readonly [number, FieldTarget, number])[] = [
  [0x03, 'returnGate', 0],
  [0x10, 'ranges', 0],
  [0x46, 'thunks', CALL_SIZE],
  [0x4e, 'thunksEnd', CALL_SIZE],
  [0x64, 'ranges', 0],
  [0x91, 'stubs', 0],
  [0x98, 'stubsEnd', 0],
  [0xb0, 'records', 0],
  [0xc2, 'records', 8],
  [0xe1, 'records', 0],
  [0xea, 'records', 0],
  [0xf6, 'records', 0],
  [0x106, 'records', 8],
  [0x10d, 'records', 0],
  [0x131, 'records', 0],
  [0x142, 'records', 8],
  [0x14f, 'records', 0],
];

/** A place in the module: section and offset. */
export interface CodePlace {
  section: Section;
  offset: number;
}

export interface ShadowStack {
  /** By the relocation of the function's `call __fentry__`, of those that get a record. */
  stubs: ReadonlyMap<Relocation, ElfSymbol>;
  /** What a return at this place becomes a jump to, if its function has a record. */
  leave(section: Section, offset: number): ElfSymbol | undefined;
  /** The return gate, when there is one, completes the routines. */
  complete(returnGate: ElfSymbol): void;
}

/** What the routines are relocated against, apart from the return gate. `thunks` is undefined for a module without calls by pointer. */
export interface Parts {
  text: Section;
  ranges: Section;
  records: Section;
  thunks: Section | undefined;
}

/**
 * Adds the routines, with a stub for each function that has a record (`entries` are the relocations of all `call __fentry__`), and the private sections.
 * Gates must not have been added yet. Throws UserError for too many sections.
 */
export function addShadowStack(
  object: ElfObject,
  entries: readonly { section: Section; relocation: Relocation }[],
  recorded: RecordedCode,
  file: string,
): ShadowStack {
  const functions = entries.filter(({ section, relocation }) => recorded.has(section, relocation.offset));
  const own = object.sections.filter(hasCalls);
  if ((own.length + 1) * RANGE_SIZE > PAGE_SIZE)
    throw new UserError(`${file} has ${own.length} sections of code; a shadow stack is linked for at most ${PAGE_SIZE / RANGE_SIZE - 1}`);
  const section = (name: string, flags: bigint, alignment: number, data: Uint8Array, reserved?: number) =>
    object.addSection({ name, type: reserved === undefined ? SHT.progbits : SHT.nobits, flags, alignment, entrySize: 0, data, reserved });
  const data = new Uint8Array(ROUTINES.length + functions.length * STUB_SIZE);
  const parts: Parts = {
    thunks: object.section(THUNK_SECTION),
    text: section(SHADOW_TEXT, SHF.alloc | SHF.exec, STUB_SIZE, data),
    ranges: section(SHADOW_RANGES, SHF.alloc | SHF.write, PAGE_SIZE, new Uint8Array(PAGE_SIZE)),
    records: section(SHADOW_RECORDS, SHF.alloc | SHF.write, PAGE_SIZE, new Uint8Array(0), SHADOW_RECORDS_SIZE),
  };
  const symbol = (name: string, place: Section, value = 0, size = 0): ElfSymbol =>
    object.addSymbol({ name, binding: STB.local, type: place === parts.text ? STT.func : STT.none, other: 0, place, value, size });
  const starts = new Map<Section, ElfSymbol>();
  const start = (place: Section): ElfSymbol => {
    const known = starts.get(place) ?? symbol(`guard.section${place.name}`, place);
    starts.set(place, known);
    return known;
  };

  data.set(ROUTINES);
  for (const field of fieldsOf(parts, data.length)) {
    if (field.place !== undefined)
      parts.text.relocations.push({ offset: field.offset, type: field.type, symbol: start(field.place), addend: field.addend });
  }
  for (const [index, range] of rangesOf(own).entries()) {
    parts.ranges.relocations.push({ offset: index * 8, type: R.abs64, symbol: start(range.section), addend: range.offset });
  }
  const stubs = new Map<Relocation, ElfSymbol>();
  for (const [index, { section: place, relocation }] of functions.entries()) {
    const at = SHADOW.stubs + index * STUB_SIZE;
    data.set(stubAt(at), at);
    parts.text.relocations.push({ offset: at + STUB_BODY, type: R.pc32, symbol: start(place), addend: bodyOf(relocation) - 4 });
    stubs.set(relocation, symbol(`guard.enter.${place.name}+${relocation.offset - 1}`, parts.text, at, STUB_SIZE));
  }
  const leave = symbol('guard.leave', parts.text, SHADOW.leave, SHADOW.stubs - SHADOW.leave);
  return {
    stubs,
    leave: (section, offset) => (recorded.has(section, offset) ? leave : undefined),
    complete(returnGate) {
      const [[offset]] = FIELDS;
      parts.text.relocations.push({ offset, type: R.abs32s, symbol: returnGate, addend: 0 });
    },
  };
}

/** A section with calls that may have return addresses: not those that the linker made. */
export const hasCalls = ({ allocated, executable, size, name }: Section): boolean =>
  allocated && executable && size > 0 && ![THUNK_SECTION, DEVICE_SECTION, SHADOW_TEXT, GATE_SECTION].includes(name);

/** Where a function goes on behind its `call __fentry__`. */
export const bodyOf = ({ offset }: Relocation): number => offset + 4;

/** Both words of each range, init sections last. */
export function rangesOf(sections: readonly Section[]): CodePlace[] {
  const ordered = [...sections.filter((section) => !isInit(section)), ...sections.filter(isInit)];
  return ordered.flatMap((section) => [
    { section, offset: CALL_SIZE },
    { section, offset: section.size },
  ]);
}

/** The relocations of the routines; `place` undefined is the return gate. `size` is that of the whole section. */
export function fieldsOf(
  { text, ranges, records, thunks }: Parts,
  size: number,
): { offset: number; type: number; place: Section | undefined; addend: number }[] {
  const targets: Record<FieldTarget, { place: Section | undefined; value: number }> = {
    returnGate: { place: undefined, value: 0 },
    ranges: { place: ranges, value: -4 },
    records: { place: records, value: 0 },
    thunks: { place: thunks ?? text, value: 0 },
    thunksEnd: { place: thunks ?? text, value: thunks?.size ?? 0 },
    stubs: { place: text, value: SHADOW.stubs },
    stubsEnd: { place: text, value: size },
  };
  return FIELDS.map(([offset, target, more]) => {
    const { place, value } = targets[target];
    return { offset, type: target === 'ranges' ? R.pc32 : R.abs32s, place, addend: value + more };
  });
}

export function stubAt(at: number): Uint8Array {
  const code = Uint8Array.from(STUB);
  new DataView(code.buffer).setInt32(STUB_JUMP, SHADOW.enter - (at + STUB_SIZE), true);
  return code;
}
