/** Interrupt wiring: several sources on one wire, and one source on several wires. */
import type { IrqLine } from './ports.ts';

/** A wire that is asserted while any of its sources asserts it. Each call of `source` gives a new source. */
export class SharedWire {
  private asserting = 0;

  constructor(private readonly output: (asserted: boolean) => void) {}

  source(): IrqLine {
    let mine = false;
    return {
      set: (asserted: boolean) => {
        if (asserted === mine) return;
        mine = asserted;
        this.asserting += asserted ? 1 : -1;
        if (this.asserting === (asserted ? 1 : 0)) this.output(asserted);
      },
    };
  }
}
