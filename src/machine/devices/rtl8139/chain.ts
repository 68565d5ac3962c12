/**
 * The descriptors that one packet takes from a C+ ring, read once. The guest, and the packet itself, may change memory meanwhile: what was
 * read here is what holds. At most `RING_LIMIT` descriptors, however the guest marks the end of its ring.
 */
import type { Dma } from '../../ports.ts';
import { DESCRIPTOR, DESCRIPTOR_SIZE, RING_LIMIT } from './bits.ts';

/** card: a descriptor of the card was read; driver: the next is the driver's; end: there are no more; bad: the next lies outside memory. */
export type Step = 'card' | 'driver' | 'end' | 'bad';

export class DescriptorChain {
  /** First words, buffer addresses and places of the `count` descriptors so far. */
  readonly commands = new Uint32Array(RING_LIMIT);
  readonly buffers = new Float64Array(RING_LIMIT);
  readonly places = new Float64Array(RING_LIMIT);
  /** Second word of the first. */
  tag = 0;
  count = 0;
  /** Index of the descriptor behind. */
  index = 0;
  private base = 0;
  private readonly bytes = new Uint8Array(DESCRIPTOR_SIZE);
  private readonly words = new Uint32Array(this.bytes.buffer);

  constructor(private readonly dma: Dma) {}

  /** Starts at descriptor `index` of the ring at `base`. */
  begin(base: number, index: number): void {
    this.base = base;
    this.index = index;
    this.count = 0;
  }

  step(): Step {
    const { count } = this;
    const place = this.base + this.index * DESCRIPTOR_SIZE;
    if (count === RING_LIMIT || (count > 0 && place === this.places[0])) return 'end';
    if (!this.dma.read(place, this.bytes)) return 'bad';
    const [command, tag, low, high] = this.words;
    if ((command & DESCRIPTOR.own) === 0) return 'driver';
    this.places[count] = place;
    this.commands[count] = command;
    this.buffers[count] = high * 0x1_0000_0000 + low;
    if (count === 0) this.tag = tag;
    this.count++;
    this.index = (command & DESCRIPTOR.end) !== 0 || this.index + 1 >= RING_LIMIT ? 0 : this.index + 1;
    return 'card';
  }
}
