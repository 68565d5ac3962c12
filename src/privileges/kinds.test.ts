/** The privileges `secret`, `msr`, `io-port` and `mwait`: given in the module view only, and gone at the end. */
import { describe, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { silentLog } from '../base/log.ts';
import { PAGE_SIZE } from '../engine/contract.ts';
import { FakeEngine } from '../engine/fake/engine.ts';
import { STATUS, STATUS_SECTION } from '../policy/private-memory.ts';
import type { PrivilegeGrant } from '../policy/grant.ts';
import { generateVmmKeyPair, sealSecret } from '../policy/seal.ts';
import type { MwaitEvent } from './mwait.ts';
import { checkPrivilege, type PrivilegePorts, PrivilegeSet } from './privileges.ts';
import { CORE, G, Guest, granted, registered, type TinyOptions, tinyImage } from './testing.ts';

const vmm = generateVmmKeyPair();
const DIGEST = 'a'.repeat(64);
const SECTION = '.portcullis.private.secret.key';
const MODULE = { digest: DIGEST, sections: [{ name: SECTION, role: 'private', size: PAGE_SIZE }] } as const;

function guestWith(
  grants: readonly PrivilegeGrant[],
  tiny: TinyOptions = {},
  ports: Partial<PrivilegePorts> = {},
  cpus = 1,
): { guest: Guest; set: PrivilegeSet } {
  const image = tinyImage(tiny);
  let set: PrivilegeSet | undefined;
  const guest = new Guest(
    (engine) => {
      set = new PrivilegeSet({ engine, log: silentLog, pciDevice: () => undefined, vmmKey: vmm.privateKey, ...ports });
      return [registered(image, granted({ privileges: grants.map((grant) => set!.configure(grant, MODULE)) }))];
    },
    { cpus },
  );
  guest.start(image);
  return { guest, set: set as PrivilegeSet };
}
const unload = (guest: Guest) => {
  guest.call(G.cleanup);
  guest.ret();
};

describe('secret', () => {
  const text = Buffer.from('the key that the module alone holds');
  const secretGrant = (sealed: string, name = 'key'): PrivilegeGrant => ({ kind: 'secret', parameters: { name, sealed } });
  const sealed = (secret: Uint8Array = text, name = 'key', manifest = DIGEST) => sealSecret(secret, vmm.publicKey, { manifest, name });
  const placeOf = (guest: Guest) => guest.cpu.view.fixedPages.find(({ address }) => address === CORE + 0x3000)!.page.bytes;

  test('P7 it lies in private memory, nowhere in guest memory, and is wiped at the end', () => {
    const { guest } = guestWith([secretGrant(sealed())], { privateName: SECTION });
    guest.call(G.probe);
    const place = placeOf(guest);
    expect(new DataView(place.buffer, place.byteOffset).getUint32(0, true)).toBe(text.length);
    expect(Buffer.from(place.subarray(8, 8 + text.length))).toEqual(text);
    expect(Buffer.from(guest.engine.memory.bytes).includes(text)).toBe(false);
    guest.ret();
    unload(guest);
    expect(place.every((byte) => byte === 0)).toBe(true);
  });

  test('P12 quarantine wipes it', () => {
    const { guest } = guestWith([secretGrant(sealed())], { privateName: SECTION });
    guest.call(G.probe);
    const place = placeOf(guest);
    guest.push(0);
    guest.handle(guest.cpu.fetch(-0x7f00_0000));
    expect(place.every((byte) => byte === 0)).toBe(true);
  });

  test('a second instance gets it anew', () => {
    const image = tinyImage({ privateName: SECTION });
    const { guest } = guestWith([secretGrant(sealed())], { privateName: SECTION });
    unload(guest);
    guest.start(image);
    guest.call(G.probe);
    expect(Buffer.from(placeOf(guest).subarray(8, 8 + text.length))).toEqual(text);
  });

  test.each<[string, () => PrivilegeGrant, RegExp, Partial<PrivilegePorts>?]>([
    ['for another module', () => secretGrant(sealed(text, 'key', 'b'.repeat(64))), /not sealed for this VMM key and this module/],
    ['under another name', () => secretGrant(sealed(text, 'key'), 'other'), /no private section .portcullis.private.secret.other/],
    ['longer than its place', () => secretGrant(sealed(new Uint8Array(PAGE_SIZE - 7))), /has 4089 bytes; the module has room for 4088/],
    ['without a VMM key', () => secretGrant(sealed()), /no VMM key/, { vmmKey: undefined }],
    ['with another VMM key', () => secretGrant(sealed()), /not sealed for this VMM key/, { vmmKey: generateVmmKeyPair().privateKey }],
  ])('P10 a secret %s is refused', (_, grant, expected, ports) => {
    const set = new PrivilegeSet({
      engine: new FakeEngine(),
      log: silentLog,
      pciDevice: () => undefined,
      vmmKey: vmm.privateKey,
      ...ports,
    });
    expect(() => set.configure(grant(), MODULE)).toThrow(expected);
  });
});

describe('msr', () => {
  const grant: PrivilegeGrant = { kind: 'msr', parameters: { read: ['0x40000000', '1073741825'], write: '0x40000001' } };

  test('P1 it can be read and written as granted in the module view, and does not exist elsewhere', () => {
    const { guest, set } = guestWith([grant], {}, { msrs: [{ index: 0x4000_0000, value: 0x1234_5678_9abc_def0n }] });
    const { cpu } = guest;
    expect(set.accessMsr(cpu, 0x4000_0000)).toBeNull();
    guest.call(G.probe);
    expect(set.accessMsr(cpu, 0x4000_0000)).toBe(0x1234_5678_9abc_def0n);
    expect(set.accessMsr(cpu, 0x4000_0000, 1n)).toBeNull();
    expect(set.accessMsr(cpu, 0x4000_0001, 2n ** 64n - 1n)).toBe(2n ** 64n - 1n);
    expect(set.accessMsr(cpu, 0x4000_0001)).toBe(2n ** 64n - 1n);
    expect(set.accessMsr(cpu, 0x4000_0002)).toBeNull();
    for (const index of [0x3fff_ffff, 0x4000_0100, 0x1b, 0xc000_0080]) expect(set.accessMsr(cpu, index)).toBeUndefined();
    guest.gate(G.kfunc);
    expect(set.accessMsr(cpu, 0x4000_0000)).toBeNull();
    guest.ret();
    guest.gate(G.return);
    unload(guest);
    expect(set.accessMsr(cpu, 0x4000_0000)).toBeNull();
  });

  test('two machines share nothing', () => {
    const [a, b] = [guestWith([grant]), guestWith([grant])];
    for (const { guest } of [a, b]) guest.call(G.probe);
    a.set.accessMsr(a.guest.cpu, 0x4000_0001, 7n);
    expect(b.set.accessMsr(b.guest.cpu, 0x4000_0001)).toBe(0n);
  });
});

describe('io-port', () => {
  const grant: PrivilegeGrant = { kind: 'io-port', parameters: { ports: ['0x70-0x71', '0x3f8'] } };

  test('P1 the ports answer in the module view only, whatever the width of the access', () => {
    const { guest, set } = guestWith([grant]);
    const { cpu } = guest;
    const allowed = (...accesses: [number, number][]) => accesses.map(([port, size]) => set.portAllowed(cpu, port, size));
    const outside = [false, false, false, false, true, true];
    const accesses: [number, number][] = [
      [0x70, 1],
      [0x71, 2],
      [0x6f, 2],
      [0x3f5, 4],
      [0x6f, 1],
      [0x72, 4],
    ];
    expect(allowed(...accesses)).toEqual(outside);
    guest.call(G.probe);
    expect(allowed(...accesses)).toEqual([true, true, true, true, true, true]);
    guest.gate(G.kfunc);
    expect(allowed(...accesses)).toEqual(outside);
    guest.ret();
    guest.gate(G.return);
    unload(guest);
    expect(allowed(...accesses)).toEqual(outside);
  });

  test('two grants for the same ports share them; different ones that overlap open them to nobody', () => {
    const one = guestWith([grant, grant]);
    one.guest.call(G.probe);
    expect(one.set.portAllowed(one.guest.cpu, 0x70)).toBe(true);
    const two = guestWith([grant, { kind: 'io-port', parameters: { ports: ['0x71'] } }]);
    two.guest.call(G.probe);
    expect([0x70, 0x71].map((port) => two.set.portAllowed(two.guest.cpu, port))).toEqual([true, false]);
  });
});

describe('mwait', () => {
  const grant: PrivilegeGrant = { kind: 'mwait', parameters: {} };
  const setUp = (grants: readonly PrivilegeGrant[] = [grant]) => {
    const events: MwaitEvent[] = [];
    return { ...guestWith(grants, { privateName: STATUS_SECTION }, { report: (event) => events.push(event) }, 2), events };
  };
  const brief = (events: MwaitEvent[]) => events.splice(0).map(({ event, cpu }) => `${event} ${cpu}`);
  /** What the module is told, by CPU: bit 1. */
  const usable = (guest: Guest) => {
    const page = guest.cpu.view.fixedPages.find(({ address }) => address === CORE + 0x3000)!.page.bytes;
    const words = new DataView(page.buffer, page.byteOffset);
    return guest.engine.cpus.map(({ index }) => words.getUint32(STATUS.usable + 4 * index, true));
  };

  test('P1 the instructions exist in the module view only, and are gone at unload and at quarantine', () => {
    for (const end of ['unload', 'quarantine']) {
      const { guest } = setUp();
      const allowed = () => [...guest.cpu.view.allowed];
      const [view] = guest.engine.views;
      expect(allowed()).toEqual([]);
      guest.call(G.probe);
      expect(allowed()).toEqual(['monitor-mwait']);
      guest.gate(G.kfunc);
      expect(allowed()).toEqual([]);
      guest.ret();
      if (end === 'unload') {
        guest.gate(G.return);
        unload(guest);
      } else {
        guest.push(0);
        guest.handle(guest.cpu.fetch(-0x7f00_0000));
      }
      expect([...view.allowed]).toEqual([]);
      expect(allowed()).toEqual([]);
    }
  });

  test('without the grant they do not exist', () => {
    const { guest } = setUp([]);
    guest.call(G.probe);
    expect([...guest.cpu.view.allowed]).toEqual([]);
  });

  test('it is raised on a CPU while that is alone on its core; the module and the audit stream are told', () => {
    const { guest, set, events } = setUp();
    const withheld = () => guest.engine.cpus.map(({ mwaitWithheld }) => mwaitWithheld);
    guest.call(G.probe);
    const count = guest.engine.cpus.length;
    expect([withheld(), usable(guest), events]).toEqual([Array(count).fill(true), Array(count).fill(0), []]);
    set.setAlone(1, true);
    expect([withheld()[1], usable(guest)[1], withheld()[0], usable(guest)[0]]).toEqual([false, 2, true, 0]);
    set.setAlone(1, true);
    set.setAlone(1, false);
    expect([withheld()[1], usable(guest)[1]]).toEqual([true, 0]);
    expect(events[0]).toMatchObject({ module: 'tiny', instance: 1, privilege: 'MONITOR and MWAIT' });
    expect(brief(events)).toEqual(['privilege.raised 1', 'privilege.lowered 1']);
  });

  test('a module that is loaded later finds what holds then; nobody is told when nobody holds it', () => {
    const { guest, set, events } = setUp();
    unload(guest);
    set.setAlone(0, true);
    expect(events).toEqual([]);
    guest.start(tinyImage({ privateName: STATUS_SECTION }));
    guest.call(G.probe);
    expect(usable(guest)[0]).toBe(2);
    expect(brief(events)).toEqual(['privilege.raised 0']);
  });
});

test.each<[string, PrivilegeGrant]>([
  ['a secret without a name', { kind: 'secret', parameters: { sealed: 'A'.repeat(80) } }],
  ['a secret with a path for a name', { kind: 'secret', parameters: { name: '../key', sealed: 'A'.repeat(80) } }],
  ['a secret that is no base64', { kind: 'secret', parameters: { name: 'key', sealed: '!'.repeat(80) } }],
  ['a secret in a file', { kind: 'secret', parameters: { name: 'key', file: 'key.bin' } }],
  ['no register', { kind: 'msr', parameters: {} }],
  ['a register of the processor', { kind: 'msr', parameters: { read: ['0xc0000082'] } }],
  ['a register past the bank', { kind: 'msr', parameters: { write: [0x4000_0100] } }],
  ['a register in words', { kind: 'msr', parameters: { read: 'LSTAR' } }],
  ['no ports', { kind: 'io-port', parameters: { ports: [] } }],
  ['ports the wrong way round', { kind: 'io-port', parameters: { ports: '0x71-0x70' } }],
  ['a port out of range', { kind: 'io-port', parameters: { ports: [0x1_0000] } }],
  ['the gate port', { kind: 'io-port', parameters: { ports: '0x50-0x5f' } }],
  ['three ends', { kind: 'io-port', parameters: { ports: '0x70-0x71-0x72' } }],
  ['a parameter of mwait', { kind: 'mwait', parameters: { cpus: 1 } }],
  ['an unknown parameter', { kind: 'io-port', parameters: { ports: '0x70', size: 2 } }],
])('P10 %s is refused', (_, grant) => {
  expect(() => checkPrivilege(grant)).toThrow(UserError);
});
