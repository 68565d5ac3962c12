/** The terminal as the guest's console: raw mode while the guest has it, always given back as it was. */

const ESCAPE = 0x01; // ctrl-a
export type ConsoleCommand = 'quit' | 'cables';

export interface ConsoleInput {
  close(): void;
}

const HELP = [
  '',
  'ctrl-a x       stop the machine and leave',
  'ctrl-a l       pull the cables of all network cards out, or put them in',
  'ctrl-a h       this help',
  'ctrl-a ctrl-a  send ctrl-a',
  'All other keys go to the guest, ctrl-c too. After a change of the window\'s size, run "resize" in the guest.',
  '',
].join('\r\n');
/** Input that waits for the guest, bytes: above the first no more is read, below the second again. */
const HIGH_WATER = 32768;
const LOW_WATER = 8192;
const LOOK_AGAIN_MS = 20;

/** The guest's end of the console. */
export interface ConsoleTarget {
  input(bytes: Uint8Array): void;
  /** Bytes of input that the guest has not taken yet. */
  inputBacklog(): number;
}

/**
 * Reads standard input for the guest. On a terminal, ctrl-a is the escape key; on a pipe, bytes pass as they are.
 * `close` restores the terminal; it also happens when the process exits in any way that runs exit handlers.
 */
export function openConsole(target: ConsoleTarget, command: (name: ConsoleCommand) => void): ConsoleInput {
  const input = process.stdin;
  const terminal = input.isTTY === true;
  let escaped = false;
  let waiting: NodeJS.Timeout | undefined;
  const send = (bytes: Uint8Array) => {
    target.input(bytes);
    if (terminal || waiting !== undefined || target.inputBacklog() < HIGH_WATER) return;
    input.pause();
    waiting = setInterval(() => {
      if (target.inputBacklog() > LOW_WATER) return;
      clearInterval(waiting);
      waiting = undefined;
      input.resume();
    }, LOOK_AGAIN_MS);
  };
  const onData = (chunk: Buffer) => {
    if (!terminal) return send(new Uint8Array(chunk));
    const out: number[] = [];
    for (const byte of chunk) {
      if (!escaped) {
        if (byte === ESCAPE) escaped = true;
        else out.push(byte);
        continue;
      }
      escaped = false;
      switch (byte) {
        case 0x78:
        case 0x58:
          command('quit');
          break; // x
        case 0x6c:
          command('cables');
          break; // l
        case 0x68:
        case 0x3f:
          process.stderr.write(HELP);
          break; // h ?
        case ESCAPE:
          out.push(ESCAPE);
          break;
        default:
          out.push(byte);
      }
    }
    if (out.length) send(Uint8Array.from(out));
  };
  const restore = () => {
    if (terminal && input.isRaw) input.setRawMode(false);
  };
  if (terminal) input.setRawMode(true);
  process.on('exit', restore);
  input.on('data', onData);
  input.resume();
  return {
    close() {
      clearInterval(waiting);
      input.off('data', onData);
      input.pause();
      restore();
      process.off('exit', restore);
    },
  };
}
