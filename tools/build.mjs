// Builds everything: the CPU core to build/soft.wasm, TypeScript to dist/.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root, run } from './lib.mjs';

mkdirSync(join(root, 'build'), { recursive: true });
run(process.execPath, ['tools/build-core.mjs']);
run(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.json']);
writeFileSync(join(root, 'build/stamp'), `${new Date().toISOString()}\n`);
