import { describe, expect, test } from 'vitest';
import { silentLog } from '../base/log.ts';
import { type Board, type BoardOptions, createBoard, type PciFunctionPorts } from './board.ts';
import { memoryMap, PCI_FIRST_PIN, pciWire } from './memory-map.ts';

const SIZE = 16 << 20;

function setUp(more: Partial<BoardOptions> = {}) {
  let now = 0;
  const bytes = new Uint8Array(SIZE);
  const written: [number, number][] = [];
  const power: unknown[] = [];
  const woken: number[] = [];
  let output = '';
  const board = createBoard({
    memory: { size: SIZE, bytes, words: new Uint32Array(bytes.buffer), written: (gpa, length) => written.push([gpa, length]) },
    now: () => now,
    cpus: 1,
    tscFrequency: 1e9,
    serial: {
      write: (part) => {
        output += String.fromCharCode(...part);
      },
    },
    wallClock: () => Date.UTC(2024, 0, 1),
    log: silentLog,
    onPower: (kind, code) => power.push(code === undefined ? kind : [kind, code]),
    onInterrupt: (cpu) => woken.push(cpu),
    ...more,
  });
  const advance = (by: number) => {
    const end = now + by;
    while (board.nextDeadline() <= end) {
      now = Math.max(now, board.nextDeadline());
      board.runDue();
    }
    now = end;
  };
  const out = (port: number, value: number, size: 1 | 2 | 4 = 1) => board.io(port, size, true, value);
  const input = (port: number, size: 1 | 2 | 4 = 1) => board.io(port, size, false, 0);
  const redirect = (pin: number, entry: number) => {
    board.mmio(0xfec0_0000, 4, true, 0x10 + 2 * pin);
    board.mmio(0xfec0_0010, 4, true, entry);
  };
  return { board, bytes, written, power, woken, output: () => output, advance, out, input, redirect };
}

function takeAll(board: Board): number[] {
  const vectors: number[] = [];
  while (board.interruptFor(0) >= 0) {
    vectors.push(board.acknowledgeInterrupt(0));
    board.lapic(0).writeRegister(0xb0, 0);
  }
  return vectors;
}

function testCard(ports: PciFunctionPorts) {
  return {
    name: 'test card',
    vendor: 1,
    device: 2,
    subsystemVendor: 0,
    subsystem: 0,
    revision: 0,
    classCode: 0xff0000,
    interruptPin: 1 as const,
    bars: [{ kind: 'memory' as const, size: 4096, registers: { read: () => 0x1234_5678, write: () => {} } }],
    setBusMaster: () => {},
    reset: () => {},
    ports,
    register: 7,
    save() {
      return { register: this.register };
    },
    load(state: unknown) {
      this.register = (state as { register: number }).register;
    },
  };
}

function startPics(out: (port: number, value: number) => void): void {
  for (const [port, base, wiring] of [
    [0x20, 0x30, 4],
    [0xa0, 0x38, 2],
  ]) {
    out(port, 0x11);
    out(port + 1, base);
    out(port + 1, wiring);
    out(port + 1, 1);
    out(port + 1, 0);
  }
}

describe('board', () => {
  test('the 8254 interrupts through the 8259s and LINT0, as before any APIC is set up', () => {
    const { board, out, advance, woken } = setUp();
    startPics(out);
    out(0x43, 0x34);
    out(0x40, 0x9c);
    out(0x40, 0x2e);
    expect(board.interruptFor(0)).toBe(0x30); // OUT is high from the start
    expect(board.acknowledgeInterrupt(0)).toBe(0x30);
    out(0x20, 0x20);
    expect(board.acknowledgeInterrupt(0)).toBe(-1);
    woken.length = 0;
    advance(10.1e6);
    expect(woken).toContain(0);
    expect(board.acknowledgeInterrupt(0)).toBe(0x30);
  });

  test('the same through the I/O APIC arrives on pin 2', () => {
    const { board, out, advance, redirect } = setUp();
    redirect(2, 0x51);
    out(0x43, 0x34);
    out(0x40, 0x9c);
    out(0x40, 0x2e);
    takeAll(board);
    advance(10.1e6);
    expect(takeAll(board)).toEqual([0x51]);
  });

  test('the local APIC timer wakes its CPU', () => {
    const { board, advance, woken } = setUp();
    const lapic = board.lapic(0);
    lapic.writeRegister(0x3e0, 0x0b);
    lapic.writeRegister(0x320, 0x40);
    lapic.writeRegister(0x380, 5000);
    expect(board.nextDeadline()).toBe(5000);
    woken.length = 0;
    advance(5000);
    expect(woken).toEqual([0]);
    expect(takeAll(board)).toEqual([0x40]);
  });

  test('serial output comes in lines, a prompt after a moment, and input interrupts on pin 4', () => {
    const { board, out, input, advance, output, redirect } = setUp();
    for (const character of 'hello\nprompt') out(0x3f8, character.charCodeAt(0));
    expect(output()).toBe('hello\n');
    advance(2e6);
    expect(output()).toBe('hello\nprompt');
    redirect(4, 0x34);
    out(0x3fc, 0x0b);
    out(0x3f9, 0x01);
    expect(board.serialInput(Uint8Array.of(0x41))).toBe(1);
    expect(takeAll(board)).toEqual([0x34]);
    expect(input(0x3f8)).toBe(0x41);
  });

  test('power-off, all ways to reset, and debug exit', () => {
    const { out, power, output } = setUp({ debugExit: 0xf4 });
    out(0x3f8, 0x78);
    out(0x604, 0x3400, 2);
    expect(output()).toBe('x');
    out(0xcf9, 0x06);
    out(0x64, 0xfe);
    out(0xf4, 3, 4);
    expect(power).toEqual(['off', 'reset', 'reset', ['debug-exit', 7]]);
  });

  test('without the option there is no debug exit', () => {
    const { out, power, board } = setUp();
    out(0xf4, 3, 4);
    expect(power).toEqual([]);
    expect(board.statistics()['unclaimed port accesses']).toBe(1);
  });

  test('a debug-exit port that is taken is an error that says so', () => {
    expect(() => setUp({ debugExit: 0x3f8 })).toThrow('debug exit');
  });

  test.each([0, 255, 1.5])('%s CPUs are refused', (cpus) => {
    expect(() => setUp({ cpus })).toThrow('number of CPUs');
  });
});

