/** `portcullis group`: several virtual machines in one process, so that a hub (`--net hub:NAME`) can join their cards. */
import type { Command } from 'commander';
import { UserError } from '../base/errors.ts';
import type { VmConfig } from '../vm/config.ts';
import type { RunningVm } from '../vm/host.ts';
import { assemble } from './assemble.ts';
import { action } from './command.ts';
import { LinePrefixer } from './line-prefixer.ts';
import { pacedStream, printJson } from './output.ts';
import { type RunOptions, resolveRunOptions } from './run-options.ts';
import { describeEnd, type Ended, supervise } from './supervise.ts';

/** Each has a thread, and a byte of its cards' addresses. */
const MOST_MACHINES = 16;

interface Member {
  options: RunOptions;
  config: VmConfig;
}

export function addGroupCommand(program: Command): void {
  const group = program
    .command('group')
    .argument('<config...>', 'a config file for each machine, as for run --config')
    .description('run several virtual machines in one process, their cards joined by hubs')
    .addHelpText(
      'after',
      `
Each line that a guest prints has the name of its machine before it; a group has no keyboard.
Grants name a machine ("keygen", "grant --vm"): one for "web" gives nothing in "db".
The run ends when all machines have ended; ctrl-c ends them all. The exit code is the
first that is not 0, in the order of the files.

Example: web.json
  {"name": "web", "net": ["hub:lan"], "module": ["e1000.guarded.ko"],
   "grant": ["web.grant.json"], "trust": ["admin.pub"], "start": "web.sh"}
and the same for db.json; then
  portcullis group web.json db.json
`,
    );
  action(group, async ({ json, progress }, files: string[]) => {
    const members = await assembleGroup(files, (step) => progress.step(step));
    progress.clear();
    const screen = pacedStream(json || members.some(({ options }) => options.events === '-') ? process.stderr : process.stdout);
    const ended = await runGroup(members, (bytes) => screen.write(bytes));
    const first = ended.find(({ code }) => code !== 0) ?? ended[0];
    const machines = ended.map(({ exit, code, outcome, eventsLost, report }, index) => ({
      name: members[index].config.name,
      ok: code === 0,
      exit,
      code,
      outcome,
      eventsLost,
      ...report,
    }));
    if (json) printJson({ ok: first.code === 0, exit: first.exit, code: first.code, machines });
    else
      for (const [index, end] of ended.entries()) process.stderr.write(`portcullis: ${members[index].config.name}: ${describeEnd(end)}\n`);
    if (!(await screen.finish())) process.exit(first.code);
    return first.code;
  });
}

/** Everything is read and checked before the first machine starts. Throws UserError, also for machines that would get in each other's way. */
async function assembleGroup(files: readonly string[], step: Parameters<typeof assemble>[1]): Promise<Member[]> {
  if (files.length > MOST_MACHINES)
    throw new UserError(`${files.length} machines; a group has at most ${MOST_MACHINES}`, 'give fewer files');
  const members: Member[] = [];
  for (const [index, file] of files.entries()) {
    const options = resolveRunOptions({}, file);
    members.push({ options, config: await assemble(options, step, index) });
  }
  const different = (what: string, values: readonly (readonly [value: string | undefined, file: string])[], fix: string) => {
    const owners = new Map<string, string>();
    for (const [value, file] of values) {
      const other = value === undefined ? undefined : owners.get(value);
      if (other !== undefined) throw new UserError(`${other} and ${file} have the same ${what}: ${value}`, fix);
      if (value !== undefined) owners.set(value, file);
    }
  };
  const each = (values: (member: Member) => (string | undefined)[]) =>
    members.flatMap((member, index) => values(member).map((value): [string | undefined, string] => [value, files[index]]));
  different(
    'name',
    each(({ config }) => [config.name]),
    'grants know a machine by its name: give each its own "name"',
  );
  different(
    'card address',
    each(({ config }) => config.cards.map(({ mac }) => mac)),
    'leave mac= out, or give each card its own',
  );
  different(
    'event log',
    each(({ options }) => [options.events]),
    'the chain of a log has one writer: give each its own "events"',
  );
  different(
    'capture file',
    each(({ options }) => options.pcap),
    'give each its own "pcap"',
  );
  return members;
}

/** Runs all to their ends. When one cannot start, or fails by a defect, the others are stopped and its error is thrown. */
async function runGroup(members: readonly Member[], write: (bytes: Uint8Array) => Promise<void> | undefined): Promise<Ended[]> {
  const running = new Set<RunningVm>();
  let failed = false;
  const width = Math.max(...members.map(({ config }) => config.name.length));
  // Each machine listens for signals.
  process.setMaxListeners(process.getMaxListeners() + members.length);
  const results = await Promise.allSettled(
    members.map(async ({ options, config }) => {
      const lines = new LinePrefixer(`${config.name.padEnd(width)} | `);
      try {
        return await supervise(config, {
          console: (bytes) => write(lines.add(bytes)),
          started(vm) {
            running.add(vm);
            if (failed) vm.stop();
          },
          events: options.events,
          eventsLost: options.eventsLost,
          judgesModules: true,
          timeout: options.timeout,
        });
      } catch (error) {
        failed = true;
        for (const vm of running) vm.stop();
        throw error;
      } finally {
        const rest = lines.end();
        if (rest.length > 0) void write(rest);
      }
    }),
  );
  return results.map((result) => {
    if (result.status === 'rejected') throw result.reason;
    return result.value;
  });
}
