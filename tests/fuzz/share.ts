/** The share of each fuzz target in `npm test`: half from a fixed seed, half from a fresh one, which is printed. */
import { expect, test } from 'vitest';
import { run, type Target } from './target.ts';

export function shareOf(targets: readonly Target[]): void {
  const fresh = Date.now() % 1_000_000_000;
  for (const target of targets) {
    const missing = target.missing?.();
    test.skipIf(missing !== undefined)(
      `${target.name}: ${target.about}${missing ? ` (skipped: ${missing})` : ''}`,
      { timeout: 300_000 },
      async () => {
        const steps = Math.ceil(target.share / 2);
        const { reached } = await run(target, { steps, seed: 1 });
        expect(target.reaches.filter((place) => !reached[place])).toEqual([]);
        console.log(`fuzz ${target.name}: fresh seed ${fresh} (npm run fuzz -- --target ${target.name} --steps ${steps} --seed ${fresh})`);
        await run(target, { steps, seed: fresh });
      },
    );
  }
}
