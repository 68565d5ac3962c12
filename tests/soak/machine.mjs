// The machine under soak: `portcullis run` in all but the terminal, so that cables, consoles and disks can be broken while it runs. It is told what
// to do by messages, and sends its result as one.
import { closeSync, copyFileSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { assemble } from '../../dist/cli/assemble.js';
import { reportError } from '../../dist/cli/output.js';
import { resolveRunOptions } from '../../dist/cli/run-options.js';
import { describeEnd, supervise } from '../../dist/cli/supervise.js';

/** `disk`: folder of the event log, on a file system of its own that can be filled. `copy`: where the log goes at the end. */
const { flags, disk, copy } = JSON.parse(process.argv[2]);
const BALLAST = join(disk, 'ballast');
/** The console's reader takes nothing until then (ms). */
let slowUntil = 0;

/** Leaves no byte on the disk. */
function fill() {
  const file = openSync(BALLAST, 'a');
  try {
    for (let size = 65536; size >= 1; ) {
      try {
        writeSync(file, Buffer.alloc(size));
      } catch {
        size = Math.floor(size / 2);
      }
    }
  } finally {
    closeSync(file);
  }
}

const commands = {
  link: ({ card, up }, vm) => vm.setLink(card, up),
  slow: ({ ms }) => {
    slowUntil = Date.now() + ms;
  },
  fill,
  free: () => rmSync(BALLAST, { force: true }),
  stop: (_, vm) => vm.stop(),
};

try {
  const options = resolveRunOptions(flags, undefined);
  const config = await assemble(options, () => {});
  const ended = await supervise(config, {
    console(bytes) {
      process.stdout.write(bytes);
      const wait = slowUntil - Date.now();
      return wait > 0 ? sleep(wait) : undefined;
    },
    started(vm) {
      process.on('message', (command) => commands[command.do](command, vm));
      process.send({ running: true });
    },
    events: options.events,
    eventsLost: options.eventsLost,
  });
  copyFileSync(options.events, copy);
  const { outcome, exit, eventsLost, report } = ended;
  await new Promise((resolve) => process.send({ outcome, exit, eventsLost, report, end: describeEnd(ended) }, resolve));
  process.exit(0);
} catch (error) {
  process.exit(reportError(error, false) || 1);
}
