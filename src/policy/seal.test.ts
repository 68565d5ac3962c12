import { randomBytes } from 'node:crypto';
import { expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { SECRET_LIMIT } from './private-memory.ts';
import { checkVmmKey, generateVmmKeyPair, openSecret, sealSecret } from './seal.ts';
import { generateKeyPair } from './signing.ts';

const vmm = generateVmmKeyPair();
const context = { manifest: 'a'.repeat(64), name: 'key' };

test.each([1, 32, SECRET_LIMIT])('%i bytes come back, and do not show in what is sealed', (length) => {
  const secret = randomBytes(length);
  const sealed = sealSecret(secret, vmm.publicKey, context);
  expect(sealed.length).toBeLessThan(8192); // a parameter of a grant
  expect(openSecret(sealed, vmm.privateKey, context)).toEqual(secret);
  if (length >= 32) expect(Buffer.from(sealed, 'base64').includes(secret.subarray(0, 16))).toBe(false);
  expect(sealSecret(secret, vmm.publicKey, context)).not.toBe(sealed);
});

test('every changed byte, another VMM, module or name, and no seal at all are refused', () => {
  const sealed = Buffer.from(sealSecret(Buffer.from('a secret'), vmm.publicKey, context), 'base64');
  const open =
    (bytes: Buffer, key = vmm.privateKey, where = context) =>
    () =>
      openSecret(bytes.toString('base64'), key, where);
  expect(open(sealed)().toString()).toBe('a secret');
  for (let at = 0; at < sealed.length; at++) {
    const changed = Buffer.from(sealed);
    changed[at] ^= 1;
    expect(open(changed), `byte ${at}`).toThrow(UserError);
  }
  expect(open(sealed, generateVmmKeyPair().privateKey)).toThrow(/was not sealed for this VMM key/);
  expect(open(sealed, vmm.privateKey, { ...context, manifest: 'b'.repeat(64) })).toThrow(UserError);
  expect(open(sealed, vmm.privateKey, { ...context, name: 'other' })).toThrow(UserError);
  for (const length of [0, 47, 48, 49, 48 + SECRET_LIMIT + 1]) expect(open(Buffer.alloc(length))).toThrow(UserError);
});

test('no secret, too long a secret, and keys of another kind are errors that say so', () => {
  expect(() => sealSecret(Buffer.alloc(0), vmm.publicKey, context)).toThrow(/has 0 bytes/);
  expect(() => sealSecret(Buffer.alloc(SECRET_LIMIT + 1), vmm.publicKey, context)).toThrow(/has 4097 bytes/);
  expect(() => sealSecret(Buffer.alloc(8), generateKeyPair().publicKey, context)).toThrow(
    /expected an X25519 public key in PEM, found ed25519/,
  );
  expect(() => checkVmmKey('nonsense')).toThrow(/expected an X25519 private key in PEM, found something else/);
  expect(() => checkVmmKey(vmm.privateKey)).not.toThrow();
});
