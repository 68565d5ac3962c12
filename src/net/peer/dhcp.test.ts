import { expect, test } from 'vitest';
import { get16, get32, macAt, PAYLOAD, put16, put32, putMac } from '../ethernet.ts';
import { DhcpServer } from './dhcp.ts';
import { FIRST_CLIENT_ADDRESS, PEER_ADDRESS, PEER_MAC } from './identity.ts';
import { CLIENT_MAC } from './testing.ts';

const DISCOVER = 1,
  OFFER = 2,
  REQUEST = 3,
  ACK = 5,
  NAK = 6;

function request(type: number, options: readonly number[] = [], mac = CLIENT_MAC, flags = 0): Uint8Array {
  const message = new Uint8Array(300);
  message.set([1, 1, 6, 0, 9, 8, 7, 6]);
  put16(message, 10, flags);
  putMac(message, 28, mac);
  put32(message, 236, 0x6382_5363);
  message.set([53, 1, type, ...options, 255], 240);
  return message;
}

/** Options of a reply by code. */
function optionsOf(frame: Uint8Array): Map<number, number> {
  const options = new Map<number, number>();
  for (let at = PAYLOAD + 8 + 240; frame[at] !== 255; at += 2 + frame[at + 1]) {
    options.set(frame[at], frame[at + 1] === 1 ? frame[at + 2] : get32(frame, at + 2));
  }
  return options;
}

const server = () => new DhcpServer(PEER_MAC, PEER_ADDRESS, FIRST_CLIENT_ADDRESS);
const ask = (from: DhcpServer, message: Uint8Array) => from.answer(message, 0, message.length);

test('discover, offer, request, ack with mask, router and name server', () => {
  const dhcp = server();
  const offer = ask(dhcp, request(DISCOVER)) as Uint8Array;
  expect([optionsOf(offer).get(53), get32(offer, PAYLOAD + 8 + 16), macAt(offer, 0)]).toEqual([OFFER, 0x0a00_020f, CLIENT_MAC]);
  expect([...offer.subarray(PAYLOAD + 12, PAYLOAD + 16)]).toEqual([9, 8, 7, 6]);
  const ack = ask(dhcp, request(REQUEST, [50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2])) as Uint8Array;
  const options = optionsOf(ack);
  expect([53, 1, 3, 6, 54].map((code) => options.get(code))).toEqual([ACK, 0xffff_ff00, PEER_ADDRESS, PEER_ADDRESS, PEER_ADDRESS]);
  expect([get16(ack, PAYLOAD), get16(ack, PAYLOAD + 2)]).toEqual([67, 68]);
});

test('a wrong address is refused, another server is left alone, broadcast is honoured', () => {
  const dhcp = server();
  const nak = ask(dhcp, request(REQUEST, [50, 4, 10, 0, 2, 99])) as Uint8Array;
  expect([optionsOf(nak).get(53), macAt(nak, 0)]).toEqual([NAK, 0xffff_ffff_ffff]);
  expect(ask(dhcp, request(REQUEST, [50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 3]))).toBeUndefined();
  expect(macAt(ask(dhcp, request(DISCOVER, [], CLIENT_MAC, 0x8000)) as Uint8Array, 0)).toBe(0xffff_ffff_ffff);
});

test('each client has its address; beyond the limit the oldest gives way', () => {
  const dhcp = server();
  const addresses = Array.from({ length: 65 }, (_, i) =>
    get32(ask(dhcp, request(DISCOVER, [], 0x5254_0000_0000 + i)) as Uint8Array, PAYLOAD + 24),
  );
  expect(new Set(addresses.slice(0, 64)).size).toBe(64);
  expect(addresses[64]).toBe(addresses[0]);
});

test('malformed messages get nothing', () => {
  const dhcp = server();
  const good = request(DISCOVER);
  for (const cut of [0, 10, 239]) expect(ask(dhcp, good.subarray(0, cut))).toBeUndefined();
  expect(ask(dhcp, request(200))).toBeUndefined();
  const overrun = request(DISCOVER);
  overrun.set([53, 255, 1], 240);
  expect(ask(dhcp, overrun)).toBeUndefined();
});
