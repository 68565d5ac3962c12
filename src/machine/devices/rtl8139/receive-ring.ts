/** C+ mode reception: frames go to buffers of a descriptor ring (data sheet 9.2). The driver gives a buffer by setting OWN in memory. */
import type { Dma } from '../../ports.ts';
import { DESCRIPTOR, FCS, RECEIVE } from './bits.ts';
import { DescriptorChain } from './chain.ts';
import type { RegisterFile } from './registers.ts';
import type { Statistics } from './statistics.ts';

/** later: no room now; never: the ring cannot take it, whatever the driver does. */
export type Stored = 'stored' | 'later' | 'never';

export class DescriptorRing {
  /** The next descriptor to fill. */
  index = 0;
  private readonly chain: DescriptorChain;
  private readonly writtenBytes = new Uint8Array(8);
  private readonly written = new Uint32Array(this.writtenBytes.buffer);

  constructor(
    private readonly registers: RegisterFile,
    private readonly dma: Dma,
    private readonly statistics: Statistics,
  ) {
    this.chain = new DescriptorChain(dma);
  }

  /** `status`: bits for the first word of the last descriptor; `tag`: its second word. */
  store(frame: Uint8Array, status: number, tag: number): Stored {
    const { chain } = this;
    const total = frame.length + FCS;
    const room = this.findRoom(total);
    if (room !== 'stored') return room;
    let at = 0;
    for (let i = 0; i < chain.count; i++) {
      const command = chain.commands[i];
      const size = command & RECEIVE.size;
      const last = i === chain.count - 1;
      // The FCS counts in the length, but its bytes are left as they are.
      if (at < frame.length) this.dma.write(chain.buffers[i], frame.subarray(at, at + size));
      // Both words in one piece, so that length and status appear together.
      this.written[0] = (command & DESCRIPTOR.end) | (i === 0 ? DESCRIPTOR.first : 0) | (last ? DESCRIPTOR.last | status | total : size);
      this.written[1] = last ? tag : 0;
      this.dma.write(chain.places[i], this.writtenBytes);
      at += size;
    }
    this.index = chain.index;
    return 'stored';
  }

  /** Reads descriptors until they hold `total` bytes. */
  private findRoom(total: number): Stored {
    const { chain } = this;
    chain.begin(this.registers.address('RDSAR0'), this.index);
    for (let sum = 0; sum < total; ) {
      const step = chain.step();
      if (step === 'driver') return 'later';
      if (step !== 'card') {
        this.statistics.totals.badRings++;
        return 'never';
      }
      sum += chain.commands[chain.count - 1] & RECEIVE.size;
    }
    return 'stored';
  }
}
