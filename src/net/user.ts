/**
 * The host's network without root: a passt process of our own does the address translation and speaks the stream framing. It gets
 * one end of a socket pair instead of a socket path (`--fd`), so there is no file whose permissions matter when passt,
 * started as root, becomes nobody, and it ends by itself when we do.
 */
import { spawn } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, isAbsolute, join } from 'node:path';
import type { Socket } from 'node:net';
import { UserError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { type StreamBackend, streamOver } from './stream.ts';

export interface UserOptions {
  log: Log;
  /** The passt program; looked up on PATH by default. */
  passt?: string;
  /** How long passt may take to fail because of its options or rights, ms; 200 by default. What fails later is logged. */
  settle?: number;
}

const SOCKET_FD = 3;
const SETTLE = 200;
const MESSAGE_LIMIT = 4096;

/** Starts passt. Rejects with UserError when it is missing or ends at once. It is killed by `close`. */
export async function openUser(options: UserOptions): Promise<StreamBackend> {
  const program = find(options.passt ?? 'passt');
  const child = spawn(program, ['--foreground', '--quiet', '--fd', String(SOCKET_FD)], {
    stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
  });
  let message = '';
  child.stderr?.on('data', (data: Buffer) => {
    if (message.length < MESSAGE_LIMIT) message += data.toString();
  });
  const said = new Promise((resolve) => child.stderr?.once('close', resolve));
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    // What it says may still be on its way then. The event 'close' of the process would also wait for our end of the socket pair.
    child.once('exit', (code, signal) => said.then(() => resolve(`it ended with ${signal ?? `code ${code}`}`)));
  });
  let timer: NodeJS.Timeout | undefined;
  const settled = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), options.settle ?? SETTLE);
  });
  const failure = await Promise.race([ended, settled]);
  clearTimeout(timer);
  if (failure !== undefined) {
    throw new UserError(`passt (${program}) does not run: ${failure}. ${message.trim()}`, 'try it by hand, or use --net peer', 'failed');
  }
  const backend = streamOver(child.stdio[SOCKET_FD] as Socket, options);
  void ended.then((reason) => options.log.warn('passt is gone; the guest has no network', { reason, message: message.trim() }));
  const closeStream = backend.close.bind(backend);
  backend.close = () => {
    child.removeAllListeners('exit');
    closeStream();
    child.kill('SIGKILL');
  };
  return backend;
}

function find(program: string): string {
  const candidates =
    isAbsolute(program) || program.includes('/')
      ? [program]
      : (process.env.PATH ?? '')
          .split(delimiter)
          .filter((folder) => folder !== '')
          .map((folder) => join(folder, program));
  for (const candidate of candidates) {
    try {
      accessSync(candidate, constants.X_OK);
      return candidate;
    } catch {
      // Not there: try the next.
    }
  }
  throw new UserError(`"${program}" was not found, and the user network needs it`, 'install the Debian package passt, or use --net peer');
}
