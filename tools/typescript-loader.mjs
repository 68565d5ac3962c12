// Lets a tool import the project's TypeScript as it is: `import './typescript-loader.mjs'` first, then `await import('../x.ts')`.
import { register } from 'node:module';

register(
  `data:text/javascript,${encodeURIComponent(`
  import { readFile } from 'node:fs/promises';
  import { fileURLToPath } from 'node:url';
  import typescript from '${import.meta.resolve('typescript')}';
  const compilerOptions = { module: 'ESNext', target: 'ES2022', sourceMap: false };
  export async function load(url, context, next) {
    if (!url.endsWith('.ts')) return next(url, context);
    const source = await readFile(fileURLToPath(url), 'utf8');
    return { format: 'module', shortCircuit: true, source: typescript.transpileModule(source, { compilerOptions }).outputText };
  }
`)}`,
);
