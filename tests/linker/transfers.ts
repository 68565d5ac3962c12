/**
 * The linker's output, disassembled and compared with the stock file that it was made from. Nothing of the linker is asked, neither its analysis nor its
 * verification: what each transfer of control and each code address must have become follows from the stock file alone, by the rules of the border
 * (ARCHITECTURE.md). Whatever else differs is a finding too.
 */
import { Code, FlowControl, Mnemonic, Register } from 'iced-x86';
import { R } from '../../src/elf/constants.ts';
import type { ElfObject, Relocation, Section } from '../../src/elf/object.ts';
import { readObject } from '../../src/elf/read.ts';
import { SHADOW, SHADOW_RANGES, SHADOW_RECORDS, SHADOW_TEXT, STUB_SIZE } from '../../src/policy/shadow-stack.ts';
import { DEVICE_SECTION, GATE_PORT, GATE_SECTION, GATE_SIZE, type Gate, type Manifest } from '../../src/policy/manifest.ts';
import { disassemble, type Listing, place, type Transfer } from './disassembly.ts';

const THUNK_SECTION = '.text.thunks';
const ADDED = new Set([GATE_SECTION, THUNK_SECTION, DEVICE_SECTION, SHADOW_TEXT, SHADOW_RANGES, SHADOW_RECORDS]);
/** Before the name of a routine for device registers. */
const ROUTINE = 'guard.device.';
/** Of a gate. */
const LINK_WORD = 8;

/**
 * Sections that name places in the text for the kernel to look up, not to call: where to unwind, to report, not to probe. An address in
 * `__ex_table` is where a fault of the module's own goes on; the monitor resumes there by itself.
 */
const POSITION_LISTS =
  /^(__ex_table|__bug_table|\.orc_unwind|\.orc_unwind_ip|_kprobe_blacklist|\.kprobes_blacklist|_error_injection_whitelist)$/;
/** Lists by which the kernel would patch the text, and what it would write. They must be gone, and nothing else may be. */
const PATCH_LISTS =
  /^(__mcount_loc|__patchable_function_entries|\.altinstructions|\.altinstr_replacement|\.smp_locks|\.parainstructions|\.(retpoline|return|call|static_call)_sites|__jump_table|\.ibt_endbr_seal|\.cfi_sites)$/;

/**
 * `call __fentry__` becomes a NOP, `jmp __x86_return_thunk` a RET; each is an opcode and a relocated field of four bytes. With a linked shadow stack they
 * become jumps to it.
 */
const REPLACED = new Map([
  ['__fentry__', { opcode: 'e8', becomes: '0f1f440000' }],
  ['__x86_return_thunk', { opcode: 'e9', becomes: 'c3cccccccc' }],
]);
/** Of a function's stub of the linked shadow stack: `mov (%rsp), %r10; lea BODY(%rip), %r11; jmp enter`. BODY and the jump's target are fields. */
const STUB = { start: '4c8b14244c8d1d', body: 7, jump: 'e9', target: 12 };
const JUMP = 'e9';
/** Three NOPs, where an alternative for SMAP is applied. */
const SMAP_DEFAULT = '909090';
/** Calls of a VMM: the module's own code, and #UD in this one. */
const VMM_CALLS = new Set([Mnemonic.Vmcall, Mnemonic.Vmmcall, Mnemonic.Vmrun]);

const bytesOf = (section: Section, from: number, to: number) => Buffer.from(section.data.subarray(from, to)).toString('hex');
const byOffset = ({ relocations }: Section) =>
  new Map(relocations.filter(({ type }) => type !== R.none).map((relocation) => [relocation.offset, relocation]));
/** The section with code that a relocation refers to. */
const codeOf = ({ symbol }: Relocation): Section | undefined =>
  typeof symbol.place === 'object' && symbol.place.executable ? symbol.place : undefined;
/** What a field relative to RIP reaches; `end` is that of its instruction, undefined for an absolute field and for data. */
const reached = ({ symbol, addend, offset }: Relocation, end = offset) => symbol.value + addend + end - offset;

