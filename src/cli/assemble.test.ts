import { afterEach, expect, test, vi } from 'vitest';
import { UserError } from '../base/errors.ts';
import { cardsOf } from './assemble.ts';
import { resolveRunOptions } from './run-options.ts';

afterEach(() => vi.unstubAllEnvs());

const models = (...nets: string[]) => cardsOf(nets, []).map(({ model, net }) => [net.kind, model ?? 'e1000']);

test('a card is an e1000 unless its network names a model', () => {
  expect(models('peer', 'peer,model=rtl8139', 'user,model=rtl8139c', 'none,model=e1000')).toEqual([
    ['peer', 'e1000'],
    ['peer', 'rtl8139'],
    ['user', 'rtl8139c'],
    ['none', 'e1000'],
  ]);
  expect(cardsOf(['stream:unix:/tmp/a,model=b,model=rtl8139'], [])[0].net).toMatchObject({ address: { path: '/tmp/a,model=b' } });
});

test('a model that there is not is an error that names those there are', () => {
  expect(() => models('peer,model=ne2000')).toThrow(UserError);
  expect(() => models('peer,model=ne2000')).toThrow(/"ne2000"/);
  expect(() => models('peer,model=')).toThrow(/no card model ""/);
});

test('a model stays with its network in a list from the environment', () => {
  vi.stubEnv('PORTCULLIS_NET', 'peer,model=rtl8139,none');
  expect(resolveRunOptions({}, undefined).net).toEqual(['peer,model=rtl8139', 'none']);
});

test('a card has an address of its own, or the one that is given', () => {
  const macs = (nets: string[], machine?: number) => cardsOf(nets, [], machine).map(({ mac }) => mac);
  expect(macs(['peer', 'peer'])).toEqual(['52:54:00:12:34:56', '52:54:00:12:34:57']);
  expect(macs(['hub:lan'], 1)).toEqual(['52:54:00:12:35:56']);
  expect(macs(['hub:lan,mac=52:54:00:AA:00:01,model=rtl8139', 'peer,model=e1000,mac=02:00:00:00:00:01'])).toEqual([
    '52:54:00:aa:00:01',
    '02:00:00:00:00:01',
  ]);
  expect(models('hub:lan,mac=52:54:00:AA:00:01,model=rtl8139')).toEqual([['hub', 'rtl8139']]);
  for (const mac of ['', '52:54', '53:54:00:00:00:01', 'x2:54:00:00:00:01']) expect(() => macs([`peer,mac=${mac}`])).toThrow(UserError);
});
