import { describe, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { silentLog } from '../base/log.ts';
import { parseMac } from './ethernet.ts';
import { NET_FORMS, openNet, parseNet } from './index.ts';
import { manualClock } from './peer/testing.ts';

describe('parseNet', () => {
  test.each([
    ['none', { kind: 'none' }],
    ['peer', { kind: 'peer' }],
    ['user', { kind: 'user' }],
    ['stream:unix:/run/a:b', { kind: 'stream', listen: false, address: { path: '/run/a:b' } }],
    ['stream:tcp:localhost:80', { kind: 'stream', listen: false, address: { host: 'localhost', port: 80 } }],
    ['stream:tcp:[::1]:8000', { kind: 'stream', listen: false, address: { host: '::1', port: 8000 } }],
    ['stream:listen:unix:x', { kind: 'stream', listen: true, address: { path: 'x' } }],
    ['stream:listen:tcp:127.0.0.1:5', { kind: 'stream', listen: true, address: { host: '127.0.0.1', port: 5 } }],
    ['tap:tap0', { kind: 'tap', name: 'tap0' }],
    ['hub:lab-1', { kind: 'hub', name: 'lab-1' }],
  ])('%s', (text, spec) => expect(parseNet(text)).toEqual(spec));

  test.each([
    '',
    'bridge',
    'peer:',
    'none:x',
    'stream',
    'stream:',
    'stream:unix:',
    'stream:tcp:host',
    'stream:tcp:host:0',
    'stream:tcp:host:65536',
    'stream:tcp::80',
    'stream:listen',
    'tap',
    'tap:',
    'tap:a b',
    'tap:a/b',
    `tap:${'x'.repeat(16)}`,
    'hub:',
    'hub:a b',
    `stream:unix:${'x'.repeat(108)}`,
  ])('%j is refused with the forms that there are', (text) => {
    let error: unknown;
    try {
      parseNet(text);
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(UserError);
    for (const [form] of NET_FORMS) expect((error as UserError).fix).toContain(form);
  });
});

test('back ends that need nothing open', async () => {
  const options = { clock: manualClock(), log: silentLog };
  for (const text of ['none', 'peer', 'hub:index-test']) {
    const backend = await openNet(parseNet(text), options);
    backend.send(new Uint8Array(60));
    backend.ready();
    backend.close();
  }
  await expect(openNet({ kind: 'user' }, { ...options, passt: '/nowhere/passt' })).rejects.toThrow(/"\/nowhere\/passt" was not found/);
});

test('MAC addresses', () => {
  expect([...parseMac('52:54:00:AB:cd:ef')]).toEqual([0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
  for (const bad of ['', '52:54:00:12:34', '53:54:00:12:34:56', '52-54-00-12-34-56', '52:54:00:12:34:5g'])
    expect(() => parseMac(bad)).toThrow(UserError);
});