describe('PCI functions on the board', () => {
  test('INTA reaches the I/O APIC pin of the slot, level-triggered until released', () => {
    const { board, redirect } = setUp();
    const card = board.addPci(3, testCard);
    redirect(PCI_FIRST_PIN + pciWire(3), 0xa060);
    card.ports.irq.set(true);
    expect(board.acknowledgeInterrupt(0)).toBe(0x60);
    board.lapic(0).writeRegister(0xb0, 0);
    expect(board.acknowledgeInterrupt(0)).toBe(0x60);
    card.ports.irq.set(false);
    board.lapic(0).writeRegister(0xb0, 0);
    expect(board.interruptFor(0)).toBe(-1);
  });

  test('INTA reaches the 8259s as a level on the interrupt line that configuration space names', () => {
    const { board, out, input } = setUp();
    startPics(out);
    const card = board.addPci(3, testCard);
    out(0xcf8, 0x8000_183c, 4);
    const line = input(0xcfc);
    card.ports.irq.set(true);
    for (let i = 0; i < 2; i++) {
      expect(board.acknowledgeInterrupt(0)).toBe(0x30 + line);
      out(0xa0, 0x20);
      out(0x20, 0x20);
    }
  });

  test('two functions share a wire: it is released by the last', () => {
    const { board, redirect } = setUp();
    const [a, b] = [3, 7].map((slot) => board.addPci(slot, testCard));
    redirect(PCI_FIRST_PIN + pciWire(3), 0xa060);
    a.ports.irq.set(true);
    b.ports.irq.set(true);
    a.ports.irq.set(false);
    expect(board.acknowledgeInterrupt(0)).toBe(0x60);
    board.lapic(0).writeRegister(0xb0, 0);
    expect(board.acknowledgeInterrupt(0)).toBe(0x60);
    b.ports.irq.set(false);
    board.lapic(0).writeRegister(0xb0, 0);
    expect(board.interruptFor(0)).toBe(-1);
  });

  test('DMA needs bus mastering, stays in RAM, and tells of writes', () => {
    const { board, bytes, written, out } = setUp();
    const { dma } = board.addPci(3, testCard).ports;
    const buffer = Uint8Array.of(1, 2, 3, 4);
    expect(dma.write(0x1000, buffer)).toBe(false);
    out(0xcf8, 0x8000_1804, 4);
    out(0xcfc, 0x0006, 2);
    expect(dma.write(0x1000, buffer)).toBe(true);
    expect([...bytes.subarray(0xfff, 0x1005)]).toEqual([0, 1, 2, 3, 4, 0]);
    expect(written).toEqual([[0x1000, 4]]);
    for (const gpa of [SIZE - 3, SIZE, -1, -4, 2 ** 52, Number.NaN, 0.5]) {
      expect(dma.write(gpa, buffer)).toBe(false);
      const into = new Uint8Array(4);
      expect(dma.read(gpa, into)).toBe(false);
      expect([...into]).toEqual([0xff, 0xff, 0xff, 0xff]);
    }
    const into = new Uint8Array(4);
    expect(dma.read(SIZE - 4, into)).toBe(true);
    expect([...into]).toEqual([0, 0, 0, 0]);
    expect(written.length).toBe(1);
  });

  test('registers answer on the memory bus', () => {
    const { board } = setUp();
    board.addPci(3, testCard);
    const [bar] = board.pci.barsOf(3);
    expect(board.mmio(bar.start + 8, 4, false, 0)).toBe(0x1234_5678);
    expect(board.mmio(0xd000_0000, 4, false, 0)).toBe(0xffff_ffff);
  });
});

