/**
 * Which transfers to the kernel share a call gate. As a rule, all to one function do. In a module with a shadow stack each call has its own, so that the gate
 * itself says where the call returns to and the VMM need not believe the word on the stack; jumps return where the record of their function says.
 */
import type { ElfSymbol, Relocation } from '../elf/object.ts';
import type { Analysis } from './analyse.ts';
import { leavesToKernel } from './device-routines.ts';
import type { CallGate } from './gates.ts';
import type { RecordedCode } from './recorded.ts';

const CALL = 0xe8;

export function callGates({ calls, edits, deviceRoutines }: Analysis, recorded: RecordedCode | undefined): CallGate[] {
  if (recorded === undefined) return calls.map((symbol) => ({ symbol }));
  const own: CallGate[] = [];
  const jumps = new Map<ElfSymbol, Set<Relocation>>();
  const others = new Set([...deviceRoutines.values()].filter(({ name }) => leavesToKernel(name)));
  const transferred = new Set(edits.flatMap(({ decision }) => (decision.kind === 'call-out' ? [decision.symbol] : [])));
  for (const symbol of calls) if (!transferred.has(symbol)) others.add(symbol); // for the VMM alone (print-import.ts)
  for (const { section, relocation, decision } of edits) {
    if (decision.kind !== 'call-out') continue;
    const { symbol } = decision;
    if (section.data[relocation.offset - 1] === CALL) own.push({ symbol, only: new Set([relocation]) });
    else if (recorded.has(section, relocation.offset)) jumps.set(symbol, (jumps.get(symbol) ?? new Set()).add(relocation));
    else others.add(symbol);
  }
  return [
    ...[...others].map((symbol) => ({ symbol })),
    ...[...jumps].map(([symbol, only]) => ({ symbol, only, recorded: true as const })),
    ...own,
  ];
}
