/**
 * The kernel's helpers for device registers, as the module's own code. `ioread32` and its like are functions of the kernel: called through a gate they
 * would run outside the module view, where a granted device does not exist. They are leaves that touch nothing but their arguments, so the linker adds
 * routines that do the same (Linux 6.1 lib/iomap.c, arch/x86/lib/iomem.c, iomap_copy_64.S) and sends the module's calls there. What they do
 * not decide themselves, an address that is neither memory nor port, they leave to the kernel, through its gate.
 */

import { hexBytes } from '../base/hex.ts';
import { R, SHF, SHT, STB, STT } from '../elf/constants.ts';
import type { ElfObject, ElfSymbol, Relocation } from '../elf/object.ts';
import { DEVICE_SECTION } from '../policy/manifest.ts';

const ALIGNMENT = 16;
/** jmp rel32 to the kernel's own function: the last instruction of those that have it. */
const JUMP = [0xe9, 0, 0, 0, 0];

/**
 * Machine code by name, in the order of the section. All leave RSP alone and change only registers that a called function may change.
 *
 * The first group looks at the address as IO_COND (lib/iomap.c) does: from 0x40000 on it is memory, above 0x10000 a port in the low 16 bits.
 * As assembly, for a read and (with RSI for RDI) a write:
 *
 *      cmp $0x3ffff, %rdi; jbe 1f; mov (%rdi), %eax; ret
 *   1: cmp $0x10000, %rdi; jbe 2f; movzwl %di, %edx; in (%dx), %eax; ret
 *   2: jmp the kernel's
 *
 * Those in big-endian order turn the value round; those with `_rep` loop over memory, count in ECX, and use INS and OUTS for ports.
 * The second group are copies: single bytes and words until the device's side is aligned, then double words.
 */
const ROUTINES: readonly (readonly [string, string])[] = [
  ['ioread8', '4881ffffff030076040fb607c34881ff0000010076080fb7d7ec0fb6c0c3e900000000'],
  ['ioread16', '4881ffffff030076040fb707c34881ff0000010076090fb7d766ed0fb7c0c3e900000000'],
  ['ioread32', '4881ffffff030076038b07c34881ff0000010076050fb7d7edc3e900000000'],
  ['ioread16be', '4881ffffff030076080fb70766c1c008c34881ff00000100760d0fb7d766ed66c1c0080fb7c0c3e900000000'],
  ['ioread32be', '4881ffffff030076058b070fc8c34881ff0000010076070fb7d7ed0fc8c3e900000000'],
  ['iowrite8', '4881feffff0300760440883ec34881fe0000010076070fb7d689f8eec3e900000000'],
  ['iowrite16', '4881feffff0300760466893ec34881fe0000010076080fb7d689f866efc3e900000000'],
  ['iowrite32', '4881feffff03007603893ec34881fe0000010076070fb7d689f8efc3e900000000'],
  ['iowrite16be', '4881feffff0300760866c1c70866893ec34881fe00000100760c0fb7d689f866c1c00866efc3e900000000'],
  ['iowrite32be', '4881feffff030076050fcf893ec34881fe0000010076090fb7d689f80fc8efc3e900000000'],
  ['ioread8_rep', '89d14881ffffff0300761185c97e0c8a0788064883c601ffc9ebf0c34881ff0000010076090fb7d74889f7f36cc3e900000000'],
  ['iowrite8_rep', '89d14881ffffff0300761185c97e0c8a0688074883c601ffc9ebf0c34881ff0000010076060fb7d7f36ec3e900000000'],
  ['ioread16_rep', '89d14881ffffff0300761385c97e0e668b076689064883c602ffc9ebeec34881ff00000100760a0fb7d74889f766f36dc3e900000000'],
  ['iowrite16_rep', '89d14881ffffff0300761385c97e0e668b066689074883c602ffc9ebeec34881ff0000010076070fb7d766f36fc3e900000000'],
  ['ioread32_rep', '89d14881ffffff0300761185c97e0c8b0789064883c604ffc9ebf0c34881ff0000010076090fb7d74889f7f36dc3e900000000'],
  ['iowrite32_rep', '89d14881ffffff0300761185c97e0c8b0689074883c604ffc9ebf0c34881ff0000010076060fb7d7f36fc3e900000000'],
  ['memcpy_fromio', '4885d2743240f6c6017404a448ffca4883fa02720c40f6c602740666a54883ea024889d148c1e902f3a5f6c202740266a5f6c2017401a4c3'],
  ['memcpy_toio', '4885d2743240f6c7017404a448ffca4883fa02720c40f6c702740666a54883ea024889d148c1e902f3a5f6c202740266a5f6c2017401a4c3'],
  ['memset_io', '89f04889d1f3aac3'],
  ['__iowrite32_copy', '89d1f3a5c3'],
  ['__ioread32_copy', '4889d1f3a5c3'],
  ['__iowrite64_copy', '4889d1f348a5c3'],
];

