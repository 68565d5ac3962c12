import { mkdtempSync, rmSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { UserError } from '../base/errors.ts';
import { createLog, silentLog } from '../base/log.ts';
import { connectStream, listenStream } from './stream.ts';

let folder = '';
beforeEach(() => void (folder = mkdtempSync(join(tmpdir(), 'stream-'))));
afterEach(() => rmSync(folder, { recursive: true }));

const frame = (length: number, fill: number) => new Uint8Array(length).fill(fill);
const framed = (data: Uint8Array) => {
  const prefix = Buffer.alloc(4);
  prefix.writeUInt32BE(data.length);
  return Buffer.concat([prefix, data]);
};

async function pair(log = silentLog) {
  const path = join(folder, 'net');
  const server = await listenStream({ path }, { log });
  const got: Uint8Array[] = [];
  const state = { room: true };
  server.receive = (data) => {
    if (state.room) got.push(data);
    return state.room;
  };
  return { path, server, got, state };
}

async function raw(path: string): Promise<Socket> {
  const socket = connect(path);
  await new Promise((resolve) => socket.once('connect', resolve));
  return socket;
}

test('frames go both ways over a unix socket', async () => {
  const { path, server, got } = await pair();
  const client = await connectStream({ path }, { log: silentLog });
  const back: Uint8Array[] = [];
  client.receive = (data) => back.push(data) > 0;
  client.send(frame(60, 1));
  client.send(frame(65535, 2));
  await vi.waitFor(() => expect(got).toHaveLength(2));
  expect(got).toEqual([frame(60, 1), frame(65535, 2)]);
  server.send(frame(100, 3));
  await vi.waitFor(() => expect(back).toEqual([frame(100, 3)]));
  client.close();
  server.close();
});

test('frames go over loopback TCP, and a second client is refused', async () => {
  const server = await listenStream({ host: '127.0.0.1', port: 0 }, { log: silentLog });
  const got: Uint8Array[] = [];
  server.receive = (data) => got.push(data) > 0;
  const client = await connectStream(server.address, { log: silentLog });
  client.send(frame(60, 1));
  await vi.waitFor(() => expect(got).toHaveLength(1));
  const { host, port } = server.address as { host: string; port: number };
  const second = connect(port, host);
  await new Promise((resolve) => second.once('close', resolve));
  client.close();
  server.close();
});

test('pieces of any size are put together', async () => {
  const { path, server, got } = await pair();
  const socket = await raw(path);
  socket.setNoDelay(true);
  const bytes = Buffer.concat([framed(frame(20, 1)), framed(frame(5, 9)), framed(frame(30, 2))]);
  for (const byte of bytes) {
    socket.write(Uint8Array.of(byte));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await vi.waitFor(() => expect(got).toEqual([frame(20, 1), frame(30, 2)]));
  expect(server.statistics().rxShort).toBe(1);
  socket.destroy();
  server.close();
});

test('a card without room holds the far end back and loses nothing', async () => {
  const { path, server, got, state } = await pair();
  const socket = await raw(path);
  state.room = false;
  const count = 20_000;
  const bytes = Buffer.concat(Array.from({ length: count }, (_, i) => framed(frame(1000, i & 0xff))));
  let written = false;
  socket.write(bytes, () => {
    written = true;
  });
  await vi.waitFor(() => expect(server.statistics().rxFrames).toBeGreaterThan(0));
  expect(written).toBe(false);
  expect(server.statistics().rxFrames).toBeLessThan(count);
  state.room = true;
  server.ready();
  await vi.waitFor(() => expect(got).toHaveLength(count), 10_000);
  expect(got.every((data, i) => data[0] === (i & 0xff))).toBe(true);
  socket.destroy();
  server.close();
});

test.each([[0], [65536], [0xffff_ffff]])('an announced length of %i closes the connection with a reason', async (length) => {
  const messages: string[] = [];
  const { path, server } = await pair(createLog('net', (record) => messages.push(`${record.message} ${JSON.stringify(record.fields)}`)));
  const socket = await raw(path);
  const prefix = Buffer.alloc(4);
  prefix.writeUInt32BE(length);
  socket.write(prefix);
  await new Promise((resolve) => socket.once('close', resolve));
  expect(messages.join('\n')).toContain(`"length":${length}`);
  server.send(frame(60, 1));
  expect(server.statistics().txDropped).toBe(1);
  server.close();
});

test('a far end that does not read costs a bounded amount of memory', async () => {
  const { path, server } = await pair();
  const socket = await raw(path);
  socket.pause();
  await vi.waitFor(() => {
    server.send(frame(60, 0));
    expect(server.statistics().txFrames).toBeGreaterThan(0);
  });
  for (let i = 0; i < 1000; i++) server.send(frame(60_000, 1));
  expect(server.statistics().txDropped).toBeGreaterThan(800);
  socket.destroy();
  server.close();
});

test('nobody there, and an address in use, are user errors', async () => {
  await expect(connectStream({ path: join(folder, 'none') }, { log: silentLog })).rejects.toThrow(UserError);
  const { path, server } = await pair();
  await expect(listenStream({ path }, { log: silentLog })).rejects.toThrow(UserError);
  server.close();
});
