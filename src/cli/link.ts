/** `portcullis link` and `inspect`: what a module's developer does. */
import { writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import type { Command } from 'commander';
import { UserError } from '../base/errors.ts';
import { hex } from '../base/hex.ts';
import { stockExportVersion } from '../guest/export-versions.ts';
import { cachedKernel, findModule } from '../guest/fetch.ts';
import { describeModule, type ModuleDescription } from '../linker/describe.ts';
import { linkModule } from '../linker/link.ts';
import { manifestDigest } from '../policy/canonical.ts';
import type { LinkPolicy } from '../policy/link-policy.ts';
import { parseLinkPolicy } from '../policy/schema.ts';
import { action, LIMITS, readInput } from './command.ts';
import { columns, indent, printJson, styled } from './output.ts';

/** A path, or the bare name of a stock module of the cached kernel. */
export function moduleInput(name: string): { path: string; bytes: Buffer } {
  if (/^[\w-]+$/.test(name)) {
    const kernel = cachedKernel();
    const path = kernel && findModule(kernel.modules, name);
    if (path) return { path, bytes: readInput(path, LIMITS.module, 'module') };
    throw new UserError(
      kernel ? `the stock kernel ${kernel.release} has no module ${name}` : `no stock kernel in the cache to look for ${name}`,
      'give a path, or fetch the kernel with: portcullis doctor --fetch',
    );
  }
  return { path: name, bytes: readInput(name, LIMITS.module, 'module') };
}

export const manifestPath = (image: string): string => `${image}.manifest.json`;

const readPolicy = (path: string | undefined): LinkPolicy =>
  path === undefined ? {} : parseLinkPolicy(readInput(path, LIMITS.policy, 'link policy').toString('utf8'), path);

export function addLinkCommands(program: Command): void {
  const link = program
    .command('link')
    .argument('<module>', 'a .ko file, or the name of a stock module such as e1000')
    .description('make a guarded module and its manifest from a prebuilt kernel module')
    .option('--policy <file>', 'JSON: entries and imports allowed, private sections, privileges wanted')
    .option('--output <file>', 'the guarded module; default: NAME.guarded.ko here')
    .option('--shadow-stack', 'keep the return addresses of its own calls in its private memory, for an engine that has no shadow stack')
    .addHelpText(
      'after',
      '\nExamples:\n  portcullis link e1000\n  portcullis link ./mine.ko --policy mine.policy.json --output mine.guarded.ko\n',
    );
  action(link, ({ json }, name: string, options: { policy?: string; output?: string; shadowStack?: true }) => {
    const { path, bytes } = moduleInput(name);
    const policy = { ...readPolicy(options.policy), ...(options.shadowStack && { shadowStack: true }) };
    const { image, manifest, warnings } = linkModule(bytes, path, policy, stockExportVersion);
    const output = options.output ?? `${basename(path).replace(/\.ko.*$/, '')}.guarded.ko`;
    writeFileSync(output, image);
    writeFileSync(manifestPath(output), `${JSON.stringify(manifest, null, 2)}\n`);
    const digest = manifestDigest(manifest);
    const count = (kind: string) => manifest.gates.filter((gate) => gate.kind === kind).length;
    if (json)
      printJson({
        ok: true,
        module: manifest.module,
        image: output,
        manifest: manifestPath(output),
        manifestDigest: digest,
        entries: count('entry'),
        calls: count('call'),
        warnings,
      });
    else {
      console.log(
        `${output}: ${manifest.module}, ${count('entry')} entry gates, ${count('call')} call gates\n${manifestPath(output)}: ${digest}`,
      );
      for (const warning of warnings) console.error(`warning: ${warning}`);
    }
    return 0;
  });

  const inspect = program
    .command('inspect')
    .argument('<module>', 'a .ko file, stock or guarded, or the name of a stock module')
    .description('show sections, entry points, imports, gates, what linking drops and why')
    .option('--policy <file>', 'link policy to check against')
    .addHelpText('after', '\nExamples:\n  portcullis inspect e1000\n  portcullis inspect e1000.guarded.ko --json | jq .gates\n');
  action(inspect, ({ json }, name: string, options: { policy?: string }) => {
    const { path, bytes } = moduleInput(name);
    const description = describeModule(bytes, path, readPolicy(options.policy));
    if (json) printJson(description);
    else console.log(inspection(description));
    return description.problems.length ? 1 : 0;
  });
}

function inspection(module: ModuleDescription): string {
  const title = (text: string) => `\n${styled('bold', text)}\n`;
  const table = (rows: string[][]) => (rows.length ? indent(columns(rows)) : '  none');
  const wrap = (names: string[]) =>
    indent(
      names
        .join(' ')
        .replace(/(.{1,110})( |$)/g, '$1\n')
        .trimEnd() || 'none',
    );
  const parts = [
    `${module.file}: ${module.kind} module ${module.module ?? '?'}, ${module.size} bytes, ${module.license ?? 'no licence'}, for ${module.vermagic ?? '?'}`,
    `sha256 ${module.sha256}${module.signed ? ', signed (linking drops the signature)' : ''}`,
    title('Sections'),
    table(
      module.sections.map((section) => [section.name, section.role, section.permission, String(section.size), section.init ? 'init' : '']),
    ),
    title(`Entry points (${module.entries.length})`),
    table(module.entries.map((entry) => [entry.name, `${entry.section}+${hex(entry.offset)}`])),
    title(`Kernel functions called (${module.calls.length})`),
    wrap(module.calls),
    title(`Kernel symbols used as data or address (${module.imports.length})`),
    wrap(module.imports),
  ];
  if (module.kind === 'guarded') {
    parts.push(title(`Gates (${module.gates.length})`), table(module.gates.map((gate) => [hex(gate.offset), gate.kind, gate.symbol])));
  } else {
    parts.push(title('Dropped when linking'), table(module.dropped.map((section) => [section.name, String(section.size), section.reason])));
    parts.push(title('Relocations edited'), table(Object.entries(module.edits).map(([kind, count]) => [kind, String(count)])));
  }
  if (module.memoryBranches.length)
    parts.push(
      title('Branches through memory'),
      table(module.memoryBranches.map((branch) => [`${branch.section}+${hex(branch.offset)}`, branch.symbol])),
    );
  if (module.warnings.length) parts.push(title('Warnings'), indent(module.warnings.join('\n')));
  if (module.problems.length) parts.push(title('Cannot be guarded'), indent(module.problems.join('\n')));
  return parts.join('\n');
}
