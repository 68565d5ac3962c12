/** The host CPU as the oracle: builds native.c with gcc and runs cases in it. Only for making fixtures and for the fuzz command. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { UserError } from '../../src/base/errors.ts';
import { type Case, END, input, memoryBefore, newCase, normalise, type Outcome } from './fixture.ts';
import { codeSegment, WINDOWS } from './layout.ts';

const RF = 0x10000n;
const INPUT_SIZE = 16 * 8 + 16 + 512 + 8;
const OUTPUT_SIZE = 8 + 8 + 16 * 8 + 16 + 512 + 8;
const BATCH = 5000;

type Input = ReturnType<typeof input>;

export class Native {
  private readonly folder = mkdtempSync(join(tmpdir(), 'cpu-oracle-'));
  private readonly program = join(this.folder, 'oracle');
  private readonly memory = WINDOWS.map(({ size }) => new Uint8Array(size));

  /** Throws UserError when there is no C compiler or the host is not x86-64. */
  constructor() {
    const source = fileURLToPath(new URL('native.c', import.meta.url));
    const built = spawnSync('gcc', ['-O2', '-fPIE', '-pie', '-fno-stack-protector', '-o', this.program, source], { encoding: 'utf8' });
    if (built.status !== 0) {
      throw new UserError(`gcc cannot build ${source}: ${built.error?.message ?? built.stderr}`, 'install gcc on an x86-64 Linux host');
    }
  }

  /** Outcomes in the order of the cases. The memory of one is good until the next is asked for. */
  *run(cases: readonly Case[]): Generator<Outcome> {
    for (let i = 0; i < cases.length; i += BATCH) yield* this.batch(cases.slice(i, i + BATCH));
  }

  /** Why the host's CPU cannot be asked here, or undefined. */
  static missing(): string | undefined {
    if (process.platform !== 'linux' || process.arch !== 'x64') return `the host is ${process.platform} ${process.arch}, not x86-64 Linux`;
    let native: Native | undefined;
    try {
      native = new Native();
      const [nop] = native.run([newCase(64, [0x90], 'gi', 1)]);
      return nop?.vector === END ? undefined : `the host's kernel ends NOP with vector ${nop?.vector}`;
    } catch (error) {
      return (error as Error).message;
    } finally {
      native?.close();
    }
  }

  close(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }

  private *batch(cases: readonly Case[]): Generator<Outcome> {
    const inputs = cases.map((test) => input(test));
    const parts: Uint8Array[] = [new Uint8Array(new Uint32Array([cases.length, 0]).buffer)];
    cases.forEach((test, i) => {
      parts.push(...encode(test, inputs[i] as Input));
    });
    const run = spawnSync(this.program, { input: Buffer.concat(parts), maxBuffer: 1 << 30 });
    if (run.status !== 0) throw new Error(`the oracle ended with status ${run.status}, signal ${run.signal}: ${run.stderr}`);
    const data = new DataView(run.stdout.buffer, run.stdout.byteOffset, run.stdout.byteLength);
    let at = 0;
    for (const [i, test] of cases.entries()) {
      const { outcome, next } = decode(data, at, test, memoryBefore((inputs[i] as Input).patches, this.memory));
      at = next;
      yield outcome;
    }
  }
}

function encode(test: Case, { state, patches }: Input): Uint8Array[] {
  const head = new Uint8Array(INPUT_SIZE);
  const data = new DataView(head.buffer);
  state.gpr.forEach((value, i) => {
    data.setBigUint64(8 * i, value, true);
  });
  const { selector, base } = codeSegment(test.bits);
  data.setBigUint64(128, BigInt(test.at - base), true);
  data.setBigUint64(136, state.rflags, true);
  head.set(state.fx, 144);
  data.setUint32(656, selector, true);
  data.setUint32(660, patches.length, true);
  return [
    head,
    ...patches.map(({ address, bytes }) => {
      const part = new Uint8Array(8 + ((bytes.length + 7) & ~7));
      new DataView(part.buffer).setUint32(0, address, true);
      new DataView(part.buffer).setUint32(4, bytes.length, true);
      part.set(bytes, 8);
      return part;
    }),
  ];
}

function decode(data: DataView, start: number, test: Case, memory: Uint8Array[]): { outcome: Outcome; next: number } {
  const vector = data.getUint32(start, true);
  const gpr = new BigUint64Array(16).map((_, i) => data.getBigUint64(start + 16 + 8 * i, true));
  const rip = data.getBigUint64(start + 144, true) + BigInt(codeSegment(test.bits).base);
  const fx = new Uint8Array(data.buffer, data.byteOffset + start + 160, 512);
  const outcome: Outcome = {
    vector,
    error: vector >= 8 && vector <= 17 ? data.getUint32(start + 4, true) : 0,
    cr2: data.getBigUint64(start + 8, true),
    rip: vector === END ? rip - 1n : rip,
    gpr,
    rflags: data.getBigUint64(start + 152, true) & ~RF,
    fx: normalise(fx),
    memory,
  };
  if (test.bits !== 64) outcome.gpr.fill(0n, 8);
  let at = start + OUTPUT_SIZE;
  for (let left = data.getUint32(start + 672, true); left > 0; left--) {
    const address = data.getUint32(at, true),
      length = data.getUint32(at + 4, true);
    const w = WINDOWS.findIndex((window) => address >= window.base && address < window.base + window.size);
    memory[w]?.set(new Uint8Array(data.buffer, data.byteOffset + at + 8, length), address - (WINDOWS[w]?.base ?? 0));
    at += 8 + length;
  }
  return { outcome, next: at };
}