/** All that is wrong in `image`. Empty: every transfer leaves by its own gate, and every address handed out is its own entry gate's. */
export function strayTransfers(stock: Uint8Array, image: Uint8Array, manifest: Manifest): string[] {
  return new Comparison(readObject(stock, 'stock'), readObject(image, 'image'), manifest).findings();
}

class Comparison {
  private readonly found: string[] = [];
  private readonly gates: Section | undefined;
  /** Sections of the stock file with those of the image. */
  private readonly partners = new Map<Section, Section>();
  private readonly listings = new Map<Section, Listing>();
  private readonly byGate: ReadonlyMap<number, Gate>;
  /** Relocations of the gates' link words. */
  private readonly links: ReadonlyMap<number, Relocation>;

  constructor(
    private readonly stock: ElfObject,
    private readonly image: ElfObject,
    private readonly manifest: Manifest,
  ) {
    this.gates = image.section(GATE_SECTION);
    this.byGate = new Map(manifest.gates.map((gate) => [gate.offset, gate]));
    this.links = this.gates ? byOffset(this.gates) : new Map();
  }

  findings(): string[] {
    this.pairSections();
    this.checkGates();
    this.checkThunks();
    this.checkRoutines();
    for (const [original, section] of this.partners) {
      const listing = section.executable ? this.listing(section) : undefined;
      const replaced = listing ? this.checkText(original, section, listing) : new Set<number>();
      this.checkRelocations(original, section, listing, replaced);
    }
    this.checkInitAndExit();
    return this.found;
  }

  private listing(section: Section): Listing {
    const listing = this.listings.get(section) ?? disassemble(section);
    this.listings.set(section, listing);
    return listing;
  }

  /** Those of one name are paired in their order. */
  private pairSections(): void {
    const left = this.image.sections.filter(({ allocated, name }) => allocated && !ADDED.has(name));
    for (const original of this.stock.sections.filter(({ allocated }) => allocated)) {
      const index = left.findIndex(({ name }) => name === original.name);
      if (index < 0) {
        if (!PATCH_LISTS.test(original.name)) this.found.push(`${original.name} is gone`);
        continue;
      }
      const [section] = left.splice(index, 1);
      if (section.executable !== original.executable) this.found.push(`${section.name} has another permission`);
      if (PATCH_LISTS.test(section.name)) this.found.push(`${section.name}: the kernel would patch the text by it`);
      this.partners.set(original, section);
    }
    for (const { name } of left) this.found.push(`${name} is new`);
  }

  /** Every gate is what the manifest calls it, judged by what the kernel will write into its link word. */
  private checkGates(): void {
    if (!this.gates) {
      this.found.push(`there is no ${GATE_SECTION}`);
      return;
    }
    const { data, relocations } = this.gates;
    const trap = Uint8Array.of(0xe6, GATE_PORT, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0, 0, 0, 0, 0, 0, 0, 0);
    const none = new Uint8Array(GATE_SIZE).fill(0xcc);
    const used = this.manifest.gates.length * GATE_SIZE;
    for (let offset = 0; offset < data.length; offset += GATE_SIZE) {
      const where = place(this.gates, offset);
      if (Buffer.compare(data.subarray(offset, offset + GATE_SIZE), offset < used ? trap : none) !== 0)
        this.found.push(`${where}: the bytes are no gate's`);
      if (offset >= used) continue;
      const link = this.links.get(offset + LINK_WORD);
      const kind = !link ? (offset === 0 ? 'return' : 're-entry') : link.symbol.place === 'undefined' ? 'call' : 'entry';
      const said = this.byGate.get(offset)?.kind;
      if (said !== kind) this.found.push(`${where}: the manifest says ${said ?? 'nothing'}, its link word ${kind}`);
    }
    if (relocations.some(({ offset, type }) => type !== R.abs64 || offset % GATE_SIZE !== LINK_WORD || offset >= used))
      this.found.push(`${GATE_SECTION} has a relocation that is no link word`);
  }

