/** Bare-metal kernels as bytes: 32-bit ELF images that write to the serial port and end the run by the debug-exit port. */

const LOAD = 0x100000;
const HEADER = 52 + 2 * 32;

/** An ELF32 image with one PT_LOAD at 1 MiB and, with `note`, a PVH entry note. */
export function elf32(code: Uint8Array, options: { multiboot?: boolean; pvh?: boolean } = {}): Uint8Array {
  const multiboot = options.multiboot ? 12 : 0;
  const noteAt = HEADER + multiboot + code.length;
  const noteSize = options.pvh ? 20 : 0;
  const file = Buffer.alloc(noteAt + noteSize);
  file.set([0x7f, 0x45, 0x4c, 0x46, 1, 1, 1]);
  const entry = LOAD + HEADER + multiboot;
  file.writeUInt16LE(2, 16);
  file.writeUInt16LE(3, 18);
  file.writeUInt32LE(1, 20);
  file.writeUInt32LE(entry, 24);
  file.writeUInt32LE(52, 28);
  file.writeUInt16LE(52, 40);
  file.writeUInt16LE(32, 42);
  file.writeUInt16LE(options.pvh ? 2 : 1, 44);
  const header = (at: number, type: number, offset: number, size: number) => {
    for (const [index, value] of [type, offset, LOAD + offset, LOAD + offset, size, size, 7, 4].entries())
      file.writeUInt32LE(value, at + index * 4);
  };
  header(52, 1, 0, file.length);
  if (options.multiboot) {
    for (const [index, value] of [0x1badb002, 0, -0x1badb002 >>> 0].entries()) file.writeUInt32LE(value, HEADER + index * 4);
  }
  file.set(code, HEADER + multiboot);
  if (options.pvh) {
    header(84, 4, noteAt, noteSize);
    for (const [index, value] of [4, 4, 18].entries()) file.writeUInt32LE(value, noteAt + index * 4);
    file.write('Xen\0', noteAt + 12, 'latin1');
    file.writeUInt32LE(entry, noteAt + 16);
  }
  return file;
}

/** mov dx, 0x3f8; for each letter: mov al, letter; out dx, al. */
export function print(text: string): number[] {
  return [0x66, 0xba, 0xf8, 0x03, ...[...Buffer.from(text)].flatMap((letter) => [0xb0, letter, 0xee])];
}

/** mov al, code; out 0xf4, al. */
export const exitWith = (code: number): number[] => [0xb0, code, 0xe6, 0xf4];
/** hlt with interrupts off. */
export const HALT = [0xfa, 0xf4];
/** lidt [1 MiB: zero limit is not there]; ud2: without an interrupt table this is a triple fault. */
export const TRIPLE_FAULT = [0x0f, 0x0b];
/** mov dx, 0xcf9; mov al, 6; out dx, al. */
export const RESET = [0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee];
/** jmp $ */
export const SPIN = [0xeb, 0xfe];
