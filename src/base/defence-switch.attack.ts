/**
 * The switch of the attack build: takes the place of defence-switch.ts in a copy of the build that tools/attacks.mjs makes, and is in no other. The
 * state lies in shared memory that every thread started later inherits, so a check can be switched while a machine runs.
 */
import { getEnvironmentData, setEnvironmentData } from 'node:worker_threads';
import { DEFENCES, type Defence } from './defences.ts';

const KEY = 'portcullis attack build: defences that are off';
const names = Object.keys(DEFENCES) as Defence[];
const inherited = getEnvironmentData(KEY) as unknown;
const off = new Int32Array(inherited instanceof SharedArrayBuffer ? inherited : new SharedArrayBuffer(4 * names.length));
if (!(inherited instanceof SharedArrayBuffer)) setEnvironmentData(KEY, off.buffer as unknown as string);
const indexOf = new Map(names.map((name, index) => [name, index]));

export const on = (defence: Defence): boolean => Atomics.load(off, indexOf.get(defence) as number) === 0;

export const withoutDefences = async <T>(defences: readonly Defence[], work: () => T | Promise<T>): Promise<T> => {
  const set = (value: number) => {
    for (const defence of defences) Atomics.store(off, indexOf.get(defence) as number, value);
  };
  set(1);
  try {
    return await work();
  } finally {
    set(0);
  }
};