  /** `jmp *REG` and INT3, nothing else. */
  private checkThunks(): void {
    const section = this.image.section(THUNK_SECTION);
    if (!section) return;
    const { transfers, starts } = this.listing(section);
    if (starts.size !== transfers.length || section.relocations.length > 0) this.found.push(`${THUNK_SECTION} holds other instructions`);
    for (const { at, code, register } of transfers)
      if (code !== Code.Int3 && (code !== Code.Jmp_rm64 || register === Register.None))
        this.found.push(`${place(section, at)}: no jump through a register`);
  }

  /** A routine for device registers stays within itself, returns, or jumps to the call gate of the function that it stands for. */
  private checkRoutines(): void {
    const section = this.image.section(DEVICE_SECTION);
    if (!section) return;
    const routines = this.image.symbols.filter((symbol) => symbol.place === section && symbol.name.startsWith(ROUTINE));
    const relocations = byOffset(section);
    for (const { at, end, code, target = -1 } of this.listing(section).transfers) {
      const where = place(section, at);
      const routine = routines.find(({ value, size }) => at >= value && at < value + size);
      const relocation = relocations.get(end - 4);
      if (code === Code.Int3 || code === Code.Retnq) continue;
      if (relocation && routine) this.expectCallGate(where, relocation, end, routine.name.slice(ROUTINE.length));
      else if (!routine || target < routine.value || target >= routine.value + routine.size)
        this.found.push(`${where}: leaves its routine`);
    }
  }

  /** The instructions are the stock file's but for those that the border replaces. Gives the offsets of the stock relocations that went with them. */
  private checkText(original: Section, section: Section, listing: Listing): Set<number> {
    const replaced = new Set<number>();
    const edited = new Set<number>();
    const kept = byOffset(section);
    for (const [offset, { symbol }] of byOffset(original)) {
      const replacement = symbol.place === 'undefined' ? REPLACED.get(symbol.name) : undefined;
      if (!replacement) continue;
      replaced.add(offset);
      for (let at = offset - 1; at < offset + 4; at++) edited.add(at);
      const { opcode, becomes } = replacement;
      const jump = this.manifest.shadowStack && bytesOf(section, offset - 1, offset) === JUMP ? kept.get(offset) : undefined;
      if (jump) this.expectShadowStack(section, jump, symbol.name);
      else if (bytesOf(original, offset - 1, offset) !== opcode || bytesOf(section, offset - 1, offset + 4) !== becomes || kept.has(offset))
        this.found.push(`${place(section, offset - 1)}: the branch to ${symbol.name} did not become ${becomes}`);
    }
    if (original.data.length !== section.data.length) this.found.push(`${section.name} has another size`);
    for (const at of listing.starts) {
      const [before, after] = [original, section].map((side) => bytesOf(side, at, listing.ends[at]));
      if (before !== after && !edited.has(at) && !(listing.smap.has(at) && before === SMAP_DEFAULT))
        this.found.push(`${place(section, at)}: ${before} became ${after}`);
    }
    for (const at of listing.traps) this.found.push(`${place(section, at)}: a gate's instruction`);
    for (const transfer of listing.transfers) this.checkTransfer(section, transfer, listing, kept);
    return replaced;
  }

  /** Branches that no relocation leads elsewhere stay in their section. One through memory is left to the monitor, which meets the fetch; so are events. */
  private checkTransfer(section: Section, transfer: Transfer, { starts }: Listing, relocations: ReadonlyMap<number, Relocation>): void {
    const { at, end, flow, code, mnemonic, target, byMemory } = transfer;
    const where = place(section, at);
    const relocated = relocations.has(end - 4);
    switch (flow) {
      case FlowControl.Call:
      case FlowControl.UnconditionalBranch:
      case FlowControl.ConditionalBranch:
        if (target === undefined) {
          if (!VMM_CALLS.has(mnemonic)) this.found.push(`${where}: leaves by no near branch`);
        } else if (!relocated && !starts.has(target)) this.found.push(`${where}: branches to where no instruction starts`);
        return;
      case FlowControl.IndirectBranch:
      case FlowControl.IndirectCall:
        if (!byMemory || !relocated || (code !== Code.Call_rm64 && code !== Code.Jmp_rm64)) this.found.push(`${where}: an indirect branch`);
        return;
      case FlowControl.Return:
        if (code !== Code.Retnq) this.found.push(`${where}: returns otherwise than by RET`);
        return;
      case FlowControl.Interrupt:
        return;
      default:
        this.found.push(`${where}: a transfer of an unknown kind`);
    }
  }

