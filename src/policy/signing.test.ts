import { generateKeyPairSync, sign } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { canonicalJson } from './canonical.ts';
import type { Grant } from './grant.ts';
import { generateKeyPair, type GrantContext, type SignedGrant, signGrant, verifyGrant, writeKeyPair } from './signing.ts';

const digest = 'b'.repeat(64);
const grant: Grant = {
  format: 'portcullis-grant-1',
  manifest: digest,
  vms: ['web', 'mail'],
  privileges: [{ kind: 'pci-device', parameters: { device: '0000:00:03.0', vendor: '8086' } }],
  notBefore: '2026-01-01T00:00:00Z',
  notAfter: '2027-01-01T00:00:00Z',
  serial: '0123456789abcdef'.repeat(2),
  onViolation: 'quarantine',
};
const pair = generateKeyPair();
const other = generateKeyPair();
const signed = signGrant(grant, pair.privateKey);
const context: GrantContext = { manifestDigest: digest, vm: 'mail', now: new Date('2026-06-01T00:00:00Z') };
const reason = (value: unknown, more: Partial<GrantContext> = {}, keys = [pair.publicKey]) => {
  const verdict = verifyGrant(value, keys, { ...context, ...more });
  return verdict.ok ? 'ok' : verdict.reason;
};

test('a signed grant holds where and when it says', () => {
  expect(verifyGrant(signed, [other.publicKey, pair.publicKey], context)).toEqual({ ok: true, grant });
  expect(signed.keyId).toBe(pair.keyId);
});

test('through JSON and with its keys in another order it is the same grant', () => {
  const { format, ...rest } = grant;
  expect(reason(JSON.parse(JSON.stringify({ signature: signed.signature, keyId: signed.keyId, grant: { ...rest, format } })))).toBe('ok');
});

describe('refusals', () => {
  test.each<[string, () => string, string]>([
    ['a bare grant', () => reason(grant), 'unsigned'],
    ['a signed grant without its signature', () => reason({ grant, keyId: signed.keyId }), 'unsigned'],
    ['null', () => reason(null), 'malformed'],
    ['text', () => reason('grant'), 'malformed'],
    ['an unknown key in the grant', () => reason({ ...signed, grant: { ...grant, more: 1 } }), 'malformed'],
    ['an unknown key beside it', () => reason({ ...signed, more: 1 }), 'malformed'],
    ['a signature in capitals', () => reason({ ...signed, signature: signed.signature.toUpperCase() }), 'malformed'],
    ["another administrator's", () => reason(signGrant(grant, other.privateKey)), 'foreign-key'],
    ['no trusted keys', () => reason(signed, {}, []), 'foreign-key'],
    [
      "another's signature under our key's name",
      () => reason({ ...signGrant(grant, other.privateKey), keyId: signed.keyId }),
      'bad-signature',
    ],
    ['another module', () => reason(signed, { manifestDigest: 'c'.repeat(64) }), 'wrong-manifest'],
    ['another virtual machine', () => reason(signed, { vm: 'db' }), 'wrong-vm'],
    ['too early', () => reason(signed, { now: new Date('2025-12-31T23:59:59.999Z') }), 'not-yet-valid'],
    ['a clock that is not set', () => reason(signed, { now: new Date(Number.NaN) }), 'not-yet-valid'],
    ['at its end', () => reason(signed, { now: new Date('2027-01-01T00:00:00Z') }), 'expired'],
    ['used up', () => reason(signed, { spent: new Set([grant.serial]) }), 'replayed'],
  ])('%s', (_, verdict, expected) => expect(verdict()).toBe(expected));

  test('the very start is valid', () => expect(reason(signed, { now: new Date(grant.notBefore) })).toBe('ok'));

  test('a signature over the JSON alone, without the domain prefix, does not fit', () => {
    const signature = sign(null, Buffer.from(canonicalJson(grant)), pair.privateKey).toString('hex');
    expect(reason({ grant, keyId: pair.keyId, signature })).toBe('bad-signature');
  });

  test('every field of the grant is signed', () => {
    const changes: Partial<Grant>[] = [
      { manifest: 'c'.repeat(64) },
      { vms: ['web', 'mail', 'db'] },
      { privileges: [] },
      { notBefore: '2025-01-01T00:00:00Z' },
      { notAfter: '2028-01-01T00:00:00Z' },
      { serial: 'f'.repeat(32) },
      { onViolation: 'log' },
      { privileges: [{ kind: 'pci-device', parameters: { device: '0000:00:04.0', vendor: '8086' } }] },
    ];
    for (const change of changes) expect(reason({ ...signed, grant: { ...grant, ...change } })).toBe('bad-signature');
  });

  test('any flipped byte of the file gives a refusal, and never an error', () => {
    const text = Buffer.from(JSON.stringify(signed));
    fc.assert(
      fc.property(fc.nat(text.length - 1), fc.integer({ min: 1, max: 255 }), (where, mask) => {
        const changed = Buffer.from(text);
        changed[where] ^= mask;
        let value: unknown;
        try {
          value = JSON.parse(changed.toString('latin1'));
        } catch {
          return;
        }
        expect(reason(value)).not.toBe('ok');
      }),
      { numRuns: 3000 },
    );
  });

  test('any JSON at all gives a refusal, and never an error', () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.constantFrom('grant', 'keyId', 'signature'), (value, key) => {
        expect(reason(value)).not.toBe('ok');
        if (canonicalOrNothing(value) === canonicalOrNothing(signed[key as keyof SignedGrant])) return;
        expect(reason({ ...signed, [key]: value })).not.toBe('ok');
      }),
    );
  });
});

function canonicalOrNothing(value: unknown): string | undefined {
  try {
    return canonicalJson(value);
  } catch {
    return undefined;
  }
}

test('an invalid grant is not signed, and only Ed25519 keys sign and verify', () => {
  expect(() => signGrant({ ...grant, vms: [] }, pair.privateKey)).toThrow('the grant is not valid: vms: ');
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  expect(() => signGrant(grant, privateKey.export({ type: 'pkcs8', format: 'pem' }).toString())).toThrow('found ec');
  expect(() => verifyGrant(signed, [publicKey.export({ type: 'spki', format: 'pem' }).toString()], context)).toThrow('found ec');
  expect(() => signGrant(grant, 'nonsense')).toThrow(UserError);
});

describe('key files', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'keys-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  test("the private one is its owner's alone, and nothing is replaced", () => {
    const { privateFile, publicFile } = writeKeyPair(pair, join(folder, 'admin'));
    expect(statSync(privateFile).mode & 0o777).toBe(0o600);
    expect([readFileSync(privateFile, 'utf8'), readFileSync(publicFile, 'utf8')]).toEqual([pair.privateKey, pair.publicKey]);
    expect(() => writeKeyPair(other, join(folder, 'admin'))).toThrow('exists already');
    expect(readFileSync(privateFile, 'utf8')).toBe(pair.privateKey);
    expect(() => writeKeyPair(other, join(folder, 'none/admin'))).toThrow(UserError);
  });
});
