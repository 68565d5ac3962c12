/**
 * Dozens of stock modules of every kind, guarded with a grant of no privileges and used for what they do: being guarded changes nothing. What each
 * check must print is what the same script prints with the stock modules; PORTCULLIS_ALL_MODULES=1 runs it with those too, and runs the groups
 * that are left out otherwise. Modules that a module needs are guarded as well, so that calls go from one guarded module straight to another.
 */
import { beforeAll, describe, expect, test } from 'vitest';
import type { Boot } from './many/check.ts';
import { CRYPTO } from './many/crypto.ts';
import { DEVICES } from './many/devices.ts';
import { NETFILTER } from './many/netfilter.ts';
import { LINKS, PROTOCOLS } from './many/network.ts';
import { chainCalls, kernelName, type Outcome, runBoot } from './many/run.ts';
import { MORE_STORAGE, STORAGE } from './many/storage.ts';

const BOOTS: readonly Boot[] = [LINKS, NETFILTER, STORAGE, CRYPTO, DEVICES, PROTOCOLS, MORE_STORAGE];
const ALL = process.env.PORTCULLIS_ALL_MODULES === '1';
const MINUTES = 60_000;

describe.each(BOOTS.filter(({ always }) => always || ALL))('$title', (boot) => {
  let guarded: Outcome;
  beforeAll(async () => {
    guarded = await runBoot(boot, true);
  }, 15 * MINUTES);

  test.each(boot.checks)('$kind: $name', (check) => {
    expect(guarded.printed.get(check.name) ?? []).toEqual(check.proof);
    for (const module of check.modules) {
      const found = guarded.result.modules.find((entry: { module: string }) => entry.module === kernelName(module));
      expect(found, module).toMatchObject({ module: kernelName(module) });
      expect(found.calls.in, `calls into ${module}`).toBeGreaterThan(0);
    }
  });

  test('the guest ended by itself with every module unloaded, and its kernel complained of nothing', () => {
    expect(guarded).toMatchObject({ code: 0, result: { ok: true }, kernel: [], left: [] });
  });

  test('nothing was refused, and no crossing is open', () => {
    const { refusals, crossings } = guarded.result;
    expect(refusals).toEqual([]);
    expect(crossings.callIn - crossings.returnOut).toBe(boot.endingThreads ?? 0);
    expect(crossings.callOut - crossings.returnIn).toBe(boot.endingThreads ?? 0);
    expect(crossings.eventOut).toBe(crossings.resume);
  });

  test('guarded modules call each other', () => {
    const calls = chainCalls(guarded);
    const lines = [...calls].sort(([, a], [, b]) => b - a).map(([pair, count]) => `  ${pair.replace(' ', ' -> ')}: ${count}`);
    console.log(`${boot.title}: calls from one guarded module to another\n${lines.join('\n')}`);
    for (const pair of boot.chains ?? []) expect(calls.get(pair.join(' ')) ?? 0, pair.join(' -> ')).toBeGreaterThan(0);
  });

  test.runIf(ALL)('the same script prints the same with the stock modules', { timeout: 15 * MINUTES }, async () => {
    const stock = await runBoot(boot, false);
    expect(stock).toMatchObject({ code: 0, kernel: [], left: [] });
    expect(Object.fromEntries(stock.printed)).toEqual(Object.fromEntries(guarded.printed));
  });
});

test('they are at least thirty, of at least eight kinds', () => {
  const checks = BOOTS.filter(({ always }) => always).flatMap((boot) => boot.checks);
  expect(new Set(checks.flatMap(({ modules }) => modules.map(kernelName))).size).toBeGreaterThanOrEqual(30);
  expect(new Set(checks.map(({ kind }) => kind)).size).toBeGreaterThanOrEqual(8);
});
