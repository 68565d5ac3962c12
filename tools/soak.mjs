// `npm run soak -- --minutes M --seed S`: hours of guarded traffic with faults (tests/soak). Ends with 1 when something does not hold.
import { parseArgs } from 'node:util';
import { build } from './lib.mjs';

const USAGE = `usage: npm run soak -- [--minutes M] [--seed S] [--json]

  --minutes M  of the guest's time; default 60
  --seed S     what the guest does and what is broken; default: a new one, which is printed
  --json       progress and the result as NDJSON on standard output; the result is the last line

Downloads with digests through two guarded cards on four virtual CPUs, while the driver is unloaded and loaded, CPUs go and come, cables are pulled, the far
end of a card is killed and stalled, the disk of the event log fills up (as root), and the console's reader stalls.
Exit codes: 0 everything held, 1 something did not, 2 wrong usage.`;

function options() {
  try {
    const { values } = parseArgs({
      options: {
        minutes: { type: 'string', default: '60' },
        seed: { type: 'string' },
        json: { type: 'boolean' },
        help: { type: 'boolean', short: 'h' },
      },
    });
    const minutes = Number(values.minutes);
    const seed = values.seed === undefined ? Date.now() % 1_000_000_000 : Number(values.seed);
    if (values.help || !(minutes > 0 && minutes <= 100_000) || !Number.isSafeInteger(seed) || seed < 0) return { help: values.help };
    return { minutes, seed, json: values.json === true };
  } catch (error) {
    console.error(error.message);
    return {};
  }
}

const { help, minutes, seed, json } = options();
if (minutes === undefined) {
  console[help ? 'log' : 'error'](USAGE);
  process.exit(help ? 0 : 2);
}
if (!process.env.PORTCULLIS_SOAK_BUILT) build();
const { soak } = await import('../tests/soak/soak.mjs');
const MIB = 2 ** 20;
const EVERY_SECONDS = 60;
let said = -EVERY_SECONDS;
if (!json) console.log(`seed ${seed}, ${minutes} minutes`);
const result = await soak({
  seconds: Math.round(minutes * 60),
  seed,
  progress(state) {
    if (json) console.log(JSON.stringify({ progress: state }));
    else if (state.seconds - said >= EVERY_SECONDS) {
      said = state.seconds;
      const { seconds, own, rounds, downloads, bytes } = state;
      console.log(
        `${seconds} s: ${rounds} rounds, ${downloads} downloads, ${(bytes / MIB).toFixed(0)} MiB; memory ${(own / MIB).toFixed(0)} MiB`,
      );
    }
  },
});
if (json) console.log(JSON.stringify(result));
else {
  for (const { name, ok, detail } of result.checks) console.log(`${ok ? 'ok  ' : 'FAIL'}  ${name}: ${detail}`);
  console.log(`actions ${JSON.stringify(result.actions)}\nfaults  ${JSON.stringify(result.faults)}`);
  if (!result.ok) console.log(`${result.errors}\n${result.tail}\nreplay: npm run soak -- --minutes ${minutes} --seed ${seed}`);
}
process.exit(result.ok ? 0 : 1);
