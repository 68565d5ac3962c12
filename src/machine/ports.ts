/**
 * The narrow ports that devices get in their constructors. A device never sees the machine, a CPU or another device.
 * Every value that comes from the guest is hostile: offsets are in range (the bus checks), values may be anything.
 */

/** One interrupt wire. Level-triggered unless the device says otherwise; setting the same level twice does nothing. */
export interface IrqLine {
  set(asserted: boolean): void;
}

/** Bus-master access to guest RAM. Out-of-RAM accesses read as 0xff, write nothing, and return false. */
export interface Dma {
  read(gpa: number, into: Uint8Array): boolean;
  write(gpa: number, from: Uint8Array): boolean;
}

/** A timer that calls back once when the clock reaches `time` (ns); `Infinity` disarms it. Arming again replaces the former time. */
export interface Timer {
  arm(time: number): void;
}

/** The machine's time, ns since the VM started, and timers on it. Callbacks run between instructions, never inside a register access. */
export interface Clock {
  now(): number;
  timer(callback: () => void): Timer;
}

/** A block of registers on the memory or port bus. Values are unsigned numbers of `size` bytes; offsets are relative to the block. */
export interface RegisterBlock {
  read(offset: number, size: 1 | 2 | 4): number;
  write(offset: number, size: 1 | 2 | 4, value: number): void;
}

/** One base address register of a PCI function. `size` is a power of two: memory >= 16, io >= 4. */
export interface PciBar {
  kind: 'memory' | 'io';
  size: number;
  registers: RegisterBlock;
}

/** One PCI capability: `body` is what follows ID and next pointer, `writable` the bits of it that software may change (same length). */
export interface PciCapability {
  readonly id: number;
  readonly body: Uint8Array;
  readonly writable: Uint8Array;
}

/** What a PCI function tells the host bridge, which owns its configuration space (PCI Local Bus 3.0, 6.1 and 6.2). */
export interface PciFunction {
  readonly name: string;
  readonly vendor: number;
  readonly device: number;
  readonly subsystemVendor: number;
  readonly subsystem: number;
  readonly revision: number;
  /** 24 bits: base class, sub-class, programming interface. */
  readonly classCode: number;
  /** 1 = INTA, 0 = none. */
  readonly interruptPin: 0 | 1;
  /** Up to six; index = BAR number. */
  readonly bars: readonly (PciBar | undefined)[];
  /** Capability list (PCI Local Bus 3.0, 6.7), in order; none if absent. */
  readonly capabilities?: readonly PciCapability[];
  /** Command register bit 2: bus mastering allowed. The device must do no DMA while it is false. */
  setBusMaster(enabled: boolean): void;
  reset(): void;
}

/**
 * State of a device for snapshots: plain JSON values only (bytes as base64 text). `load` throws an Error that names the field when `state`
 * does not fit.
 */
export interface Stateful {
  save(): unknown;
  load(state: unknown): void;
}

/**
 * The card's side of a network link. Frames are Ethernet without FCS, 14 to 65535 bytes.
 * A frame given to `send` or `receive` is the callee's to keep.
 */
export interface NetworkBackend {
  /** Card to network. Never blocks; drops (and counts) when the far end is full. */
  send(frame: Uint8Array): void;
  /** Set by the card: network to card. False = no room now; the back end keeps the frame and tries again on `ready`. */
  receive: (frame: Uint8Array) => boolean;
  /** The card has room again. */
  ready(): void;
  close(): void;
}
