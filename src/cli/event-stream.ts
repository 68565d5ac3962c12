/**
 * The target of `--events`: chained NDJSON (policy/audit-chain.ts) to a file, a pipe or standard output. A target that fails or does not keep up
 * must not hold up the machine.
 */
import { closeSync, constants, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { UserError } from '../base/errors.ts';
import { ChainWriter, LINE_LIMIT } from '../policy/audit-chain.ts';
import { LAST_WORDS_MS } from './output.ts';

export interface EventStream {
  write(event: object): void;
  /** Resolves when what was written is out, or cannot be within two seconds. */
  close(): Promise<void>;
}

/** Where lines go. A line is made only when it will be written: one that is dropped must leave no hole in the chain. */
interface LineSink {
  write(line: () => string): void;
  close(): Promise<void>;
}

/** Bytes that wait for a slow reader; after that events are dropped, and the drop is said once. */
const BACKLOG = 8 << 20;
const FIRST_FREE_FD = 3;
const MAX_FD = 65535;
const NEWLINE = 10;

/** Opens `where`: a path, "-" for standard output, or "fd:N" for a descriptor that this process was given. Throws UserError. */
export function openEventStream(where: string): EventStream {
  const complain = (text: string) => {
    process.stderr.write(`portcullis: the event stream ${where} ${text}\n`);
  };
  if (where === '-') return chained(standardOutput(complain));
  const fd = open(where);
  const stat = fstatSync(fd);
  if (stat.isFIFO() || stat.isSocket()) return chained(pipeSink(fd, complain));
  const before = stat.isFile() && stat.size > 0 ? lastLine(fd, stat.size) : undefined;
  if (before?.whole === false) writeSync(fd, '\n');
  return chained(fileSink(fd, complain), before?.line);
}

function chained(sink: LineSink, last?: Uint8Array): EventStream {
  const chain = new ChainWriter(last);
  sink.write(() => chain.start());
  return {
    write: (event) => sink.write(() => chain.event(event)),
    close() {
      sink.write(() => chain.end());
      return sink.close();
    },
  };
}

/** The last line of a log that is appended to, and whether it has its newline. Undefined where the log may not be read. */
function lastLine(fd: number, size: number): { line: Uint8Array; whole: boolean } | undefined {
  const tail = Buffer.alloc(Math.min(size, LINE_LIMIT + 1));
  try {
    const reader = openSync(`/proc/self/fd/${fd}`, constants.O_RDONLY); // the descriptor itself may be for writing only
    try {
      readSync(reader, tail, 0, tail.length, size - tail.length);
    } finally {
      closeSync(reader);
    }
  } catch {
    return undefined;
  }
  const whole = tail.at(-1) === NEWLINE;
  const end = whole ? tail.length - 1 : tail.length;
  return { line: tail.subarray(end === 0 ? 0 : tail.lastIndexOf(NEWLINE, end - 1) + 1, end), whole };
}

function open(where: string): number {
  const given = /^fd:(\d+)$/.exec(where);
  try {
    if (given === null) {
      // Not blocking: a named pipe that nobody reads is an error here, not a hang.
      return openSync(where, constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NONBLOCK, 0o666);
    }
    const fd = Number(given[1]);
    if (fd > MAX_FD) throw new Error('there is no such descriptor');
    fstatSync(fd);
    // Node has descriptors of its own that nobody can write to; an empty write tells.
    writeSync(fd, '');
    return fd;
  } catch (error) {
    const unread = (error as NodeJS.ErrnoException).code === 'ENXIO';
    throw new UserError(
      `--events ${where}: ${unread ? 'nobody reads this pipe' : (error as Error).message}`,
      'give a writable path, - or an open descriptor as fd:N',
      'failed',
    );
  }
}

const TOO_SLOW = 'is not read fast enough: events are lost';

function standardOutput(complain: (text: string) => void): LineSink {
  let full = false;
  return {
    write(line) {
      if (process.stdout.writableLength <= BACKLOG) process.stdout.write(`${line()}\n`);
      else if (!full) {
        full = true;
        complain(TOO_SLOW);
      }
    },
    close: async () => {},
  };
}

/** Files and terminals: written at once, so that nothing is lost when this process is killed. */
function fileSink(fd: number, complain: (text: string) => void): LineSink {
  let broken = false;
  return {
    write(line) {
      if (broken) return;
      const bytes = Buffer.from(`${line()}\n`);
      try {
        for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
      } catch (error) {
        broken = true;
        complain(`ended: ${(error as Error).message}`);
      }
    },
    async close() {
      if (fd >= FIRST_FREE_FD) closeSync(fd);
    },
  };
}

/** Pipes and sockets: their reader may be slow or gone. */
function pipeSink(fd: number, complain: (text: string) => void): LineSink {
  const socket = new Socket({ fd, readable: false, writable: true });
  let state: 'open' | 'full' | 'broken' = 'open';
  const fail = (text: string, next: 'full' | 'broken') => {
    if (state === 'open') complain(text);
    state = next;
  };
  socket.on('error', (error) => fail(`ended: ${error.message}`, 'broken'));
  return {
    write(line) {
      if (state === 'broken') return;
      if (socket.writableLength > BACKLOG) fail(TOO_SLOW, 'full');
      else socket.write(`${line()}\n`);
    },
    close: () =>
      new Promise((resolve) => {
        const done = () => {
          clearTimeout(timer);
          socket.destroy();
          resolve();
        };
        const timer = setTimeout(done, LAST_WORDS_MS);
        if (state === 'broken') done();
        else socket.end(done);
        socket.once('error', done);
      }),
  };
}
