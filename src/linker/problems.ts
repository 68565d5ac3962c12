/** Obstacles found in a module. Limited, so that a hostile file cannot make the list itself the problem. */

const MOST = 1000;

export class Problems {
  readonly messages: string[] = [];

  /** True when nothing more is recorded; a caller in a loop stops then. */
  get full(): boolean {
    return this.messages.length >= MOST;
  }

  add(message: string): void {
    if (!this.full) this.messages.push(message);
  }
}
