import { describe, expect, test } from 'vitest';
import { OFFSET } from './registers.ts';
import { createRtl8139 } from './rtl8139.ts';
import {
  type Bench,
  BROADCAST,
  createBench,
  FIRST,
  frameTo,
  LAST,
  MAC,
  OWN,
  PEER,
  put,
  RX_BUFFERS,
  startPlus,
  TX_RING,
  words,
} from './testing.ts';

/** Reads an EEPROM word as Linux does, with addresses of `addressBits`: select, clock out the command, clock in sixteen bits. */
function readWord(bench: Bench, address: number, addressBits = 6): number {
  const base = 0x88;
  bench.write('EECR', 0x80);
  bench.write('EECR', base);
  const command = (6 << addressBits) | address;
  for (let bit = addressBits + 2; bit >= 0; bit--) {
    const data = (command >> bit) & 1 ? 2 : 0;
    bench.write('EECR', base | data);
    bench.write('EECR', base | data | 4);
  }
  bench.write('EECR', base);
  let value = 0;
  for (let i = 0; i < 16; i++) {
    bench.write('EECR', base | 4);
    value = (value << 1) | (bench.read('EECR') & 1);
    bench.write('EECR', base);
  }
  bench.write('EECR', 0);
  return value;
}

const unlock = (bench: Bench) => bench.write('EECR', 0xc0);

describe('identity and EEPROM', () => {
  test('is an RTL8139C+ with the same registers by io and memory', () => {
    const { card } = createBench();
    expect([card.vendor, card.device, card.revision, card.classCode]).toEqual([0x10ec, 0x8139, 0x20, 0x020000]);
    expect(card.bars.map((bar) => [bar?.kind, bar?.size])).toEqual([
      ['io', 256],
      ['memory', 256],
    ]);
    const [io, memory] = card.bars;
    io?.registers.write(OFFSET.TSAD0, 4, 0x1234_5678);
    expect(memory?.registers.read(OFFSET.TSAD0, 4)).toBe(0x1234_5678);
  });
  test('the hardware version tells the chips apart', () => {
    expect(createBench().read('TCR') & 0x7c80_0000).toBe(0x7480_0000);
    const plain = createBench('c');
    expect([plain.card.revision, plain.read('TCR') & 0x7c80_0000, plain.read('RERID')]).toEqual([0x10, 0x7400_0000, 0x10]);
    plain.write('CPCR', 0x7b);
    expect(plain.read('CPCR')).toBe(0);
  });
  test('drivers find the signature and the address; asking with eight address bits shows that it is the small part', () => {
    const bench = createBench();
    expect(readWord(bench, 0, 8)).not.toBe(0x8129);
    expect([0, 1, 2, 7, 8, 9].map((word) => readWord(bench, word))).toEqual([0x8129, 0x10ec, 0x8139, 0x5452, 0x1200, 0x5634]);
  });
  test('pins count in programming mode only', () => {
    const bench = createBench();
    for (let i = 0; i < 12; i++) {
      bench.write('EECR', 0x0a);
      bench.write('EECR', 0x0e);
    }
    expect(readWord(bench, 1)).toBe(0x10ec);
    bench.write('EECR', 0x0e);
    expect(bench.read('EECR')).toBe(0x0e);
  });
  test('the address is loaded at power-up and on auto-load, and the reset command keeps it', () => {
    const bench = createBench();
    const address = () => [bench.read('IDR0'), bench.read('IDR4')];
    expect(address()).toEqual([0x12005452, 0x5634]);
    bench.write('IDR0', 0x11223344);
    bench.write('CR', 0x10);
    expect(address()).toEqual([0x11223344, 0x5634]);
    bench.write('EECR', 0x40);
    expect([...address(), bench.read('EECR')]).toEqual([0x12005452, 0x5634, 0]);
  });
  test('refuses a multicast or short address', () => {
    const { backend } = createBench();
    expect(() => createRtl8139({} as never, { mac: Uint8Array.of(1, 2, 3, 4, 5, 6), backend })).toThrow(RangeError);
    expect(() => createRtl8139({} as never, { mac: Uint8Array.of(2, 2), backend })).toThrow(RangeError);
  });
});