  private checkRelocations(original: Section, section: Section, listing: Listing | undefined, replaced: ReadonlySet<number>): void {
    const relocations = byOffset(section);
    const fields = new Set(listing?.transfers.filter(({ target }) => target !== undefined).map(({ end }) => end - 4));
    for (const [offset, wanted] of byOffset(original)) {
      const where = place(section, offset);
      const relocation = relocations.get(offset);
      relocations.delete(offset);
      if (replaced.has(offset)) continue;
      if (!relocation) {
        // The key by which the kernel would patch the static call of a tracepoint.
        const frozen = section.name === '__tracepoints' && wanted.symbol.name.startsWith('__SCK__tp_func_');
        if (!frozen) this.found.push(`${where}: the relocation is gone`);
        continue;
      }
      const relative = relocation.type === R.pc32 || relocation.type === R.plt32;
      const end = listing && relative ? listing.ends[offset] : undefined;
      if (relocation.type !== wanted.type) this.found.push(`${where}: another type of relocation`);
      else if (fields.has(offset)) this.expectBranch(where, relocation, wanted, end);
      else if (codeOf(wanted) && !POSITION_LISTS.test(section.name)) this.expectEntryGate(where, relocation, wanted, end);
      else this.expectSame(where, relocation, wanted);
    }
    for (const offset of relocations.keys()) this.found.push(`${place(section, offset)}: a relocation that the stock file does not have`);
  }

  private expectBranch(where: string, relocation: Relocation, wanted: Relocation, end: number | undefined): void {
    const { symbol } = wanted;
    if (symbol.place !== 'undefined') {
      this.expectSame(where, relocation, wanted);
      const into = codeOf(relocation);
      if (!into || !this.listing(into).starts.has(reached(relocation, end)))
        this.found.push(`${where}: branches to where no instruction starts`);
      return;
    }
    const register = /^__x86_indirect_(?:call_|jump_)?thunk_(\w+)$/.exec(symbol.name)?.[1];
    if (register !== undefined) this.expectThunk(where, relocation, end, register);
    else if (!relocation.symbol.name.startsWith(ROUTINE)) this.expectCallGate(where, relocation, end, symbol.name);
    else if (
      relocation.symbol.name !== ROUTINE + symbol.name ||
      codeOf(relocation)?.name !== DEVICE_SECTION ||
      relocation.addend !== wanted.addend
    )
      this.found.push(`${where}: a transfer to ${symbol.name} ends at ${relocation.symbol.name}`);
  }

  private expectThunk(where: string, relocation: Relocation, end: number | undefined, register: string): void {
    const section = codeOf(relocation);
    const target = reached(relocation, end);
    const jump = section?.name === THUNK_SECTION ? this.listing(section).transfers.find(({ at }) => at === target) : undefined;
    const found = jump ? Register[jump.register].toLowerCase() : 'no thunk';
    if (found !== register) this.found.push(`${where}: a branch through ${register} goes by ${found}`);
  }

