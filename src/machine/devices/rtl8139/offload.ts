/**
 * What the RTL8139C+ does for the driver inside IPv4 packets (data sheet 9): checksums on the way out, large send, and the verdict on the
 * way in. Frames come from a hostile guest or network: every length is checked before it is used.
 */
import { checksumAdd, checksumFinish, checksumFold } from '../../../base/internet-checksum.ts';
import { RECEIVE, TRANSMIT, TRANSMIT_LIMIT } from './bits.ts';

const TCP = 6;
const UDP = 17;
const VLAN = 0x8100;
/** Offset of the checksum in each transport header, and the least such header. */
const CHECKSUM_AT = { [TCP]: 16, [UDP]: 6 } as const;
const LEAST_HEADER = { [TCP]: 20, [UDP]: 8 } as const;
/** Flags of TCP that belong to the last segment: FIN and PSH. */
const LAST_FLAGS = 0x09;
/** Segments cut from one packet: 64 KiB in segments of 64 bytes. */
export const MAXIMUM_SEGMENTS = 1024;

/** Protocol identification in a receive descriptor (9.2). */
const PROTOCOL = { tcp: 1, udp: 2, ip: 3 } as const;

interface Ipv4Packet {
  /** Offsets in the frame: IP header, its payload, the byte after the packet. */
  start: number;
  payload: number;
  end: number;
  protocol: number;
  fragment: boolean;
}

/** The IPv4 packet in the first `length` bytes, behind a VLAN tag or not; undefined for anything else or a header that does not fit. */
function findIpv4(frame: Uint8Array, length: number): Ipv4Packet | undefined {
  const start = length >= 18 && get16(frame, 12) === VLAN ? 18 : 14;
  if (length < start + 20 || get16(frame, start - 2) !== 0x0800 || frame[start] >>> 4 !== 4) return undefined;
  const payload = start + (frame[start] & 15) * 4;
  const end = start + get16(frame, start + 2);
  if (payload < start + 20 || payload > length) return undefined;
  const fragment = (get16(frame, start + 6) & 0x3fff) !== 0;
  return { start, payload, end, protocol: frame[start + 9], fragment };
}

/** Sum over the pseudo header and the transport packet from `payload` to `end`. */
function transportSum(frame: Uint8Array, { start, payload, protocol }: Ipv4Packet, end: number): number {
  return checksumAdd(checksumAdd(protocol + end - payload, frame, start + 12, start + 20), frame, payload, end);
}

function insertIpChecksum(frame: Uint8Array, { start, payload }: Ipv4Packet): void {
  put16(frame, start + 10, 0);
  put16(frame, start + 10, checksumFinish(checksumAdd(0, frame, start, payload)));
}

function insertTransportChecksum(frame: Uint8Array, packet: Ipv4Packet, protocol: typeof TCP | typeof UDP, end: number): void {
  const at = packet.payload + CHECKSUM_AT[protocol];
  put16(frame, at, 0);
  const sum = checksumFinish(transportSum(frame, packet, end));
  // UDP sends a sum of zero as all ones (RFC 768).
  put16(frame, at, protocol === UDP && sum === 0 ? 0xffff : sum);
}

/** Fills in the checksums that a transmit command asks for. What the chip does not recognise goes out as it is. */
export function insertChecksums(frame: Uint8Array, length: number, command: number): void {
  if ((command & (TRANSMIT.ipChecksum | TRANSMIT.tcpChecksum | TRANSMIT.udpChecksum)) === 0) return;
  const packet = findIpv4(frame, length);
  if (packet === undefined || packet.end > length || packet.end < packet.payload) return;
  if ((command & TRANSMIT.ipChecksum) !== 0) insertIpChecksum(frame, packet);
  const { protocol } = packet;
  if (packet.fragment || (protocol !== TCP && protocol !== UDP)) return;
  if ((command & (protocol === TCP ? TRANSMIT.tcpChecksum : TRANSMIT.udpChecksum)) === 0) return;
  if (packet.end - packet.payload >= LEAST_HEADER[protocol]) insertTransportChecksum(frame, packet, protocol, packet.end);
}

/**
 * Large send: cuts a TCP packet of `length` bytes into frames with `mss` bytes of payload each, headers and checksums made right. False,
 * with nothing emitted, for what is no IPv4 TCP packet or cannot be cut so.
 */
export function segment(packet: Uint8Array, length: number, mss: number, emit: (frame: Uint8Array) => void): boolean {
  const ip = findIpv4(packet, length);
  if (ip === undefined || ip.protocol !== TCP || ip.fragment || length < ip.payload + LEAST_HEADER[TCP]) return false;
  const header = ip.payload + (packet[ip.payload + 12] >>> 4) * 4;
  const payload = length - header;
  if (mss === 0 || header < ip.payload + LEAST_HEADER[TCP] || payload < 0 || header + mss > TRANSMIT_LIMIT) return false;
  const count = Math.max(1, Math.ceil(payload / mss));
  if (count > MAXIMUM_SEGMENTS) return false;
  const identification = get16(packet, ip.start + 4);
  const sequence = get16(packet, ip.payload + 4) * 0x10000 + get16(packet, ip.payload + 6);
  for (let i = 0; i < count; i++) {
    const part = Math.min(mss, payload - i * mss);
    const frame = new Uint8Array(header + part);
    frame.set(packet.subarray(0, header));
    frame.set(packet.subarray(header + i * mss, header + i * mss + part), header);
    put16(frame, ip.start + 2, frame.length - ip.start);
    put16(frame, ip.start + 4, identification + i);
    put16(frame, ip.payload + 4, Math.floor((sequence + i * mss) / 0x10000));
    put16(frame, ip.payload + 6, sequence + i * mss);
    if (i < count - 1) frame[ip.payload + 13] &= ~LAST_FLAGS;
    insertIpChecksum(frame, ip);
    insertTransportChecksum(frame, ip, TCP, frame.length);
    emit(frame);
  }
  return true;
}

/** Protocol and failed checksums, as bits of the first word of a receive descriptor; 0 for what is not checked. */
export function checkReceived(frame: Uint8Array): number {
  const packet = findIpv4(frame, frame.length);
  if (packet === undefined || packet.end > frame.length || packet.end < packet.payload) return 0;
  const { start, payload, end, protocol, fragment } = packet;
  const ip = checksumFold(checksumAdd(0, frame, start, payload)) === 0xffff ? 0 : RECEIVE.ipFailed;
  const kind = (name: keyof typeof PROTOCOL) => PROTOCOL[name] << RECEIVE.protocolShift;
  const tcp = protocol === TCP;
  const whole = (tcp || protocol === UDP) && !fragment && end - payload >= LEAST_HEADER[tcp ? TCP : UDP];
  // A UDP sum of zero means that the sender made none: nothing was checked, and nobody must think so.
  if (!whole || (!tcp && get16(frame, payload + CHECKSUM_AT[UDP]) === 0)) return kind('ip') | ip;
  const good = checksumFold(transportSum(frame, packet, end)) === 0xffff;
  if (tcp) return kind('tcp') | ip | (good ? 0 : RECEIVE.tcpFailed);
  return kind('udp') | ip | (good ? 0 : RECEIVE.udpFailed);
}

function get16(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 8) | bytes[at + 1];
}

function put16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = (value >>> 8) & 0xff;
  bytes[at + 1] = value & 0xff;
}