describe('registers', () => {
  test('any width reads and writes its bytes', () => {
    const bench = createBench();
    const memory = bench.card.bars[1]?.registers;
    memory?.write(OFFSET.MAR0, 4, 0x4433_2211);
    memory?.write(OFFSET.MAR0 + 2, 1, 0xaa);
    const parts = [memory?.read(OFFSET.MAR0, 2), memory?.read(OFFSET.MAR0 + 1, 4), memory?.read(OFFSET.MAR0 + 3, 1)];
    expect(parts).toEqual([0x2211, 0x0044_aa22, 0x44]);
    memory?.write(OFFSET.IMR + 1, 1, 0x40);
    memory?.write(OFFSET.IMR, 1, 0x05);
    expect(memory?.read(OFFSET.IMR, 2)).toBe(0x4005);
    expect(memory?.read(OFFSET.IMR - 1, 4)).toBe(0x00_4005_00);
  });
  test('writable bits are those of the data sheet', () => {
    const bench = createBench();
    const masks = [
      ['IMR', 0xe1ff],
      ['RCR', 0x0f03_ffbf],
      ['CPCR', 0x7b],
      ['RDSAR0', 0xffff_ff00],
      ['MULINT', 0x0fff],
      ['ETTHR', 0x3f],
      ['CONFIG5', 0x7f],
    ] as const;
    for (const [name, mask] of masks) {
      bench.write(name, 0xffff_ffff);
      expect([name, bench.read(name)]).toEqual([name, mask]);
    }
    for (const name of ['CONFIG0', 'MSR', 'BMSR', 'RERID', 'TSAD', 'CBR'] as const) {
      const before = bench.read(name);
      bench.write(name, ~before);
      expect([name, bench.read(name)]).toEqual([name, before]);
    }
  });
  test('configuration needs the unlocked mode', () => {
    const bench = createBench();
    for (const name of ['CONFIG1', 'CONFIG3', 'CONFIG4'] as const) {
      const before = bench.read(name);
      bench.write(name, before ^ 0x20);
      expect([name, bench.read(name)]).toEqual([name, before]);
      unlock(bench);
      bench.write(name, before ^ 0x20);
      expect([name, bench.read(name)]).toEqual([name, before ^ 0x20]);
      bench.write('EECR', 0);
    }
  });
  test('the reset command clears itself, interrupts and rings', () => {
    const bench = createBench();
    startPlus(bench);
    bench.write('IMR', 0xffff);
    bench.write('TPPOLL', 1);
    expect(bench.line.level).toBe(true);
    bench.write('CR', 0x10);
    expect(bench.line.level).toBe(false);
    expect((['CR', 'IMR', 'ISR', 'CPCR', 'TSAD0', 'TSD0'] as const).map((name) => bench.read(name))).toEqual([1, 0, 0, 0, 0, 0x2000]);
  });
  test('bytes between registers read zero and keep nothing', () => {
    const memory = createBench().card.bars[1]?.registers;
    memory?.write(0xf0, 4, 0xffff_ffff);
    memory?.write(0x53, 1, 0xff);
    expect([memory?.read(0xf0, 4), memory?.read(0x53, 1)]).toEqual([0, 0]);
  });
});

describe('interrupts and timer', () => {
  test('a cause raises the line only when unmasked; writing one clears it', () => {
    const bench = createBench();
    bench.write('TPPOLL', 1);
    expect(bench.line.level).toBe(false);
    bench.write('IMR', 0x100);
    expect(bench.line.level).toBe(true);
    bench.write('ISR', 0xfeff);
    expect(bench.line.level).toBe(true);
    bench.write('ISR', 0x100);
    expect([bench.line.level, bench.read('ISR'), bench.line.edges]).toEqual([false, 0, 1]);
  });
  test('the timer counts 30 ns and interrupts at TimerInt, not while that is zero', () => {
    const bench = createBench();
    bench.write('TCTR', 0);
    bench.write('TIMERINT', 100);
    bench.advance(2_999);
    expect([bench.read('TCTR'), bench.read('ISR')]).toEqual([99, 0]);
    bench.advance(1);
    expect([bench.read('TCTR'), bench.read('ISR')]).toEqual([100, 0x4000]);
    bench.write('ISR', 0x4000);
    bench.write('TIMERINT', 50);
    bench.advance(100_000_000);
    expect(bench.read('ISR')).toBe(0); // 50 has gone by, until the count wraps
    bench.write('TCTR', 1);
    bench.advance(1_500);
    expect(bench.read('ISR')).toBe(0x4000);
    bench.write('ISR', 0x4000);
    bench.write('TIMERINT', 0);
    bench.write('TCTR', 1);
    bench.advance(200_000_000_000);
    expect(bench.read('ISR')).toBe(0);
  });
  test('it comes again once in 2^32 counts, however small TimerInt is', () => {
    const bench = createBench();
    bench.write('IMR', 0x4000);
    bench.write('TCTR', 0);
    bench.write('TIMERINT', 1);
    for (let i = 0; i < 3; i++) {
      bench.advance(2 ** 32 * 30);
      bench.write('ISR', 0x4000);
    }
    expect(bench.line.edges).toBe(3);
  });
});

