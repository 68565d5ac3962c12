/** The network cards of one machine, each joined to its back end: the peer in this thread, or a bridge to the main thread. */
import { unreachable } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Board, PciFunctionPorts } from '../machine/board.ts';
import { createE1000 } from '../machine/devices/e1000/e1000.ts';
import type { NetworkCard } from '../machine/devices/network-card/network-card.ts';
import { createRtl8139 } from '../machine/devices/rtl8139/rtl8139.ts';
import type { NetworkBackend } from '../machine/ports.ts';
import { bridgeCard, type CardSide } from '../net/bridge.ts';
import { parseMac } from '../net/ethernet.ts';
import { openNet } from '../net/index.ts';
import { withPcap } from '../net/pcap.ts';
import type { CardModel, CardReport, VmConfig } from './config.ts';

export interface Cards {
  /** Takes frames that other threads left. */
  poll(): void;
  /** Cable in or out. False: there is no such card. */
  setLink(card: number, up: boolean): boolean;
  report(): CardReport[];
  close(): void;
}

function createCard(model: CardModel, ports: PciFunctionPorts, options: { mac: Uint8Array; backend: NetworkBackend }): NetworkCard {
  switch (model) {
    case 'e1000':
      return createE1000(ports, options);
    case 'rtl8139':
      return createRtl8139(ports, options);
    case 'rtl8139c':
      return createRtl8139(ports, { ...options, chip: 'c' });
    default:
      return unreachable(model);
  }
}

/** Makes the cards and puts them in their slots. Throws UserError for a capture file that cannot be made or a slot that is taken. */
export async function createCards(
  config: VmConfig,
  board: Board,
  links: readonly (SharedArrayBuffer | undefined)[],
  log: Log,
): Promise<Cards> {
  const bridges: CardSide[] = [];
  const backends: NetworkBackend[] = [];
  const cards: { slot: number; card: NetworkCard }[] = [];
  for (const [index, { model = 'e1000', slot, mac, net, pcap }] of config.cards.entries()) {
    const memory = links[index];
    let backend: NetworkBackend;
    if (memory === undefined) backend = await openNet(net, { clock: board.clock, log });
    else {
      const bridge = bridgeCard(memory);
      bridges.push(bridge);
      backend = bridge;
    }
    if (pcap !== undefined) backend = withPcap(backend, { to: pcap, log, now: () => config.wallClock * 1e6 + board.clock.now() });
    backends.push(backend);
    const wired = backend;
    cards.push({ slot, card: board.addPci(slot, (ports) => createCard(model, ports, { mac: parseMac(mac), backend: wired })) });
  }
  return {
    poll() {
      for (const bridge of bridges) bridge.poll();
    },
    setLink(index, up) {
      cards[index]?.card.setLink(up);
      return cards[index] !== undefined;
    },
    report: () =>
      cards.map(({ slot, card }) => {
        const statistics = card.statistics();
        return { slot, rxPackets: statistics.rxFrames, txPackets: statistics.txFrames, statistics };
      }),
    close() {
      for (const backend of backends) backend.close();
    },
  };
}
