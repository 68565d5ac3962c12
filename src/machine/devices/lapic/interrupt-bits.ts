/** A set of 256 vectors, as the APIC's IRR, ISR and TMR are: eight words, with the highest vector at hand. */
export class InterruptBits {
  readonly words = new Uint32Array(8);
  /** Highest vector in the set, -1 if empty. */
  highest = -1;

  has(vector: number): boolean {
    return (this.words[vector >> 5] & (1 << (vector & 31))) !== 0;
  }

  add(vector: number): void {
    this.words[vector >> 5] |= 1 << (vector & 31);
    if (vector > this.highest) this.highest = vector;
  }

  delete(vector: number): void {
    this.words[vector >> 5] &= ~(1 << (vector & 31));
    if (vector === this.highest) this.refresh();
  }

  clear(): void {
    this.words.fill(0);
    this.highest = -1;
  }

  /** To be called after `words` was written. */
  refresh(): void {
    this.highest = -1;
    for (let i = 7; i >= 0; i--) {
      if (this.words[i] !== 0) {
        this.highest = 32 * i + 31 - Math.clz32(this.words[i]);
        return;
      }
    }
  }
}