describe('transceiver and link', () => {
  test('100 Mb/s full duplex, negotiated', () => {
    const bench = createBench();
    expect([bench.read('BMCR'), bench.read('BMSR') & 0x24, bench.read('ANLPAR'), bench.read('MSR')]).toEqual([0x3100, 0x24, 0x45e1, 0x10]);
    expect(bench.read('ANAR') & bench.read('ANLPAR') & 0x100).toBe(0x100);
  });
  test('speed and duplex are locked; restart clears itself; reset gives the defaults', () => {
    const bench = createBench();
    bench.write('BMCR', 0x0200);
    expect(bench.read('BMCR')).toBe(0x3100);
    unlock(bench);
    bench.write('BMCR', 0x0300);
    expect(bench.read('BMCR')).toBe(0x0100);
    bench.write('ANAR', 0x0061);
    expect(bench.read('ANAR')).toBe(0x0061);
    bench.write('BMCR', 0x8000);
    expect([bench.read('BMCR'), bench.read('ANAR')]).toEqual([0x3100, 0x01e1]);
  });
  test('pulling the cable interrupts, latches and stops traffic', () => {
    const bench = createBench();
    startPlus(bench);
    bench.card.setLink(false);
    expect([bench.read('ISR'), bench.read('MSR'), bench.read('BMSR') & 0x24]).toEqual([0x20, 0x14, 0]);
    bench.memory.set(frameTo(PEER, 60), 0x5000);
    put(bench, TX_RING, 0, [OWN | FIRST | LAST | 60, 0, 0x5000]);
    bench.write('TPPOLL', 0x40);
    expect(bench.backend.receive(frameTo(MAC, 60))).toBe(true);
    expect([bench.sent.length, bench.card.statistics().rxFrames]).toEqual([0, 0]);
    bench.card.setLink(true);
    expect([bench.read('BMSR') & 4, bench.read('BMSR') & 4]).toEqual([4, 4]);
    bench.card.setLink(false);
    bench.card.setLink(true);
    expect([bench.read('BMSR') & 4, bench.read('BMSR') & 4]).toEqual([0, 4]); // the loss is latched once
    expect([bench.read('CSCR') & 0x800, bench.read('CSCR') & 0x800]).toEqual([0x800, 0]);
  });
  test('loopback returns the frame to the receiver', () => {
    const bench = createBench();
    startPlus(bench);
    bench.write('TCR', 0x0306_0700);
    bench.memory.set(frameTo(MAC, 64), 0x5000);
    put(bench, TX_RING, 0, [OWN | FIRST | LAST | 64, 0, 0x5000]);
    bench.write('TPPOLL', 0x40);
    expect(bench.sent).toHaveLength(0);
    expect(bench.memory.subarray(RX_BUFFERS, RX_BUFFERS + 64)).toEqual(frameTo(MAC, 64));
    expect(bench.backend.receive(frameTo(MAC, 64))).toBe(true);
    expect(bench.card.statistics().rxFrames).toBe(1);
  });
});

