/** Joins cards in one process: a switch that learns which address is behind which port and floods the rest. */
import type { NetworkBackend } from './ports.ts';
import { isGroupMac, macAt, MINIMUM_FRAME } from './ethernet.ts';
import { ReceiveQueue } from './queue.ts';

/** Addresses learned; the one unseen for longest makes room. A guest that invents addresses only costs floods. */
const ADDRESSES = 1024;
const QUEUE = 256;
const PORTS = 64;

export interface Hub {
  /** A back end for one more card. Throws RangeError beyond 64. */
  attach(): NetworkBackend;
  statistics(): Record<string, number>;
}

export function createHub(): Hub {
  return new Switch();
}

const named = new Map<string, Switch>();

/** The hub of that name, made when first asked for and forgotten when its last card leaves. */
export function hubNamed(name: string): Hub {
  let hub = named.get(name);
  if (hub === undefined) {
    hub = new Switch(() => named.delete(name));
    named.set(name, hub);
  }
  return hub;
}

class Switch implements Hub {
  private readonly ports = new Set<Port>();
  private readonly addresses = new Map<number, Port>();
  private forwarded = 0;
  private flooded = 0;
  private lost = 0;

  constructor(private readonly emptied: () => void = () => {}) {}

  attach(): NetworkBackend {
    if (this.ports.size >= PORTS) throw new RangeError(`a hub has room for ${PORTS} cards`);
    const port = new Port(this);
    this.ports.add(port);
    return port;
  }

  statistics(): Record<string, number> {
    let dropped = this.lost;
    for (const port of this.ports) dropped += port.queue.dropped;
    return { cards: this.ports.size, addresses: this.addresses.size, forwarded: this.forwarded, flooded: this.flooded, dropped };
  }

  forward(from: Port, frame: Uint8Array): void {
    if (!this.ports.has(from) || frame.length < MINIMUM_FRAME) return;
    const source = macAt(frame, 6);
    if (!isGroupMac(source)) this.learn(source, from);
    const destination = macAt(frame, 0);
    const to = isGroupMac(destination) ? undefined : this.addresses.get(destination);
    if (to !== undefined) {
      if (to === from) return;
      this.forwarded++;
      to.queue.push(frame);
      return;
    }
    this.flooded++;
    // Each receiver keeps its frame, so each gets its own.
    for (const port of this.ports) if (port !== from) port.queue.push(frame.slice());
  }

  detach(port: Port): void {
    if (!this.ports.delete(port)) return;
    this.lost += port.queue.dropped;
    for (const [address, owner] of this.addresses) if (owner === port) this.addresses.delete(address);
    if (this.ports.size === 0) this.emptied();
  }

  private learn(address: number, port: Port): void {
    this.addresses.delete(address);
    this.addresses.set(address, port);
    if (this.addresses.size > ADDRESSES) this.addresses.delete(this.addresses.keys().next().value as number);
  }
}

class Port implements NetworkBackend {
  receive: (frame: Uint8Array) => boolean = () => true;
  readonly queue = new ReceiveQueue((frame) => this.receive(frame), QUEUE);

  constructor(private readonly hub: Switch) {}

  send(frame: Uint8Array): void {
    this.hub.forward(this, frame);
  }

  ready(): void {
    this.queue.drain();
  }

  close(): void {
    this.queue.clear();
    this.hub.detach(this);
  }
}
