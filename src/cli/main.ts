#!/usr/bin/env node
/** The command line: one file a command, joined here. */
import { readFileSync } from 'node:fs';
import { Command, Option } from 'commander';
import { EXIT_CODES, UserError } from '../base/errors.ts';
import { addAttackCommand } from './attack.ts';
import { addAuditCommand } from './audit.ts';
import { addBuildModuleCommand } from './build-module.ts';
import { addDemoCommand } from './demo.ts';
import { addDoctorCommand } from './doctor.ts';
import { addExplainCommand } from './explain.ts';
import { addKeyCommands } from './keys.ts';
import { addGroupCommand } from './group.ts';
import { addLinkCommands } from './link.ts';
import { outputFailed, reportError } from './output.ts';
import { addRunCommand } from './run.ts';

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };

const exitTable = Object.values(EXIT_CODES)
  .map(({ code, meaning }) => `  ${String(code).padStart(3)}  ${meaning}`)
  .join('\n');

const program = new Command('portcullis')
  .description('Virtual machines in which one guarded kernel module holds privileges that the rest of the guest does not have.')
  .version(version)
  .option('--json', 'print results as one JSON object on the last line of standard output')
  .addOption(new Option('--progress <mode>', 'progress on standard error').choices(['auto', 'json', 'none']).default('auto'))
  .showSuggestionAfterError()
  .enablePositionalOptions(false)
  .configureHelp({ showGlobalOptions: true })
  .configureOutput({ outputError() {} }) // said by exitOverride, as JSON too
  .exitOverride((error) => {
    if (error.exitCode === 0) process.exit(0);
    if (error.code === 'commander.help') process.exit(EXIT_CODES.usage.code); // no command: the help was the answer
    const [message, hint] = error.message.replace(/^error: /, '').split('\n');
    const fix = hint?.replace(/^\((.*)\)$/, '$1') ?? 'portcullis --help, or portcullis help COMMAND';
    process.exit(reportError(new UserError(message, fix), process.argv.includes('--json')));
  })
  .addHelpText(
    'after',
    `
Examples:
  portcullis demo                     the main job: a stock driver, guarded, with sole access to its card
  portcullis link e1000               make a guarded module out of the stock one
  portcullis run --net peer           a guest with a shell; ctrl-a x leaves it
  portcullis run --help               all options of a machine

Exit codes:
${exitTable}
`,
  );

addDemoCommand(program);
addRunCommand(program);
addGroupCommand(program);
addLinkCommands(program);
addKeyCommands(program);
addBuildModuleCommand(program);
addAttackCommand(program);
addAuditCommand(program);
addExplainCommand(program);
addDoctorCommand(program);

process.stdout.on('error', outputFailed);
process.stderr.on('error', () => {});
process.on('uncaughtException', (error) => process.exit(reportError(error, process.argv.includes('--json'))));
await program.parseAsync();
