// Builds the soft engine's core: generates its tables and switch from the opcode table, then compiles core/main.ts to build/soft.wasm.
// Usage: node tools/build-core.mjs [--fast] [--text]     --fast: less optimised, for a quick try; --text: also build/soft.wat
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import asc from 'assemblyscript/asc';
import ts from 'typescript';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const soft = join(root, 'src/engine/soft');
const build = join(root, 'build');

/** Transpiles the table's TypeScript, which this Node version cannot load directly. */
async function loadIsa() {
  const out = join(build, 'isa');
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  for (const file of readdirSync(join(soft, 'isa'))) {
    if (!file.endsWith('.ts') || file.endsWith('.test.ts')) continue;
    const { outputText } = ts.transpileModule(readFileSync(join(soft, 'isa', file), 'utf8'), {
      compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022, rewriteRelativeImportExtensions: true },
    });
    writeFileSync(join(out, file.replace(/\.ts$/, '.js')), outputText);
  }
  writeFileSync(join(out, 'package.json'), '{"type":"module"}\n');
  const load = (name) => import(`${pathToFileURL(join(out, name)).href}?${Date.now()}`);
  return { ...(await load('table.js')), ...(await load('generate.js')) };
}

export async function buildCore({ fast = false, text = false } = {}) {
  const { opcodeTable, generate } = await loadIsa();
  const generated = join(soft, 'core/generated');
  mkdirSync(generated, { recursive: true });
  const table = opcodeTable();
  for (const [name, content] of generate(table)) {
    const path = join(generated, name);
    let old = '';
    try {
      old = readFileSync(path, 'utf8');
    } catch {
      /* first build */
    }
    if (old !== content) writeFileSync(path, content);
  }
  // -O3 takes 2.5 times as long as -O2 and runs no faster (bench/cpu-micro.mjs --core).
  const { error, stderr } = await asc.main(
    [
      join(soft, 'core/main.ts'),
      fast ? '-O1' : '-O2',
      '--runtime',
      'stub',
      '--importMemory',
      '--sharedMemory',
      '--initialMemory',
      '1024',
      '--maximumMemory',
      '65536',
      '--memoryBase',
      '4096',
      '--enable',
      'threads',
      '--enable',
      'simd',
      '--noAssert',
      // 201: sizes differ in 64-bit memory, which the core never has; 112: v128 in signatures that only the core itself uses
      '--disableWarning',
      '201',
      '--disableWarning',
      '112',
      '--outFile',
      join(build, 'soft.wasm'),
      ...(text ? ['--textFile', join(build, 'soft.wat')] : []),
    ],
    {},
  );
  if (error) throw new Error(`AssemblyScript: ${error.message}\n${stderr.toString()}`);
  const warnings = stderr.toString();
  if (warnings) console.error(warnings);
  return { rows: table.length };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const started = Date.now();
  const { rows } = await buildCore({ fast: process.argv.includes('--fast'), text: process.argv.includes('--text') });
  console.log(`build/soft.wasm from ${rows} opcode rows in ${((Date.now() - started) / 1000).toFixed(1)} s`);
}
