/** The target of `--events`: NDJSON to a file, a pipe or standard output. A target that fails or does not keep up must not hold up the machine. */
import { closeSync, constants, fstatSync, openSync, writeSync } from 'node:fs';
import { Socket } from 'node:net';
import { UserError } from '../base/errors.ts';
import { LAST_WORDS_MS } from './output.ts';

export interface EventStream {
  write(event: object): void;
  /** Resolves when what was written is out, or cannot be within two seconds. */
  close(): Promise<void>;
}

/** Bytes that wait for a slow reader; after that events are dropped, and the drop is said once. */
const BACKLOG = 8 << 20;
const FIRST_FREE_FD = 3;
const MAX_FD = 65535;

/** Opens `where`: a path, "-" for standard output, or "fd:N" for a descriptor that this process was given. Throws UserError. */
export function openEventStream(where: string): EventStream {
  const complain = (text: string) => { process.stderr.write(`portcullis: the event stream ${where} ${text}\n`); };
  if (where === '-') return standardOutput(complain);
  const fd = open(where);
  const stat = fstatSync(fd);
  return stat.isFIFO() || stat.isSocket() ? pipeStream(fd, complain) : fileStream(fd, complain);
}

const line = (event: object) => `${JSON.stringify(event)}\n`;

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
    throw new UserError(`--events ${where}: ${unread ? 'nobody reads this pipe' : (error as Error).message}`, 'give a writable path, - or an open descriptor as fd:N', 'failed');
  }
}

const TOO_SLOW = 'is not read fast enough: events are lost';

function standardOutput(complain: (text: string) => void): EventStream {
  let full = false;
  return {
    write(event) {
      if (process.stdout.writableLength <= BACKLOG) process.stdout.write(line(event));
      else if (!full) {
        full = true;
        complain(TOO_SLOW);
      }
    },
    close: async () => {},
  };
}

/** Files and terminals: written at once, so that nothing is lost when this process is killed. */
function fileStream(fd: number, complain: (text: string) => void): EventStream {
  let broken = false;
  return {
    write(event) {
      if (broken) return;
      const bytes = Buffer.from(line(event));
      try {
        for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at);
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
function pipeStream(fd: number, complain: (text: string) => void): EventStream {
  const socket = new Socket({ fd, readable: false, writable: true });
  let state: 'open' | 'full' | 'broken' = 'open';
  const fail = (text: string, next: 'full' | 'broken') => {
    if (state === 'open') complain(text);
    state = next;
  };
  socket.on('error', (error) => fail(`ended: ${error.message}`, 'broken'));
  return {
    write(event) {
      if (state === 'broken') return;
      if (socket.writableLength > BACKLOG) fail(TOO_SLOW, 'full');
      else socket.write(line(event));
    },
    close: () => new Promise((resolve) => {
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
