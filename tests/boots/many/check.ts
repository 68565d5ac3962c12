/** What a check of stock modules says: what is loaded, what is done with it in the guest, and what the guest must have printed. */
import type { ProgramName } from './programs.ts';

export const KINDS = [
  'network',
  'protocol',
  'traffic control',
  'netfilter',
  'wireless',
  'crypto',
  'file system',
  'block',
  'character',
  'sound',
  'virtio',
  'input',
] as const;
export type Kind = (typeof KINDS)[number];

export interface Check {
  /** In the guest's report and in the test's name. */
  name: string;
  kind: Kind;
  /** Loaded in this order, each after what it depends on. All are called into during the check or at their end. */
  modules: readonly string[];
  /** Shell, in the words of guest.sh; what it prints is the proof. */
  script: string;
  /** The printed lines, as the same script prints them with the stock modules. */
  proof: readonly string[];
}

/** Calls that must go straight from one guarded module to another: caller, called. */
export type Chain = readonly [string, string];

export interface Boot {
  title: string;
  cpus: number;
  memory: string;
  /** Added to the kernel's command line. */
  append?: string;
  programs: readonly ProgramName[];
  /** Before the checks: names of shell functions and addresses that they share. */
  prepare?: string;
  checks: readonly Check[];
  /** Modules that are loaded by hand before another one asks for them by name, as modprobe would. */
  helpers?: readonly string[];
  chains?: readonly Chain[];
  /** Threads of modules that end by themselves inside a call-out, as kthread_complete_and_exit does: those crossings never come back. */
  endingThreads?: number;
  /** In every test run, or with PORTCULLIS_ALL_MODULES=1 only. */
  always: boolean;
}
