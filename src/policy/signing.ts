/** Signed grants: Ed25519 (RFC 8032) over the grant's canonical JSON, and the only decision about whether a grant holds. */

import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto';
import { chmodSync, existsSync, writeFileSync } from 'node:fs';
import { on } from '../base/defence-switch.ts';
import { UserError, unreachable } from '../base/errors.ts';
import { canonicalJson } from './canonical.ts';
import type { Grant } from './grant.ts';
import { describeIssues, grantSchema, signedGrantSchema } from './schema.ts';

/** Signed before the JSON, so that a signature made for anything else never fits a grant. */
const DOMAIN = 'portcullis-grant-1\n';

export interface SignedGrant {
  grant: Grant;
  /** First 16 bytes of the SHA-256 of the public key (SPKI DER), hex. */
  keyId: string;
  /** 64 bytes, hex. */
  signature: string;
}

export interface KeyPair {
  /** PKCS#8 PEM. */
  privateKey: string;
  /** SPKI PEM. */
  publicKey: string;
  keyId: string;
}

/** What the machine knows when a grant is presented. */
export interface GrantContext {
  /** Digest of the manifest that privileges are asked for. */
  manifestDigest: string;
  /** Name of the virtual machine. */
  vm: string;
  now: Date;
  /** Serials that must not be used again: superseded, withdrawn, or used up. */
  spent?: ReadonlySet<string>;
}

export type GrantRefusal =
  | 'unsigned'
  | 'malformed'
  | 'foreign-key'
  | 'bad-signature'
  | 'wrong-manifest'
  | 'wrong-vm'
  | 'not-yet-valid'
  | 'expired'
  | 'replayed';
export type GrantVerdict = { ok: true; grant: Grant } | { ok: false; reason: GrantRefusal; detail: string };

export function generateKeyPair(): KeyPair {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  return {
    privateKey: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    publicKey: publicKey.export({ type: 'spki', format: 'pem' }).toString(),
    keyId: keyIdOf(publicKey),
  };
}

/** Writes `base`.key (mode 0600) and `base`.pub. Throws UserError rather than replace a file. */
export function writeKeyPair(pair: KeyPair, base: string): { privateFile: string; publicFile: string } {
  const privateFile = `${base}.key`;
  const publicFile = `${base}.pub`;
  for (const file of [privateFile, publicFile])
    if (existsSync(file)) throw new UserError(`${file} exists already`, 'choose another name, or move the old key away');
  try {
    writeFileSync(privateFile, pair.privateKey, { flag: 'wx', mode: 0o600 });
    chmodSync(privateFile, 0o600);
    writeFileSync(publicFile, pair.publicKey, { flag: 'wx', mode: 0o644 });
  } catch (error) {
    throw new UserError(
      `cannot write the key pair ${base}: ${error instanceof Error ? error.message : String(error)}`,
      undefined,
      'failed',
    );
  }
  return { privateFile, publicFile };
}

/** Signs a grant. Throws UserError when the grant is invalid or the key is no Ed25519 private key. */
export function signGrant(grant: Grant, privateKeyPem: string): SignedGrant {
  const checked = grantSchema.safeParse(grant);
  if (!checked.success) throw new UserError(`the grant is not valid: ${describeIssues(checked.error)}`);
  const key = readKey(privateKeyPem, createPrivateKey, 'private');
  return { grant: checked.data, keyId: keyIdOf(createPublicKey(key)), signature: sign(null, message(checked.data), key).toString('hex') };
}

/**
 * Decides whether `signed` (parsed JSON from anywhere) grants something here and now. Never throws for anything in `signed`; throws
 * UserError when a trusted key, which the administrator configured, is no Ed25519 public key in PEM.
 */
export function verifyGrant(signed: unknown, trustedPublicKeys: readonly string[], context: GrantContext): GrantVerdict {
  const trusted = new Map(
    trustedPublicKeys.map((pem) => {
      const key = readKey(pem, createPublicKey, 'public');
      return [keyIdOf(key), key];
    }),
  );
  if (typeof signed === 'object' && signed !== null && !('signature' in signed)) return refuse('unsigned');
  const parsed = signedGrantSchema.safeParse(signed);
  if (!parsed.success) return refuse('malformed', describeIssues(parsed.error));
  const { grant, keyId, signature } = parsed.data;
  const key = trusted.get(keyId);
  if (!key) return refuse('foreign-key', `key ${keyId}`);
  if (on('grant-signature') && !verify(null, message(grant), key, Buffer.from(signature, 'hex')))
    return refuse('bad-signature', `key ${keyId}`);
  if (grant.manifest !== context.manifestDigest && on('grant-manifest'))
    return refuse('wrong-manifest', `granted ${grant.manifest}, asked for ${context.manifestDigest}`);
  if (!grant.vms.includes(context.vm) && on('grant-vm'))
    return refuse('wrong-vm', `granted to ${grant.vms.join(', ')}, asked by ${context.vm}`);
  const now = context.now.getTime();
  if (!(now >= Date.parse(grant.notBefore)) && on('grant-validity')) return refuse('not-yet-valid', `valid from ${grant.notBefore}`);
  if (!(now < Date.parse(grant.notAfter)) && on('grant-validity')) return refuse('expired', `valid until ${grant.notAfter}`);
  if (context.spent?.has(grant.serial) && on('grant-serial')) return refuse('replayed', `serial ${grant.serial}`);
  return { ok: true, grant };
}

function refuse(reason: GrantRefusal, more?: string): GrantVerdict {
  return { ok: false, reason, detail: more === undefined ? meaning(reason) : `${meaning(reason)} (${more})` };
}

function meaning(reason: GrantRefusal): string {
  switch (reason) {
    case 'unsigned':
      return 'the grant has no signature';
    case 'malformed':
      return 'the grant is not well-formed';
    case 'foreign-key':
      return 'the grant is signed by a key that is not trusted here';
    case 'bad-signature':
      return 'the signature does not fit the grant';
    case 'wrong-manifest':
      return 'the grant is for another module';
    case 'wrong-vm':
      return 'the grant is for another virtual machine';
    case 'not-yet-valid':
      return 'the grant is not valid yet';
    case 'expired':
      return 'the grant has expired';
    case 'replayed':
      return 'the grant may not be used again';
    default:
      return unreachable(reason);
  }
}

function message(grant: Grant): Buffer {
  return Buffer.from(DOMAIN + canonicalJson(grant), 'utf8');
}

/** First 16 bytes of the SHA-256 of a public key (SPKI DER), hex. */
export function keyIdOf(publicKey: KeyObject): string {
  return createHash('sha256')
    .update(publicKey.export({ type: 'spki', format: 'der' }))
    .digest('hex')
    .slice(0, 32);
}

function readKey(pem: string, read: (pem: string) => KeyObject, kind: 'private' | 'public'): KeyObject {
  const expected = `expected an Ed25519 ${kind} key in PEM`;
  let key: KeyObject;
  try {
    key = read(pem);
  } catch {
    throw new UserError(`${expected}, found something else`, 'make a key pair with: portcullis keygen');
  }
  if (key.asymmetricKeyType !== 'ed25519')
    throw new UserError(`${expected}, found ${key.asymmetricKeyType}`, 'make a key pair with: portcullis keygen');
  return key;
}
