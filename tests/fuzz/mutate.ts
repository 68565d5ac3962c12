/** A file that is nearly right: bytes flipped, fields set to their edges, pieces cut, copied or moved. */
import type { Random } from './random.ts';

/** Changes to one file: mostly one or two, so that the reader gets far. */
const CHANGES = [1, 1, 1, 2, 2, 3, 5, 8] as const;

/** A changed copy of `bytes`. `aim`, when given, is where most changes go: [start, end) of the parts that are tables and headers. */
export function mutate(random: Random, bytes: Uint8Array, aim: readonly (readonly [number, number])[] = []): Uint8Array {
  let copy: Uint8Array = Uint8Array.from(bytes);
  for (const _ of random.steps(random.pick(CHANGES))) {
    if (copy.length === 0) return copy;
    const [start, end] = aim.length > 0 && !random.once(4) ? random.pick(aim) : [0, copy.length];
    const at = Math.min(copy.length - 1, start + random.below(end - start));
    copy = change(random, copy, at);
  }
  return copy;
}

function change(random: Random, bytes: Uint8Array, at: number): Uint8Array {
  const view = new DataView(bytes.buffer);
  const aligned = (size: number): number => Math.max(0, Math.min(at - (at % size), bytes.length - size));
  switch (random.below(12)) {
    case 0:
    case 1:
      bytes[at] ^= 1 << random.below(8);
      break;
    case 2:
      bytes[at] = random.pick([0, 1, 0x7f, 0x80, 0xff]);
      break;
    case 3:
      bytes[at] = random.below(256);
      break;
    case 4:
      if (bytes.length >= 2) view.setUint16(aligned(2), random.word(), true);
      break;
    case 5:
    case 6:
      if (bytes.length >= 4) view.setUint32(aligned(4), random.word(), true);
      break;
    case 7:
      if (bytes.length >= 8) view.setBigUint64(aligned(8), random.long(), true);
      break;
    case 8:
      if (bytes.length >= 4) view.setUint32(aligned(4), view.getUint32(aligned(4), true) + random.below(9) - 4, true);
      break;
    case 9: // a piece from elsewhere
      bytes.copyWithin(at, random.below(bytes.length), bytes.length - random.below(bytes.length));
      break;
    case 10: {
      const length = random.below(64);
      return random.once(2)
        ? Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(at + length)])
        : Uint8Array.from([...bytes.subarray(0, at), ...random.bytes(length), ...bytes.subarray(at)]);
    }
    default:
      return random.once(4) ? bytes.slice(0, at) : bytes;
  }
  return bytes;
}

const TOKENS = [
  'null',
  'true',
  '-1',
  '1e999',
  '0.5',
  '9007199254740993',
  '""',
  '"\\u0000"',
  '"__proto__"',
  '{}',
  '[]',
  '[[[[',
  '{"a":',
  '"../x"',
  '"\ud800"',
  '1e-400',
] as const;

/** JSON that is nearly right: values replaced, members renamed, doubled or taken away; sometimes its text is damaged instead. */
export function mutateJson(random: Random, value: unknown): string {
  let copy: unknown = structuredClone(value);
  for (const _ of random.steps(random.pick([0, 1, 1, 1, 2, 4]))) copy = changeValue(random, copy, 0);
  const text = JSON.stringify(copy) ?? 'null';
  if (!random.once(8)) return text;
  const at = random.below(text.length + 1);
  return random.once(2) ? text.slice(0, at) : text.slice(0, at) + random.pick(TOKENS) + text.slice(at + random.below(6));
}

function changeValue(random: Random, value: unknown, depth: number): unknown {
  if (typeof value === 'object' && value !== null && !random.once(6)) {
    if (Array.isArray(value)) {
      const copy = [...value];
      const at = random.below(copy.length + 1);
      const what = at === copy.length ? 0 : random.below(8);
      if (what === 0) copy.splice(at, 0, anyValue(random, depth));
      else if (what === 1) copy.splice(at, 1);
      else copy[at] = changeValue(random, copy[at], depth + 1);
      return copy;
    }
    const entries = Object.entries(value);
    const at = random.below(entries.length + 1);
    if (at === entries.length) entries.push([random.pick(['__proto__', 'constructor', 'toString', '', 'extra']), anyValue(random, depth)]);
    else if (random.once(8)) entries.splice(at, 1);
    else entries[at] = [entries[at][0], changeValue(random, entries[at][1], depth + 1)];
    return Object.fromEntries(entries);
  }
  switch (typeof value) {
    case 'number':
      return random.pick([value + 1, value - 1, -value, value + 0.5, random.word(), -random.word(), 2 ** 53, 1e308, value]);
    case 'string': {
      const at = random.below(value.length + 1);
      const letter = String.fromCharCode(random.once(4) ? random.below(0x1_0000) : 32 + random.below(95));
      return random.pick([
        value.slice(0, at),
        value + letter,
        value.slice(0, at) + letter + value.slice(at + 1),
        value.repeat(random.below(40)),
        letter,
      ]);
    }
    default:
      return anyValue(random, depth);
  }
}

function anyValue(random: Random, depth: number): unknown {
  switch (random.below(depth > 4 ? 6 : 8)) {
    case 0:
      return null;
    case 1:
      return random.once(2);
    case 2:
      return random.word();
    case 3:
      return -random.word() / 3;
    case 4:
      return Buffer.from(random.bytes(random.below(12))).toString('latin1');
    case 5:
      return random.pick(['', '0', '16M', '2024-01-01T00:00:00Z', 'e1000', '0x10', '-', '..', '/']);
    case 6:
      return Array.from({ length: random.below(4) }, () => anyValue(random, depth + 1));
    default:
      return { [random.pick(['a', 'name', '__proto__'])]: anyValue(random, depth + 1) };
  }
}
