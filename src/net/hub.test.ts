import { expect, test } from 'vitest';
import { buildEthernet } from './ethernet.ts';
import { createHub, hubNamed } from './hub.ts';

const A = 0x5254_0000_0001,
  B = 0x5254_0000_0002,
  C = 0x5254_0000_0003,
  ALL = 0xffff_ffff_ffff;

function cards(count: number, hub = createHub()) {
  return Array.from({ length: count }, () => {
    const backend = hub.attach();
    const got: Uint8Array[] = [];
    const card = { backend, got, room: true };
    backend.receive = (frame) => {
      if (card.room) got.push(frame);
      return card.room;
    };
    return card;
  });
}
const frame = (to: number, from: number) => buildEthernet(60, to, from, 0x88b5);

test('floods what it does not know, and learns', () => {
  const [a, b, c] = cards(3);
  a.backend.send(frame(B, A));
  expect([a.got.length, b.got.length, c.got.length]).toEqual([0, 1, 1]);
  b.backend.send(frame(A, B));
  expect([a.got.length, b.got.length, c.got.length]).toEqual([1, 1, 1]);
  c.backend.send(frame(ALL, C));
  expect([a.got.length, b.got.length]).toEqual([2, 2]);
  expect(a.got[1]).not.toBe(b.got[1]);
});

test('a full card keeps a bounded number of frames in order', () => {
  const hub = createHub();
  const [a, b] = cards(2, hub);
  b.room = false;
  for (let i = 0; i < 300; i++) {
    const numbered = frame(B, A);
    numbered[14] = i;
    a.backend.send(numbered);
  }
  b.room = true;
  b.backend.ready();
  expect(b.got.map((bytes) => bytes[14])).toEqual(Array.from({ length: 256 }, (_, i) => i & 0xff));
  expect(hub.statistics().dropped).toBe(44);
});

test('invented addresses do not grow the table; a closed card is forgotten', () => {
  const hub = createHub();
  const [a, b] = cards(2, hub);
  for (let i = 0; i < 5000; i++) a.backend.send(frame(B, 0x5254_0100_0000 + i));
  expect(hub.statistics().addresses).toBe(1024);
  a.backend.send(frame(B, 0xffff_ffff_0000));
  a.backend.close();
  expect(hub.statistics()).toMatchObject({ cards: 1, addresses: 0 });
  const before = b.got.length;
  a.backend.send(frame(ALL, A));
  expect(b.got).toHaveLength(before);
});

test('a name stands for one hub while it has cards', () => {
  const hub = hubNamed('test');
  expect(hubNamed('test')).toBe(hub);
  const [a] = cards(1, hub);
  a.backend.close();
  expect(hubNamed('test')).not.toBe(hub);
  expect(() => cards(65, createHub())).toThrow(RangeError);
});
