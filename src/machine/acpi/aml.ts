/**
 * Writes ACPI Machine Language (ACPI 6.4, chapter 20): the few terms that describe a PC, each a function from parts to bytes, so that the
 * description reads like the ASL it stands for.
 */
export type Aml = Uint8Array;

function bytes(...parts: (number | Uint8Array)[]): Aml {
  return Uint8Array.from(parts.flatMap((part) => (typeof part === 'number' ? [part & 0xff] : [...part])));
}

function le(value: number, size: number): Aml {
  return Uint8Array.from({ length: size }, (_, i) => Math.floor(value / 2 ** (8 * i)) & 0xff);
}

/** PkgLength counts itself (20.2.4). */
function packed(body: Aml): Aml {
  if (body.length + 1 < 0x40) return bytes(body.length + 1, body);
  const extra = body.length + 2 < 0x1000 ? 1 : body.length + 3 < 0x10_0000 ? 2 : 3;
  const length = body.length + 1 + extra;
  return bytes((extra << 6) | (length & 0x0f), le(Math.floor(length / 16), extra), body);
}

/** A name of up to four characters, padded with '_'; a leading backslash makes it absolute (20.2.2). */
export function name(text: string): Aml {
  const root = text.startsWith('\\');
  const segment = (root ? text.slice(1) : text).padEnd(4, '_');
  if (!/^[A-Z_][A-Z0-9_]{3}$/.test(segment)) throw new RangeError(`not an AML name: ${text}`);
  return bytes(...(root ? [0x5c] : []), Buffer.from(segment, 'latin1'));
}

/** 0 to 2^32 - 1, in the shortest form. */
export function integer(value: number): Aml {
  if (value === 0 || value === 1) return bytes(value);
  if (value < 0x100) return bytes(0x0a, value);
  return value < 0x1_0000 ? bytes(0x0b, le(value, 2)) : bytes(0x0c, le(value, 4));
}

/** A plug-and-play ID like "PNP0A03", compressed to an integer (19.3.4). */
export function eisaId(id: string): Aml {
  const letter = (i: number) => id.charCodeAt(i) - 0x40;
  const word = (letter(0) << 10) | (letter(1) << 5) | letter(2);
  const product = Number.parseInt(id.slice(3), 16);
  return bytes(0x0c, word >> 8, word, product >> 8, product);
}

export function define(key: string, value: Aml): Aml {
  return bytes(0x08, name(key), value);
}

export function scope(key: string, ...body: Aml[]): Aml {
  return bytes(0x10, packed(bytes(name(key), ...body)));
}

export function device(key: string, ...body: Aml[]): Aml {
  return bytes(0x5b, 0x82, packed(bytes(name(key), ...body)));
}

export function method(key: string, argumentCount: number, ...body: Aml[]): Aml {
  return bytes(0x14, packed(bytes(name(key), argumentCount, ...body)));
}

export function list(...items: Aml[]): Aml {
  return bytes(0x12, packed(bytes(items.length, ...items)));
}

export function store(value: Aml, target: Aml): Aml {
  return bytes(0x70, value, target);
}

export function ifTrue(condition: Aml, ...body: Aml[]): Aml {
  return bytes(0xa0, packed(bytes(condition, ...body)));
}

export function giveBack(value: Aml): Aml {
  return bytes(0xa4, value);
}

export const firstArgument: Aml = bytes(0x68);

/** A buffer of resource descriptors with its end tag (6.4.2.9; checksum 0 means "not checked"). */
export function resources(...descriptors: Aml[]): Aml {
  const body = bytes(...descriptors, 0x79, 0x00);
  return bytes(0x11, packed(bytes(integer(body.length), body)));
}

/** Fixed range of ports, 16-bit decode (6.4.2.5). */
export function ports(start: number, size: number): Aml {
  return bytes(0x47, 0x01, le(start, 2), le(start, 2), 1, size);
}

/** ISA interrupt, edge-triggered, active high (6.4.2.1). */
export function isaInterrupt(irq: number): Aml {
  return bytes(0x22, le(1 << irq, 2));
}

const ADDRESS_SPACE = { memory: 0, io: 1, bus: 2 } as const;

/** A window that a bridge passes on: the 16- or 32-bit address space descriptor (6.4.3.5), fixed at both ends. `end` is exclusive. */
export function bridgeWindow(kind: keyof typeof ADDRESS_SPACE, start: number, end: number): Aml {
  const size = kind === 'memory' ? 4 : 2;
  // General flags: minimum and maximum fixed, positive decode, produced here. Type flags: memory read-write not cached; io whole range.
  const typeFlags = kind === 'memory' ? 0x01 : kind === 'io' ? 0x03 : 0x00;
  const fields = bytes(le(0, size), le(start, size), le(end - 1, size), le(0, size), le(end - start, size));
  return bytes(kind === 'memory' ? 0x87 : 0x88, le(3 + fields.length, 2), ADDRESS_SPACE[kind], 0x0c, typeFlags, fields);
}
