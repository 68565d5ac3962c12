import { expect, test } from 'vitest';
import { I8042 } from './i8042.ts';

function setUp() {
  let resets = 0;
  const controller = new I8042(() => resets++);
  const command = (value: number) => controller.commandPort.write(0, 1, value);
  const data = (value: number) => controller.dataPort.write(0, 1, value);
  const status = () => controller.commandPort.read(0, 1);
  const answer = () => controller.dataPort.read(0, 1);
  return { controller, command, data, status, answer, resets: () => resets };
}

test('0xfe pulses the reset line; other pulses do not', () => {
  const { command, resets } = setUp();
  command(0xff);
  command(0xfd);
  expect(resets()).toBe(0);
  command(0xfe);
  expect(resets()).toBe(1);
});

test('the output port resets as well', () => {
  const { command, data, resets } = setUp();
  command(0xd1);
  data(0x03);
  expect(resets()).toBe(0);
  command(0xd1);
  data(0x02);
  expect(resets()).toBe(1);
});

test('self test and configuration answer; the buffer empties by reading', () => {
  const { command, data, status, answer } = setUp();
  command(0xaa);
  expect(status() & 0x01).toBe(1);
  expect(answer()).toBe(0x55);
  expect(status() & 0x01).toBe(0);
  command(0x60);
  data(0x65);
  command(0x20);
  expect(answer()).toBe(0x65);
});

test('a keyboard or mouse does not answer: time-out, not silence', () => {
  const { command, data, status, answer } = setUp();
  data(0xf2);
  expect(status() & 0x41).toBe(0x41);
  expect(answer()).toBe(0xfe);
  command(0xd4);
  data(0xf2);
  expect(status() & 0x61).toBe(0x61);
});

test('the input buffer is never full', () => {
  const { command, data, status } = setUp();
  for (let value = 0; value < 256; value++) {
    command(value);
    data(value);
    expect(status() & 0x02).toBe(0);
  }
});

test('state survives save and load', () => {
  const a = setUp();
  a.command(0xaa);
  const b = setUp();
  b.controller.load(JSON.parse(JSON.stringify(a.controller.save())));
  expect(b.answer()).toBe(0x55);
  expect(() => b.controller.load(null)).toThrow('i8042');
});