  /** The start of a function jumps to its own stub, which comes back right behind the jump; its end, to the routine that ends a call. */
  private expectShadowStack(section: Section, jump: Relocation, name: string): void {
    const where = place(section, jump.offset - 1);
    const routines = codeOf(jump);
    const target = reached(jump, jump.offset + 4);
    if (routines?.name !== SHADOW_TEXT) this.found.push(`${where}: the jump in place of ${name} leads to no shadow stack`);
    else if (name === '__x86_return_thunk') {
      if (target !== SHADOW.leave) this.found.push(`${where}: a function ends at ${place(routines, target)}`);
    } else {
      const stub = new DataView(routines.data.buffer, routines.data.byteOffset + target, STUB_SIZE);
      const body = byOffset(routines).get(target + STUB.body);
      const whole =
        target >= SHADOW.stubs &&
        (target - SHADOW.stubs) % STUB_SIZE === 0 &&
        bytesOf(routines, target, target + STUB.body) === STUB.start &&
        bytesOf(routines, target + STUB.target - 1, target + STUB.target) === STUB.jump &&
        target + STUB_SIZE + stub.getInt32(STUB.target, true) === SHADOW.enter;
      if (!whole) this.found.push(`${where}: ${place(routines, target)} is no stub`);
      if (!body || codeOf(body) !== section || reached(body, target + STUB.body + 4) !== jump.offset + 4)
        this.found.push(`${where}: its stub goes on elsewhere`);
    }
  }

  /** A direct transfer to the kernel's function `name` ends at its call gate, at the first byte. */
  private expectCallGate(where: string, relocation: Relocation, end: number | undefined, name: string): void {
    const target = reached(relocation, end);
    const gate = this.gateAt(relocation, target);
    const link = this.links.get(target + LINK_WORD);
    const linked = link?.symbol.place === 'undefined' && link.symbol.name === name && link.addend === 0;
    if (gate?.kind !== 'call' || gate.symbol !== name || !linked)
      this.found.push(`${where}: a transfer to ${name} ends at ${this.describe(relocation, gate)}`);
  }

  /** A code address that is handed out is that of the entry gate of the function that the stock file names. */
  private expectEntryGate(where: string, relocation: Relocation, wanted: Relocation, end: number | undefined): void {
    const target = reached(relocation, end);
    const gate = this.gateAt(relocation, target);
    const link = this.links.get(target + LINK_WORD);
    const section = codeOf(wanted);
    const at = reached(wanted, end);
    const linked = section && link && codeOf(link) === this.partners.get(section) && reached(link, undefined) === at;
    if (gate?.kind !== 'entry' || gate.section !== section?.name || gate.sectionOffset !== at || !linked)
      this.found.push(`${where}: hands out ${this.describe(relocation, gate)} for ${section ? place(section, at) : 'no code'}`);
  }

  private gateAt({ symbol }: Relocation, target: number): Gate | undefined {
    return symbol.place === this.gates ? this.byGate.get(target) : undefined;
  }

  private describe({ symbol }: Relocation, gate: Gate | undefined): string {
    return gate ? `the ${gate.kind} gate ${gate.symbol}` : `${symbol.name === '' ? 'a section' : symbol.name}, no gate`;
  }

  private expectSame(where: string, { symbol, addend }: Relocation, wanted: Relocation): void {
    const { place: original, name, value } = wanted.symbol;
    const same =
      typeof original === 'object'
        ? symbol.place === this.partners.get(original) && symbol.value + addend === value + wanted.addend
        : symbol.place === original && symbol.name === name && symbol.value === value && addend === wanted.addend;
    if (!same) this.found.push(`${where}: refers to something else than in the stock file`);
  }

  /** The monitor knows init and exit by the manifest, the kernel by struct module. */
  private checkInitAndExit(): void {
    const handedOut = new Set(
      this.image
        .section('.gnu.linkonce.this_module')
        ?.relocations.filter(({ symbol }) => symbol.place === this.gates)
        .map((relocation) => reached(relocation)),
    );
    for (const [name, offset] of [
      ['init_module', this.manifest.initGate],
      ['cleanup_module', this.manifest.cleanupGate],
    ] as const) {
      const symbol = this.stock.symbols.find((candidate) => candidate.name === name && typeof candidate.place === 'object');
      const gate = this.byGate.get(offset);
      const there = typeof symbol?.place === 'object' && gate?.section === symbol.place.name && gate.sectionOffset === symbol.value;
      if (symbol ? !there || !handedOut.has(offset) : offset !== -1)
        this.found.push(`the manifest's gate of ${name} is not that of struct module`);
    }
  }
}
