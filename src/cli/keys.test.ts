import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { generateVmmKeyPair, openSecret } from '../policy/seal.ts';
import { generateKeyPair } from '../policy/signing.ts';
import { parsePrivilege } from './keys.ts';

const folder = mkdtempSync(join(tmpdir(), 'keys-'));
afterAll(() => rmSync(folder, { recursive: true }));
const file = (name: string, data: string | Uint8Array) => {
  writeFileSync(join(folder, name), data);
  return join(folder, name);
};
const vmm = generateVmmKeyPair();
const digest = 'a'.repeat(64);
const publicKey = file('vmm.pub', vmm.publicKey);
const secret = file('secret.bin', Uint8Array.of(1, 2, 3, 0xff));

test('privileges on the command line: single values, and lists by +', () => {
  expect(parsePrivilege('io-port,ports=0x70-0x71+0xf4', digest)).toEqual({ kind: 'io-port', parameters: { ports: ['0x70-0x71', '0xf4'] } });
  expect(parsePrivilege('msr,read=0x40000000', digest)).toEqual({ kind: 'msr', parameters: { read: '0x40000000' } });
});

test('a secret is sealed for the VMM and the module that it is given for', () => {
  const { kind, parameters } = parsePrivilege(`secret,name=key,file=${secret},vmm=${publicKey}`, digest);
  expect([kind, Object.keys(parameters)]).toEqual(['secret', ['name', 'sealed']]);
  const sealed = String(parameters.sealed);
  expect([...openSecret(sealed, vmm.privateKey, { manifest: digest, name: 'key' })]).toEqual([1, 2, 3, 0xff]);
  expect(() => openSecret(sealed, vmm.privateKey, { manifest: 'b'.repeat(64), name: 'key' })).toThrow(UserError);
});

test.each([
  ['a pair without =', 'msr,read', /is not NAME=VALUE/],
  ['an unknown kind', 'root,everything=yes', /unknown privilege "root"/],
  ['a secret without a file', `secret,name=key,vmm=${publicKey}`, /expected name, file and vmm/],
  ['a secret with more', `secret,name=key,file=${secret},vmm=${publicKey},size=4`, /expected name, file and vmm/],
  ['a secret file that is not there', `secret,name=key,file=${folder}/none,vmm=${publicKey}`, /no such secret/],
  ['a secret that is empty', `secret,name=key,file=${file('empty', '')},vmm=${publicKey}`, /has 0 bytes/],
  ['a secret that is too long', `secret,name=key,file=${file('long', new Uint8Array(4097))},vmm=${publicKey}`, /at most 4096/],
  [
    "an administrator's key for a VMM's",
    `secret,name=key,file=${secret},vmm=${file('admin.pub', generateKeyPair().publicKey)}`,
    /expected an X25519 public key/,
  ],
])('%s is an error that says so', (_, text, expected) => {
  expect(() => parsePrivilege(text, digest)).toThrow(expected);
  expect(() => parsePrivilege(text, digest)).toThrow(UserError);
});
