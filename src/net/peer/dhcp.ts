/** The peer's DHCP server (RFC 2131, options of RFC 2132): one address for each client, the first being the network's traditional .15. */
import { BROADCAST_MAC, buildUdp, get16, get32, macAt, put32 } from '../ethernet.ts';

export const DHCP_SERVER_PORT = 67;
const DHCP_CLIENT_PORT = 68;
const COOKIE = 0x6382_5363;
const COOKIE_AT = 236;
const OPTIONS_AT = 240;
const MESSAGE = { discover: 1, offer: 2, request: 3, decline: 4, ack: 5, nak: 6, release: 7, inform: 8 } as const;
const OPTION = {
  mask: 1,
  router: 3,
  dns: 6,
  requested: 50,
  lease: 51,
  message: 53,
  server: 54,
  renewal: 58,
  rebinding: 59,
  end: 255,
} as const;
const LEASE_SECONDS = 86_400;
/** Addresses given out; a client beyond them takes over the oldest. */
const LEASES = 64;

export class DhcpServer {
  /** Client MAC to its index; in order of first appearance. */
  private readonly leases = new Map<number, number>();

  /** Addresses `first`, `first` + 1, ... with a /24 mask. */
  constructor(
    private readonly mac: number,
    private readonly address: number,
    private readonly first: number,
  ) {}

  /** The answer to a datagram to the server's port, or undefined. `start` and `end` delimit the DHCP message in `frame`. */
  answer(frame: Uint8Array, start: number, end: number): Uint8Array | undefined {
    const message = frame.subarray(start, end);
    // BOOTREQUEST over Ethernet.
    if (message.length < OPTIONS_AT || message[0] !== 1 || message[1] !== 1 || message[2] !== 6) return undefined;
    if (get32(message, COOKIE_AT) !== COOKIE) return undefined;
    const options = readOptions(message);
    const client = macAt(message, 28);
    const offered = this.lease(client);
    const serverWanted = options.server;
    if (serverWanted !== undefined && serverWanted !== this.address) return undefined;
    switch (options.message) {
      case MESSAGE.discover:
        return this.reply(message, client, MESSAGE.offer, offered);
      case MESSAGE.request: {
        const wanted = options.requested ?? get32(message, 12);
        return wanted === offered ? this.reply(message, client, MESSAGE.ack, offered) : this.reply(message, client, MESSAGE.nak, 0);
      }
      case MESSAGE.inform:
        return this.reply(message, client, MESSAGE.ack, 0);
      default:
        return undefined;
    }
  }

  private lease(client: number): number {
    let index = this.leases.get(client);
    if (index === undefined) {
      index = this.leases.size;
      if (index >= LEASES) {
        const [oldest, freed] = this.leases.entries().next().value as [number, number];
        this.leases.delete(oldest);
        index = freed;
      }
      this.leases.set(client, index);
    }
    return this.first + index;
  }

  private reply(request: Uint8Array, client: number, type: number, yours: number): Uint8Array {
    const message = new Uint8Array(300); // the least that BOOTP clients take (RFC 951)
    message.set([2, 1, 6, 0]);
    message.set(request.subarray(4, 8), 4); // transaction
    message.set(request.subarray(10, 12), 10); // flags
    message.set(request.subarray(12, 16), 12); // client's address
    put32(message, 16, yours);
    put32(message, 20, this.address);
    message.set(request.subarray(24, 44), 24); // relay and hardware address
    put32(message, COOKIE_AT, COOKIE);
    let at = OPTIONS_AT;
    const option = (code: number, value: number) => {
      message[at] = code;
      message[at + 1] = 4;
      put32(message, at + 2, value);
      at += 6;
    };
    message.set([OPTION.message, 1, type], at);
    at += 3;
    option(OPTION.server, this.address);
    if (type !== MESSAGE.nak) {
      if (yours !== 0) {
        option(OPTION.lease, LEASE_SECONDS);
        option(OPTION.renewal, LEASE_SECONDS / 2);
        option(OPTION.rebinding, (LEASE_SECONDS * 7) / 8);
      }
      option(OPTION.mask, 0xffff_ff00);
      option(OPTION.router, this.address);
      option(OPTION.dns, this.address);
    }
    message[at] = OPTION.end;
    const clientAddress = get32(request, 12);
    const broadcast = type === MESSAGE.nak || ((get16(request, 10) & 0x8000) !== 0 && clientAddress === 0);
    const to = broadcast ? 0xffff_ffff : clientAddress === 0 ? yours : clientAddress;
    return buildUdp(broadcast ? BROADCAST_MAC : client, this.mac, this.address, DHCP_SERVER_PORT, to, DHCP_CLIENT_PORT, message);
  }
}

interface Options {
  message: number;
  requested: number | undefined;
  server: number | undefined;
}

function readOptions(message: Uint8Array): Options {
  const options: Options = { message: 0, requested: undefined, server: undefined };
  let at = OPTIONS_AT;
  while (at < message.length && message[at] !== OPTION.end) {
    if (message[at] === 0) {
      at++;
      continue;
    }
    const length = message[at + 1];
    if (length === undefined || at + 2 + length > message.length) break;
    if (message[at] === OPTION.message && length === 1) options.message = message[at + 2];
    if (message[at] === OPTION.requested && length === 4) options.requested = get32(message, at + 2);
    if (message[at] === OPTION.server && length === 4) options.server = get32(message, at + 2);
    at += 2 + length;
  }
  return options;
}
