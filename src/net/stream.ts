/**
 * Frames over a unix or TCP socket in the framing of QEMU's `-netdev stream`: a 32-bit big-endian length, then the frame. passt and
 * QEMU speak it. The far end is untrusted: a length that no frame has closes the connection with a reason.
 */
import { connect, createServer, type Server, type Socket } from 'node:net';
import { UserError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { NetworkBackend } from './ports.ts';
import { MAXIMUM_FRAME, MINIMUM_FRAME } from './ethernet.ts';
import { ReceiveQueue } from './queue.ts';

export type StreamAddress = { path: string } | { host: string; port: number };

const PREFIX = 4;
/** Bytes that may wait for the far end; frames beyond are dropped. */
const SEND_LIMIT = 4 * 1024 * 1024;
/** Frames of one read that may wait for the card: the socket is paused as soon as one does, so one read bounds it. */
const RECEIVE_LIMIT = 65536;

export interface StreamBackend extends NetworkBackend {
  statistics(): Record<string, number>;
}
export interface StreamOptions {
  log: Log;
}

/** Connects. Rejects with UserError when nobody listens there. */
export function connectStream(address: StreamAddress, options: StreamOptions): Promise<StreamBackend> {
  return new Promise((resolve, reject) => {
    const socket = connect(address);
    const failed = (error: Error) => {
      const what = `cannot connect the network to ${describe(address)}: ${error.message}`;
      reject(new UserError(what, 'start the other end first, or use stream:listen', 'failed'));
    };
    socket.once('error', failed);
    socket.once('connect', () => {
      socket.off('error', failed);
      const backend = new Stream(options.log);
      backend.attach(socket);
      resolve(backend);
    });
  });
}

/** Takes over a connected socket, such as one of a pair. */
export function streamOver(socket: Socket, options: StreamOptions): StreamBackend {
  const backend = new Stream(options.log);
  backend.attach(socket);
  return backend;
}

/**
 * Listens for one far end at a time; without one, frames are dropped. Resolves once it listens, with the address (the port is
 * filled in where 0 was given). Rejects with UserError when the address cannot be had.
 */
export function listenStream(address: StreamAddress, options: StreamOptions): Promise<StreamBackend & { address: StreamAddress }> {
  return new Promise((resolve, reject) => {
    const backend = new Stream(options.log);
    const server = createServer((socket) => {
      if (backend.connected) {
        options.log.warn('a second connection to the network socket was refused', { address: describe(address) });
        socket.destroy();
      } else {
        backend.attach(socket);
      }
    });
    const failed = (error: Error) => {
      const what = `cannot listen for the network at ${describe(address)}: ${error.message}`;
      reject(new UserError(what, 'remove a stale socket file, or choose another address'));
    };
    server.once('error', failed);
    server.listen(address, () => {
      server.off('error', failed);
      server.on('error', (error) => options.log.warn('network socket', { reason: error.message }));
      backend.server = server;
      const bound = server.address();
      const actual = typeof bound === 'object' && bound !== null ? { host: bound.address, port: bound.port } : address;
      resolve(Object.assign(backend, { address: actual }));
    });
  });
}

function describe(address: StreamAddress): string {
  return 'path' in address ? address.path : `${address.host}:${address.port}`;
}

class Stream implements StreamBackend {
  receive: (frame: Uint8Array) => boolean = () => true;
  server: Server | undefined;
  private socket: Socket | undefined;
  private readonly queue = new ReceiveQueue((frame) => this.receive(frame), RECEIVE_LIMIT);
  /** A frame that has not come whole. */
  private pending = Buffer.alloc(0);
  private readonly counters = { rxFrames: 0, txFrames: 0, txDropped: 0, rxShort: 0 };

  constructor(private readonly log: Log) {}

  get connected(): boolean {
    return this.socket !== undefined;
  }

  attach(socket: Socket): void {
    this.socket = socket;
    this.pending = Buffer.alloc(0);
    socket.on('data', (data) => this.data(socket, data));
    socket.on('error', (error) => this.log.warn('the network connection broke', { reason: error.message }));
    socket.on('close', () => {
      if (this.socket !== socket) return;
      this.socket = undefined;
      this.log.info('the network connection is closed');
    });
    if (!('encrypted' in socket)) socket.setNoDelay(true);
  }

  send(frame: Uint8Array): void {
    const { socket } = this;
    if (socket === undefined || !socket.writable || socket.writableLength + frame.length > SEND_LIMIT) {
      this.counters.txDropped++;
      return;
    }
    const message = Buffer.allocUnsafe(PREFIX + frame.length);
    message.writeUInt32BE(frame.length, 0);
    message.set(frame, PREFIX);
    socket.write(message);
    this.counters.txFrames++;
  }

  ready(): void {
    if (this.queue.drain()) this.socket?.resume();
  }

  close(): void {
    this.server?.close();
    this.socket?.destroy();
    this.socket = undefined;
    this.queue.clear();
  }

  statistics(): Record<string, number> {
    return { ...this.counters, rxDropped: this.queue.dropped };
  }

  private data(socket: Socket, data: Buffer): void {
    if (this.socket !== socket) return;
    let bytes = this.pending.length === 0 ? data : Buffer.concat([this.pending, data]);
    while (bytes.length >= PREFIX) {
      const length = bytes.readUInt32BE(0);
      if (length === 0 || length > MAXIMUM_FRAME) {
        const expected = `1 to ${MAXIMUM_FRAME}`;
        this.log.error('the network connection is closed: the far end announced an impossible frame', { length, expected });
        socket.destroy();
        this.socket = undefined;
        return;
      }
      if (bytes.length < PREFIX + length) break;
      this.counters.rxFrames++;
      // A copy: the frame is the card's to keep, the read buffer is shared.
      if (length < MINIMUM_FRAME) this.counters.rxShort++;
      else this.queue.push(Uint8Array.from(bytes.subarray(PREFIX, PREFIX + length)));
      bytes = bytes.subarray(PREFIX + length);
    }
    this.pending = Buffer.from(bytes);
    if (this.queue.length > 0) socket.pause();
  }
}
