/** The conformance suite of the engine contract: run by each engine's own test file. */

import { afterAll, describe } from 'vitest';
import type { Engine, EngineOptions } from '../../src/engine/contract.ts';
import { deviceTests } from './device.ts';
import { eventTests } from './events.ts';
import { Guest } from './guest.ts';
import { identityTests } from './identity.ts';
import { modeTests } from './modes.ts';
import { monitorTests, parallelMonitorTests } from './monitor.ts';
import { pagingTests } from './paging.ts';
import { shadowStackTests } from './shadow-stack.ts';
import { smpTests, togetherTests } from './smp.ts';
import { systemTests } from './system.ts';
import { inThreads, inTurns } from './together.ts';
import { viewTests } from './views.ts';

export type CreateEngine = (options: EngineOptions) => Engine;
/** A fresh guest in long mode on a fresh engine. */
export type Boot = (options?: Partial<EngineOptions>) => Guest;

/** `threads`: CPUs of this engine can run at the same time on this host. */
export function conformance(name: string, createEngine: CreateEngine, threads: boolean): void {
  describe(`engine ${name}`, () => {
    const engines: Engine[] = [];
    const boot: Boot = (options = {}) => {
      const engine = createEngine({ memorySize: 32 * 2 ** 20, cpus: 1, clock: 'instructions', hostPages: 64, ...options });
      engines.push(engine);
      return new Guest(engine).longMode();
    };
    afterAll(() => {
      for (const engine of engines) engine.close();
    });
    describe('execution', () => {
      systemTests(boot);
    });
    describe('identity', () => {
      identityTests(boot);
    });
    describe('modes', () => {
      modeTests(boot);
    });
    describe('paging', () => {
      pagingTests(boot);
    });
    describe('events', () => {
      eventTests(boot);
    });
    describe('devices', () => {
      deviceTests(boot);
    });
    describe('views', () => {
      viewTests(boot);
    });
    describe('shadow stack', () => {
      shadowStackTests(boot);
    });
    describe('MONITOR and MWAIT', () => {
      monitorTests(boot);
    });
    describe('several CPUs', () => {
      smpTests(boot);
      describe('in turns', () => {
        togetherTests(boot, inTurns);
      });
    });
    describe.runIf(threads)('several CPUs at the same time', () => {
      togetherTests((options) => boot({ clock: 'host', ...options }), inThreads);
      parallelMonitorTests(boot);
    });
  });
}
