/**
 * C mode reception: frames lie one behind the other in a ring buffer of 8 to 64 KiB, each with a header of status and length (data sheet 6,
 * RBSTART, CAPR, CBR). CBR is where the chip writes next; the driver reads at CAPR + 16.
 */
import type { Dma } from '../../ports.ts';
import { FCS, RECEIVE_CONFIG } from './bits.ts';
import type { RegisterFile } from './registers.ts';
import type { Stored } from './receive-ring.ts';
import type { Destination, Statistics } from './statistics.ts';

const HEADER = 4;
const READ_AHEAD = 16;
const WHOLE = 0x1_0000;
/** Status in the header: received, and by which address. */
const OK = 0x0001;
const BY = { physical: 0x4000, broadcast: 0x2000, multicast: 0x8000 } as const;

export class RingBuffer {
  private readonly header = new Uint8Array(HEADER);

  constructor(
    private readonly registers: RegisterFile,
    private readonly dma: Dma,
    private readonly statistics: Statistics,
  ) {}

  get empty(): boolean {
    return this.used === 0;
  }

  reset(): void {
    this.registers.set('CBR', 0);
    this.registers.set('CAPR', WHOLE - READ_AHEAD);
  }

  /** `own`: the frame is for the station address. */
  store(frame: Uint8Array, destination: Destination, own: boolean): Stored {
    const { size } = this;
    const length = frame.length + FCS;
    const needed = (HEADER + length + 3) & ~3;
    // A full buffer would look like an empty one.
    if (this.used + needed >= size) return 'later';
    const status = OK | (destination !== 'physical' || own ? BY[destination] : 0);
    this.header.set([status & 0xff, status >>> 8, length & 0xff, length >>> 8]);
    const at = this.registers.get('CBR') % size;
    const stored = this.put(at, this.header) && this.put((at + HEADER) % size, frame);
    if (!stored) this.statistics.totals.badRings++;
    this.registers.set('CBR', (at + needed) % size);
    return stored ? 'stored' : 'never';
  }

  private get size(): number {
    return 8192 << ((this.registers.get('RCR') >>> RECEIVE_CONFIG.lengthShift) & 3);
  }

  private get used(): number {
    const { size } = this;
    return (this.registers.get('CBR') + WHOLE - ((this.registers.get('CAPR') + READ_AHEAD) % size)) % size;
  }

  /** A frame at the end goes on at the start, or beyond the end if the driver left room there (RCR.WRAP, not with 64 KiB). */
  private put(at: number, bytes: Uint8Array): boolean {
    const { size } = this;
    const start = this.registers.get('RBSTART');
    const straight = (this.registers.get('RCR') & RECEIVE_CONFIG.noWrap) !== 0 && size !== WHOLE;
    const fits = straight ? bytes.length : Math.min(bytes.length, size - at);
    if (!this.dma.write(start + at, bytes.subarray(0, fits))) return false;
    return fits === bytes.length || this.dma.write(start, bytes.subarray(fits));
  }
}
