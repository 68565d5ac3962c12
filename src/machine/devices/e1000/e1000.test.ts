import { describe, expect, test } from 'vitest';
import { createBench, frameTo, MAC, post, EOP, RS, RX_BUFFERS, RX_RING, startReceive, startTransmit, PEER } from './testing.ts';
import { OFFSET } from './registers.ts';

/** Reads an EEPROM word as Linux does: request, select, clock out nine bits, clock in sixteen. */
function readWord(bench: ReturnType<typeof createBench>, address: number): number {
  const SK = 1,
    CS = 2,
    DI = 4,
    DO = 8,
    REQ = 0x40,
    GNT = 0x80;
  bench.write('EECD', REQ);
  expect(bench.read('EECD') & GNT).toBe(GNT);
  let base = REQ | CS;
  bench.write('EECD', base);
  const pulse = (extra: number) => {
    bench.write('EECD', base | extra);
    bench.write('EECD', base | extra | SK);
    bench.write('EECD', base | extra);
  };
  const command = (6 << 6) | address;
  for (let bit = 8; bit >= 0; bit--) pulse((command >> bit) & 1 ? DI : 0);
  let value = 0;
  for (let i = 0; i < 16; i++) {
    bench.write('EECD', base | SK);
    value = (value << 1) | (bench.read('EECD') & DO ? 1 : 0);
    bench.write('EECD', base);
  }
  base = 0;
  bench.write('EECD', 0);
  return value;
}

describe('identity and EEPROM', () => {
  test('is an 82540EM with a memory and an io window', () => {
    const { card } = createBench();
    expect([card.vendor, card.device, card.subsystemVendor, card.subsystem, card.revision]).toEqual([0x8086, 0x100e, 0x8086, 0x1e, 3]);
    expect(card.bars.map((bar) => [bar?.kind, bar?.size])).toEqual([
      ['memory', 0x20000],
      ['io', 64],
    ]);
  });

  test('bit-banged words hold the address and sum to 0xBABA', () => {
    const bench = createBench();
    const words = Array.from({ length: 64 }, (_, i) => readWord(bench, i));
    expect(words.slice(0, 3)).toEqual([0x5452, 0x1200, 0x5634]);
    expect(words.reduce((a, b) => a + b) & 0xffff).toBe(0xbaba);
    expect([words[0x0d], words[0x0e]]).toEqual([0x100e, 0x8086]);
  });

  test('EERD reads the same words', () => {
    const bench = createBench();
    bench.write('EERD', (1 << 8) | 1);
    expect(bench.read('EERD')).toBe(0x1200_0110);
  });

  test('a write needs the enable instruction and survives a reset', () => {
    const bench = createBench();
    const send = (bits: string) => {
      bench.write('EECD', 0);
      bench.write('EECD', 2);
      for (const bit of bits) {
        bench.write('EECD', 2 | (bit === '1' ? 4 : 0));
        bench.write('EECD', 3 | (bit === '1' ? 4 : 0));
      }
      bench.write('EECD', 0);
    };
    const word = '1010010111000011';
    send(`101000100${word}`);
    expect(readWord(bench, 4)).toBe(0);
    send('100110000');
    send(`101000100${word}`);
    bench.write('CTRL', 1 << 26);
    expect(readWord(bench, 4)).toBe(0b1010010111000011);
  });

  test('the station address is loaded from the EEPROM', () => {
    const bench = createBench();
    expect([bench.read('RA', 0), bench.read('RA', 1)]).toEqual([0x12005452, 0x80005634]);
    bench.write('RA', 0);
    bench.write('CTRL', 1 << 26);
    expect(bench.read('RA', 0)).toBe(0x12005452);
  });

  test('refuses a multicast or short address', async () => {
    const { createE1000 } = await import('./e1000.ts');
    const bench = createBench();
    expect(() => createE1000({} as never, { mac: Uint8Array.of(1, 2, 3, 4, 5, 6), backend: bench.backend })).toThrow(RangeError);
    expect(() => createE1000({} as never, { mac: Uint8Array.of(2, 2), backend: bench.backend })).toThrow(RangeError);
  });
});

