// Style, types, import directions, file sizes. Prints what is wrong, exits 1 if anything is.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { root } from './lib.mjs';

const problems = [];
const node = (args, what) => {
  const result = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' });
  if (result.status !== 0) problems.push(`${what}:\n${result.stdout}${result.stderr}`);
};
node(['node_modules/typescript/bin/tsc', '-p', 'tsconfig.check.json'], 'types');
node(['node_modules/@biomejs/biome/bin/biome', 'check', '--max-diagnostics=40', '.'], 'style');

// Imports point to the left only (ARCHITECTURE.md, "The tree").
const LAYERS = [
  ['base'],
  ['elf', 'policy', 'engine/contract'],
  ['linker', 'monitor', 'machine', 'net', 'engine/soft', 'engine/fake', 'engine/kvm'],
  ['privileges', 'guest'],
  ['vm'],
  ['attacks'],
  ['cli'],
];
const layerOf = (path) =>
  LAYERS.findIndex((names) => names.some((name) => path === name || path.startsWith(`${name}/`) || path === `${name}.ts`));
const partOf = (path) => LAYERS.flat().find((name) => path === name || path.startsWith(`${name}/`) || path === `${name}.ts`);
const source = join(root, 'src');
for (const file of readdirSync(source, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'))) {
  const text = readFileSync(join(source, file), 'utf8');
  const lines = text.split('\n').length;
  const isTable = file.startsWith('engine/soft/isa/') || file.includes('/generated/');
  if (lines > 701 && !isTable) problems.push(`src/${file} has ${lines} lines; 700 is the most`);
  const isTest = file.endsWith('.test.ts');
  for (const [, target] of text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)) {
    const to = relative(source, join(source, dirname(file), target));
    if (partOf(file) === partOf(to)) continue;
    if (layerOf(file) < 0) problems.push(`src/${file} is in no layer`);
    else if (layerOf(to) < 0) problems.push(`src/${file} imports ${to}, which is in no layer`);
    else if (!isTest && layerOf(to) >= layerOf(file)) problems.push(`src/${file} imports ${to}: imports point to the left only`);
  }
  if (/^engine\/soft\/core\//.test(file) && /from '\.\.\/\.\.\//.test(text))
    problems.push(`src/${file}: the core imports from outside itself`);
}
for (const problem of problems) console.error(problem);
console.log(problems.length === 0 ? 'checks passed' : `${problems.length} checks failed`);
process.exit(problems.length === 0 ? 0 : 1);
