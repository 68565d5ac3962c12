/** `portcullis build-module`: C kernel modules for the stock kernel, to be linked and guarded like stock ones. */
import { writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { UserError } from '../base/errors.ts';
import { buildCModules } from '../guest/c-module.ts';
import { fetchKernel } from '../guest/fetch.ts';
import { action, LIMITS, readInput } from './command.ts';
import { printJson } from './output.ts';

export function addBuildModuleCommand(program: Command): void {
  const command = program
    .command('build-module')
    .argument('<source...>', 'C files, one for each module')
    .description('build kernel modules for the stock kernel out of C files')
    .option('--output <file>', 'the module, where there is one; default: NAME.ko here')
    .addHelpText(
      'after',
      `
Examples:
  portcullis build-module modules/example/example.c
  portcullis link ./example.ko
  portcullis build-module server.c client.c   # a module each; either may call what the other exports

Needs gcc and make; the kernel's headers are fetched into the cache.
`,
    );
  action(command, async ({ json, progress }, sources: string[], options: { output?: string }) => {
    if (options.output !== undefined && sources.length > 1)
      throw new UserError(`--output names one file, and ${sources.length} modules are built`, 'leave it out, or build one module');
    for (const source of sources) readInput(source, LIMITS.policy, 'C file');
    const step = (what: Parameters<typeof progress.step>[0]) => progress.step(what);
    const { release } = await fetchKernel(step);
    const built = await buildCModules(sources, release, step);
    progress.clear();
    const modules = built.map(({ name, image }) => ({ output: options.output ?? `${name}.ko`, image }));
    for (const { output, image } of modules) writeFileSync(output, image);
    const results = modules.map(({ output, image }) => ({ output, bytes: image.length }));
    if (json) printJson({ ok: true, kernel: release, ...results[0], modules: results });
    else for (const { output, bytes } of results) console.log(`${output}: ${bytes} bytes, for ${release}`);
    return 0;
  });
}
