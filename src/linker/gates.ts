/**
 * The gate section. A gate is `out %al, $GATE_PORT`, six int3, and a link word that the kernel's own relocation fills in (see
 * policy/manifest.ts). Gates 0 and 1 are the return and the re-entry gate; then entry gates by address, then call gates by name.
 */

import { R, SHF, SHT, STB, STT } from '../elf/constants.ts';
import type { ElfObject, ElfSymbol, Relocation, Section } from '../elf/object.ts';
import { GATE_PORT, GATE_SECTION, GATE_SIZE, type Gate } from '../policy/manifest.ts';
import type { OwnFunction } from './classify.ts';

const PAGE_SIZE = 4096;
export const LINK_WORD = 8;
/** A gate's bytes up to its link word. */
export const GATE_CODE: readonly number[] = [0xe6, GATE_PORT, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc];

export interface GateTable {
  /** As the manifest lists them. */
  gates: Gate[];
  /** The gate symbol of an own function. */
  entry(target: OwnFunction): ElfSymbol;
  /** The gate symbol of a transfer to the kernel; without a relocation, the gate shared by all who have none of their own. */
  call(symbol: ElfSymbol, relocation?: Relocation): ElfSymbol;
  /** The symbol of the return gate. */
  returnGate: ElfSymbol;
}

/** The transfers to one kernel function that share a gate. */
export interface CallGate {
  symbol: ElfSymbol;
  /** Those that are meant; all others of this symbol if not given. */
  only?: ReadonlySet<Relocation>;
  recorded?: true;
}

export interface GatesWanted {
  entries: Iterable<OwnFunction>;
  /** Of `entries`, by first name: may be called before the init function. */
  beforeInit: ReadonlySet<ElfSymbol>;
  calls: Iterable<CallGate>;
}

/** Adds the gate section with its symbols and relocations. `entries` and `calls` hold no duplicates; the order matters for calls of one symbol alone. */
export function addGates(object: ElfObject, { entries, beforeInit, calls }: GatesWanted): GateTable {
  const index = new Map(object.sections.map((section, position) => [section, position]));
  const at = (target: OwnFunction) => index.get(target.section) ?? 0;
  const sortedEntries = [...entries].sort((a, b) => at(a) - at(b) || a.offset - b.offset);
  const sortedCalls = [...calls].sort(({ symbol: a }, { symbol: b }) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));

  const count = 2 + sortedEntries.length + sortedCalls.length;
  const data = new Uint8Array(Math.ceil((count * GATE_SIZE) / PAGE_SIZE) * PAGE_SIZE).fill(0xcc);
  const section = object.addSection({
    name: GATE_SECTION,
    type: SHT.progbits,
    flags: SHF.alloc | SHF.exec,
    alignment: PAGE_SIZE,
    entrySize: 0,
    data,
  });
  const gates: Gate[] = [];
  const entrySymbols = new Map<Section, Map<number, ElfSymbol>>();
  const callSymbols = new Map<ElfSymbol | Relocation, ElfSymbol>();

  const add = (gate: Omit<Gate, 'offset'>, name: string, link: ElfSymbol | undefined): ElfSymbol => {
    const offset = gates.length * GATE_SIZE;
    data.set(GATE_CODE, offset);
    data.fill(0, offset + LINK_WORD, offset + GATE_SIZE);
    gates.push({ ...gate, offset });
    if (link) section.relocations.push({ offset: offset + LINK_WORD, type: R.abs64, symbol: link, addend: 0 });
    return object.addSymbol({ name, binding: STB.local, type: STT.func, other: 0, place: section, value: offset, size: GATE_SIZE });
  };

  const returnGate = add({ kind: 'return', symbol: '' }, 'guard.return', undefined);
  add({ kind: 're-entry', symbol: '' }, 'guard.re-entry', undefined);
  for (const target of sortedEntries) {
    const [own] = target.names;
    const symbol = add(
      {
        kind: 'entry',
        symbol: own.name,
        section: target.section.name,
        sectionOffset: target.offset,
        ...(beforeInit.has(own) ? { beforeInit: true } : {}),
      },
      `guard.in.${own.name}`,
      own,
    );
    const bySection = entrySymbols.get(target.section) ?? new Map<number, ElfSymbol>();
    entrySymbols.set(target.section, bySection.set(target.offset, symbol));
  }
  for (const { symbol, only, recorded } of sortedCalls) {
    const own = add({ kind: 'call', symbol: symbol.name, ...(recorded ? { recorded } : {}) }, `guard.out.${symbol.name}`, symbol);
    for (const user of only ?? [symbol]) callSymbols.set(user, own);
  }

  return {
    gates,
    entry: (target) => known(entrySymbols.get(target.section)?.get(target.offset)),
    call: (symbol, relocation) => known((relocation && callSymbols.get(relocation)) ?? callSymbols.get(symbol)),
    returnGate,
  };
}

function known(symbol: ElfSymbol | undefined): ElfSymbol {
  if (!symbol) throw new Error('a gate was asked for that was not made');
  return symbol;
}