describe('transceiver and link', () => {
  const mdic = (bench: ReturnType<typeof createBench>, op: number, register: number, data = 0, phy = 1) => {
    bench.write('MDIC', (op << 26) | (phy << 21) | (register << 16) | data);
    return bench.read('MDIC');
  };
  test('is an M88E1011 with link at 1000 full', () => {
    const bench = createBench();
    expect(mdic(bench, 2, 2) & 0xffff).toBe(0x0141);
    expect(mdic(bench, 2, 3) & 0xffff).toBe(0x0c20);
    expect(mdic(bench, 2, 1) & 0x24).toBe(0x24);
    expect(mdic(bench, 2, 17) & 0xfc00).toBe(0xac00);
    expect(bench.read('STATUS') & 0xc3).toBe(0x83);
  });
  test('another address answers with an error', () => {
    expect(mdic(createBench(), 2, 2, 0, 3) >>> 28).toBe(5);
  });
  test('power-down and the cable drop the link with an interrupt cause', () => {
    const bench = createBench();
    mdic(bench, 1, 0, 0x0800);
    expect(bench.read('STATUS') & 2).toBe(0);
    expect(bench.read('ICR')).toBe(4);
    mdic(bench, 1, 0, 0x1140);
    expect(bench.read('STATUS') & 2).toBe(2);
    expect(mdic(bench, 2, 1) & 4).toBe(0); // the loss is latched once
    expect(mdic(bench, 2, 1) & 4).toBe(4);
    bench.card.setLink(false);
    expect(bench.read('STATUS') & 2).toBe(0);
    startTransmit(bench);
    post(bench, [0x5000, 0, 60 | EOP | RS, 0]);
    expect(bench.sent).toHaveLength(0);
    expect(bench.read('TDH')).toBe(1);
  });
  test('loopback returns the frame to the receiver', () => {
    const bench = createBench();
    startReceive(bench);
    startTransmit(bench);
    mdic(bench, 1, 0, 0x4140);
    bench.memory.set(frameTo(MAC, 64), 0x5000);
    post(bench, [0x5000, 0, 64 | EOP | RS, 0]);
    expect(bench.sent).toHaveLength(0);
    expect(bench.memory.subarray(RX_BUFFERS, RX_BUFFERS + 64)).toEqual(frameTo(MAC, 64));
  });
});

describe('registers', () => {
  test('writable bits are those of the manual', () => {
    const bench = createBench();
    const patterns = [
      ['RDBAL', 0xfffffff0],
      ['RDLEN', 0xfff80],
      ['RDH', 0xffff],
      ['TDLEN', 0xfff80],
      ['FCAH', 0xffff],
      ['TIPG', 0x3fffffff],
    ] as const;
    for (const [name, mask] of patterns) {
      bench.write(name, 0xffffffff);
      expect([name, bench.read(name)]).toEqual([name, mask]);
    }
    bench.write('RA', 0xffffffff, 1);
    expect(bench.read('RA', 1)).toBe(0x8003ffff);
    const status = bench.read('STATUS');
    bench.write('STATUS', 0xffffffff);
    expect(bench.read('STATUS')).toBe(status);
  });
  test('tables keep their entries and unknown offsets read zero', () => {
    const bench = createBench();
    bench.write('MTA', 0xdeadbeef, 127);
    bench.write('VFTA', 0xcafef00d, 127);
    expect([bench.read('MTA', 127), bench.read('VFTA', 127)]).toEqual([0xdeadbeef, 0xcafef00d]);
    const memory = bench.card.bars[0]?.registers;
    memory?.write(0x1fffc, 4, 5);
    memory?.write(0x0004, 4, 5);
    expect([memory?.read(0x1fffc, 4), memory?.read(0x0004, 4)]).toEqual([0, 0]);
  });
  test('the io window reaches registers, as the reset path of Linux needs', () => {
    const bench = createBench();
    const io = bench.card.bars[1]?.registers;
    io?.write(0, 4, OFFSET.VET);
    io?.write(4, 4, 0x1234);
    expect(bench.read('VET')).toBe(0x1234);
    expect(io?.read(4, 4)).toBe(0x1234);
    io?.write(0, 4, OFFSET.CTRL);
    io?.write(4, 4, 1 << 26);
    expect(bench.read('VET')).toBe(0x8100);
    expect(bench.read('CTRL') & (1 << 26)).toBe(0);
    io?.write(0, 4, 0xffffffff);
    io?.write(4, 4, 1);
    expect(io?.read(4, 4)).toBe(0);
  });
  test('narrow reads give their part, narrow writes do nothing', () => {
    const bench = createBench();
    const memory = bench.card.bars[0]?.registers;
    expect(memory?.read(OFFSET.VET + 1, 1)).toBe(0x81);
    memory?.write(OFFSET.VET, 2, 7);
    expect(bench.read('VET')).toBe(0x8100);
  });
});

