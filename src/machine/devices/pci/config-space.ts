/**
 * The 256 bytes of configuration space of one PCI function, type 0 header (PCI Local Bus 3.0, chapter 6): what may be written, what the
 * base address registers hold, what the command register allows.
 */
import type { PciFunction, Stateful } from '../../ports.ts';
import { readState, saveBytes } from '../../state.ts';

export const CONFIG_SIZE = 256;
const OFFSET = {
  vendor: 0x00,
  command: 0x04,
  status: 0x06,
  revision: 0x08,
  classCode: 0x09,
  latency: 0x0d,
  bars: 0x10,
  subsystemVendor: 0x2c,
  capabilities: 0x34,
  interruptLine: 0x3c,
  interruptPin: 0x3d,
} as const;
export const COMMAND = { io: 0x0001, memory: 0x0002, busMaster: 0x0004, interruptOff: 0x0400 } as const;
const COMMAND_WRITABLE = 0x0547;
const STATUS = { interrupt: 0x08, capabilities: 0x10 } as const;
const BAR_IO = 1;

export class ConfigSpace implements Stateful {
  private readonly bytes = new Uint8Array(CONFIG_SIZE);
  private readonly view = new DataView(this.bytes.buffer);
  /** Bits that software may change. */
  private readonly writable = new Uint8Array(CONFIG_SIZE);

  /** Throws RangeError for a function that cannot be described: a defect of the device. */
  constructor(readonly device: PciFunction) {
    const { view } = this;
    view.setUint16(OFFSET.vendor, device.vendor, true);
    view.setUint16(OFFSET.vendor + 2, device.device, true);
    view.setUint8(OFFSET.revision, device.revision);
    view.setUint8(OFFSET.classCode, device.classCode & 0xff);
    view.setUint16(OFFSET.classCode + 1, device.classCode >> 8, true);
    view.setUint16(OFFSET.subsystemVendor, device.subsystemVendor, true);
    view.setUint16(OFFSET.subsystemVendor + 2, device.subsystem, true);
    view.setUint8(OFFSET.interruptPin, device.interruptPin);
    this.allow(OFFSET.command, COMMAND_WRITABLE, 2);
    this.allow(OFFSET.latency - 1, 0xffff, 2); // cache line size, latency timer
    this.allow(OFFSET.interruptLine, 0xff, 1);
    for (const [index, bar] of device.bars.entries()) {
      if (bar === undefined) continue;
      const least = bar.kind === 'io' ? 4 : 16;
      if (index > 5 || bar.size < least || !Number.isInteger(Math.log2(bar.size))) {
        throw new RangeError(`${device.name}: BAR ${index} of ${bar.size} bytes cannot be`);
      }
      if (bar.kind === 'io') view.setUint32(OFFSET.bars + 4 * index, BAR_IO, true);
      this.allow(OFFSET.bars + 4 * index, (0x1_0000_0000 - bar.size) >>> 0, 4);
    }
    this.addCapabilities();
  }

  private allow(offset: number, bits: number, size: number): void {
    for (let i = 0; i < size; i++) this.writable[offset + i] = (bits >>> (8 * i)) & 0xff;
  }

  /** Chains the capabilities from 0x40 on, each at a multiple of 4 (PCI 6.7). */
  private addCapabilities(): void {
    let link: number = OFFSET.capabilities;
    let at = 0x40;
    for (const capability of this.device.capabilities ?? []) {
      if (at + 2 + capability.body.length > CONFIG_SIZE) {
        throw new RangeError(`${this.device.name}: capabilities do not fit in ${CONFIG_SIZE} bytes`);
      }
      this.bytes[OFFSET.status] |= STATUS.capabilities;
      this.bytes[link] = at;
      this.bytes[at] = capability.id;
      this.bytes.set(capability.body, at + 2);
      this.writable.set(capability.writable.subarray(0, capability.body.length), at + 2);
      link = at + 1;
      at = (at + 2 + capability.body.length + 3) & ~3;
    }
  }

  /** Back to what it was at power-up: addresses, command and everything else that is writable are 0 (capability bodies as given). */
  reset(): void {
    const fresh = new ConfigSpace(this.device);
    this.bytes.set(fresh.bytes);
  }

  get command(): number {
    return this.view.getUint16(OFFSET.command, true);
  }

  /** Base address of a BAR, whether decoded or not. */
  barAddress(index: number): number {
    const value = this.view.getUint32(OFFSET.bars + 4 * index, true);
    return (value & (this.device.bars[index]?.kind === 'io' ? ~3 : ~15)) >>> 0;
  }

  /** What firmware does: place a BAR. */
  setBarAddress(index: number, address: number): void {
    this.write(OFFSET.bars + 4 * index, 4, address);
  }

  setCommand(value: number): void {
    this.write(OFFSET.command, 2, value);
  }

  setInterruptLine(irq: number): void {
    this.bytes[OFFSET.interruptLine] = irq;
  }

  setInterruptStatus(asserted: boolean): void {
    if (asserted) this.bytes[OFFSET.status] |= STATUS.interrupt;
    else this.bytes[OFFSET.status] &= ~STATUS.interrupt;
  }

  /** `offset + size` <= 256. */
  read(offset: number, size: 1 | 2 | 4): number {
    let value = 0;
    for (let i = size - 1; i >= 0; i--) value = value * 256 + this.bytes[offset + i];
    return value;
  }

  write(offset: number, size: 1 | 2 | 4, value: number): void {
    for (let i = 0; i < size; i++) {
      const mask = this.writable[offset + i];
      this.bytes[offset + i] = (this.bytes[offset + i] & ~mask) | ((value >>> (8 * i)) & mask);
    }
  }

  save(): unknown {
    return { bytes: saveBytes(this.bytes) };
  }

  /** Takes over only what software may write: identity is the device's. */
  load(state: unknown): void {
    const saved = readState(`${this.device.name} configuration`, state).bytes('bytes', CONFIG_SIZE, true);
    for (let i = 0; i < CONFIG_SIZE; i++) this.bytes[i] = (this.bytes[i] & ~this.writable[i]) | (saved[i] & this.writable[i]);
    this.bytes[OFFSET.interruptLine] = saved[OFFSET.interruptLine];
  }
}
