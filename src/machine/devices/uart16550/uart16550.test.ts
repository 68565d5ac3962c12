import { describe, expect, test } from 'vitest';
import { createManualClock, createProbe } from '../../testing.ts';
import { Uart16550 } from './uart16550.ts';

const [RBR, IER, IIR, LCR, MCR, LSR, MSR, SCR] = [0, 1, 2, 3, 4, 5, 6, 7];

function setUp() {
  const clock = createManualClock();
  const irq = createProbe();
  const sent: number[] = [];
  const uart = new Uart16550({ irq, clock, output: { write: (byte) => sent.push(byte) } });
  const write = (offset: number, value: number) => uart.write(offset, 1, value);
  return { clock, irq, sent, uart, write, read: (offset: number) => uart.read(offset) };
}
const text = (value: string) => new TextEncoder().encode(value);

describe('16550', () => {
  test('sends bytes at once and always has an empty transmitter', () => {
    const { write, read, sent } = setUp();
    for (const byte of [0x68, 0x69]) {
      expect(read(LSR) & 0x60).toBe(0x60);
      write(RBR, byte);
    }
    expect(sent).toEqual([0x68, 0x69]);
  });

  test('DLAB gives the divisor, and does not send', () => {
    const { write, read, sent } = setUp();
    write(LCR, 0x83);
    write(0, 0x34);
    write(1, 0x12);
    expect([read(0), read(1)]).toEqual([0x34, 0x12]);
    write(LCR, 0x03);
    expect(read(IER)).toBe(0);
    expect(sent).toEqual([]);
  });

  test('is recognised as 16550A with FIFOs: scratch, IIR, reserved IER bits', () => {
    const { write, read } = setUp();
    write(SCR, 0x5a);
    expect(read(SCR)).toBe(0x5a);
    expect(read(IIR) & 0xc0).toBe(0);
    write(2, 0x01);
    expect(read(IIR)).toBe(0xc1);
    write(IER, 0xff);
    expect(read(IER)).toBe(0x0f);
  });

  test('enabling the transmit interrupt raises it each time; reading IIR clears it', () => {
    const { write, read, irq } = setUp();
    write(MCR, 0x08);
    for (let i = 0; i < 2; i++) {
      write(IER, 0x02);
      expect(irq.level).toBe(true);
      expect(read(IIR) & 0x0f).toBe(0x02);
      expect(irq.level).toBe(false);
      expect(read(IIR) & 0x0f).toBe(0x01);
      write(IER, 0x00);
    }
  });

  test('a long output gets one interrupt per batch, none inside the handler', () => {
    const { write, read, irq, clock, sent } = setUp();
    write(2, 0x01);
    write(MCR, 0x08);
    write(IER, 0x02);
    let left = 100;
    while (left > 0) {
      expect(irq.level).toBe(true);
      expect(read(IIR) & 0x0f).toBe(0x02);
      for (let i = 0; i < 16 && left > 0; i++, left--) write(RBR, 0x2e);
      expect(irq.level).toBe(false);
      expect(read(IIR) & 0x0f).toBe(0x01);
      clock.advance(100_000);
    }
    expect(sent.length).toBe(100);
    expect(irq.edges).toBe(8);
  });

  test('polled output arms no timer', () => {
    const { write, clock } = setUp();
    write(RBR, 0x41);
    expect(clock.nextDeadline()).toBe(Number.POSITIVE_INFINITY);
  });

  test('input fills the FIFO, interrupts, and follows from the queue', () => {
    const { uart, write, read, irq } = setUp();
    write(2, 0xc1); // trigger at 14
    write(MCR, 0x08);
    write(IER, 0x01);
    expect(uart.receive(text('abc'))).toBe(3);
    expect(irq.level).toBe(true);
    expect(read(IIR)).toBe(0xcc);
    uart.receive(text('defghijklmnopqrstuvwxyz'));
    expect(read(IIR)).toBe(0xc4);
    let got = '';
    while (read(LSR) & 1) got += String.fromCharCode(read(RBR));
    expect(got).toBe('abcdefghijklmnopqrstuvwxyz');
    expect(irq.level).toBe(false);
    expect(read(IIR)).toBe(0xc1);
  });

  test('the queue is bounded', () => {
    const { uart, read } = setUp();
    let taken = 0;
    for (let i = 0; i < 100; i++) taken += uart.receive(new Uint8Array(10_000));
    expect(taken).toBeLessThan(100_000);
    // Room for less than a piece is no room, so that a guest that reads byte by byte does not get a queue of single bytes.
    expect(uart.receive(new Uint8Array(10_000))).toBe(0);
    for (let i = 0; i < 5000; i++) read(RBR);
    expect(uart.receive(new Uint8Array(10_000))).toBeGreaterThan(4096);
  });

  test('OUT2 gates the interrupt', () => {
    const { uart, write, irq } = setUp();
    write(IER, 0x01);
    uart.receive(text('x'));
    expect(irq.level).toBe(false);
    write(MCR, 0x08);
    expect(irq.level).toBe(true);
  });

  test('loop mode returns bytes and modem lines, sends nothing, and holds input back', () => {
    const { uart, write, read, sent } = setUp();
    write(MCR, 0x1a); // LOOP, OUT2, RTS: the probe of Linux
    expect(read(MSR) & 0xf0).toBe(0x90);
    expect(read(MSR) & 0x0f).toBe(0);
    uart.receive(text('k'));
    write(RBR, 0x77);
    expect(read(RBR)).toBe(0x77);
    expect(read(LSR) & 1).toBe(0);
    expect(sent).toEqual([]);
    write(MCR, 0x0b);
    expect(read(MSR) & 0xf0).toBe(0xb0);
    expect(read(RBR)).toBe(0x6b);
  });

  test('loop mode overruns a full receiver', () => {
    const { write, read } = setUp();
    write(MCR, 0x10);
    write(RBR, 1);
    write(RBR, 2);
    expect(read(LSR) & 0x02).toBe(0x02);
    expect(read(LSR) & 0x02).toBe(0);
  });

  test('clearing the FIFO drops what is in it', () => {
    const { uart, write, read } = setUp();
    write(2, 0x01);
    uart.receive(text('abc'));
    write(2, 0x07);
    expect(read(LSR) & 1).toBe(0);
  });

  test('state survives save and load', () => {
    const a = setUp();
    a.write(2, 0x81);
    a.write(MCR, 0x0b);
    a.write(IER, 0x03);
    a.read(IIR);
    a.uart.receive(text('0123456789abcdefghij'));
    a.read(RBR);
    a.write(RBR, 0x41);
    const b = setUp();
    b.uart.load(JSON.parse(JSON.stringify(a.uart.save())));
    expect(b.uart.save()).toEqual(a.uart.save());
    let got = '';
    while (b.read(LSR) & 1) got += String.fromCharCode(b.read(RBR));
    expect(got).toBe('123456789abcdefghij');
    b.clock.advance(1e6);
    expect(b.read(IIR) & 0x0f).toBe(0x02);
    expect(() => b.uart.load({ ...(a.uart.save() as object), divisor: -1 })).toThrow('uart16550: divisor is -1');
  });
});
