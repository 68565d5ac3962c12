#!/usr/bin/env node
/** The command line: one file a command, joined here. */
import { readFileSync } from 'node:fs';
import { Command, Option } from 'commander';
import { EXIT_CODES } from '../base/errors.ts';
import { addDemoCommand } from './demo.ts';
import { addDoctorCommand } from './doctor.ts';
import { addExplainCommand } from './explain.ts';
import { addKeyCommands } from './keys.ts';
import { addLinkCommands } from './link.ts';
import { addRunCommand } from './run.ts';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };

const exitTable = Object.values(EXIT_CODES).map(({ code, meaning }) => `  ${String(code).padStart(3)}  ${meaning}`).join('\n');

const program = new Command('portcullis')
  .description('Virtual machines in which one guarded kernel module holds privileges that the rest of the guest does not have.')
  .version(version)
  .option('--json', 'print results as one JSON object on the last line of standard output', false)
  .addOption(new Option('--progress <mode>', 'progress on standard error').choices(['auto', 'json', 'none']).default('auto'))
  .showSuggestionAfterError()
  .enablePositionalOptions(false)
  .exitOverride((error) => {
    process.exit(error.exitCode === 0 ? 0 : EXIT_CODES.usage.code);
  })
  .addHelpText('after', `
Examples:
  portcullis demo                     the main job: a stock driver, guarded, with sole access to its card
  portcullis link e1000               make a guarded module out of the stock one
  portcullis run --net peer           a guest with a shell
  portcullis run --help               all options of a machine

Exit codes:
${exitTable}
`);

addDemoCommand(program);
addRunCommand(program);
addLinkCommands(program);
addKeyCommands(program);
addExplainCommand(program);
addDoctorCommand(program);

// A closed pipe (| head) is no error worth a message.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
await program.parseAsync();
