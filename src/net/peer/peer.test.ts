import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { checksumAdd, checksumFold } from '../../base/internet-checksum.ts';
import { buildEthernet, buildUdp, ETHERTYPE, get16, get32, macAt, PAYLOAD, put16, put32, putIpv4, putMac, TCP } from '../ethernet.ts';
import { PEER_ADDRESS, PEER_MAC } from './identity.ts';
import { createPeer } from './peer.ts';
import { buildSegment, Client, CLIENT_ADDRESS, CLIENT_MAC, manualClock, parseSegment } from './testing.ts';

const SECOND = 1e9;

/** A peer and what it sent. `full` makes the card refuse. */
function bench() {
  const clock = manualClock();
  const peer = createPeer({ clock });
  const sent: Uint8Array[] = [];
  const state = { full: false };
  peer.receive = (frame) => {
    if (!state.full) sent.push(frame);
    return !state.full;
  };
  /** Delivers segments to the clients, in turns, until nothing moves. `lose` picks segments that vanish. */
  const pump = (clients: readonly Client[], lose: (index: number) => boolean = () => false, count = { n: 0 }) => {
    while (sent.length > 0) {
      const frame = sent.shift() as Uint8Array;
      const segment = parseSegment(frame);
      expect(segment).toBeDefined();
      if (segment !== undefined && !lose(count.n++)) clients.find((client) => client.port === get16(frame, PAYLOAD + 2))?.receive(segment);
    }
  };
  const client = (port = 40_000) => new Client((frame) => peer.send(frame), port);
  return { clock, peer, sent, state, pump, client };
}

const udp = (port: number, payload: Uint8Array, from = 5000) =>
  buildUdp(PEER_MAC, CLIENT_MAC, CLIENT_ADDRESS, from, PEER_ADDRESS, port, payload);

describe('ARP, ping and UDP', () => {
  test('answers ARP for its address alone', () => {
    const { peer, sent } = bench();
    const request = (address: number) => {
      const frame = buildEthernet(42, 0xffff_ffff_ffff, CLIENT_MAC, ETHERTYPE.arp);
      put32(frame, 14, 0x0001_0800);
      put32(frame, 18, 0x0604_0001);
      putMac(frame, 22, CLIENT_MAC);
      put32(frame, 28, CLIENT_ADDRESS);
      put32(frame, 38, address);
      return frame;
    };
    peer.send(request(0x0a00_0203));
    expect(sent).toHaveLength(0);
    peer.send(request(PEER_ADDRESS));
    expect([macAt(sent[0], 0), macAt(sent[0], 22), get32(sent[0], 28), get16(sent[0], 20)]).toEqual([
      CLIENT_MAC,
      PEER_MAC,
      PEER_ADDRESS,
      2,
    ]);
  });

  test('ping comes back with its data and a good checksum', () => {
    const { peer, sent } = bench();
    const frame = buildEthernet(PAYLOAD + 64, PEER_MAC, CLIENT_MAC, ETHERTYPE.ipv4);
    putIpv4(frame, 1, CLIENT_ADDRESS, PEER_ADDRESS, 7);
    frame.fill(0x5a, PAYLOAD + 8);
    frame[PAYLOAD] = 8;
    peer.send(frame.slice());
    expect(peer.statistics().badChecksums).toBe(1);
    put16(frame, PAYLOAD + 2, ~checksumFold(checksumAdd(0, frame, PAYLOAD, frame.length)) & 0xffff);
    peer.send(frame);
    expect(sent).toHaveLength(1);
    expect(sent[0][PAYLOAD]).toBe(0);
    expect(sent[0].subarray(PAYLOAD + 8)).toEqual(frame.subarray(PAYLOAD + 8));
    expect(checksumFold(checksumAdd(0, sent[0], PAYLOAD, sent[0].length))).toBe(0xffff);
  });

  test('echo, discard, and unreachable ports', () => {
    const { peer, sent } = bench();
    peer.send(udp(7, Uint8Array.of(1, 2, 3)));
    expect([...sent[0].subarray(PAYLOAD + 8)]).toEqual([1, 2, 3]);
    expect([get16(sent[0], PAYLOAD), get16(sent[0], PAYLOAD + 2)]).toEqual([7, 5000]);
    peer.send(udp(9, new Uint8Array(1000)));
    expect(peer.statistics()).toMatchObject({ discardDatagrams: 1, discardBytes: 1000 });
    expect(sent).toHaveLength(1);
    peer.send(udp(53, Uint8Array.of(1)));
    expect([...sent[1].subarray(PAYLOAD, PAYLOAD + 2)]).toEqual([3, 3]);
  });

  test('a flood counts up with good checksums, stops at a full card and goes on', () => {
    const { peer, sent, state, clock } = bench();
    expect(peer.flood({ port: 6000, count: 10, size: 100 })).toBe(false);
    peer.send(udp(19, new TextEncoder().encode('1000 1472')));
    clock.advance(SECOND);
    expect(sent).toHaveLength(1000);
    sent.forEach((frame, i) => {
      expect(get32(frame, PAYLOAD + 8)).toBe(i);
      expect(checksumFold(checksumAdd(checksumAdd(17 + 1480, frame, 26, 34), frame, PAYLOAD, frame.length))).toBe(0xffff);
    });
    sent.length = 0;
    state.full = true;
    expect(peer.flood({ port: 6000, count: 70_000, size: 4 })).toBe(true);
    state.full = false;
    peer.ready();
    clock.advance(10 * SECOND);
    expect(sent).toHaveLength(70_000);
    const last = sent[69_999];
    expect(checksumFold(checksumAdd(checksumAdd(17 + 12, last, 26, 34), last, PAYLOAD, last.length))).toBe(0xffff);
  });
});

