// `npm run attacks`: the attack suite with its proof. Makes the attack build, a copy of the build in which one file, the switch of the defences, is
// replaced by one that can be switched (src/base/defence-switch.attack.ts), and runs `portcullis attack` of that copy. Arguments go there; `--help` shows them.
import { cpSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { build, install, root } from './lib.mjs';

/** Makes the attack build in a folder of build/; gives its command line's path. */
export async function attackBuild(name = 'attacks') {
  const { default: typescript } = await import('typescript');
  const folder = join(root, 'build', name);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  cpSync(join(root, 'dist'), join(folder, 'dist'), { recursive: true });
  // What the code finds beside `dist`.
  symlinkSync(join(root, 'modules'), join(folder, 'modules'));
  symlinkSync(join(root, 'build'), join(folder, 'build'));
  symlinkSync(join(root, 'package.json'), join(folder, 'package.json'));
  const source = readFileSync(join(root, 'src/base/defence-switch.attack.ts'), 'utf8');
  const compilerOptions = { module: 'ESNext', target: 'ES2022', rewriteRelativeImportExtensions: true };
  writeFileSync(join(folder, 'dist/base/defence-switch.js'), typescript.transpileModule(source, { compilerOptions }).outputText);
  return join(folder, 'dist/cli/main.js');
}

if (process.argv[1] === join(root, 'tools/attacks.mjs')) {
  install();
  build();
  const child = spawn(process.execPath, [await attackBuild(), 'attack', ...process.argv.slice(2)], { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
  child.on('exit', (code, signal) => process.exit(code ?? (signal === 'SIGINT' ? 130 : 143)));
}
