/** Makes the consoles of several machines readable on one screen: whole lines only, each with the name of its machine. */

const NEWLINE = 10;
/** A line that grows longer is printed in pieces: a guest must not fill our memory. */
const LONGEST_LINE = 8192;

export class LinePrefixer {
  private rest: Buffer = Buffer.alloc(0);
  private readonly prefix: Buffer;

  constructor(prefix: string) {
    this.prefix = Buffer.from(prefix);
  }

  /** The lines that `bytes` complete, each behind the prefix. */
  add(bytes: Uint8Array): Uint8Array {
    const all = Buffer.concat([this.rest, bytes]);
    const out: Buffer[] = [];
    let from = 0;
    while (from < all.length) {
      const newline = all.indexOf(NEWLINE, from);
      const whole = newline >= 0 && newline - from < LONGEST_LINE;
      if (!whole && all.length - from < LONGEST_LINE) break;
      const end = whole ? newline : from + LONGEST_LINE;
      out.push(this.prefix, all.subarray(from, end), Buffer.of(NEWLINE));
      from = whole ? end + 1 : end;
    }
    this.rest = Buffer.from(all.subarray(from));
    return Buffer.concat(out);
  }

  /** What is left without its newline. */
  end(): Uint8Array {
    const { rest } = this;
    this.rest = Buffer.alloc(0);
    return rest.length === 0 ? rest : Buffer.concat([this.prefix, rest, Buffer.of(NEWLINE)]);
  }
}
