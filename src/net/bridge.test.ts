import { Worker } from 'node:worker_threads';
import { expect, test, vi } from 'vitest';
import type { NetworkBackend } from './ports.ts';
import { bridgeCard, bridgeNetwork, createBridgeMemory } from './bridge.ts';

function wire() {
  const sent: Uint8Array[] = [];
  const backend: NetworkBackend & { closed: boolean } = {
    closed: false,
    send: (frame) => void sent.push(frame),
    receive: () => true,
    ready: () => {},
    close: () => void (backend.closed = true),
  };
  return { sent, backend };
}
/** Quicker on large frames than a matcher. */
const same = (a: Uint8Array | undefined, b: Uint8Array) => a !== undefined && Buffer.compare(a, b) === 0;
const frame = (length: number, fill: number) => new Uint8Array(length).fill(fill);

test('frames of all sizes cross in order, around the ends of the ring', () => {
  const memory = createBridgeMemory(0x2_0000);
  const { sent, backend } = wire();
  const card = bridgeCard(memory);
  const network = bridgeNetwork(memory, backend);
  const got: Uint8Array[] = [];
  card.receive = (data) => got.push(data) > 0;
  for (let i = 0; i < 500; i++) {
    const length = 14 + ((i * 7919) % 65_522);
    card.send(frame(length, i));
    network.poll();
    backend.receive(frame(length, ~i));
    card.poll();
    expect([same(sent.pop(), frame(length, i)), same(got.pop(), frame(length, ~i))]).toEqual([true, true]);
  }
  expect(network.statistics()).toEqual({ txDropped: 0, rxDropped: 0 });
  network.close();
  expect(backend.closed).toBe(true);
});

test('a full ring drops and counts, the rest stays whole', () => {
  const memory = createBridgeMemory(0x2_0000);
  const { sent, backend } = wire();
  const card = bridgeCard(memory);
  const network = bridgeNetwork(memory, backend);
  for (let i = 0; i < 200; i++) card.send(frame(1000, i));
  network.poll();
  expect(sent).toHaveLength(Math.floor(0x2_0000 / 1004));
  expect(card.statistics().txDropped).toBe(200 - sent.length);
  expect(sent.every((data, i) => data.length === 1000 && data[999] === (i & 0xff))).toBe(true);
  network.close();
});

test('a card without room keeps frames until it has', () => {
  const memory = createBridgeMemory();
  const { backend } = wire();
  const card = bridgeCard(memory);
  const network = bridgeNetwork(memory, backend);
  const got: number[] = [];
  let room = 0;
  card.receive = (data) => room-- > 0 && got.push(data[0]) > 0;
  for (let i = 0; i < 100; i++) backend.receive(frame(60, i));
  card.poll();
  for (let i = 0; i < 25; i++) {
    room = 4;
    card.ready();
  }
  expect(got).toEqual(Array.from({ length: 100 }, (_, i) => i));
  network.close();
});

test('nonsense in the shared memory is dropped, not followed', () => {
  const memory = createBridgeMemory(0x2_0000);
  const { sent, backend } = wire();
  const card = bridgeCard(memory);
  const network = bridgeNetwork(memory, backend);
  for (const bad of [0, 13, 0x7fff_ffff, -1, 60_000]) {
    card.send(frame(60, 1));
    const words = new Int32Array(memory);
    const at = 16 + ((Atomics.load(words, 0) & 0x1_ffff) >>> 2);
    words[at] = bad;
    network.poll();
  }
  expect(sent).toHaveLength(0);
  card.send(frame(60, 2));
  network.poll();
  expect(sent).toEqual([frame(60, 2)]);
  expect(() => createBridgeMemory(100_000)).toThrow(RangeError);
  network.close();
});

test('a worker that sleeps on the signal word is woken, and wakes this thread', async () => {
  const memory = createBridgeMemory();
  const { sent, backend } = wire();
  const network = bridgeNetwork(memory, backend);
  // The worker copies each record from the second ring to the first by hand: the layout is the contract between threads.
  const worker = new Worker(
    `
    const { workerData: memory } = require('node:worker_threads');
    const half = memory.byteLength / 2;
    const out = new Int32Array(memory, 0), into = new Int32Array(memory, half);
    Atomics.wait(into, 3, 0);
    const length = Atomics.load(into, 1);
    new Uint8Array(memory, 64, length).set(new Uint8Array(memory, half + 64, length));
    Atomics.store(into, 0, length);
    Atomics.store(out, 1, length);
    Atomics.add(out, 3, 1);
    Atomics.notify(out, 3);
  `,
    { eval: true, workerData: memory },
  );
  backend.receive(frame(777, 5));
  await vi.waitFor(() => expect(sent).toEqual([frame(777, 5)]), 10_000);
  await worker.terminate();
  network.close();
});
