/**
 * From the first gate trap of unknown code to a verified module: which registered image is it, where does it lie, is it unchanged?
 * Everything here reads guest memory once and trusts none of it (P9).
 */
import { on } from '../base/defence-switch.ts';
import { hex } from '../base/hex.ts';
import { PAGE_SIZE } from '../engine/contract.ts';
import type { Cpu, GuestMemory } from '../engine/contract.ts';
import { GATE_PORT, GATE_SIZE } from '../policy/manifest.ts';
import { guestReader, ramPage } from './guest-memory.ts';
import type { ImageSource } from './image.ts';
import { buildPlacement } from './relocate.ts';
import type { PlacedPage, Placement } from './relocate.ts';
import { Refusal, solve } from './solve.ts';
import type { Solution } from './solve.ts';

/** Bytes of a gate before its link word (policy/manifest.ts). */
const GATE_CODE = [0xe6, GATE_PORT, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc];

/** True if guest memory at `address` looks like a gate. */
export function looksLikeGate(cpu: Cpu, memory: GuestMemory, address: number): boolean {
  if (!(address < 0) || (address & (GATE_SIZE - 1)) !== 0) return false;
  const bytes = guestReader(cpu, memory)(address, GATE_CODE.length);
  return bytes !== undefined && GATE_CODE.every((byte, index) => bytes[index] === byte);
}

/** Offsets in the gate section at which the gate at `address` may lie: its page must hold the image's pattern of used and unused gates. */
export function matchingOffsets(cpu: Cpu, memory: GuestMemory, image: ImageSource, address: number): number[] {
  const inPage = address & (PAGE_SIZE - 1);
  const page = guestReader(cpu, memory)(address - inPage, PAGE_SIZE);
  if (!page) return [];
  const offsets: number[] = [];
  for (let first = 0; first < image.gates.length; first += PAGE_SIZE / GATE_SIZE) {
    if (image.gates[first + inPage / GATE_SIZE]?.kind === 'entry' && matches(page, image, first)) offsets.push(first * GATE_SIZE + inPage);
  }
  return offsets;
}

function matches(page: Uint8Array, image: ImageSource, first: number): boolean {
  for (let slot = 0; slot < PAGE_SIZE / GATE_SIZE; slot++) {
    const used = image.gates[first + slot] !== undefined;
    for (let index = 0; index < GATE_CODE.length; index++) {
      if (page[slot * GATE_SIZE + index] !== (used ? GATE_CODE[index] : 0xcc)) return false;
    }
  }
  return true;
}

export interface Verified {
  readonly solution: Solution;
  readonly placement: Placement;
  readonly frames: ReadonlyMap<PlacedPage, number>;
}

/** Solves, builds and compares. `owners`: per guest frame, not 0 if it belongs to a guarded module already. Throws Refusal. */
export function verify(cpu: Cpu, memory: GuestMemory, image: ImageSource, gateBase: number, owners: Uint8Array): Verified {
  const read = guestReader(cpu, memory);
  const solution = solve(image, gateBase, read);
  const placement = buildPlacement(image, solution, read);
  const frames = new Map<PlacedPage, number>();
  const seen = new Set<number>();
  for (const page of placement.pages) {
    if (page.role !== 'text' && page.role !== 'gates') continue;
    const gpa = ramPage(cpu, memory, page.address);
    if (gpa < 0) throw new Refusal('not-mapped', `${page.role} page ${hex(page.address)}`);
    if ((owners[gpa / PAGE_SIZE] !== 0 || seen.has(gpa)) && on('frame-unshared'))
      throw new Refusal('frame-shared', `frame ${hex(gpa)} of ${page.role} page ${hex(page.address)}`);
    seen.add(gpa);
    frames.set(page, gpa);
  }
  return { solution, placement, frames };
}
