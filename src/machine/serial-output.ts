/** Gathers the serial port's bytes into lines: a call to the outside per byte would cost more than the guest's own work for it. */
import type { Clock } from './ports.ts';

const BUFFER = 1024;
/** A prompt without a newline is handed on after this time, ns. */
const PATIENCE = 1_000_000;
const NEWLINE = 0x0a;

export interface SerialOutput {
  write(byte: number): void;
  flush(): void;
}

export function createSerialOutput(clock: Clock, sink: { write(bytes: Uint8Array): void }): SerialOutput {
  const buffer = new Uint8Array(BUFFER);
  let used = 0;
  const flush = (): void => {
    if (used === 0) return;
    const bytes = buffer.slice(0, used);
    used = 0;
    timer.arm(Number.POSITIVE_INFINITY);
    sink.write(bytes);
  };
  const timer = clock.timer(flush);
  return {
    flush,
    write(byte) {
      buffer[used++] = byte;
      if (byte === NEWLINE || used === BUFFER) flush();
      else if (used === 1) timer.arm(clock.now() + PATIENCE);
    },
  };
}
