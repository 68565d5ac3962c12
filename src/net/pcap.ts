/**
 * Writes what passes a back end to a capture file: pcap with nanosecond times and link type Ethernet (draft-ietf-opsawg-pcap, 4 and 5).
 * Writes are synchronous in blocks, because a thread that runs a virtual CPU seldom returns to its event loop. A full disk
 * or a closed pipe ends the capture with one warning and never the VM.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { UserError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { NetworkBackend } from './ports.ts';

const MAGIC_NANOSECONDS = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET = 1;
const SNAP_LENGTH = 65535;
const FILE_HEADER = 24;
const RECORD_HEADER = 16;
const BLOCK = 65536;
/** Times a pipe may be full within one block before the capture is given up. */
const FULL_PIPE_RETRIES = 1000;
const FLUSH_AFTER = 1e9;
const SECOND = 1e9;

export interface PcapOptions {
  /** A path to create or overwrite, or an open descriptor, which is not closed. */
  to: string | number;
  log: Log;
  /** Time of a frame in ns: since 1970, or since the VM started where runs must be repeatable. */
  now(): number;
}

export interface PcapBackend extends NetworkBackend {
  /** Frames in the file or its buffer, and frames that came after the capture failed. */
  statistics(): { captured: number; missed: number };
  flush(): void;
}

/** Throws UserError when the file cannot be made. */
export function withPcap(backend: NetworkBackend, options: PcapOptions): PcapBackend {
  return new Capture(backend, options);
}

class Capture implements PcapBackend {
  private readonly fd: number;
  private readonly buffer = Buffer.alloc(BLOCK + SNAP_LENGTH + RECORD_HEADER);
  private used = 0;
  private failed = false;
  private closed = false;
  private flushedAt: number;
  private captured = 0;
  private missed = 0;
  private card: (frame: Uint8Array) => boolean = () => true;

  constructor(
    private readonly inner: NetworkBackend,
    private readonly options: PcapOptions,
  ) {
    const { to } = options;
    try {
      this.fd = typeof to === 'number' ? to : openSync(to, 'w', 0o600);
    } catch (error) {
      throw new UserError(`cannot write the capture file ${to}: ${(error as Error).message}`, 'give a path that can be written');
    }
    this.flushedAt = options.now();
    this.buffer.writeUInt32LE(MAGIC_NANOSECONDS, 0);
    this.buffer.writeUInt16LE(2, 4);
    this.buffer.writeUInt16LE(4, 6);
    this.buffer.writeUInt32LE(SNAP_LENGTH, 16);
    this.buffer.writeUInt32LE(LINKTYPE_ETHERNET, 20);
    this.used = FILE_HEADER;
    inner.receive = (frame) => {
      const taken = this.card(frame);
      if (taken) this.record(frame);
      return taken;
    };
  }

  set receive(receive: (frame: Uint8Array) => boolean) {
    this.card = receive;
  }

  get receive(): (frame: Uint8Array) => boolean {
    return this.card;
  }

  send(frame: Uint8Array): void {
    this.record(frame);
    this.inner.send(frame);
  }

  ready(): void {
    this.inner.ready();
  }

  statistics(): { captured: number; missed: number } {
    return { captured: this.captured, missed: this.missed };
  }

  flush(): void {
    if (this.failed || this.closed) return;
    this.flushedAt = this.options.now();
    let done = 0;
    let retries = 0;
    while (done < this.used) {
      try {
        done += writeSync(this.fd, this.buffer, done, this.used - done);
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException;
        if (code === 'EINTR' || (code === 'EAGAIN' && ++retries < FULL_PIPE_RETRIES)) continue;
        this.failed = true;
        this.options.log.warn('the packet capture ends here', { reason: message, captured: this.captured });
        break;
      }
    }
    this.used = 0;
  }

  close(): void {
    if (this.closed) return;
    this.inner.close();
    this.flush();
    this.closed = true;
    if (typeof this.options.to === 'string') closeSync(this.fd);
  }

  private record(frame: Uint8Array): void {
    if (this.failed || this.closed) {
      this.missed++;
      return;
    }
    const now = this.options.now();
    const { buffer, used } = this;
    buffer.writeUInt32LE(Math.floor(now / SECOND) >>> 0, used);
    buffer.writeUInt32LE(Math.floor(now % SECOND), used + 4);
    buffer.writeUInt32LE(frame.length, used + 8);
    buffer.writeUInt32LE(frame.length, used + 12);
    buffer.set(frame, used + RECORD_HEADER);
    this.used += RECORD_HEADER + frame.length;
    this.captured++;
    if (this.used >= BLOCK || now - this.flushedAt >= FLUSH_AFTER) this.flush();
  }
}
