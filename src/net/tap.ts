/**
 * A Linux TAP device (Documentation/networking/tuntap.rst), for root. Waiting happens in poll(2) on a helper thread, never in a blocking
 * read, so that `close` can end it at once through an event descriptor.
 */
import { closeSync, constants, openSync } from 'node:fs';
import koffi from 'koffi';
import { UserError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { NetworkBackend } from './ports.ts';
import { MAXIMUM_FRAME, MINIMUM_FRAME } from './ethernet.ts';

/** _IOW('T', 202, int), <linux/if_tun.h>. */
const TUNSETIFF = 0x4004_54ca;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
/** sizeof(struct ifreq) and the flags' place in it, <linux/if.h>. */
const IFREQ = 40;
const IFREQ_FLAGS = 16;
const NAME_LIMIT = 15;
const EFD_NONBLOCK = 0o4000;
const POLLIN = 1;
/** struct pollfd, twice. */
const POLLFD = 8;
/** Frames taken in one go before other work gets its turn. */
const BURST = 256;

export interface TapOptions {
  log: Log;
}
export interface TapBackend extends NetworkBackend {
  /** The interface's name, which the kernel may have completed ("tap%d"). */
  readonly interfaceName: string;
  statistics(): Record<string, number>;
}

interface Libc {
  ioctl(fd: number, request: number, argument: Uint8Array): number;
  eventfd(initial: number, flags: number): number;
  read(fd: number, into: Uint8Array, length: number): number;
  write(fd: number, from: Uint8Array, length: number): number;
  poll(fds: Uint8Array, done: (error: Error | null, count: number) => void): void;
}

let bound: Libc | undefined;

function libc(): Libc {
  if (bound !== undefined) return bound;
  const library = koffi.load('libc.so.6');
  const poll = library.func('int poll(_Inout_ uint8_t *fds, unsigned long count, int timeout)');
  bound = {
    ioctl: library.func('int ioctl(int fd, unsigned long request, _Inout_ uint8_t *argument)'),
    eventfd: library.func('int eventfd(unsigned int initial, int flags)'),
    read: library.func('long read(int fd, _Out_ uint8_t *into, unsigned long length)'),
    write: library.func('long write(int fd, const uint8_t *from, unsigned long length)'),
    poll: (fds, done) => poll.async(fds, fds.length / POLLFD, -1, done),
  };
  return bound;
}

/** Opens or makes the TAP interface `name`. Throws UserError without the right to, or off Linux. */
export function openTap(name: string, options: TapOptions): TapBackend {
  if (!/^[^\s/:]+$/.test(name) || name.length > NAME_LIMIT) {
    throw new UserError(`"${name}" is no interface name`, `use 1 to ${NAME_LIMIT} characters without spaces, "/" and ":"`);
  }
  let fd: number;
  try {
    fd = openSync('/dev/net/tun', constants.O_RDWR | constants.O_NONBLOCK);
  } catch (error) {
    const what = `cannot open /dev/net/tun: ${(error as Error).message}`;
    throw new UserError(what, 'a TAP network needs Linux and root; --net peer and --net user do not', 'failed');
  }
  const request = Buffer.alloc(IFREQ);
  request.write(name, 0, 'latin1');
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI, IFREQ_FLAGS);
  if (libc().ioctl(fd, TUNSETIFF, request) < 0) {
    const code = koffi.errno();
    closeSync(fd);
    const reason = code === koffi.os.errno.EPERM ? 'not permitted' : code === koffi.os.errno.EBUSY ? 'it is in use' : `errno ${code}`;
    const fix = 'run as root, or choose a free interface; --net peer and --net user need neither';
    throw new UserError(`cannot attach to the TAP interface ${name}: ${reason}`, fix, 'failed');
  }
  return new Tap(fd, request.toString('latin1', 0, request.indexOf(0)), options.log);
}

class Tap implements TapBackend {
  receive: (frame: Uint8Array) => boolean = () => true;
  private readonly wake = libc().eventfd(0, EFD_NONBLOCK);
  private readonly fds = new Uint8Array(2 * POLLFD);
  private readonly buffer = new Uint8Array(MAXIMUM_FRAME);
  private waiting = false;
  private closed = false;
  /** A frame that the card refused; nothing more is read until it is taken. */
  private held: Uint8Array | undefined;
  private readonly counters = { rxFrames: 0, txFrames: 0, txDropped: 0 };

  constructor(
    private readonly fd: number,
    readonly interfaceName: string,
    private readonly log: Log,
  ) {
    this.wait();
  }

  send(frame: Uint8Array): void {
    if (this.closed) return;
    if (libc().write(this.fd, frame, frame.length) === frame.length) this.counters.txFrames++;
    else this.counters.txDropped++;
  }

  ready(): void {
    if (this.held === undefined || this.closed || !this.receive(this.held)) return;
    this.held = undefined;
    this.wait();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    // The descriptors are closed once poll has come back: their numbers must not be reused under it.
    if (this.waiting) libc().write(this.wake, new Uint8Array(new BigUint64Array([1n]).buffer), 8);
    else this.release();
  }

  statistics(): Record<string, number> {
    return { ...this.counters };
  }

  private wait(): void {
    if (this.waiting || this.closed) return;
    this.waiting = true;
    const view = new DataView(this.fds.buffer);
    view.setInt32(0, this.fd, true);
    view.setInt16(4, POLLIN, true);
    view.setInt32(POLLFD, this.wake, true);
    view.setInt16(POLLFD + 4, POLLIN, true);
    libc().poll(this.fds, (error) => {
      this.waiting = false;
      if (this.closed) this.release();
      else if (error !== null) this.log.error('waiting for the TAP interface failed', { reason: error.message });
      else if (this.take()) this.wait();
    });
  }

  /** Hands on what has come. False: the card is full. */
  private take(): boolean {
    for (let i = 0; i < BURST; i++) {
      const length = libc().read(this.fd, this.buffer, this.buffer.length);
      if (length <= 0) return true;
      if (length < MINIMUM_FRAME) continue;
      const frame = this.buffer.slice(0, length);
      this.counters.rxFrames++;
      if (this.receive(frame)) continue;
      this.held = frame;
      return false;
    }
    return true;
  }

  private release(): void {
    closeSync(this.fd);
    closeSync(this.wake);
  }
}
