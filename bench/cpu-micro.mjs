// Speed of the soft engine's interpreter on small hot loops, in million guest instructions per CPU second.
// Usage: npm run build && node bench/cpu-micro.mjs [--core build/soft.wasm] [--only NAME]
//
// The loops are 64-bit code at CPL 0 over identity-mapped 2 MiB pages. Their bytes were assembled from the comments.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { createSoftEngine } from '../dist/engine/soft/engine.js';

const CODE = 0x100000;
const DATA = 0x200000;
const TABLES = 0x10000;
const STACK = 0x180000;

export const LOOPS = {
  // xorshift64 in rdx; movzx eax, dl; add rbx, [rsi+rax*8]; mov [rdi], rbx; dec rcx; jnz
  table: {
    code: '48ba896745230100000031db4889d048c1e00d4831c24889d048c1e8074831c24889d048c1e0114831c20fb6c248031cc648891f48ffc975d3f4',
    registers: { rcx: 2_000_000n, rsi: 0x200000n, rdi: 0x210000n },
  },
  // fib(rdi) by recursion: call, push, pop, ret, compare and branch
  fib: { code: 'e801000000f44883ff0177044889f8c3535748ffcfe8ecffffff4889c35f4883ef02e8dfffffff4801d85bc3', registers: { rdi: 29n } },
  // lower-cases bytes [rsi, rdx) to rdi, rcx times: short branchy blocks
  bytes: {
    code: '0fb60648ffc684c0740b3c4172073c5a770383c820880748ffc74839d672e148ffc974084889de4889efebd4f4',
    registers: { rcx: 50n, rsi: 0x200000n, rbx: 0x200000n, rdx: 0x210000n, rdi: 0x220000n, rbp: 0x220000n },
  },
};

const REGISTERS = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi'];

function option(name) {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? undefined : process.argv[at + 1];
}

function createMachine() {
  const core = option('core');
  const engine = createSoftEngine({ memorySize: 64 << 20, cpus: 1, clock: 'host', ...(core ? { wasm: readFileSync(core) } : {}) });
  const { words, bytes } = engine.memory;
  words[TABLES / 4] = (TABLES + 0x1000) | 3;
  words[(TABLES + 0x1000) / 4] = (TABLES + 0x2000) | 3;
  for (let i = 0; i < 32; i++) words[(TABLES + 0x2000) / 4 + 2 * i] = (i << 21) | 0x83;
  for (let i = 0; i < 0x10000; i++) bytes[DATA + i] = 32 + ((i * 7919) % 91);
  const [cpu] = engine.cpus;
  const system = cpu.readSystem();
  system.segments[1] = { selector: 8, base: 0n, limit: 0xffffffff, attributes: 0xa09b };
  for (const i of [0, 2, 3, 4, 5]) system.segments[i] = { selector: 16, base: 0n, limit: 0xffffffff, attributes: 0xc093 };
  cpu.writeSystem({ ...system, cr0: 0x80050033n, cr3: BigInt(TABLES), cr4: 0x620n, efer: 0x500n });
  return { engine, cpu };
}

/** Million instructions per CPU second, the best of five runs. */
export function measureLoop(name) {
  const { code, registers } = LOOPS[name];
  const { engine, cpu } = createMachine();
  engine.memory.bytes.set(Buffer.from(code, 'hex'), CODE);
  engine.memory.written(CODE, code.length / 2);
  let best = 0;
  for (let round = 0; round < 5; round++) {
    for (const name of REGISTERS) cpu.registers.words[REGISTERS.indexOf(name)] = registers[name] ?? 0n;
    cpu.registers.words[4] = BigInt(STACK);
    cpu.registers.words[16] = BigInt(CODE);
    const before = cpu.instructions;
    const started = process.cpuUsage();
    const exit = cpu.run(Number.POSITIVE_INFINITY);
    if (exit.kind !== 'halt') throw new Error(`expected halt, got ${JSON.stringify(exit)}`);
    const { user, system } = process.cpuUsage(started);
    best = Math.max(best, (cpu.instructions - before) / (user + system));
  }
  return best;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const name of Object.keys(LOOPS)) {
    if (option('only') && option('only') !== name) continue;
    console.log(`${name.padEnd(8)} ${measureLoop(name).toFixed(0).padStart(5)} MIPS`);
  }
}
