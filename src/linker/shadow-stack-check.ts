/**
 * Checks a linked shadow stack from the file alone: the routines are those of this version, the ranges are the module's sections, each stub serves one function and
 * leads back to it, nothing else leads to the routines, and every call of the kernel has a gate of its own.
 */
import { R, SHT } from '../elf/constants.ts';
import type { ElfObject, Place, Relocation, Section } from '../elf/object.ts';
import { GATE_SECTION, type Gate } from '../policy/manifest.ts';
import { SHADOW, SHADOW_RANGES, SHADOW_RECORDS, SHADOW_RECORDS_SIZE, SHADOW_TEXT, STUB_SIZE } from '../policy/shadow-stack.ts';
import { THUNK_SECTION } from './section-rules.ts';
import { bodyOf, fieldsOf, hasCalls, type Parts, rangesOf, ROUTINES, STUB_BODY, stubAt } from './shadow-stack.ts';

const CALL = 0xe8;
const JUMP = 0xe9;

/** What does not hold, or nothing; nothing for a module without a shadow stack. `gates` are the manifest's. */
export function shadowStackFindings(object: ElfObject, gates: readonly Gate[]): string[] {
  const [text, ranges, records] = [SHADOW_TEXT, SHADOW_RANGES, SHADOW_RECORDS].map((name) => object.section(name));
  if (!text && !ranges && !records) return [];
  if (!text || !ranges || !records) return ['it has only a part of a shadow stack'];
  const parts = { text, ranges, records, thunks: object.section(THUNK_SECTION) };
  return [...contents(parts), ...routines(object, parts), ...branches(object, parts), ...gateUses(object, gates)];
}

function contents({ text, ranges, records }: Parts): string[] {
  const findings: string[] = [];
  const stubs = Array.from({ length: Math.max(0, Math.ceil(stubCount(text))) }, (_, index) => [
    ...stubAt(SHADOW.stubs + index * STUB_SIZE),
  ]);
  const expected = [...ROUTINES, ...stubs.flat()];
  if (text.size !== expected.length || expected.some((byte, index) => text.data[index] !== byte))
    findings.push(`${SHADOW_TEXT} holds something other than the routines of a shadow stack`);
  if (records.size !== SHADOW_RECORDS_SIZE || records.type !== SHT.nobits || records.relocations.length > 0)
    findings.push(`${SHADOW_RECORDS} is not ${SHADOW_RECORDS_SIZE} bytes of zeros`);
  if (ranges.data.some((byte) => byte !== 0)) findings.push(`${SHADOW_RANGES} has bytes of its own`);
  return findings;
}

/** What the routines compare with. */
function routines(object: ElfObject, parts: Parts): string[] {
  const { text, ranges } = parts;
  const gates = object.section(GATE_SECTION);
  const numbered = new Map<Place | undefined, number>(object.sections.map((section, index) => [section, index]));
  const key = (offset: number, type: number, place: Place | undefined, addend: number) =>
    `${offset} ${type} ${numbered.get(place) ?? -1} ${addend}`;
  const wanted = [
    ...fieldsOf(parts, text.size).map(({ offset, type, place, addend }) => key(offset, type, place ?? gates, addend)),
    ...rangesOf(object.sections.filter(hasCalls)).map(({ section, offset }, index) => key(index * 8, R.abs64, section, offset)),
  ];
  const found = [...text.relocations.filter((relocation) => !isStubs(relocation)), ...ranges.relocations].map(
    ({ offset, type, symbol, addend }) => key(offset, type, symbol.place, symbol.value + addend),
  );
  return found.sort().join() === wanted.sort().join()
    ? []
    : [`${SHADOW_TEXT} or ${SHADOW_RANGES} is relocated otherwise than a shadow stack is`];
}

/** Who leads to the routines: jumps alone, to `leave` and each stub from the function that it goes back to. */
function branches(object: ElfObject, { text, ranges }: Parts): string[] {
  const findings: string[] = [];
  const bodies = new Map(
    text.relocations
      .filter((relocation) => isStubs(relocation) && relocation.type === R.pc32)
      .map(({ offset, symbol, addend }) => [offset - STUB_BODY, { place: symbol.place, offset: symbol.value + addend + 4 }]),
  );
  if (bodies.size !== stubCount(text) || [...bodies.keys()].some((at) => at % STUB_SIZE !== 0))
    findings.push(`${SHADOW_TEXT} has stubs that lead nowhere`);
  for (const section of object.sections) {
    if (!section.allocated || section === text || section === ranges) continue;
    for (const relocation of section.relocations) {
      const { offset, type, symbol, addend }: Relocation = relocation;
      if (symbol.place !== text) continue;
      const target = symbol.value + addend + 4;
      const body = bodies.get(target);
      const own = body?.place === section && body.offset === bodyOf(relocation) && bodies.delete(target);
      if (type !== R.plt32 || section.data[offset - 1] !== JUMP || !(target === SHADOW.leave || own))
        findings.push(`${section.name}+${offset} leads into ${SHADOW_TEXT} where it should not`);
    }
  }
  return findings;
}

function gateUses(object: ElfObject, gates: readonly Gate[]): string[] {
  const findings: string[] = [];
  const section = object.section(GATE_SECTION);
  const uses = new Map<number, number[]>();
  for (const { executable, data, relocations } of object.sections) {
    for (const { offset, type, symbol, addend } of relocations) {
      const gate = symbol.value + addend + 4;
      if (executable && type === R.plt32 && symbol.place === section) uses.set(gate, [...(uses.get(gate) ?? []), data[offset - 1]]);
    }
  }
  const recorded = new Set(gates.filter((gate) => gate.recorded).map(({ offset }) => offset));
  for (const [gate, opcodes] of uses) {
    if (!opcodes.includes(CALL)) continue;
    if (opcodes.length > 1) findings.push(`the gate at ${gate} is called, and reached from elsewhere too`);
    if (recorded.has(gate)) findings.push(`the gate at ${gate} is called, and said to be jumped to`);
  }
  return findings;
}

const stubCount = ({ size }: Section): number => (size - SHADOW.stubs) / STUB_SIZE;
const isStubs = ({ offset }: Relocation): boolean => offset >= SHADOW.stubs;
