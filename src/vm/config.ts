/** Everything one virtual machine is made of, as plain data that can be sent to its worker thread. */
import type { LogLevel, LogRecord } from '../base/log.ts';
import type { ClockKind } from '../engine/contract.ts';
import type { BootProtocol } from '../machine/boot/index.ts';
import type { AuditEvent } from '../monitor/audit.ts';
import type { NetSpec } from '../net/index.ts';
import type { Manifest } from '../policy/manifest.ts';
import type { MwaitEvent } from '../privileges/mwait.ts';

/** A guarded module made known to the VMM: its image, its manifest, and the signed grants offered for it (JSON as read). */
export interface RegisteredModule {
  image: Uint8Array;
  manifest: Manifest;
  grants: unknown[];
}

/** rtl8139 is the RTL8139C+; rtl8139c the same chip without C+ mode. */
export const CARD_MODELS = ['e1000', 'rtl8139', 'rtl8139c'] as const;
export type CardModel = (typeof CARD_MODELS)[number];

export interface CardConfig {
  /** Default e1000. */
  model?: CardModel;
  /** PCI slot on bus 0, 1 to 31. */
  slot: number;
  /** Six bytes, as in "52:54:00:12:34:56". */
  mac: string;
  net: NetSpec;
  /** Path of a capture file. */
  pcap?: string;
}

export interface VmConfig {
  name: string;
  engine: 'soft';
  clock: ClockKind;
  /** Virtual CPUs, 1 to 16; default 1. */
  cpus?: number;
  /** Cores that they take turns on; default as many. */
  cores?: number;
  /** Virtual CPUs kept on a core: [CPU, core]. The others move. */
  pins?: readonly (readonly [number, number])[];
  /** Draws the lengths of turns; with the deterministic clock a run repeats exactly. All are alike without it. */
  seed?: number;
  /** Bytes. */
  memory: number;
  /** `elf`: the ELF file, or its path: then the machine's thread reads it, and keeps nothing of it. */
  kernel: { elf: Uint8Array | string; setupHeader?: Uint8Array; name: string };
  boot?: BootProtocol;
  initramfs?: Uint8Array;
  commandLine: string;
  modules: RegisteredModule[];
  /** Public keys of administrators, PEM. */
  trustedKeys: string[];
  /** Serials of grants that were withdrawn. */
  revokedGrants?: readonly string[];
  /** Private key of this VMM, which secrets in grants are sealed for: X25519, PEM. */
  vmmKey?: string;
  /** First values of the VMM's own MSRs. */
  msrs?: { index: number; value: bigint }[];
  onViolation?: 'quarantine' | 'stop';
  cards: CardConfig[];
  debugExitPort?: number;
  /** ms since the epoch when the guest starts. */
  wallClock: number;
  log: LogLevel;
  /** After every crossing, ask the engine whether the invariants hold; the machine fails if one does not. */
  watch?: boolean;
}

/** How a run ended. */
export type Outcome =
  | { kind: 'off' }
  | { kind: 'reset' }
  | { kind: 'halted' } // HLT with interrupts off on every CPU
  | { kind: 'crash' } // triple fault
  | { kind: 'debug-exit'; code: number } // what the guest wrote to the port
  | { kind: 'violation'; reason: string }
  | { kind: 'failed'; reason: string }
  | { kind: 'stopped' }; // by the host

export interface CardReport {
  slot: number;
  rxPackets: number;
  txPackets: number;
  statistics: Record<string, number>;
}

export interface CpuReport {
  /** Times that it was handed to another host thread. */
  handovers: number;
  cpu: number;
  /** Where it is, or was last. */
  core: number;
  instructions: number;
  /** Times that it halted, that it waited by MWAIT, and that MWAIT was refused. */
  halts: number;
  waits: number;
  refusedWaits: number;
  /** Exits that the monitor answered. */
  crossings: number;
}

/** What is known of a machine, at any time and at its end. */
export interface VmReport {
  /** Guest time, seconds. */
  seconds: number;
  /** Of all virtual CPUs. */
  instructions: number;
  cpus: CpuReport[];
  crossings: Record<string, number>;
  /** Call-outs by symbol, most frequent first. */
  callOuts: { module: string; symbol: string; count: number }[];
  /** `calls`: over all its instances. */
  modules: {
    module: string;
    /** quarantined: one of its instances was. refused: it was, and never ran. */
    state: 'not granted' | 'registered' | 'refused' | 'loading' | 'live' | 'quarantined' | 'ended';
    calls: { in: number; out: number };
  }[];
  refusals: { module: string; reason: string; detail: string; count: number }[];
  /** Accesses to a withheld device, by where they came from. */
  refusedAccesses: { reads: number; writes: number; interrupted: number };
  /** Events sent so far. A log that lacks none has as many. */
  events: number;
  cards: CardReport[];
  engine: Record<string, number>;
}

/** From the machine's thread to the main thread. */
export type VmMessage =
  | { kind: 'console'; bytes: Uint8Array }
  | { kind: 'event'; event: VmEvent }
  | { kind: 'log'; record: LogRecord }
  | { kind: 'searched'; id: number; search: MemorySearch }
  | { kind: 'ended'; outcome: Outcome; report: VmReport }
  | { kind: 'error'; message: string; fix?: string; exit?: string; defect?: string };

/** From the main thread to the machine's thread. */
export type VmCommand =
  | { kind: 'input'; bytes: Uint8Array }
  | { kind: 'stop' }
  | { kind: 'link'; card: number; up: boolean }
  | { kind: 'search'; id: number; needles: Uint8Array[] }
  | { kind: 'pin'; cpu: number; core: number };

/** How often each needle lies in guest memory, at any byte: as the host sees it, and as a bus-mastering device reads it. */
export interface MemorySearch {
  /** Bytes searched: all of guest RAM. */
  bytes: number;
  memory: number[];
  /** Bytes that a device could read, out of all that it asked for. */
  dmaBytes: number;
  dma: number[];
}

/** The stream of `--events`: the monitor's audit events, and the machine's own. */
export type VmEvent =
  | AuditEvent
  | { event: 'vm.started'; time: number; name: string; engine: string; memory: number; cpus: number; cores: number }
  | { event: 'cpu.moved'; time: number; cpu: number; from: number; to: number }
  | { event: 'card.link'; time: number; card: number; up: boolean }
  | (MwaitEvent & { time: number })
  | { event: 'mwait.refused'; time: number; module: string; cpu: number; count: number }
  | { event: 'vm.ended'; time: number; outcome: Outcome }
  | {
      event: 'window.refused';
      time: number;
      device: string;
      access: 'read' | 'write';
      space: 'memory' | 'port' | 'msr';
      address: string;
      rip: string;
      interrupted?: string;
      count: number;
    };
