/** `portcullis audit verify FILE`: has anybody changed, removed, moved or cut off a line of an event log? */
import { closeSync, openSync, readSync } from 'node:fs';
import type { Command } from 'commander';
import { UserError } from '../base/errors.ts';
import { ChainReader, type ChainReport, LINE_LIMIT } from '../policy/audit-chain.ts';
import { action, inputFile } from './command.ts';
import { printJson } from './output.ts';

const CHUNK = 1 << 20;

/** Reads logs of any length, in their order, piece by piece. Throws UserError for what is no log. */
export function readChain(...paths: string[]): ChainReport {
  const reader = new ChainReader();
  for (const path of paths) {
    reader.file();
    eachLine(path, (bytes, whole) => reader.line(bytes, whole));
  }
  let line = 0;
  if (reader.broken) for (const path of paths) eachLine(path, (bytes) => reader.place(++line, bytes));
  return reader.report();
}

/** Shows the lines of a file. `whole`: false for a last one without a newline. Throws UserError for a line that no log of ours holds. */
function eachLine(path: string, show: (bytes: Uint8Array, whole: boolean) => void): void {
  inputFile(path, 'log', 'give a file that --events wrote');
  const chunk = Buffer.alloc(CHUNK);
  const fd = openSync(path, 'r');
  try {
    let rest = Buffer.alloc(0);
    for (let got = readSync(fd, chunk); got > 0; got = readSync(fd, chunk)) {
      const bytes = Buffer.concat([rest, chunk.subarray(0, got)]);
      let from = 0;
      for (let end = bytes.indexOf('\n'); end >= 0; end = bytes.indexOf('\n', from)) {
        show(bytes.subarray(from, end), true);
        from = end + 1;
      }
      rest = bytes.subarray(from);
      if (rest.length > LINE_LIMIT)
        throw new UserError(`${path}: a line has more than ${LINE_LIMIT} bytes`, 'expected a log made by --events');
    }
    if (rest.length > 0) show(rest, false);
  } finally {
    closeSync(fd);
  }
}

export function addAuditCommand(program: Command): void {
  const audit = program.command('audit').description('the event logs of machines');
  const verify = audit
    .command('verify')
    .argument('<file...>', 'a log written by --events; the parts of one that was split, in order')
    .description('find a line that was changed, removed, moved or cut off')
    .option('--open', 'the log may lack its end: its machine runs, or was killed')
    .option('--head <sha256>', 'hash of the last line, as an earlier verify printed it')
    .addHelpText(
      'after',
      `
What is told apart: lines changed, removed, moved, added, cut off at the start or the end,
a last line in half (the writer was killed), and events that the log says it lost.
Each line of a log carries the SHA-256 of the line before it. Whoever may write the whole
file could write it anew: keep the printed hash elsewhere, and give it with --head.

Exit codes: 0 nothing found, 1 something was found, 2 no such log.

Example:
  portcullis audit verify events.ndjson
`,
    );
  action(verify, ({ json }, files: string[], options: { open?: boolean; head?: string }) => {
    const report = readChain(...files);
    const findings: { kind: string; text: string }[] = report.findings.map(({ line, kind, problem }) => ({
      kind,
      text: `line ${line} ${problem}`,
    }));
    const add = (kind: string, text: string) => findings.push({ kind, text });
    if (report.lines === 0) add('empty', 'the log is empty');
    else if (!report.ended && !options.open)
      add('no-end', 'the last run has no end: it was cut off, its machine was killed, or still runs (--open allows that)');
    if (options.head !== undefined && options.head !== report.head) add('other-head', `the last line has the hash ${report.head}`);
    const ok = findings.length === 0;
    const { lines, runs, events, head, ended } = report;
    const file = files.join(', ');
    if (json) printJson({ ok, lines, runs, events, head, ended, findings });
    else if (ok) console.log(`${file}: whole; ${events} events in ${runs} ${runs === 1 ? 'run' : 'runs'}\nlast line: ${head}`);
    else console.log(`${file}: not whole\n${findings.map((finding) => `  ${finding.text}`).join('\n')}`);
    return ok ? 0 : 1;
  });
}
