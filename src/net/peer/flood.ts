/** A source of UDP datagrams at the speed of the card, for receive benchmarks. One template, its counter and checksum changed in place. */
import { checksumFinish } from '../../base/internet-checksum.ts';
import { buildUdp, get16, PAYLOAD, put16, put32, UDP_HEADER } from '../ethernet.ts';
import { PEER_ADDRESS, PEER_MAC, PORTS } from './identity.ts';

/** Datagrams in one go when the card takes all of them. */
const BURST = 256;
const MINIMUM_SIZE = 4;
const MAXIMUM_SIZE = 1472;

interface Outlet {
  readonly canSend: boolean;
  emit(frame: Uint8Array): void;
}

export class Flood {
  sent = 0;
  private readonly template: Uint8Array;
  private readonly sum: number;

  /** `size` is brought into 4 to 1472 bytes. */
  constructor(
    to: { mac: number; address: number; port: number },
    private readonly count: number,
    size: number,
  ) {
    const payload = new Uint8Array(Math.min(MAXIMUM_SIZE, Math.max(MINIMUM_SIZE, size)));
    this.template = buildUdp(to.mac, PEER_MAC, PEER_ADDRESS, PORTS.flood, to.address, to.port, payload);
    this.sum = ~get16(this.template, PAYLOAD + 6) & 0xffff;
  }

  /** done: all sent; blocked: the card is full; pause: a burst is over, call again soon. */
  run(outlet: Outlet): 'done' | 'blocked' | 'pause' {
    for (let i = 0; i < BURST; i++) {
      if (this.sent >= this.count) return 'done';
      if (!outlet.canSend) return 'blocked';
      const frame = this.template.slice();
      put32(frame, PAYLOAD + UDP_HEADER, this.sent);
      // Incremental update (RFC 1624): the counter's halves join the sum of all the rest.
      const sum = this.sum + (this.sent >>> 16) + (this.sent & 0xffff);
      put16(frame, PAYLOAD + 6, checksumFinish(sum) || 0xffff);
      this.sent++;
      outlet.emit(frame);
    }
    return this.sent >= this.count ? 'done' : 'pause';
  }
}
