/** `portcullis build-module`: a C kernel module for the stock kernel, to be linked and guarded like a stock one. */
import { writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { buildCModule } from '../guest/c-module.ts';
import { fetchKernel } from '../guest/fetch.ts';
import { action, LIMITS, readInput } from './command.ts';
import { printJson } from './output.ts';

export function addBuildModuleCommand(program: Command): void {
  const command = program
    .command('build-module')
    .argument('<source>', 'a C file')
    .description('build a kernel module for the stock kernel out of a C file')
    .option('--output <file>', 'the module; default: NAME.ko here')
    .addHelpText(
      'after',
      `
Examples:
  portcullis build-module modules/example/example.c
  portcullis link ./example.ko

Needs gcc and make; the kernel's headers are fetched into the cache.
`,
    );
  action(command, async ({ json, progress }, source: string, options: { output?: string }) => {
    readInput(source, LIMITS.policy, 'C file');
    const step = (what: Parameters<typeof progress.step>[0]) => progress.step(what);
    const { release } = await fetchKernel(step);
    const { name, image } = await buildCModule(source, release, step);
    progress.clear();
    const output = options.output ?? `${name}.ko`;
    writeFileSync(output, image);
    if (json) printJson({ ok: true, output, kernel: release, bytes: image.length });
    else console.log(`${output}: ${image.length} bytes, for ${release}`);
    return 0;
  });
}