describe('HTTP over TCP', () => {
  const get = (bytes: number, seed = 1) => `GET /file?bytes=${bytes}&seed=${seed} HTTP/1.1\r\nHost: 10.0.2.2\r\nConnection: close\r\n\r\n`;
  const sha256 = (data: Uint8Array) => createHash('sha256').update(data).digest('hex');

  test('a download has its length and digest, and the connection closes on both sides', () => {
    const { peer, pump, client, clock } = bench();
    const one = client();
    one.connect();
    pump([one]);
    one.write(get(1_000_003, 7));
    pump([one]);
    const { head, body } = one.answer();
    expect(head).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    expect(head).toContain('Content-Length: 1000003');
    expect(sha256(body)).toBe(peer.expectedSha256(1_000_003, 7));
    expect([one.finished, one.reset]).toEqual([true, false]);
    clock.advance(2 * SECOND);
    expect(peer.statistics()).toMatchObject({ openConnections: 0, retransmissions: 0 });
  });

  test.each([
    ['every 50th', (i: number) => i % 50 === 49],
    ['the first four', (i: number) => i < 4],
    ['a run', (i: number) => i >= 30 && i < 45],
  ])('lost segments: %s', (_, lose) => {
    const { peer, pump, client, clock } = bench();
    const one = client();
    const count = { n: 0 };
    one.connect();
    pump([one], lose, count);
    for (let i = 0; i < 100 && !one.established; i++) {
      clock.advance(SECOND);
      pump([one], lose, count);
    }
    one.write(get(300_000));
    for (let i = 0; i < 200 && !one.finished; i++) {
      pump([one], lose, count);
      clock.advance(SECOND);
    }
    expect(sha256(one.answer().body)).toBe(peer.expectedSha256(300_000, 1));
  });

  test('one loss in a stream is mended without waiting for the timer', () => {
    const { peer, pump, client } = bench();
    const one = client();
    one.connect();
    pump([one]);
    one.write(get(500_000));
    pump([one], (i) => i === 100);
    expect(sha256(one.answer().body)).toBe(peer.expectedSha256(500_000, 1));
    expect(peer.statistics().retransmissions).toBeGreaterThan(0);
  });

  test('the window and segment size of the client are kept', () => {
    const { sent, client, peer } = bench();
    const one = client();
    one.window = 2000;
    one.connect([2, 4, 1, 244]); // 500 bytes, no scaling
    one.receive(parseSegment(sent.shift() as Uint8Array) as never);
    one.write(get(100_000));
    const segments = sent.map((frame) => parseSegment(frame)).filter((segment) => (segment?.data.length ?? 0) > 0);
    expect(segments.map((segment) => segment?.data.length)).toEqual([500, 500, 500, 500]);
    expect(peer.statistics().connections).toBe(1);
  });

  test('a closed window is probed for as long as it takes, then the stream goes on', () => {
    const { peer, pump, client, clock } = bench();
    const one = client();
    one.connect();
    pump([one]);
    one.window = 0;
    one.write(get(50_000));
    for (let i = 0; i < 60; i++) {
      pump([one]);
      clock.advance(10 * SECOND);
    }
    expect(one.received).toBe(0);
    expect(one.reset).toBe(false);
    one.window = 65535;
    one.acknowledge();
    for (let i = 0; i < 20; i++) {
      pump([one]);
      clock.advance(10 * SECOND);
    }
    expect(sha256(one.answer().body)).toBe(peer.expectedSha256(50_000, 1));
  });

  test('a card without room holds the stream back without loss', () => {
    const { peer, pump, client, state } = bench();
    const one = client();
    one.connect();
    pump([one]);
    let refuse = 0;
    const inner = peer.receive;
    peer.receive = (frame) => (refuse++ % 5 === 4 ? false : inner(frame));
    one.write(get(400_000));
    for (let i = 0; i < 5000 && !one.finished; i++) {
      pump([one]);
      peer.ready();
    }
    expect(state.full).toBe(false);
    expect(sha256(one.answer().body)).toBe(peer.expectedSha256(400_000, 1));
    expect(peer.statistics()).toMatchObject({ retransmissions: 0, txDropped: 0 });
  });

  test('an upload is hashed, out-of-order segments included', () => {
    const { peer, pump, client } = bench();
    const one = client();
    one.connect();
    pump([one]);
    const body = Uint8Array.from({ length: 50_000 }, (_, i) => (i * 7) & 0xff);
    one.write(`POST /upload HTTP/1.1\r\nContent-Length: ${body.length}\r\n\r\n`);
    const base = one.next;
    const parts = Array.from({ length: 50 }, (_, i) => i);
    const order = parts.map((i) => (i * 7) % 50);
    const part = (i: number) =>
      peer.send(
        buildSegment(one.port, {
          sequence: (base + i * 1000) >>> 0,
          acknowledgement: one.expected,
          data: body.subarray(i * 1000, i * 1000 + 1000),
        }),
      );
    for (const i of order) part(i);
    one.next = (base + body.length) >>> 0;
    pump([one]);
    expect(JSON.parse(one.answer().body.toString())).toEqual({ bytes: 50_000, sha256: sha256(body) });
    expect(peer.uploads).toEqual([{ bytes: 50_000, sha256: sha256(body) }]);
  });

  test.each([
    ['GET /nothing HTTP/1.1\r\n\r\n', 404],
    ['GET /file?bytes=-1 HTTP/1.1\r\n\r\n', 400],
    ['GET /file?bytes=1e99 HTTP/1.0\r\n\r\n', 400],
    ['BREW /pot HTTP/1.1\r\n\r\n', 405],
    ['hello\r\n\r\n', 400],
    ['POST / HTTP/1.1\r\n\r\n', 411],
    ['GET / HTTP/1.1\r\n\r\n', 200],
  ])('%j is answered with %i', (request, status) => {
    const { pump, client } = bench();
    const one = client();
    one.connect();
    pump([one]);
    one.write(request);
    pump([one]);
    expect(one.answer().head.split(' ')[1]).toBe(String(status));
    expect(one.finished).toBe(true);
  });

  test('an endless head is refused', () => {
    const { pump, client } = bench();
    const one = client();
    one.connect();
    pump([one]);
    for (let i = 0; i < 9; i++) {
      one.write('x'.repeat(1000));
      pump([one]);
    }
    expect(one.answer().head).toContain('431');
  });

  test('connections are bounded, the idle ones end', () => {
    const { peer, pump, client, clock } = bench();
    const clients = Array.from({ length: 70 }, (_, i) => client(30_000 + i));
    for (const one of clients) one.connect();
    pump(clients);
    expect(clients.filter((one) => one.established)).toHaveLength(64);
    expect(clients.filter((one) => one.reset)).toHaveLength(6);
    clock.advance(300 * SECOND);
    expect(peer.statistics()).toMatchObject({ openConnections: 0, connectionsRefused: 6 });
  });

  test('wild segments get a reset, or nothing, and do no harm', () => {
    const { peer, sent, client, pump } = bench();
    peer.send(buildSegment(1, { sequence: 5, acknowledgement: 9, flags: TCP.ack }));
    expect(parseSegment(sent.shift() as Uint8Array)).toMatchObject({ flags: TCP.rst, sequence: 9 });
    peer.send(buildSegment(1, { sequence: 5, flags: TCP.syn }, [], 81));
    expect(parseSegment(sent.shift() as Uint8Array)).toMatchObject({ flags: TCP.rst | TCP.ack, acknowledgement: 6 });
    peer.send(buildSegment(1, { flags: TCP.rst }));
    expect(sent).toHaveLength(0);
    const one = client();
    one.connect();
    pump([one]);
    let seed = 99;
    const random = () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return seed;
    };
    for (let i = 0; i < 3000; i++) {
      const frame = buildSegment(
        one.port,
        {
          sequence: (one.next + (random() % 5000) - 2500) >>> 0,
          acknowledgement: (one.expected + (random() % 5000) - 2500) >>> 0,
          flags: random() & 0x1a,
          window: random() & 0xffff,
          data: new Uint8Array(random() % 600).fill(random()),
        },
        i % 3 === 0 ? [random() & 7, random() & 7, random() & 255, 0] : [],
      );
      if (i % 7 === 0) frame[14 + (random() % (frame.length - 14))] = random();
      peer.send(i % 11 === 0 ? frame.subarray(0, 14 + (random() % (frame.length - 14))) : frame);
    }
    expect(peer.statistics().openConnections).toBeLessThanOrEqual(64);
    sent.length = 0;
    const two = client(40_001);
    two.connect();
    pump([two]);
    two.write(get(1000));
    pump([two]);
    expect(sha256(two.answer().body)).toBe(peer.expectedSha256(1000, 1));
  });
});

test('replies wait for the card, up to a limit', () => {
  const { peer, state, sent } = bench();
  state.full = true;
  for (let i = 0; i < 2000; i++) peer.send(udp(7, new Uint8Array(10)));
  expect(peer.statistics().txDropped).toBe(2000 - 1024);
  state.full = false;
  peer.ready();
  expect(sent).toHaveLength(1024);
});