describe('interrupts', () => {
  test('a cause raises the line only when unmasked; a read clears it', () => {
    const bench = createBench();
    bench.write('ICS', 4);
    expect(bench.line.level).toBe(false);
    bench.write('IMS', 4);
    expect([bench.line.level, bench.read('IMS')]).toEqual([true, 4]);
    expect(bench.read('ICR')).toBe(4);
    expect([bench.line.level, bench.read('ICR')]).toEqual([false, 0]);
    bench.write('ICS', 4);
    bench.write('IMC', 0xffffffff);
    expect(bench.line.level).toBe(false);
  });
  test('ITR spaces assertions', () => {
    const bench = createBench();
    bench.write('ITR', 100); // 25.6 us
    bench.write('IMS', 4);
    bench.write('ICS', 4);
    expect(bench.line.level).toBe(true);
    bench.read('ICR');
    bench.write('ICS', 4);
    expect(bench.line.level).toBe(false);
    bench.advance(25_599);
    expect(bench.line.level).toBe(false);
    bench.advance(1);
    expect(bench.line.level).toBe(true);
  });
});

describe('bus mastering and snapshots', () => {
  test('no DMA while bus mastering is off', () => {
    const bench = createBench();
    bench.card.setBusMaster(false);
    startTransmit(bench);
    startReceive(bench);
    bench.memory.set(frameTo(PEER, 60), 0x5000);
    post(bench, [0x5000, 0, 60 | EOP | RS, 0]);
    expect(bench.backend.receive(frameTo(MAC, 60))).toBe(true);
    expect(bench.dmaAccesses()).toBe(0);
    bench.card.setBusMaster(true);
    expect(bench.sent).toHaveLength(1);
  });
  test('reset lowers the line and forgets the rings', () => {
    const bench = createBench();
    startTransmit(bench);
    bench.write('IMS', 4);
    bench.write('ICS', 4);
    bench.card.reset();
    expect([bench.line.level, bench.read('TDLEN'), bench.read('IMS')]).toEqual([false, 0, 0]);
  });
  test('a saved card goes on in another', () => {
    const first = createBench();
    startTransmit(first);
    startReceive(first);
    first.write('IMS', 0x80);
    first.memory.set(frameTo(PEER, 100), 0x5000);
    post(first, [0x5000, 0, 40, 0]); // half a frame
    first.write('RDTR', 10);
    first.backend.receive(frameTo(MAC, 60));
    const state = JSON.parse(JSON.stringify(first.card.save()));
    const second = createBench();
    second.memory.set(first.memory);
    second.card.load(state);
    expect(JSON.parse(JSON.stringify(second.card.save()))).toEqual({ ...state, receive: { ...state.receive } });
    post(second, [0x5028, 0, 60 | EOP, 0]);
    expect(second.sent[0]).toEqual(frameTo(PEER, 100));
    second.advance(10_240);
    expect(second.line.level).toBe(true);
    expect(second.view.getUint16(RX_RING + 8, true)).toBe(64);
  });
  test('a state that does not fit names its field', () => {
    const { card } = createBench();
    const state = card.save() as Record<string, unknown>;
    for (const [field, value] of [
      ['registers', [[3, 4]]],
      ['eeprom', [1]],
      ['phy', {}],
      ['interrupts', {}],
      ['transmit', {}],
      ['receive', null],
      ['busMaster', 1],
    ] as const) {
      expect(() => createBench().card.load({ ...state, [field]: value }), field).toThrow(new RegExp(field));
    }
  });
});
