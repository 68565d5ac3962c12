/** Reads a device's saved state field by field: a snapshot is a file, and so may be broken or hostile. */

export interface StateReader {
  /** Integer within [least, most]. */
  number(name: string, least: number, most: number): number;
  /** Machine time in ns; `Infinity` is saved as null. */
  time(name: string): number;
  boolean(name: string): boolean;
  /** Exactly `length` integers within [least, most]. */
  numbers(name: string, length: number, least: number, most: number): number[];
  /** At most `most` bytes, saved as base64; exactly `most` if `exact`. */
  bytes(name: string, most: number, exact?: boolean): Uint8Array;
  /** The state of a part. */
  part(name: string): unknown;
}

/** `Infinity` has no place in JSON. */
export function saveTime(time: number): number | null {
  return Number.isFinite(time) ? time : null;
}

export function saveBytes(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');
}

/** Throws Error `<device>: <field> is ..., expected ...` for what does not fit. */
export function readState(device: string, state: unknown): StateReader {
  if (typeof state !== 'object' || state === null) throw new Error(`${device}: state is ${String(state)}, expected an object`);
  const fields = state as Record<string, unknown>;
  const fail = (name: string, expected: string): never => {
    throw new Error(`${device}: ${name} is ${String(JSON.stringify(fields[name])).slice(0, 80)}, expected ${expected}`);
  };
  const within = (value: unknown, least: number, most: number): value is number =>
    typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most;
  return {
    number(name, least, most) {
      const value = fields[name];
      return within(value, least, most) ? value : fail(name, `an integer from ${least} to ${most}`);
    },
    time(name) {
      const value = fields[name];
      if (value === null) return Number.POSITIVE_INFINITY;
      return typeof value === 'number' && Number.isFinite(value) ? value : fail(name, 'a time in ns or null');
    },
    boolean(name) {
      const value = fields[name];
      return typeof value === 'boolean' ? value : fail(name, 'true or false');
    },
    numbers(name, length, least, most) {
      const value = fields[name];
      const fits = Array.isArray(value) && value.length === length && value.every((item) => within(item, least, most));
      return fits ? (value as number[]) : fail(name, `${length} integers from ${least} to ${most}`);
    },
    bytes(name, most, exact = false) {
      const value = fields[name];
      if (typeof value !== 'string' || value.length > most * 2 + 4) return fail(name, `base64 of ${most} bytes`);
      const bytes = new Uint8Array(Buffer.from(value, 'base64'));
      return bytes.length > most || (exact && bytes.length !== most) ? fail(name, `base64 of ${most} bytes`) : bytes;
    },
    part(name) {
      return fields[name] ?? fail(name, 'the state of a part');
    },
  };
}
