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

/** What was done to a log, as far as its lines show it. */
export type ChainProblem =
  | 'changed' // a line is not what was written
  | 'removed' // lines are missing in the middle
  | 'moved' // the line that should stand before is elsewhere
  | 'start-missing' // lines are missing at the start
  | 'cut' // the last line has no end
  | 'added' // a line that no log of ours holds, or that hangs on nothing
  | 'no-event' // no JSON as we write it
  | 'lost'; // the log could not be written when events came; it says so itself

export interface ChainFinding {
  line: number;
  kind: ChainProblem;
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

/** A place where the chain is broken: the line's own hash of what stood before it is that of no line before it. */
interface Break {
  finding: ChainFinding;
  run: number;
  wants: string;
  /** Where that line is, found by `place`. */
  at?: number;
}

/**
 * Takes a log line by line. Never throws, whatever the lines are. A broken chain looks the same whether a line was changed, removed or moved; which of
 * them it was, the number of events at the end of the run tells, and `place`, when the lines are shown to it a second time.
 */
export class ChainReader {
  private lines = 0;
  private runs = 0;
  private total = 0;
  private events = 0;
  private open = false;
  private fresh = true;
  private previous: string | undefined;
  private readonly findings: ChainFinding[] = [];
  private readonly breaks: Break[] = [];
  /** Lines missing in a run, by what its end says; negative: too many. */
  private readonly missing = new Map<number, number>();

  /** The next line is the first of another file. It may go on with the chain, or begin one. */
  file(): void {
    this.fresh = true;
  }

  /** `bytes`: a line without its newline. `whole`: false for a last line that has none. */
  line(bytes: Uint8Array, whole = true): void {
    this.lines += 1;
    const fields = parse(bytes);
    if (!whole) this.find('cut', 'is cut off: its writer was killed, had no room, or the end of the log was cut off');
    else if (fields === undefined) this.find('no-event', 'is no event as it was written: it was changed, or cut off when its writer ended');
    else this.follow(fields);
    this.fresh = false;
    this.previous = digest(bytes);
  }

  /** True if the lines, shown once more in order to `place`, would tell more. */
  get broken(): boolean {
    return this.breaks.length > 0;
  }
  place(line: number, bytes: Uint8Array): void {
    const hash = digest(bytes);
    for (const entry of this.breaks) if (entry.wants === hash) entry.at ??= line;
  }

  report(): ChainReport {
    const { lines, runs, total: events, findings, open } = this;
    for (const { finding, run, wants, at } of this.breaks) Object.assign(finding, this.explain(finding.line, run, wants, at));
    return { lines, runs, events, head: this.previous ?? '', ended: lines > 0 && !open, findings };
  }

  private explain(line: number, run: number, wants: string, at: number | undefined): Pick<ChainFinding, 'kind' | 'problem'> {
    const missing = this.missing.get(run);
    const twice = this.breaks.some((other) => other.wants === wants && other.finding.line < line);
    if (at !== undefined && at === line - 1) return { kind: 'moved', problem: 'does not follow the line before it' };
    if (at !== undefined && (missing ?? 0) < 0)
      return { kind: 'added', problem: `follows line ${at}, not the one before it: lines were added between them, or are here twice` };
    if (at !== undefined) return { kind: 'moved', problem: `follows line ${at}, not the one before it: lines changed places` };
    if (twice) return { kind: 'added', problem: 'does not follow the line before it: it is here twice' };
    if (missing === undefined)
      return { kind: 'removed', problem: 'does not follow the line before it: that one was changed, or lines between them were removed' };
    if (missing > 0)
      return { kind: 'removed', problem: `does not follow the line before it: lines between them were removed; this run lacks ${missing}` };
    return { kind: 'changed', problem: 'does not follow the line before it: that one was changed' };
  }

  private follow({ event, previous, events, count }: Record<string, unknown>): void {
    const begins = event === 'audit.started' && previous === undefined;
    if (previous !== this.previous && !(this.fresh && begins)) {
      if (this.lines === 1)
        this.find(
          'start-missing',
          'follows a line that is not here: the start of the log was cut off, or is in an earlier file (give both, in order)',
        );
      else if (previous === undefined)
        this.find('added', 'carries no hash of the line before it: it was added, or lines before it were changed');
      else {
        const finding = this.find('removed', '');
        if (finding !== undefined)
          this.breaks.push({ finding, run: event === 'audit.started' ? this.runs + 1 : this.runs, wants: String(previous) });
      }
    }
    if (event === 'audit.started') {
      this.runs += 1;
      this.events = 0;
      this.open = true;
    } else if (!this.open) {
      this.find('start-missing', 'belongs to no run: its start is missing');
      this.open = true;
    } else if (event === 'audit.ended') {
      const missing = Number(events) - this.events;
      this.missing.set(this.runs, missing);
      if (missing !== 0) this.find(missing > 0 ? 'removed' : 'added', `ends a run of ${String(events)} events; ${this.events} are here`);
      this.open = false;
    } else {
      this.events += 1;
      this.total += 1;
      if (event === 'audit.lost') this.find('lost', `says that ${String(count)} events were lost here: the log could not be written`);
    }
  }

  private find(kind: ChainProblem, problem: string): ChainFinding | undefined {
    if (this.findings.length >= MOST_FINDINGS) return undefined;
    const finding = { line: this.lines, kind, problem };
    this.findings.push(finding);
    return finding;
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
