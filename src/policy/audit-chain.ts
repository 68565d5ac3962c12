/**
 * The audit log as a chain: every line carries the SHA-256 of the line before it, so that a line that was changed, removed, put elsewhere or
 * cut off is noticed afterwards.
 *
 * A run is an `audit.started` line with a random id, its events, and an `audit.ended` line with their number. Runs that are appended to one file hang
 * together: the start of one carries the hash of the end of the other. Whoever can write the whole file can write a new chain; the hash of the last
 * line, kept elsewhere, is what tells then.
 */
import { createHash, randomBytes } from 'node:crypto';

/** Longest line that a log may hold, bytes. */
export const LINE_LIMIT = 1 << 20;

const digest = (line: string | Uint8Array) => createHash('sha256').update(line).digest('hex');

/** Makes the lines of one run, without their newlines. */
export class ChainWriter {
  private previous: string | undefined;
  private count = 0;

  /** `last`: the last line of the log that is gone on with, if any. */
  constructor(last?: Uint8Array) {
    this.previous = last && digest(last);
  }

  start(): string {
    return this.link({ event: 'audit.started', id: randomBytes(16).toString('hex') });
  }
  event(event: object): string {
    this.count += 1;
    return this.link(event);
  }
  end(): string {
    return this.link({ event: 'audit.ended', events: this.count });
  }

  private link(body: object): string {
    const line = JSON.stringify(this.previous === undefined ? body : { ...body, previous: this.previous });
    this.previous = digest(line);
    return line;
  }
}

export interface ChainFinding {
  line: number;
  problem: string;
}
export interface ChainReport {
  lines: number;
  runs: number;
  events: number;
  /** SHA-256 of the last line: kept elsewhere, it shows later that nothing was cut off or written anew. */
  head: string;
  /** The last run has its end. Without one the log is still being written, its machine was killed, or it was cut off. */
  ended: boolean;
  findings: ChainFinding[];
}

const MOST_FINDINGS = 100;

/** Takes a log line by line. Never throws, whatever the lines are. */
export class ChainReader {
  private lines = 0;
  private runs = 0;
  private total = 0;
  private events = 0;
  private open = false;
  private previous: string | undefined;
  private readonly findings: ChainFinding[] = [];

  /** `bytes`: a line without its newline. `whole`: false for a last line that has none. */
  line(bytes: Uint8Array, whole = true): void {
    this.lines += 1;
    const fields = parse(bytes);
    if (!whole) this.find('is cut off');
    else if (fields === undefined) this.find('is no event as it was written');
    else this.follow(fields);
    this.previous = digest(bytes);
  }

  report(): ChainReport {
    const { lines, runs, total: events, findings, open } = this;
    return { lines, runs, events, head: this.previous ?? '', ended: lines > 0 && !open, findings };
  }

  private follow({ event, previous, events }: Record<string, unknown>): void {
    if (previous !== this.previous) {
      if (this.lines === 1) this.find('follows a line that is not here: the start of the log was cut off');
      else if (previous === undefined) this.find('carries no hash of the line before it');
      else this.find('does not follow the line before it: one of the two was changed, moved, or lines between them were removed');
    }
    if (event === 'audit.started') {
      this.runs += 1;
      this.events = 0;
      this.open = true;
    } else if (!this.open) {
      this.find('belongs to no run: its start is missing');
      this.open = true;
    } else if (event === 'audit.ended') {
      if (events !== this.events) this.find(`ends a run of ${String(events)} events; ${this.events} are here`);
      this.open = false;
    } else {
      this.events += 1;
      this.total += 1;
    }
  }

  private find(problem: string): void {
    if (this.findings.length < MOST_FINDINGS) this.findings.push({ line: this.lines, problem });
  }
}

/** The fields of a line that is exactly what `JSON.stringify` makes of them. */
function parse(bytes: Uint8Array): Record<string, unknown> | undefined {
  try {
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8');
    const value: unknown = JSON.parse(text);
    const asWritten = typeof value === 'object' && value !== null && !Array.isArray(value) && JSON.stringify(value) === text;
    return asWritten ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