describe('tally counters', () => {
  const dump = (bench: Bench, at: number) => {
    bench.write('TSD1', 0);
    bench.write('TSD0', at | 8);
    return bench.read('TSD0');
  };
  test('are written to memory and the command clears', () => {
    const bench = createBench();
    startPlus(bench, 0, 0x0e);
    bench.write('MAR0', 0xffff_ffff);
    bench.write('MAR4', 0xffff_ffff);
    for (const to of [MAC, MAC, BROADCAST, Uint8Array.of(1, 0, 0x5e, 0, 0, 1)]) bench.backend.receive(frameTo(to, 60));
    put(bench, TX_RING, 0, [OWN | FIRST | LAST | 60, 0, 0x5000], [OWN | LAST | 60, 0, 0x5000]);
    bench.write('TPPOLL', 0x40);
    expect(dump(bench, 0x6000)).toBe(0x6000);
    const at = (offset: number) => bench.view.getUint32(0x6000 + offset, true);
    expect([0, 8, 16, 24, 40, 48, 56, 60].map(at)).toEqual([1, 4, 1, 0, 2, 1, 1, 0]);
  });
  test('a dump without bus mastering or to nowhere changes nothing', () => {
    const bench = createBench();
    startPlus(bench);
    bench.card.setBusMaster(false);
    expect(dump(bench, 0x6000) & 8).toBe(8);
    bench.card.setBusMaster(true);
    const before = bench.memory.slice();
    bench.write('TSD1', 0xffff_ffff);
    bench.write('TSD0', 0xffff_ffff);
    expect(Buffer.compare(bench.memory, before)).toBe(0);
    expect(bench.read('TSD0')).toBe(0xffff_ffc0);
  });
});

describe('bus mastering and snapshots', () => {
  test('no DMA while bus mastering is off; what was asked is sent when it comes', () => {
    const bench = createBench();
    startPlus(bench);
    bench.card.setBusMaster(false);
    put(bench, TX_RING, 0, [OWN | FIRST | LAST | 60, 0, 0x5000]);
    bench.write('TPPOLL', 0x40);
    expect(bench.read('TPPOLL')).toBe(0x40);
    expect(bench.backend.receive(frameTo(MAC, 60))).toBe(true);
    expect(bench.dmaAccesses()).toBe(0);
    bench.card.setBusMaster(true);
    expect([bench.sent.length, bench.read('TPPOLL')]).toEqual([1, 0]);
  });
  test('PCI reset gives the address of the EEPROM back and stops everything', () => {
    const bench = createBench();
    startPlus(bench);
    bench.write('IDR0', 0);
    bench.write('IMR', 0x100);
    bench.write('TPPOLL', 1);
    bench.card.reset();
    expect([bench.line.level, bench.read('IDR0'), bench.read('CR'), bench.read('RDSAR0')]).toEqual([false, 0x12005452, 1, 0]);
  });
  test('a saved card goes on in another', () => {
    const first = createBench();
    startPlus(first);
    first.write('IMR', 0x4001);
    first.write('TCTR', 0);
    first.write('TIMERINT', 1000);
    put(first, TX_RING, 0, [OWN | FIRST | LAST | 60, 0, 0x5000]);
    first.write('TPPOLL', 0x40);
    first.backend.receive(frameTo(MAC, 60));
    first.write('ISR', 0xffff);
    first.advance(21_000);
    const state = JSON.parse(JSON.stringify(first.card.save()));
    const second = createBench();
    second.memory.set(first.memory);
    second.card.load(state);
    expect(JSON.parse(JSON.stringify(second.card.save()))).toEqual(state);
    put(second, TX_RING, 1, [OWN | FIRST | LAST | 60, 0, 0x5000]);
    second.write('TPPOLL', 0x40);
    expect([second.sent.length, words(second, TX_RING, 1)[0] & OWN]).toEqual([1, 0]);
    second.advance(8_999);
    expect(second.read('ISR') & 0x4000).toBe(0);
    second.advance(1);
    expect([second.read('ISR') & 0x4000, second.line.level]).toEqual([0x4000, true]);
    second.backend.receive(frameTo(MAC, 60));
    expect(second.view.getUint32(0x2010, true) & OWN).toBe(0);
  });
  test('a state that does not fit names its field', () => {
    const state = createBench().card.save() as Record<string, unknown>;
    const broken = [
      ['registers', 'AA=='],
      ['unlocked', 1],
      ['eeprom', [1]],
      ['phy', {}],
      ['interrupts', {}],
      ['timer', { count: -1, target: 0 }],
      ['transmit', { high: 64 }],
      ['receive', { index: 64 }],
      ['counters', {}],
      ['busMaster', 1],
    ] as const;
    for (const [field, value] of broken) {
      const named = field === 'counters' ? 'statistics' : field;
      expect(() => createBench().card.load({ ...state, [field]: value }), field).toThrow(new RegExp(`rtl8139.*${named}`));
    }
    expect(() => createBench().card.load(null)).toThrow(/rtl8139/);
  });
});
