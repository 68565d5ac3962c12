/** Reads what the demo's guest reports on its console (see guest/demo-script.ts). The guest is not trusted: sizes are limited, nothing is executed. */
export interface Probe {
  name: string;
  expected: string;
  got: string;
  ok: boolean;
}

const MAX_LINE = 4096;
const MAX_ITEMS = 1000;
const TAIL_LINES = 40;

export class DemoTranscript {
  readonly values = new Map<string, string[]>();
  readonly probes: Probe[] = [];
  readonly stages: { name: string; time: number }[] = [];
  private line = '';
  private readonly lines: string[] = [];

  /** When the transcript was opened, in ms of `now`. */
  readonly started: number;

  constructor(
    private readonly onStage: (name: string) => void,
    readonly now: () => number = () => performance.now(),
  ) {
    this.started = now();
  }

  add(bytes: Uint8Array): void {
    const parts = (this.line + Buffer.from(bytes).toString('utf8')).split('\n');
    this.line = (parts.pop() ?? '').slice(-MAX_LINE);
    for (const part of parts) this.take(part.slice(0, MAX_LINE).replace(/\r/g, ''));
  }

  private take(line: string): void {
    this.lines.push(line);
    if (this.lines.length > TAIL_LINES) this.lines.shift();
    const match = /^@@ (stage|value|probe) (.*)$/.exec(line);
    if (!match) return;
    const [, kind, rest] = match;
    if (kind === 'stage' && this.stages.length < MAX_ITEMS) {
      this.stages.push({ name: rest, time: this.now() });
      this.onStage(rest);
    } else if (kind === 'value') {
      const space = rest.indexOf(' ');
      const name = space < 0 ? rest : rest.slice(0, space);
      const list = this.values.get(name) ?? [];
      if (this.values.size < MAX_ITEMS && list.length < MAX_ITEMS)
        this.values.set(name, [...list, space < 0 ? '' : rest.slice(space + 1).trim()]);
    } else if (kind === 'probe' && this.probes.length < MAX_ITEMS) {
      // The last two words are the expected and the found value; a missing one means that the probe itself failed.
      const words = rest.split(' ');
      const [expected, got] = words.splice(-2);
      this.probes.push({ name: words.join(' '), expected, got, ok: expected.toLowerCase() === got?.toLowerCase() });
    }
  }

  value(name: string, index = 0): string | undefined {
    return this.values.get(name)?.[index];
  }

  tail(): string {
    return [...this.lines, this.line].filter((line) => line !== '').join('\n');
  }
}
