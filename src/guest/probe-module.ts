/**
 * A kernel module made without a compiler: kernel code that touches a device's registers from outside any guarded module.
 *
 * At load it maps the register block at `address` (a parameter), reads the STATUS register of an 8254x card into `value` and the receive address
 * into `ral`, and writes a device reset to CTRL. Then a timer fires every millisecond, in hard interrupt context, wherever the CPU happens to
 * be, and reads STATUS again: `ticks` counts, `leaks` counts answers other than all ones. All are files in /sys/module/portcullis_probe/parameters.
 *
 * The layout of `struct module`, the version magic and the symbol versions are copied from the stock modules of the same kernel.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { R, SHF, SHT, STB, STT } from '../elf/constants.ts';
import { readModInfo } from '../elf/modinfo.ts';
import { ElfObject, type ElfSymbol, type Place, type Section } from '../elf/object.ts';
import { readObject } from '../elf/read.ts';
import { writeObject } from '../elf/write.ts';
import { findModule } from './fetch.ts';

export const PROBE_NAME = 'portcullis_probe';

const IMPORTS = [
  'module_layout',
  'ioremap',
  'iounmap',
  'param_ops_uint',
  'ktime_get',
  'hrtimer_init',
  'hrtimer_start_range_ns',
  'hrtimer_forward',
  'hrtimer_cancel',
] as const;
type Import = (typeof IMPORTS)[number];

/** Offsets in .data. struct hrtimer is 64 bytes with its callback at 40 (Linux include/linux/hrtimer.h). */
const DATA = { address: 0, value: 4, ral: 8, ticks: 12, leaks: 16, base: 24, timer: 32, size: 96 } as const;
const TIMER_FUNCTION = DATA.timer + 40;
const PARAMETERS = ['address', 'value', 'ral', 'ticks', 'leaks'] as const;
const PERIOD_NS = 1_000_000;
const REGISTER_WINDOW = 0x20000;
/** 8254x registers: CTRL, STATUS, RAL0 (8254x manual, section 13.4). */
const CTRL = 0x0;
const STATUS = 0x8;
const RAL0 = 0x5400;
const CTRL_RESET = 0x04000000;

/** One entry of __versions (struct modversion_info): 8-byte CRC, 56-byte name. */
const VERSION_SIZE = 64;

