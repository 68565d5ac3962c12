/**
 * Sealed secrets: what an administrator puts into a grant for one machine's VMM alone to read. X25519 (RFC 7748) between a key made for
 * this secret and the VMM's key, HKDF-SHA-256 (RFC 5869), AES-256-GCM. The manifest and the secret's name are authenticated with it, so
 * that nobody, not even another administrator whom the VMM trusts, can hand the same sealed secret to another module.
 */
import {
  createCipheriv,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
} from 'node:crypto';
import { UserError } from '../base/errors.ts';
import { SECRET_LIMIT } from './private-memory.ts';
import { type KeyPair, keyIdOf } from './signing.ts';

const DOMAIN = 'portcullis-secret-1';
const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
/** SubjectPublicKeyInfo of an X25519 key, before its 32 bytes (RFC 8410, section 4). */
const SPKI_PREFIX = Buffer.from('302a300506032b656e032100', 'hex');

/** What a secret is for. */
export interface SealContext {
  /** Digest of the manifest of the module that shall have it. */
  manifest: string;
  name: string;
}

/** A VMM's key pair. */
export function generateVmmKeyPair(): KeyPair {
  const { publicKey, privateKey } = generateKeyPairSync('x25519');
  return {
    privateKey: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
    publicKey: publicKey.export({ type: 'spki', format: 'pem' }).toString(),
    keyId: keyIdOf(publicKey),
  };
}

/** Seals 1 to SECRET_LIMIT bytes for the holder of `vmmPublicKey` (PEM): base64 of ephemeral key, tag and ciphertext. Throws UserError. */
export function sealSecret(secret: Uint8Array, vmmPublicKey: string, context: SealContext): string {
  if (secret.length === 0 || secret.length > SECRET_LIMIT) {
    throw new UserError(`secret ${context.name} has ${secret.length} bytes`, `a secret has 1 to ${SECRET_LIMIT} bytes`);
  }
  const to = vmmKey(() => createPublicKey(vmmPublicKey), 'public');
  const { publicKey, privateKey } = generateKeyPairSync('x25519');
  const ephemeral = raw(publicKey);
  const { key, nonce } = derive(diffieHellman({ privateKey, publicKey: to }), ephemeral, raw(to));
  const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(bound(context));
  const body = Buffer.concat([cipher.update(secret), cipher.final()]);
  return Buffer.concat([ephemeral, cipher.getAuthTag(), body]).toString('base64');
}

/** Opens a sealed secret; the caller wipes it. Throws UserError when it was not sealed for this key and this context, or was changed. */
export function openSecret(sealed: string, vmmPrivateKey: string, context: SealContext): Buffer {
  const own = vmmKey(() => createPrivateKey(vmmPrivateKey), 'private');
  const bytes = Buffer.from(sealed, 'base64');
  const refused = new UserError(
    `secret ${context.name} was not sealed for this VMM key and this module, or was changed`,
    'seal it again: portcullis grant with the public key of this VMM',
    'refused',
  );
  if (bytes.length <= KEY_BYTES + TAG_BYTES || bytes.length > KEY_BYTES + TAG_BYTES + SECRET_LIMIT) throw refused;
  const ephemeral = bytes.subarray(0, KEY_BYTES);
  try {
    const publicKey = createPublicKey({ key: Buffer.concat([SPKI_PREFIX, ephemeral]), format: 'der', type: 'spki' });
    const { key, nonce } = derive(diffieHellman({ privateKey: own, publicKey }), ephemeral, raw(createPublicKey(own)));
    const decipher = createDecipheriv('aes-256-gcm', key, nonce).setAAD(bound(context));
    decipher.setAuthTag(bytes.subarray(KEY_BYTES, KEY_BYTES + TAG_BYTES));
    const secret = decipher.update(bytes.subarray(KEY_BYTES + TAG_BYTES));
    decipher.final();
    return secret;
  } catch {
    throw refused;
  }
}

/** Checks a VMM's private key. Throws UserError. */
export function checkVmmKey(pem: string): void {
  vmmKey(() => createPrivateKey(pem), 'private');
}

/** The nonce is derived too: the key is used once. */
function derive(shared: Buffer, ephemeral: Buffer, to: Buffer): { key: Buffer; nonce: Buffer } {
  const bytes = Buffer.from(hkdfSync('sha256', shared, Buffer.concat([ephemeral, to]), DOMAIN, KEY_BYTES + NONCE_BYTES));
  return { key: bytes.subarray(0, KEY_BYTES), nonce: bytes.subarray(KEY_BYTES) };
}

const bound = ({ manifest, name }: SealContext) => Buffer.from(`${DOMAIN}\n${manifest}\n${name}`, 'utf8');
const raw = (key: KeyObject) => key.export({ type: 'spki', format: 'der' }).subarray(SPKI_PREFIX.length);

function vmmKey(read: () => KeyObject, kind: 'private' | 'public'): KeyObject {
  let key: KeyObject | undefined;
  try {
    key = read();
  } catch {
    key = undefined;
  }
  if (key?.asymmetricKeyType === 'x25519') return key;
  throw new UserError(
    `expected an X25519 ${kind} key in PEM, found ${key?.asymmetricKeyType ?? 'something else'}`,
    'make a key pair with: portcullis keygen --vmm',
  );
}
