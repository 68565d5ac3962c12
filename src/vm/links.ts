/** The main thread's ends of the cards' links: sockets, passt, taps and hubs live here. The peer lives with the card, in the machine's thread. */
import type { Log } from '../base/log.ts';
import { fetchPasst } from '../guest/fetch.ts';
import type { Clock } from '../machine/ports.ts';
import { bridgeNetwork, createBridgeMemory, type NetworkSide } from '../net/bridge.ts';
import { openNet } from '../net/index.ts';
import type { CardConfig } from './config.ts';

export interface CardLinks {
  /** Shared memory by card; undefined for a card whose back end is in its own thread. */
  readonly buffers: (SharedArrayBuffer | undefined)[];
  close(): void;
}

/** Only the peer measures time, and it is never opened here. */
const noClock: Clock = { now: () => performance.now() * 1e6, timer: () => ({ arm: () => {} }) };

/** True for back ends that need nothing of the host and run in the card's thread. */
export function isLocal({ net }: CardConfig): boolean {
  return net.kind === 'peer' || net.kind === 'none';
}

/** Opens every back end that needs the main thread. `ring` wakes the machine. Rejects with UserError, closing what was opened. */
export async function openCardLinks(cards: readonly CardConfig[], ring: () => void, log: Log): Promise<CardLinks> {
  const buffers: (SharedArrayBuffer | undefined)[] = [];
  const sides: NetworkSide[] = [];
  const close = () => {
    for (const side of sides) side.close();
  };
  try {
    for (const card of cards) {
      if (isLocal(card)) {
        buffers.push(undefined);
        continue;
      }
      const passt = card.net.kind === 'user' ? await fetchPasst(() => {}) : undefined;
      const backend = await openNet(card.net, { clock: noClock, log, passt });
      const memory = createBridgeMemory();
      buffers.push(memory);
      sides.push(bridgeNetwork(memory, backend, { wake: ring }));
    }
  } catch (error) {
    close();
    throw error;
  }
  return { buffers, close };
}