describe('state and reset', () => {
  test('a saved board goes on as it was', () => {
    const a = setUp();
    const first = a.board.addPci(3, testCard);
    first.register = 99;
    a.redirect(PCI_FIRST_PIN + pciWire(3), 0xa060);
    first.ports.irq.set(true);
    a.out(0x43, 0x34);
    a.out(0x40, 0x9c);
    a.out(0x40, 0x2e);
    a.out(0x3ff, 0x5a);
    a.advance(3e6);
    const b = setUp();
    const second = b.board.addPci(3, testCard);
    b.advance(3e6);
    b.board.load(JSON.parse(JSON.stringify(a.board.save())));
    expect(b.board.save()).toEqual(a.board.save());
    expect([second.register, b.input(0x3ff), b.board.interruptFor(0)]).toEqual([99, 0x5a, 0x60]);
    expect(b.board.nextDeadline()).toBe(a.board.nextDeadline());
    expect(b.woken).toContain(0);
    expect(() => setUp().board.load(a.board.save())).toThrow('functions');
    expect(() => setUp({ cpus: 2 }).board.load({ ...(setUp().board.save() as object) })).toThrow('lapics');
  });

  test('reset is like power-up', () => {
    const fresh = setUp();
    fresh.board.addPci(3, testCard);
    const used = setUp();
    const card = used.board.addPci(3, testCard);
    startPics(used.out);
    used.redirect(4, 0x31);
    used.redirect(PCI_FIRST_PIN + pciWire(3), 0xa060);
    used.out(0xcf8, 0x8000_1804, 4);
    used.out(0xcfc, 0x0407, 2);
    used.out(0x3f9, 0x0f);
    card.ports.irq.set(true);
    used.board.lapic(0).writeRegister(0x80, 0x20);
    used.board.reset();
    expect(used.board.save()).toEqual(fresh.board.save());
    expect(used.board.interruptFor(0)).toBe(-1);
  });
});

describe('hostile guests', () => {
  test('random accesses to every register leave a machine that answers, saves and loads', () => {
    const { board, out, input, advance } = setUp({ debugExit: 0xf4 });
    board.addPci(3, testCard);
    let seed = 1;
    const random = (limit: number) => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      return (seed >>> 8) % limit;
    };
    const ports = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x80, 0xf4];
    ports.push(0xcf8, 0xcf9, 0xcfc, 0xcfe);
    for (let i = 0; i < 8; i++) ports.push(0x3f8 + i, 0x600 + i, 0x604 + i);
    for (let i = 0; i < 40_000; i++) {
      const size = ([1, 2, 4] as const)[random(3)];
      const value = random(2 ** 16) * 2 ** 16 + random(2 ** 16);
      const port = ports[random(ports.length)];
      const answer = random(2) ? input(port, size) : out(port, size === 4 ? value : value % 2 ** (8 * size), size);
      expect(answer >= 0 && answer < 2 ** (8 * size)).toBe(true);
      const gpa = 0xfec0_0000 + random(2) * 16;
      expect(board.mmio(gpa, size, random(2) === 1, value % 2 ** (8 * size))).toBeGreaterThanOrEqual(0);
      board.lapic(0).writeRegister(random(0x40) * 16, value);
      if (random(4) === 0) advance(random(100_000));
      if (random(8) === 0) board.acknowledgeInterrupt(0);
      board.lapic(0).takeEvent();
    }
    const saved = board.save();
    expect(JSON.stringify(saved).length).toBeLessThan(100_000);
    const other = setUp({ debugExit: 0xf4 });
    other.board.addPci(3, testCard);
    other.board.load(JSON.parse(JSON.stringify(saved)));
    expect(board.io(0x3ff, 1, false, 0)).toBe(other.input(0x3ff));
  });
});

describe('memory map', () => {
  test('RAM with the holes of a PC', () => {
    expect(memoryMap(SIZE)).toEqual([
      { start: 0, end: 0xa0000, type: 'ram' },
      { start: 0xa0000, end: 0x100000, type: 'reserved' },
      { start: 0x100000, end: SIZE, type: 'ram' },
      { start: 0xfec0_0000, end: 0xfec0_1000, type: 'reserved' },
      { start: 0xfee0_0000, end: 0xfee0_1000, type: 'reserved' },
    ]);
  });

  test.each([0, 0xc000_0001, Number.NaN])('%s bytes are refused', (size) => {
    expect(() => memoryMap(size)).toThrow('memory size');
  });

  test('ACPI tables lie in the reserved hole', () => {
    const { address, bytes } = setUp({ cpus: 64 }).board.acpiTables();
    expect(address).toBe(0xe0000);
    expect(address + bytes.length).toBeLessThanOrEqual(0x100000);
  });
});
