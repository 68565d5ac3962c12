/** Where the lines of an event log go: a file, a pipe, a socket, a terminal. Each takes as much as it can, and says when it can take more. */
import { closeSync, constants, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import type { Writable } from 'node:stream';
import { UserError } from '../base/errors.ts';
import { LINE_LIMIT } from '../policy/audit-chain.ts';

export interface EventTarget {
  /** Takes some of `bytes`, all of them, or none, and gives how many. When not all, it says why, and calls `ready` when it may take more. */
  write(bytes: Buffer): { taken: number; reason: string };
  /** Set by the log. */
  ready: () => void;
  /** Set by the log: it will never take anything again. */
  gone: (reason: string) => void;
  /** Resolves when what was taken is out, or cannot be. */
  close(): Promise<void>;
}

/** Bytes that wait for a slow reader. */
const BACKLOG = 8 << 20;
/** How often a file that could not be written is tried again, ms. */
const RETRY_MS = 200;
const FIRST_FREE_FD = 3;
const MAX_FD = 65535;
const NEWLINE = 10;

/** Opens `where`: a path, "-" for standard output, or "fd:N" for a descriptor that this process was given. `last`: the last line of a log that is gone on with. Throws UserError. */
export function openEventTarget(where: string): { target: EventTarget; last?: Uint8Array } {
  if (where === '-') return { target: streamTarget(process.stdout, false) };
  const fd = open(where);
  const stat = fstatSync(fd);
  if (stat.isFIFO() || stat.isSocket()) return { target: streamTarget(new Socket({ fd, readable: false, writable: true }), true) };
  const before = stat.isFile() && stat.size > 0 ? lastLine(fd, stat.size) : undefined;
  const target = fileTarget(fd);
  if (before?.whole === false) target.write(Buffer.of(NEWLINE));
  return { target, last: before?.line };
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

/** Files and terminals: written at once, so that nothing is lost when this process is killed. A full disk may have room again. */
function fileTarget(fd: number): EventTarget {
  let retry: NodeJS.Timeout | undefined;
  const target: EventTarget = {
    write(bytes) {
      let taken = 0;
      try {
        while (taken < bytes.length) taken += writeSync(fd, bytes, taken);
        return { taken, reason: '' };
      } catch (error) {
        retry ??= setTimeout(() => {
          retry = undefined;
          target.ready();
        }, RETRY_MS);
        return { taken, reason: (error as Error).message };
      }
    },
    ready() {},
    gone() {},
    async close() {
      clearTimeout(retry);
      if (fd >= FIRST_FREE_FD) closeSync(fd);
    },
  };
  return target;
}

/** Pipes and sockets: their reader may be slow or gone. `own`: to be closed with the log. */
function streamTarget(stream: Writable, own: boolean): EventTarget {
  let broken: string | undefined;
  const target: EventTarget = {
    write(bytes) {
      if (broken !== undefined) return { taken: 0, reason: broken };
      if (stream.writableLength > BACKLOG) {
        stream.once('drain', () => target.ready());
        return { taken: 0, reason: 'its reader is too slow' };
      }
      stream.write(bytes);
      return { taken: bytes.length, reason: '' };
    },
    ready() {},
    gone() {},
    close: () =>
      new Promise((resolve) => {
        const done = () => {
          if (own) stream.destroy();
          resolve();
        };
        if (broken !== undefined) done();
        else if (own) stream.end(done);
        else stream.write('', () => resolve());
        stream.once('error', done);
      }),
  };
  stream.on('error', (error: Error) => {
    broken = error.message;
    target.gone(error.message);
  });
  return target;
}