/** Symbol versions from stock modules: the kernel package has no other record of them. */
function symbolVersions(modules: string): Map<Import, Uint8Array> {
  const found = new Map<Import, Uint8Array>();
  const preferred = ['e1000', 'snd_hrtimer', 'can_bcm'].map((name) => findModule(modules, name)).filter((path) => path !== undefined);
  const rest = readdirSync(modules, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ko'))
    .sort()
    .map((path) => join(modules, path));
  for (const path of [...preferred, ...rest]) {
    const versions = readObject(readFileSync(path), path).section('__versions')?.data ?? new Uint8Array(0);
    for (let at = 0; at + VERSION_SIZE <= versions.length; at += VERSION_SIZE) {
      const entry = versions.subarray(at, at + VERSION_SIZE);
      const name = Buffer.from(entry.subarray(8, entry.indexOf(0, 8))).toString('latin1') as Import;
      if (IMPORTS.includes(name)) found.set(name, entry);
    }
    if (found.size === IMPORTS.length) return found;
  }
  throw new UserError(
    `no stock module under ${modules} imports ${IMPORTS.filter((name) => !found.has(name)).join(', ')}`,
    'use the stock Debian kernel package',
    'failed',
  );
}

/** Machine code with relocations against symbols: just enough for the probe. */
class Code {
  private readonly bytes: number[] = [];
  readonly fixups: { offset: number; target: string; addend: number; type: number }[] = [];
  constructor(private readonly data: string) {}

  get length(): number {
    return this.bytes.length;
  }
  emit(...bytes: number[]): this {
    this.bytes.push(...bytes);
    return this;
  }
  dword(value: number): this {
    return this.emit(value & 255, (value >> 8) & 255, (value >> 16) & 255, (value >>> 24) & 255);
  }
  call(target: Import): this {
    return this.emit(0xe8).relative(target, R.plt32, 0, 0);
  }
  /** Opcode bytes with a RIP-relative operand in .data; `after` = immediate bytes that follow the displacement. */
  withData(opcode: number[], offset: number, after = 0): this {
    return this.emit(...opcode).relative(this.data, R.pc32, offset, after);
  }
  private relative(target: string, type: number, addend: number, after: number): this {
    this.fixups.push({ offset: this.bytes.length, target, addend: addend - 4 - after, type });
    return this.dword(0);
  }
  finish(): Uint8Array {
    return Uint8Array.from(this.bytes);
  }
}

/** Assembles the three functions. Returns the code and where each starts. Comments give the instruction in Intel syntax. */
function assemble(): { code: Code; tick: number; init: number; exit: number } {
  const code = new Code('.data');
  const tick = code.length; // enum hrtimer_restart tick(struct hrtimer *rdi)
  code.emit(0x48, 0x83, 0xec, 0x08); //                        sub rsp, 8
  code.withData([0x48, 0x8b, 0x05], DATA.base); //             mov rax, [base]
  code.emit(0x8b, 0x40, STATUS); //                            mov eax, [rax + STATUS]
  code.withData([0xff, 0x05], DATA.ticks); //                  inc dword [ticks]
  code.emit(0x83, 0xf8, 0xff, 0x74, 0x06); //                  cmp eax, -1; je +6
  code.withData([0xff, 0x05], DATA.leaks); //                  inc dword [leaks]
  code.call('ktime_get'); //                                   call ktime_get
  code.withData([0x48, 0x8d, 0x3d], DATA.timer); //            lea rdi, [timer]
  code.emit(0x48, 0x89, 0xc6, 0xba).dword(PERIOD_NS); //       mov rsi, rax; mov edx, period
  code.call('hrtimer_forward'); //                             call hrtimer_forward
  code.emit(0xb8).dword(1); //                                 mov eax, HRTIMER_RESTART
  code.emit(0x48, 0x83, 0xc4, 0x08, 0xc3, 0xcc); //            add rsp, 8; ret; int3
  const init = code.length; // int init_module(void)
  code.emit(0x48, 0x83, 0xec, 0x08);
  code.withData([0x8b, 0x3d], DATA.address); //                mov edi, [address]
  code.emit(0xbe).dword(REGISTER_WINDOW); //                   mov esi, window
  code.call('ioremap');
  code.emit(0x48, 0x85, 0xc0, 0x75, 0x0a); //                  test rax, rax; jnz +10
  code.emit(0xb8).dword(-12).emit(0x48, 0x83, 0xc4, 0x08, 0xc3); // mov eax, -ENOMEM; add rsp, 8; ret
  code.withData([0x48, 0x89, 0x05], DATA.base); //             mov [base], rax
  code.emit(0x8b, 0x48, STATUS); //                            mov ecx, [rax + STATUS]
  code.withData([0x89, 0x0d], DATA.value); //                  mov [value], ecx
  code.emit(0x8b, 0x88).dword(RAL0); //                        mov ecx, [rax + RAL0]
  code.withData([0x89, 0x0d], DATA.ral); //                    mov [ral], ecx
  code.emit(0xc7, 0x40, CTRL).dword(CTRL_RESET); //            mov dword [rax + CTRL], RST
  code.withData([0x48, 0x8d, 0x3d], DATA.timer); //            lea rdi, [timer]
  code.emit(0xbe).dword(1).emit(0xba).dword(1); //             mov esi, CLOCK_MONOTONIC; mov edx, HRTIMER_MODE_REL
  code.call('hrtimer_init');
  code.emit(0x48, 0x8d, 0x05).dword(tick - (code.length + 4)); // lea rax, [tick]
  code.withData([0x48, 0x89, 0x05], TIMER_FUNCTION); //        mov [timer.function], rax
  code.withData([0x48, 0x8d, 0x3d], DATA.timer); //            lea rdi, [timer]
  code.emit(0xbe).dword(PERIOD_NS).emit(0x31, 0xd2); //        mov esi, period; xor edx, edx
  code.emit(0xb9).dword(1).call('hrtimer_start_range_ns'); //  mov ecx, HRTIMER_MODE_REL
  code.emit(0x31, 0xc0, 0x48, 0x83, 0xc4, 0x08, 0xc3, 0xcc); // xor eax, eax; add rsp, 8; ret; int3
  const exit = code.length; // void cleanup_module(void)
  code.emit(0x48, 0x83, 0xec, 0x08);
  code.withData([0x48, 0x8d, 0x3d], DATA.timer).call('hrtimer_cancel');
  code.withData([0x48, 0x8b, 0x3d], DATA.base).call('iounmap');
  code.emit(0x48, 0x83, 0xc4, 0x08, 0xc3, 0xcc);
  return { code, tick, init, exit };
}

/** Builds the module for the kernel whose stock modules lie in `modules`. Same kernel, same bytes. */
export function buildProbeModule(modules: string): Uint8Array {
  const templatePath = findModule(modules, 'e1000');
  if (!templatePath) throw new UserError(`no e1000 module under ${modules}`, 'use the stock Debian kernel package', 'failed');
  const template = readObject(readFileSync(templatePath), templatePath);
  const versions = symbolVersions(modules);
  const object = new ElfObject();
  const section = (name: string, flags: bigint, data: Uint8Array, alignment = 8): Section =>
    object.addSection({ name, type: SHT.progbits, flags: SHF.alloc | flags, alignment, entrySize: 0, data });
  const symbol = (name: string, place: Place, value: number, type: number = STT.none, binding: number = STB.global): ElfSymbol =>
    object.addSymbol({ name, binding, type, other: 0, place, value, size: 0 });

  const { code, init, exit } = assemble();
  const text = section('.text', SHF.exec, code.finish(), 16);
  const data = section('.data', SHF.write, new Uint8Array(DATA.size), 32);
  const strings = section('.rodata.str', 0n, Buffer.from(PARAMETERS.map((name) => `${name}\0`).join(''), 'latin1'), 1);
  section('__versions', 0n, Buffer.concat(IMPORTS.map((name) => versions.get(name) as Uint8Array)), 32);
  section(
    '.modinfo',
    0n,
    Buffer.from(
      [
        'license=GPL',
        `name=${PROBE_NAME}`,
        `vermagic=${readModInfo(template).vermagic}`,
        'retpoline=Y',
        'depends=',
        'parmtype=address:uint',
        '',
      ].join('\0'),
      'latin1',
    ),
    1,
  );
  const symbols = new Map<string, ElfSymbol>();
  symbols.set('.data', symbol('', data, 0, STT.section, STB.local));
  const stringSymbol = symbol('', strings, 0, STT.section, STB.local);
  for (const name of IMPORTS) if (name !== 'module_layout') symbols.set(name, symbol(name, 'undefined', 0));
  const initSymbol = symbol('init_module', text, init, STT.func);
  const exitSymbol = symbol('cleanup_module', text, exit, STT.func);
  text.relocations = code.fixups.map(({ offset, target, addend, type }) => ({
    offset,
    type,
    symbol: symbols.get(target) as ElfSymbol,
    addend,
  }));

  // struct module: the kernel's own size, the fields in the template's places (init and exit are its only relocations).
  const templateModule = template.section('.gnu.linkonce.this_module');
  if (!templateModule) throw new UserError(`${templatePath} has no .gnu.linkonce.this_module`, 'fetch the kernel package again', 'failed');
  const nameOffset = Buffer.from(templateModule.data).indexOf('e1000\0');
  const moduleData = new Uint8Array(templateModule.data.length);
  moduleData.set(Buffer.from(PROBE_NAME, 'latin1'), nameOffset);
  const thisModule = section('.gnu.linkonce.this_module', SHF.write, moduleData, 64);
  thisModule.relocations = templateModule.relocations.map((relocation) => ({
    ...relocation,
    addend: 0,
    symbol: relocation.symbol.name === 'init_module' ? initSymbol : exitSymbol,
  }));
  const moduleSymbol = symbol('__this_module', thisModule, 0, STT.object);

  // struct kernel_param, 40 bytes: name, mod, ops, u16 perm, s8 level, u8 flags, arg (Linux include/linux/moduleparam.h).
  const parameters = section('__param', 0n, new Uint8Array(PARAMETERS.length * 40));
  let nameAt = 0;
  PARAMETERS.forEach((name, index) => {
    const at = index * 40;
    new DataView(parameters.data.buffer).setUint16(at + 24, 0o444, true);
    parameters.data[at + 26] = 0xff;
    const put = (offset: number, target: ElfSymbol, addend: number) =>
      parameters.relocations.push({ offset: at + offset, type: R.abs64, symbol: target, addend });
    put(0, stringSymbol, nameAt);
    put(8, moduleSymbol, 0);
    put(16, symbols.get('param_ops_uint') as ElfSymbol, 0);
    put(32, symbols.get('.data') as ElfSymbol, DATA[name]);
    nameAt += name.length + 1;
  });
  return writeObject(object);
}
