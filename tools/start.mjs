// `npm start`: installs, builds, and runs the main job. Arguments go to `portcullis demo`; `npm start -- --help` shows them.
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { build, install, root } from './lib.mjs';

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(`portcullis: Node ${process.versions.node} is too old; 20.19 or later is needed`);
  process.exit(2);
}
install();
build();
const child = spawn(process.execPath, [join(root, 'dist/cli/main.js'), 'demo', ...process.argv.slice(2)], { stdio: 'inherit' });
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
child.on('exit', (code, signal) => process.exit(code ?? (signal === 'SIGINT' ? 130 : 143)));
