/**
 * Progress of long work on standard error: a line that rewrites itself on a terminal, NDJSON with `--progress json`, plain lines otherwise.
 * Never on standard output, which is for results.
 */
export interface ProgressStep {
  text: string;
  done?: number;
  total?: number;
}
export interface ProgressReporter {
  step(step: ProgressStep): void;
  /** Clears the line; call before printing anything else and at the end. */
  clear(): void;
}
export type ProgressMode = 'auto' | 'json' | 'none';

const BAR_WIDTH = 24;
const JSON_PERIOD_MS = 250;
const mebibytes = (bytes: number) => (bytes / 1048576).toFixed(1);

export function createProgress(mode: ProgressMode, stream: NodeJS.WriteStream = process.stderr): ProgressReporter {
  if (mode === 'none') return { step() {}, clear() {} };
  if (mode === 'json') return jsonProgress(stream);
  return stream.isTTY ? barProgress(stream) : lineProgress(stream);
}

function jsonProgress(stream: NodeJS.WriteStream): ProgressReporter {
  let last = '';
  let lastTime = 0;
  return {
    step(step) {
      const now = Date.now();
      const finished = step.total !== undefined && step.done === step.total;
      if (step.text === last && !finished && now - lastTime < JSON_PERIOD_MS) return;
      last = step.text;
      lastTime = now;
      stream.write(`${JSON.stringify({ progress: step.text, done: step.done, total: step.total })}\n`);
    },
    clear() {},
  };
}

function lineProgress(stream: NodeJS.WriteStream): ProgressReporter {
  let last = '';
  return {
    step({ text }) {
      if (text !== last) stream.write(`${text} ...\n`);
      last = text;
    },
    clear() {},
  };
}

function barProgress(stream: NodeJS.WriteStream): ProgressReporter {
  let drawn = false;
  let current = '';
  let started = 0;
  let furthest = 0;
  return {
    step({ text, done, total }) {
      if (text !== current) {
        current = text;
        started = Date.now();
        furthest = 0;
      }
      let line = text;
      if (total) {
        furthest = Math.max(furthest, done ?? 0);
        const share = Math.min(1, furthest / total);
        const filled = Math.round(share * BAR_WIDTH);
        const seconds = (Date.now() - started) / 1000;
        const rate = seconds > 0.5 ? `, ${mebibytes(furthest / seconds)} MiB/s` : '';
        line = `${text} [${'='.repeat(filled)}${' '.repeat(BAR_WIDTH - filled)}] ${mebibytes(furthest)} of ${mebibytes(total)} MiB${rate}`;
      }
      stream.write(`\r\x1b[K${line.slice(0, Math.max(20, (stream.columns ?? 80) - 1))}`);
      drawn = true;
    },
    clear() {
      if (drawn) stream.write('\r\x1b[K');
      drawn = false;
    },
  };
}