const CODE = new Map(ROUTINES.map(([name, code]) => [name, Uint8Array.from(Buffer.from(code, 'hex'))]));

export const isDeviceRoutine = (symbol: string): boolean => CODE.has(symbol);

/** Offset of the field of a routine's jump to the kernel, or -1. */
const jumpField = (code: Uint8Array): number =>
  JUMP.every((byte, index) => code[code.length - JUMP.length + index] === byte) ? code.length - JUMP.length + 1 : -1;

/** True for routines that may go on in the kernel, and so still import its function. */
export const leavesToKernel = (symbol: string): boolean => jumpField(CODE.get(symbol) ?? new Uint8Array(0)) > 0;

export interface DeviceRoutines {
  /** By name of the kernel's function. */
  symbols: ReadonlyMap<string, ElfSymbol>;
  /** Jumps to the kernel's functions, to be sent to their gates. */
  jumps: readonly Relocation[];
}

/** Adds the section with the routines of the kernel functions named, in the order of the table. Adds nothing for none. */
export function addDeviceRoutines(object: ElfObject, wanted: ReadonlyMap<string, ElfSymbol>): DeviceRoutines {
  const symbols = new Map<string, ElfSymbol>();
  if (wanted.size === 0) return { symbols, jumps: [] };
  const section = object.addSection({
    name: DEVICE_SECTION,
    type: SHT.progbits,
    flags: SHF.alloc | SHF.exec,
    alignment: ALIGNMENT,
    entrySize: 0,
    data: new Uint8Array(0),
  });
  const data: number[] = [];
  for (const [name, code] of CODE) {
    const kernels = wanted.get(name);
    if (kernels === undefined) continue;
    const offset = data.length;
    data.push(...code);
    while (data.length % ALIGNMENT !== 0) data.push(0xcc);
    const field = jumpField(code);
    if (field > 0) section.relocations.push({ offset: offset + field, type: R.plt32, symbol: kernels, addend: -4 });
    symbols.set(
      name,
      object.addSymbol({
        name: `guard.device.${name}`,
        binding: STB.local,
        type: STT.func,
        other: 0,
        place: section,
        value: offset,
        size: code.length,
      }),
    );
  }
  section.data = Uint8Array.from(data);
  return { symbols, jumps: section.relocations };
}

/** What is wrong with a section of routines, or undefined: it must be some of the table, in its order, whole, each jump to the kernel relocated. */
export function deviceRoutinesFinding(data: Uint8Array, relocated: ReadonlySet<number>): string | undefined {
  const fields = new Set<number>();
  let at = 0;
  for (const code of CODE.values()) {
    const size = Math.ceil(code.length / ALIGNMENT) * ALIGNMENT;
    const whole = [...code, ...new Array(size - code.length).fill(0xcc)];
    if (at + size > data.length || whole.some((byte, index) => data[at + index] !== byte)) continue;
    if (jumpField(code) > 0) fields.add(at + jumpField(code));
    at += size;
  }
  if (at !== data.length) return `holds something other than routines for devices at ${at} (bytes ${hexBytes(data.subarray(at, at + 8))})`;
  const same = fields.size === relocated.size && [...fields].every((field) => relocated.has(field));
  return same ? undefined : 'has relocations elsewhere than at its jumps to the kernel';
}
