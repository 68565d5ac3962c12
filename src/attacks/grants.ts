/** Attacks with grants: forged, foreign, for another module or machine, too old, too early, replayed (P10). */
import type { Grant } from '../policy/grant.ts';
import { generateKeyPair, type GrantContext, type SignedGrant, signGrant, verifyGrant } from '../policy/signing.ts';
import type { ContractAttack } from './attack.ts';

const administrator = generateKeyPair();
const stranger = generateKeyPair();
const MANIFEST = 'a'.repeat(64);
const grant: Grant = {
  format: 'portcullis-grant-1',
  manifest: MANIFEST,
  vms: ['web-1'],
  privileges: [{ kind: 'pci-device', parameters: { device: '0000:00:03.0', vendor: '8086', product: '100e' } }],
  notBefore: '2026-01-01T00:00:00Z',
  notAfter: '2026-02-01T00:00:00Z',
  serial: '0'.repeat(32),
  onViolation: 'quarantine',
};
const context: GrantContext = { manifestDigest: MANIFEST, vm: 'web-1', now: new Date('2026-01-15T00:00:00Z') };

function grantAttack(
  name: string,
  what: string,
  defences: ContractAttack['defences'],
  forge: (signed: SignedGrant) => unknown,
  changes: Partial<GrantContext> = {},
): ContractAttack {
  return {
    name,
    what,
    promises: ['P10'],
    defences,
    run() {
      const verdict = verifyGrant(forge(structuredClone(signGrant(grant, administrator.privateKey))), [administrator.publicKey], {
        ...context,
        ...changes,
      });
      return { gained: verdict.ok ? 'the grant is taken' : undefined, reasons: verdict.ok ? [] : [verdict.reason], dead: undefined };
    },
  };
}
const changed =
  (change: Partial<Grant>) =>
  (signed: SignedGrant): SignedGrant => ({ ...signed, grant: { ...signed.grant, ...change } });
const same = (signed: SignedGrant) => signed;

export const grantAttacks: readonly ContractAttack[] = [
  grantAttack('grant-tampered-byte', 'one digit of the signature is another', ['grant-signature'], (signed) => ({
    ...signed,
    signature: (signed.signature.startsWith('0') ? '1' : '0') + signed.signature.slice(1),
  })),
  grantAttack(
    'grant-with-another-device',
    'the parameters of a signed grant are changed to another device',
    ['grant-signature'],
    changed({ privileges: [{ kind: 'pci-device', parameters: { device: '0000:00:04.0', vendor: '8086', product: '100e' } }] }),
  ),
  grantAttack(
    'grant-with-a-milder-policy',
    'a signed grant is changed to log violations only',
    ['grant-signature'],
    changed({ onViolation: 'log' }),
  ),
  grantAttack('grant-renewed', 'a signed grant is given another end', ['grant-signature'], changed({ notAfter: '2036-01-01T00:00:00Z' })),
  grantAttack('grant-with-anothers-key-id', "a grant that a stranger signed, with the administrator's key id", ['grant-signature'], () => ({
    ...signGrant(grant, stranger.privateKey),
    keyId: administrator.keyId,
  })),
  grantAttack(
    'grant-of-a-stranger',
    'a grant that a stranger signed',
    'a signature is checked with a trusted key; of a stranger there is none',
    () => signGrant(grant, stranger.privateKey),
  ),
  grantAttack('grant-unsigned', 'a grant without a signature', 'there is nothing to check', ({ grant: inner, keyId }) => ({
    grant: inner,
    keyId,
  })),
  grantAttack('grant-malformed', 'a grant with a field that nobody knows', 'only what fits the schema is a grant', (signed) => ({
    ...signed,
    root: true,
  })),
  grantAttack('grant-for-another-module', "another module's grant", ['grant-manifest'], same, { manifestDigest: 'b'.repeat(64) }),
  grantAttack('grant-for-another-machine', "another machine's grant", ['grant-vm'], same, { vm: 'web-2' }),
  grantAttack('grant-expired', 'a grant of last month', ['grant-validity'], same, { now: new Date('2026-02-01T00:00:00Z') }),
  grantAttack('grant-not-yet-valid', 'a grant of next month', ['grant-validity'], same, { now: new Date('2025-12-31T23:59:59Z') }),
  grantAttack('grant-replayed', 'a grant that was withdrawn', ['grant-serial'], same, { spent: new Set([grant.serial]) }),
];
