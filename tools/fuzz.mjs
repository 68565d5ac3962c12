// `npm run fuzz -- --steps N --seed S`: monitor and model side by side for as long as wanted. Prints steps per second; ends with 1 at the first difference,
// whose seed and step replay it.
import './typescript-loader.mjs';
import { parseArgs } from 'node:util';

const { values } = parseArgs({ options: { steps: { type: 'string', default: '1000000' }, seed: { type: 'string' } } });
const steps = Number(values.steps);
const seed = values.seed === undefined ? Date.now() % 1_000_000_000 : Number(values.seed);
if (!Number.isSafeInteger(steps) || steps < 1 || !Number.isSafeInteger(seed)) {
  console.error('usage: npm run fuzz -- [--steps N] [--seed S]');
  process.exit(2);
}
const { runFuzz } = await import('../tests/fuzz/random.ts');
const EVERY_MS = 5000;
const started = performance.now();
let said = started;
const rate = (done) => `${done} steps, ${Math.round((1000 * done) / (performance.now() - started))} steps/s`;
console.log(`seed ${seed}`);
try {
  const { crossings, reasons } = runFuzz(steps, seed, (done) => {
    if (performance.now() - said < EVERY_MS) return;
    said = performance.now();
    console.log(rate(done));
  });
  console.log(rate(steps));
  console.log(
    `crossings: ${Object.entries(crossings)
      .map(([name, count]) => `${name} ${count}`)
      .join(', ')}`,
  );
  console.log(`reasons: ${[...reasons].join(', ')}`);
} catch (error) {
  console.error(
    `${error.message}\nreplay: npm run fuzz -- --seed ${/seed (\d+)/.exec(error.message)?.[1]} --steps ${/step (\d+)/.exec(error.message)?.[1]}`,
  );
  process.exit(1);
}
