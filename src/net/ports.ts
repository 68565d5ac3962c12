/**
 * What the host side of the network needs of its surroundings, in the shapes of the machine's ports (machine/ports.ts), which it may not
 * import. The compiler compares the two where a VM joins them.
 */

/** A timer that calls back once when the clock reaches `time` (ns); `Infinity` disarms it. */
export interface Timer {
  arm(time: number): void;
}

/** The machine's time, ns since the VM started. */
export interface Clock {
  now(): number;
  timer(callback: () => void): Timer;
}

/** The card's side of a network link. Frames are Ethernet without FCS, 14 to 65535 bytes; a frame that is handed over is the callee's to keep. */
export interface NetworkBackend {
  /** Card to network. Never blocks; drops (and counts) when the far end is full. */
  send(frame: Uint8Array): void;
  /** Set by the card: network to card. False = no room now; the back end keeps the frame and tries again on `ready`. */
  receive: (frame: Uint8Array) => boolean;
  /** The card has room again. */
  ready(): void;
  close(): void;
}
