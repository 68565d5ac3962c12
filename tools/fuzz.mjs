// `npm run fuzz`: the fuzz targets (tests/fuzz/targets), one after the other, for as many steps or as long as wanted. Ends with 1 at the first failure,
// with the command that repeats it.
import './typescript-loader.mjs';
import { parseArgs } from 'node:util';

const USAGE = `usage: npm run fuzz -- [options]
  --target NAME   this target; may be given again (default: all)
  --steps N       steps of each target (default: as --seconds)
  --seconds N     seconds for each target (default: 10, where no steps are given)
  --seed S        seed of the first case (default: from the clock, and printed)
  --case TEXT     one case, as a failure printed it; with one --target
  --list          the targets and what they do
  --json          one line of JSON for each target
examples:
  npm run fuzz -- --target border --steps 100000000
  npm run fuzz -- --seconds 600
exit status: 0 all held, 1 something failed, 2 wrong usage`;

const text = { type: 'string' };
const flag = { type: 'boolean', default: false };
const fail = (message) => {
  console.error(`${message}\n${USAGE}`);
  process.exit(2);
};
let values;
try {
  ({ values } = parseArgs({
    options: {
      target: { type: 'string', multiple: true, default: [] },
      steps: text,
      seconds: text,
      seed: text,
      case: text,
      list: flag,
      json: flag,
      help: flag,
    },
  }));
} catch (error) {
  fail(error.message);
}
if (values.help) {
  console.log(USAGE);
  process.exit(0);
}
const number = (name, otherwise) => {
  if (values[name] === undefined) return otherwise;
  const value = Number(values[name]);
  if (!Number.isFinite(value) || value < 0 || (name !== 'seconds' && !Number.isSafeInteger(value)))
    fail(`--${name} is ${values[name]}, expected a whole number from 0`);
  return value;
};
const steps = number('steps', Number.POSITIVE_INFINITY);
const seconds = number('seconds', values.steps === undefined ? 10 : Number.POSITIVE_INFINITY);
const seed = number('seed', Date.now() % 1_000_000_000);

const { TARGETS } = await import('../tests/fuzz/targets/index.ts');
const { repeat, run, unpackCase } = await import('../tests/fuzz/target.ts');

if (values.list) {
  for (const { name, about, unit } of TARGETS) {
    if (values.json) console.log(JSON.stringify({ target: name, unit, about }));
    else console.log(`${name.padEnd(14)} ${about}`);
  }
  process.exit(0);
}
const chosen =
  values.target.length === 0
    ? TARGETS
    : values.target.map((name) => TARGETS.find((target) => target.name === name) ?? fail(`no target ${name}`));

if (values.case !== undefined) {
  if (chosen.length !== 1) fail('--case needs one --target');
  try {
    await repeat(chosen[0], unpackCase(values.case));
    console.log(`${chosen[0].name}: the case holds`);
    process.exit(0);
  } catch (error) {
    console.error(`${chosen[0].name}: ${error.stack ?? error}`);
    process.exit(1);
  }
}

const EVERY_MS = 5000;
if (!values.json) console.log(`seed ${seed}`);
for (const target of chosen) {
  const missing = target.missing?.();
  if (missing !== undefined) {
    console.log(values.json ? JSON.stringify({ target: target.name, skipped: missing }) : `${target.name}: skipped: ${missing}`);
    continue;
  }
  const started = performance.now();
  let said = started;
  const rate = (done) => Math.round((1000 * done) / (performance.now() - started));
  const tick = (done) => {
    if (values.json || performance.now() - said < EVERY_MS) return;
    said = performance.now();
    console.log(`${target.name}: ${done} steps, ${rate(done)} steps/s`);
  };
  try {
    const { steps: done, cases, reached } = await run(target, { steps, seed, time: 1000 * seconds, tick });
    if (values.json) {
      const stepsPerSecond = rate(done);
      console.log(JSON.stringify({ target: target.name, seed, steps: done, unit: target.unit, cases, stepsPerSecond, reached }));
    } else {
      const came = Object.entries(reached).map(([name, count]) => `${name} ${count}`);
      console.log(`${target.name}: ${done} steps (${target.unit}), ${cases} cases, ${rate(done)} steps/s: ${came.join(', ')}`);
    }
  } catch (error) {
    if (values.json) {
      const { message, seed: failed, numbers } = error;
      console.log(JSON.stringify({ target: target.name, seed: failed, failed: message, case: numbers }));
    } else console.error(error.cause?.stack ? `${error.cause.stack}\n${error.message}` : (error.stack ?? error));
    process.exitCode = 1;
    break;
  }
}
process.exit();
