/**
 * Ethernet, ARP, IPv4, UDP and TCP headers: offsets, parsing and building in place. Everything works on one frame's bytes without
 * intermediate objects per field, since it runs for every packet. Untrusted lengths are checked here, once.
 */
import { checksumAdd, checksumFinish, checksumFold } from '../base/internet-checksum.ts';
import { UserError } from '../base/errors.ts';

export const ETHERTYPE = { ipv4: 0x0800, arp: 0x0806, vlan: 0x8100, ipv6: 0x86dd } as const;
export const PROTOCOL = { icmp: 1, tcp: 6, udp: 17 } as const;
export const MINIMUM_FRAME = 14;
export const MAXIMUM_FRAME = 65535;

/** Offsets in a frame without VLAN tag. */
export const ETHERNET_HEADER = 14;
export const IPV4_HEADER = 20;
export const UDP_HEADER = 8;
export const TCP_HEADER = 20;
/** Where the payload of IPv4 starts in frames that are built here (no options). */
export const PAYLOAD = ETHERNET_HEADER + IPV4_HEADER;

/** TCP flags (RFC 9293, 3.1). */
export const TCP = { fin: 1, syn: 2, rst: 4, psh: 8, ack: 16 } as const;

export function get16(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 8) | bytes[at + 1];
}

export function get32(bytes: Uint8Array, at: number): number {
  return ((bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]) >>> 0;
}

export function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 8;
  bytes[at + 1] = value;
}

export function put32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

/** A MAC address as a number below 2^48: a key for tables. */
export function macAt(frame: Uint8Array, at: number): number {
  return get16(frame, at) * 0x1_0000_0000 + get32(frame, at + 2);
}

export function putMac(frame: Uint8Array, at: number, mac: number): void {
  put16(frame, at, Math.floor(mac / 0x1_0000_0000));
  put32(frame, at + 2, mac % 0x1_0000_0000);
}

export const BROADCAST_MAC = 0xffff_ffff_ffff;

/** True for broadcast too. */
export function isGroupMac(mac: number): boolean {
  return (Math.floor(mac / 0x100_0000_0000) & 1) !== 0;
}

/** `52:54:00:12:34:56` as six bytes. Throws UserError for anything else and for group addresses. */
export function parseMac(text: string): Uint8Array {
  const match = /^([0-9a-f]{2})(?::[0-9a-f]{2}){5}$/i.exec(text);
  if (match === null) throw new UserError(`"${text}" is no MAC address`, 'write six bytes in hexadecimal, as in 52:54:00:12:34:56');
  const bytes = Uint8Array.from(text.split(':'), (part) => Number.parseInt(part, 16));
  if ((bytes[0] & 1) !== 0) {
    throw new UserError(`${text} is a group address`, 'choose one whose first byte is even, as in 52:54:00:12:34:56');
  }
  return bytes;
}

export function formatIpv4(address: number): string {
  return [address >>> 24, (address >>> 16) & 255, (address >>> 8) & 255, address & 255].join('.');
}

/** A new frame with its Ethernet header; `length` counts the header. */
export function buildEthernet(length: number, destination: number, source: number, type: number): Uint8Array {
  const frame = new Uint8Array(length);
  putMac(frame, 0, destination);
  putMac(frame, 6, source);
  put16(frame, 12, type);
  return frame;
}

/** Writes the IPv4 header (RFC 791, no options) for a packet that fills the rest of the frame. Don't fragment, TTL 64. */
export function putIpv4(frame: Uint8Array, protocol: number, source: number, destination: number, identification: number): void {
  frame[14] = 0x45;
  frame[15] = 0;
  put16(frame, 16, frame.length - ETHERNET_HEADER);
  put16(frame, 18, identification);
  put16(frame, 20, 0x4000);
  frame[22] = 64;
  frame[23] = protocol;
  put16(frame, 24, 0);
  put32(frame, 26, source);
  put32(frame, 30, destination);
  put16(frame, 24, checksumFinish(checksumAdd(0, frame, ETHERNET_HEADER, PAYLOAD)));
}

/** Sum of the pseudo header of UDP and TCP (RFC 768, RFC 9293 3.1) for `length` bytes at the payload. */
function pseudoSum(frame: Uint8Array, length: number): number {
  return checksumAdd(frame[23] + length, frame, 26, 34);
}

/** Fills the UDP or TCP checksum at `field`; the IPv4 header must be in place. */
export function putTransportChecksum(frame: Uint8Array, field: number): void {
  put16(frame, field, 0);
  const sum = checksumFinish(checksumAdd(pseudoSum(frame, frame.length - PAYLOAD), frame, PAYLOAD, frame.length));
  put16(frame, field, sum === 0 && frame[23] === PROTOCOL.udp ? 0xffff : sum);
}

/** A UDP datagram in one frame. `payload` is at most 65000 bytes. */
export function buildUdp(
  destinationMac: number,
  sourceMac: number,
  source: number,
  sourcePort: number,
  destination: number,
  destinationPort: number,
  payload: Uint8Array,
): Uint8Array {
  const frame = buildEthernet(PAYLOAD + UDP_HEADER + payload.length, destinationMac, sourceMac, ETHERTYPE.ipv4);
  putIpv4(frame, PROTOCOL.udp, source, destination, 0);
  put16(frame, PAYLOAD, sourcePort);
  put16(frame, PAYLOAD + 2, destinationPort);
  put16(frame, PAYLOAD + 4, UDP_HEADER + payload.length);
  frame.set(payload, PAYLOAD + UDP_HEADER);
  putTransportChecksum(frame, PAYLOAD + 6);
  return frame;
}

/** Where an IPv4 packet's parts lie in its frame. One object is reused: copy what must last. */
export interface Ipv4Packet {
  start: number;
  end: number;
  protocol: number;
  source: number;
  destination: number;
}

/**
 * Checks the IPv4 header of a frame of type IPv4, and fills `into`. False when it is truncated, has a wrong version, length or
 * checksum, or is a fragment (which nobody here puts together).
 */
export function parseIpv4(frame: Uint8Array, into: Ipv4Packet): boolean {
  if (frame.length < PAYLOAD || frame[14] >>> 4 !== 4) return false;
  const start = ETHERNET_HEADER + (frame[14] & 15) * 4;
  const end = ETHERNET_HEADER + get16(frame, 16);
  if (start < PAYLOAD || start > end || end > frame.length) return false;
  if ((get16(frame, 20) & 0x3fff) !== 0) return false;
  if (checksumFold(checksumAdd(0, frame, ETHERNET_HEADER, start)) !== 0xffff) return false;
  into.start = start;
  into.end = end;
  into.protocol = frame[23];
  into.source = get32(frame, 26);
  into.destination = get32(frame, 30);
  return true;
}

/** Checks the UDP or TCP checksum of a parsed packet. A UDP sum of zero means none was made. */
export function transportChecksumOk(frame: Uint8Array, packet: Ipv4Packet): boolean {
  if (packet.protocol === PROTOCOL.udp && get16(frame, packet.start + 6) === 0) return true;
  return checksumFold(checksumAdd(pseudoSum(frame, packet.end - packet.start), frame, packet.start, packet.end)) === 0xffff;
}
