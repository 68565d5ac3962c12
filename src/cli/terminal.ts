/** The terminal as the guest's console: raw mode while the guest has it, always given back as it was. */

const ESCAPE = 0x01; // ctrl-a
export type ConsoleCommand = 'quit';

export interface ConsoleInput { close(): void }

const HELP = '\r\nctrl-a x  leave and stop the machine\r\nctrl-a h  this help\r\nctrl-a ctrl-a  send ctrl-a\r\n';

/**
 * Reads standard input for the guest. On a terminal, ctrl-a is the escape key; on a pipe, bytes pass as they are.
 * `close` restores the terminal; it also happens when the process exits in any way that runs exit handlers.
 */
export function openConsole(send: (bytes: Uint8Array) => void, command: (name: ConsoleCommand) => void): ConsoleInput {
  const input = process.stdin;
  const terminal = input.isTTY === true;
  let escaped = false;
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
        case 0x78: case 0x58: command('quit'); break; // x
        case 0x68: case 0x3f: process.stderr.write(HELP); break; // h ?
        case ESCAPE: out.push(ESCAPE); break;
        default: out.push(byte);
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
      input.off('data', onData);
      input.pause();
      restore();
      process.off('exit', restore);
    },
  };
}
