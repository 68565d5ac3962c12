/** The WebAssembly core: loading it, and the types of what it exports. One instance runs one virtual CPU over the shared memory. */

import { randomInt } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { UserError } from '../../base/errors.ts';

/** Exports of core/main.ts. Addresses are unsigned offsets in linear memory. */
export interface Core {
  attach(block: number): void;
  /** Executes from the architectural state; returns EXIT_*, or throws UNWIND. */
  resume(): number;
  carryOn(): number;
  /** Finishes an unwound instruction: 0 or EXIT_*. */
  unwound(): number;
  systemChanged(): void;
  enterView(view: number): void;
  inject(vector: number): void;
  nmi(): void;
  requestWindow(): void;
  readMsr(index: number): number;
  msrResult(): bigint;
  writeMsr(index: number, value: bigint): number;
  translate(address: number, write: boolean): number;
  writeDebug(index: number, value: bigint): void;
  initVector(): void;
  saveVector(into: number): void;
  loadVector(from: number): void;
}

/** What `env.unwind` throws: one constant, so that nothing is allocated and nothing else is caught by mistake. */
export const UNWIND = { name: 'Unwind' };

let built: WebAssembly.Module | undefined;

/** The compiled core, from `wasm` or else from build/soft.wasm at the project's root. Throws UserError when it was never built. */
export function loadCore(wasm?: Uint8Array): WebAssembly.Module {
  if (wasm) return new WebAssembly.Module(wasm);
  if (!built) {
    const path = fileURLToPath(new URL('../../../build/soft.wasm', import.meta.url));
    if (!existsSync(path)) throw new UserError(`the soft engine's core is missing: ${path}`, 'run "npm run build"', 'failed');
    built = new WebAssembly.Module(readFileSync(path));
  }
  return built;
}

/** An instance over `memory`. `now`: ns since the start. */
export function instantiate(module: WebAssembly.Module, memory: WebAssembly.Memory, now: () => number): Core {
  const env = {
    memory,
    now,
    unwind: () => {
      throw UNWIND;
    },
    random: () => randomInt(0x1_0000_0000),
    abort: () => {
      throw new Error('the core aborted');
    },
  };
  return new WebAssembly.Instance(module, { env }).exports as unknown as Core;
}
