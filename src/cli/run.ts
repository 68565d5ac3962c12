/** `portcullis run`: one virtual machine, its serial console on this terminal. */
import type { Command } from 'commander';
import { assemble } from './assemble.ts';
import { action } from './command.ts';
import { pacedStream, printJson } from './output.ts';
import { addRunOptions, networksHelp, resolveRunOptions } from './run-options.ts';
import { describeEnd, supervise } from './supervise.ts';
import { type ConsoleInput, openConsole } from './terminal.ts';

export function addRunCommand(program: Command): void {
  const run = program
    .command('run')
    .description('run a virtual machine, with its serial console on this terminal')
    .option('-f, --config <file>', 'JSON file with the same options, e.g. {"memory": "512M", "net": ["peer"]}')
    .addHelpText(
      'after',
      () => `${networksHelp()}
Examples:
  portcullis run                                     # stock kernel, a shell
  portcullis run --net peer --module e1000.guarded.ko --grant e1000.grant.json \\
    --trust admin.pub
  portcullis run --kernel ./bzImage --initramfs ./root.cpio --append "debug" --memory 512M
  portcullis run --kernel ./test.elf --debug-exit 0xf4 --clock instructions

Exit codes of a machine that ended by itself: 0 all went well, 41 a guarded module was
refused, 43 one was quarantined; why is in its report (--json), its events, and in the log
of the guest (dmesg). 'portcullis explain REASON' says what to look at.

Leave the console with ctrl-a x; ctrl-a h shows more keys.
Each option may also stand in the config file ("memory": "512M") or in the
environment (PORTCULLIS_MEMORY=512M); flags win, then the environment.
Lists are separated by commas there.
`,
    );
  addRunOptions(run);
  action(run, async ({ json, progress }, flags: Record<string, unknown> & { config?: string }) => {
    const options = resolveRunOptions(flags, flags.config);
    const config = await assemble(options, (step) => progress.step(step));
    progress.clear();
    // Standard output may be for the result or the events: then the console goes to standard error.
    const screen = pacedStream(json || options.events === '-' ? process.stderr : process.stdout);
    if (process.stdin.isTTY) process.stderr.write('console: ctrl-a x leaves, ctrl-a h helps\r\n');
    let input: ConsoleInput | undefined;
    let plugged = true;
    try {
      const ended = await supervise(config, {
        console: (bytes) => screen.write(bytes),
        started(vm) {
          input = openConsole(vm, (command) => {
            if (command === 'quit') vm.stop();
            else {
              plugged = !plugged;
              for (const card of config.cards.keys()) vm.setLink(card, plugged);
              process.stderr.write(`\r\ncables ${plugged ? 'in' : 'out'}\r\n`);
            }
          });
        },
        events: options.events,
        eventsLost: options.eventsLost,
        judgesModules: true,
        timeout: options.timeout,
      });
      input?.close();
      if (json)
        printJson({
          ok: ended.code === 0,
          exit: ended.exit,
          code: ended.code,
          outcome: ended.outcome,
          eventsLost: ended.eventsLost,
          ...ended.report,
        });
      else process.stderr.write(`portcullis: ${describeEnd(ended)}\n`);
      // A reader that takes nothing must not keep a machine that has ended.
      if (!(await screen.finish())) process.exit(ended.code);
      return ended.code;
    } finally {
      input?.close();
    }
  });
}
