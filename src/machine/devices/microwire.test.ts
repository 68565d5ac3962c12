import { describe, expect, test } from 'vitest';
import { MICROWIRE_WORDS, Microwire } from './microwire.ts';

const bits = (value: number, count: number) => Array.from({ length: count }, (_, i) => (value >>> (count - 1 - i)) & 1);

/** Clocks bits in, and gives the output after each. */
function send(part: Microwire, ...input: readonly number[]): number[] {
  return input.map((bit) => {
    part.drive(true, false, bit === 1);
    part.drive(true, true, bit === 1);
    return part.output;
  });
}

function instruction(part: Microwire, ...input: readonly number[]): number[] {
  part.drive(false, false, false);
  const output = send(part, ...input);
  part.drive(false, false, false);
  return output;
}

const READ = 6;
const WRITE = 5;
const ERASE = 7;
const ENABLE = bits(0b100_110000, 9);
const DISABLE = bits(0b100_000000, 9);
const read = (part: Microwire, address: number, words = 1) => {
  const output = instruction(part, ...bits((READ << 6) | address, 9), ...new Array(16 * words).fill(0)).slice(8);
  expect(output[0]).toBe(0); // the dummy bit
  return Array.from({ length: words }, (_, i) => output.slice(1 + 16 * i, 17 + 16 * i).reduce((value, bit) => value * 2 + bit, 0));
};
const filled = () => new Microwire(Uint16Array.from({ length: MICROWIRE_WORDS }, (_, i) => 0x8000 + i * 3));

describe('93C46', () => {
  test('reads a word, and goes on to the next and round', () => {
    expect(read(filled(), 5)).toEqual([0x800f]);
    expect(read(filled(), 62, 3)).toEqual([0x8000 + 186, 0x8000 + 189, 0x8000]);
  });
  test('zeros before the start bit do not count', () => {
    const part = filled();
    part.drive(false, false, false);
    send(part, 0, 0, 0, ...bits((READ << 6) | 1, 9));
    expect(send(part, ...new Array(16).fill(0)).reduce((value, bit) => value * 2 + bit, 0)).toBe(0x8003);
  });
  test('writes and erases when enabled only', () => {
    const part = filled();
    const write = () => instruction(part, ...bits((WRITE << 6) | 9, 9), ...bits(0x1234, 16));
    write();
    expect(part.words[9]).toBe(0x801b);
    instruction(part, ...ENABLE);
    write();
    expect(part.words[9]).toBe(0x1234);
    instruction(part, ...bits((ERASE << 6) | 9, 9));
    expect(part.words[9]).toBe(0xffff);
    instruction(part, ...DISABLE);
    write();
    expect(part.words[9]).toBe(0xffff);
  });
  test('chip select low in the middle drops the instruction', () => {
    const part = filled();
    instruction(part, ...ENABLE);
    instruction(part, ...bits((WRITE << 6) | 9, 9), ...bits(0x12, 8));
    expect([part.words[9], read(part, 9)]).toEqual([0x801b, [0x801b]]);
  });
  test('a state that does not fit is refused, one that fits ends the transfer', () => {
    const part = filled();
    for (const state of [undefined, [], [1], new Array(64).fill(0x10000), new Array(64).fill('1')]) {
      expect(() => part.load(state, 'card')).toThrow(/card: eeprom/);
    }
    send(part, ...bits(READ << 6, 9));
    part.load(new Array(64).fill(7), 'card');
    expect([part.output, part.save()]).toEqual([1, new Array(64).fill(7)]);
  });
});
