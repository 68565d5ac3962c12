/** Frames on their way to a card that may have no room: offered in order, kept while refused, lost beyond a limit. */

export class ReceiveQueue {
  private frames: Uint8Array[] = [];
  private head = 0;
  private draining = false;
  dropped = 0;

  /** `offer` gives a frame to the card; false = no room. At most `limit` frames wait. */
  constructor(
    private readonly offer: (frame: Uint8Array) => boolean,
    private readonly limit: number,
  ) {}

  get length(): number {
    return this.frames.length - this.head;
  }

  push(frame: Uint8Array): void {
    if (this.length === 0 && !this.draining && this.offer(frame)) return;
    if (this.length >= this.limit) this.dropped++;
    else this.frames.push(frame);
  }

  /** Offers what waits. True when nothing is left. */
  drain(): boolean {
    if (this.draining) return false;
    this.draining = true;
    try {
      while (this.head < this.frames.length && this.offer(this.frames[this.head])) this.head++;
    } finally {
      this.draining = false;
    }
    this.frames.splice(0, this.head);
    this.head = 0;
    return this.frames.length === 0;
  }

  clear(): void {
    this.frames = [];
    this.head = 0;
  }
}
