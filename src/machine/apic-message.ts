/** Interrupt messages between APICs (Intel SDM vol. 3, 10.6 and 10.7), and who receives one. */

/** Delivery modes, as encoded in ICR, LVT and redirection entries. */
export const DELIVERY = { fixed: 0, lowest: 1, smi: 2, nmi: 4, init: 5, startup: 6, external: 7 } as const;

export interface ApicMessage {
  /** 8 bits: an APIC ID, or a logical destination. */
  destination: number;
  logical: boolean;
  /** One of DELIVERY. */
  mode: number;
  vector: number;
  /** Level-triggered. */
  level: boolean;
}

/** Who is meant, in ICR encoding: 0 the destination, 1 the sender, 2 all, 3 all but the sender. */
export type Shorthand = 0 | 1 | 2 | 3;

/** What the router needs to know of a local APIC. */
export interface MessageTarget {
  matches(destination: number, logical: boolean): boolean;
  /** Processor priority, for lowest-priority arbitration. */
  readonly priority: number;
  accept(message: ApicMessage): void;
}

/** Hands a message to the APICs it is for. `sender` is an index, -1 for the I/O APIC. */
export function routeMessage(targets: readonly MessageTarget[], message: ApicMessage, shorthand: Shorthand, sender: number): void {
  let lowest: MessageTarget | undefined;
  for (const [index, target] of targets.entries()) {
    if (!isMeant(target, index, message, shorthand, sender)) continue;
    if (message.mode !== DELIVERY.lowest) target.accept(message);
    else if (lowest === undefined || target.priority < lowest.priority) lowest = target;
  }
  lowest?.accept(message);
}

function isMeant(target: MessageTarget, index: number, message: ApicMessage, shorthand: Shorthand, sender: number): boolean {
  switch (shorthand) {
    case 0:
      return target.matches(message.destination, message.logical);
    case 1:
      return index === sender;
    case 2:
      return true;
    case 3:
      return index !== sender;
  }
}
