import { describe, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { silentLog } from '../base/log.ts';
import type { PhysicalRange } from '../engine/contract.ts';
import { FakeEngine } from '../engine/fake/engine.ts';
import { Guest, G, granted, registered, STACK_TOP, tinyImage } from './testing.ts';
import type { PrivilegeGrant } from '../policy/grant.ts';
import type { PciDevicePort } from './pci-device.ts';
import { checkPrivilege, PrivilegeSet } from './privileges.ts';
import { merge, subtract } from './windows.ts';

/** A network card whose BARs a test moves. */
class Card implements PciDevicePort {
  readonly vendor = 0x8086;
  readonly product = 0x100e;
  memory: PhysicalRange[] = [{ start: 0xfeb0_0000, end: 0xfeb2_0000 }];
  io: PhysicalRange[] = [{ start: 0xc000, end: 0xc040 }];
  private readonly listeners: (() => void)[] = [];
  resets = 0;

  reset(): void {
    this.resets += 1;
  }
  memoryRanges(): readonly PhysicalRange[] {
    return this.memory;
  }
  ioRanges(): readonly PhysicalRange[] {
    return this.io;
  }
  onBarChange(listener: () => void): void {
    this.listeners.push(listener);
  }
  move(memory: PhysicalRange[], io = this.io): void {
    this.memory = memory;
    this.io = io;
    for (const listener of this.listeners) listener();
  }
}
const grantOf = (device = '0000:00:03.0', changes: Partial<PrivilegeGrant['parameters']> = {}): PrivilegeGrant => ({
  kind: 'pci-device',
  parameters: { device, vendor: '8086', product: '100e', ...changes } as PrivilegeGrant['parameters'],
});
const MODULE = { digest: 'd'.repeat(64), sections: [] };
const setOf = (engine: FakeEngine, cards: Record<string, Card>) =>
  new PrivilegeSet({ engine, log: silentLog, pciDevice: (address) => cards[address] });

/** A guest with the tiny module loaded and one card granted to it. */
function cardGuest(): { guest: Guest; card: Card; set: PrivilegeSet } {
  const card = new Card();
  const image = tinyImage();
  let set: PrivilegeSet | undefined;
  const guest = new Guest((engine) => {
    set = setOf(engine, { '0000:00:03.0': card });
    return [registered(image, granted({ privileges: [set.configure(grantOf(), MODULE)] }))];
  });
  expect(guest.engine.hidden).toEqual(card.memory); // withheld before any module is there
  guest.start(image);
  return { guest, card, set: set as PrivilegeSet };
}

describe('pci-device', () => {
  test('P1 the windows are reachable in the module view only, from load to unload', () => {
    const { guest, card, set } = cardGuest();
    expect(guest.engine.untrusted.windows).toEqual([]);
    expect(set.portAllowed(guest.cpu, 0xc010)).toBe(false);
    guest.call(G.probe);
    const view = guest.cpu.view;
    expect(view.windows).toEqual(card.memory);
    expect(set.portAllowed(guest.cpu, 0xc010)).toBe(true);
    expect(set.portAllowed(guest.cpu, 0x3f8)).toBe(true);
    guest.gate(G.kfunc);
    expect(guest.cpu.view.windows).toEqual([]);
    expect(set.portAllowed(guest.cpu, 0xc010)).toBe(false);
    expect(set.portAllowed(guest.cpu, 0xc040)).toBe(true);
    guest.ret();
    guest.gate(G.return);
    guest.call(G.cleanup);
    guest.ret();
    expect(view.windows).toEqual([]);
    expect(card.resets).toBe(1);
    expect(guest.engine.hidden).toEqual(card.memory); // still nobody else's
  });

  test('P12 quarantine closes the windows, also on a BAR move afterwards', () => {
    const { guest, card } = cardGuest();
    guest.call(G.probe);
    const view = guest.cpu.view;
    guest.push(0);
    guest.handle(guest.cpu.fetch(-0x7f00_0000));
    expect(view.windows).toEqual([]);
    expect(card.resets).toBe(1); // it does not interrupt a kernel that cannot answer
    card.move([{ start: 0xfec8_0000, end: 0xfeca_0000 }]);
    expect(view.windows).toEqual([]);
    expect(guest.engine.hidden).toEqual(card.memory);
  });

  test('a moved or switched off BAR is followed at once', () => {
    const { guest, card } = cardGuest();
    guest.call(G.probe);
    card.move([{ start: 0xf000_0000, end: 0xf002_0000 }], []);
    expect(guest.cpu.view.windows).toEqual(card.memory);
    expect(guest.engine.hidden).toEqual(card.memory);
    card.move([]);
    expect(guest.cpu.view.windows).toEqual([]);
    expect(guest.engine.hidden).toEqual([]);
  });

  test('a BAR over RAM, or empty, gives nothing', () => {
    const { guest, card } = cardGuest();
    guest.call(G.probe);
    card.move([
      { start: 0x1000, end: 0x2_1000 },
      { start: 0xfeb0_0000, end: 0xfeb0_0000 },
      { start: guest.engine.memory.size - 0x1000, end: guest.engine.memory.size + 0x1000 },
    ]);
    expect(guest.cpu.view.windows).toEqual([]);
    expect(guest.engine.hidden).toEqual([]);
  });

  test("one device moved over another opens neither to the other's module", () => {
    const engine = new FakeEngine();
    const cards = { '0000:00:03.0': new Card(), '0000:00:04.0': new Card() };
    cards['0000:00:04.0'].memory = [{ start: 0xfec0_0000, end: 0xfec2_0000 }];
    cards['0000:00:04.0'].io = [{ start: 0xd000, end: 0xd040 }];
    const set = setOf(engine, cards);
    const views = ['0000:00:03.0', '0000:00:04.0'].map((device, index) => {
      const view = engine.createView(device);
      const attach = set.configure(grantOf(device), MODULE).attach({
        module: device,
        instance: index,
        view,
        setWindows: (_, ranges) => view.setWindows(ranges),
        setAllowed: () => {},
        privateSection: () => undefined,
        setUsable: () => {},
      });
      return { view, attach };
    });
    cards['0000:00:03.0'].move([{ start: 0xfec1_0000, end: 0xfec3_0000 }], [{ start: 0xd020, end: 0xd060 }]);
    expect(views[0].view.windows).toEqual([{ start: 0xfec2_0000, end: 0xfec3_0000 }]);
    expect(views[1].view.windows).toEqual([{ start: 0xfec0_0000, end: 0xfec1_0000 }]);
    expect(engine.hidden).toEqual([{ start: 0xfec0_0000, end: 0xfec3_0000 }]);
    engine.cpus[0].enter(views[0].view);
    expect([0xd010, 0xd030, 0xd050].map((port) => set.portAllowed(engine.cpus[0], port))).toEqual([false, false, true]);
    engine.cpus[0].enter(engine.untrusted);
    views[0].attach.detach();
    expect(views[0].view.windows).toEqual([]);
  });

  test('the same device granted to two modules: the end of one leaves the other its windows', () => {
    const card = new Card();
    const [a, b] = [tinyImage({ module: 'a' }), tinyImage({ module: 'b', version: 2 })];
    const guest = new Guest((engine) => {
      const set = setOf(engine, { '0000:00:03.0': card });
      return [a, b].map((image) =>
        registered(image, granted({ privileges: [set.configure(grantOf(), MODULE), set.configure(grantOf(), MODULE)] })),
      );
    });
    guest.start(a);
    guest.start(b, { shift: 0x40_0000, frames: 0x50_0000 });
    guest.call(G.probe); // one is inside while the other goes
    expect(guest.cpu.view.windows).toEqual(card.memory);
    guest.gate(G.kfunc);
    const blocked = guest.rsp();
    guest.call(G.cleanup, STACK_TOP - 0x400, guest.cpu, 0x40_0000);
    guest.ret();
    guest.setRsp(blocked);
    guest.ret();
    expect(guest.inside()).toBe(true);
    expect(guest.cpu.view.windows).toEqual(card.memory);
  });

  test('a grant for another device, or none that is there, is an error that names both', () => {
    const set = setOf(new FakeEngine(), { '0000:00:03.0': new Card() });
    expect(() => set.configure(grantOf('0000:00:05.0'), MODULE)).toThrow(/no device 0000:00:05.0/);
    expect(() => set.configure(grantOf('0000:00:03.0', { product: '10d3' }), MODULE)).toThrow(/is 8086:100e; the grant is for 8086:10d3/);
  });

  test.each<[string, PrivilegeGrant]>([
    ['unknown kind', { kind: 'everything', parameters: {} }],
    ['no device', { kind: 'pci-device', parameters: { vendor: '8086', product: '100e' } }],
    ['bad address', grantOf('00:03.0')],
    ['slot out of range', grantOf('0000:00:20.0')],
    ['vendor as a number', grantOf(undefined, { vendor: 0x8086 })],
    ['long product', grantOf(undefined, { product: '100e0' })],
    ['unknown parameter', grantOf(undefined, { dma: true })],
  ])('P10 parameters with %s are refused', (_, grant) => {
    expect(() => checkPrivilege(grant)).toThrow(UserError);
  });
});

test('ranges: merge and subtract', () => {
  expect(
    merge([
      { start: 5, end: 7 },
      { start: 1, end: 3 },
      { start: 3, end: 4 },
    ]),
  ).toEqual([
    { start: 1, end: 4 },
    { start: 5, end: 7 },
  ]);
  expect(
    subtract(
      [{ start: 0, end: 10 }],
      [
        { start: 2, end: 4 },
        { start: 8, end: 12 },
      ],
    ),
  ).toEqual([
    { start: 0, end: 2 },
    { start: 4, end: 8 },
  ]);
  expect(subtract([{ start: 0, end: 10 }], [{ start: 0, end: 10 }])).toEqual([]);
});
