/**
 * Schemas of the policy files. Strict: an unknown key is an error, sizes are limited, numbers are integers. The published JSON Schemas in
 * docs/schema are made from these.
 */

import { z } from 'zod';
import { UserError } from '../base/errors.ts';
import type { Grant, PrivilegeGrant } from './grant.ts';
import type { LinkPolicy } from './link-policy.ts';
import { GATE_PORT, GATE_SIZE, type Gate, type Manifest, type ManifestSection } from './manifest.ts';
import { HEAP_LIMIT } from './private-memory.ts';
import type { SignedGrant } from './signing.ts';

/** Largest policy file, bytes of UTF-8. The largest module of a Debian kernel (7565 gates) has a manifest of 1.2 MB. */
export const MAX_POLICY_FILE = 16 * 1024 * 1024;

const sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'expected 64 lower-case hex digits (SHA-256)');
const symbol = z.string().max(4096);
const name = z.string().min(1).max(4096);
/** Sizes and offsets: no module comes near 4 GiB. */
const size = z.int().min(0).max(0xffff_ffff);
const gateOffset = z.int().min(0).max(0xffff_ffff).multipleOf(GATE_SIZE);
const instant = z
  .string()
  .regex(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z$/, 'expected ISO 8601 in UTC, such as 2026-01-31T12:00:00Z')
  .refine((text) => !Number.isNaN(Date.parse(text)), 'expected a date that exists');

const gateSchema = z.strictObject({
  kind: z.enum(['entry', 'call', 'return', 're-entry']),
  offset: gateOffset,
  symbol,
  section: name.optional(),
  sectionOffset: size.optional(),
  beforeInit: z.literal(true).optional(),
  recorded: z.literal(true).optional(),
}) satisfies z.ZodType<Gate>;

const sectionSchema = z.strictObject({
  index: z.int().min(1).max(0xfeff),
  name: z.string().max(4096),
  role: z.enum(['text', 'gates', 'constants', 'private', 'data', 'metadata']),
  size,
  align: z.int().min(1).max(65536),
  init: z.boolean(),
}) satisfies z.ZodType<ManifestSection>;

export const manifestSchema = z.strictObject({
  format: z.literal('portcullis-manifest-1'),
  module: z.string().regex(/^[\w-]{1,55}$/, 'expected a module name: letters, digits, _ and -, at most 55'),
  vermagic: z.string().min(1).max(256),
  image: sha256,
  source: sha256,
  linker: z.string().min(1).max(64),
  gatePort: z.literal(GATE_PORT),
  sections: z.array(sectionSchema).max(0xfeff),
  gates: z.array(gateSchema).min(2).max(262_144),
  initGate: z.union([z.literal(-1), gateOffset]),
  cleanupGate: z.union([z.literal(-1), gateOffset]),
  imports: z.array(name).max(65_536),
  vector: z.boolean(),
  privileges: z.array(z.string().min(1).max(64)).max(64),
  shadowStack: z.literal(true).optional(),
}) satisfies z.ZodType<Manifest>;

/** Long enough for a sealed secret. */
const parameterText = z.string().max(8192);
const parameterNumber = z.int();

const privilegeSchema = z.strictObject({
  kind: z.string().regex(/^[a-z][a-z0-9-]{0,63}$/, 'expected the name of a privilege: lower-case letters, digits and -'),
  parameters: z
    .record(
      z.string().min(1).max(64),
      z.union([parameterText, parameterNumber, z.boolean(), z.array(parameterText).max(256), z.array(parameterNumber).max(256)]),
    )
    .refine((parameters) => Object.keys(parameters).length <= 64, 'expected at most 64 parameters'),
}) satisfies z.ZodType<PrivilegeGrant>;

/** A grant's serial number. */
export const grantSerial = z.string().regex(/^[0-9a-f]{32}$/, 'expected 32 lower-case hex digits');

export const grantSchema = z
  .strictObject({
    format: z.literal('portcullis-grant-1'),
    manifest: sha256,
    vms: z.array(z.string().min(1).max(256)).min(1).max(1024),
    privileges: z.array(privilegeSchema).max(64),
    notBefore: instant,
    notAfter: instant,
    serial: grantSerial,
    onViolation: z.enum(['quarantine', 'stop', 'log']),
  })
  .refine(({ notBefore, notAfter }) => Date.parse(notBefore) < Date.parse(notAfter), {
    path: ['notAfter'],
    message: 'expected a time after notBefore',
  }) satisfies z.ZodType<Grant>;

export const signedGrantSchema = z.strictObject({
  grant: grantSchema,
  keyId: z.string().regex(/^[0-9a-f]{32}$/, 'expected 32 lower-case hex digits'),
  signature: z.string().regex(/^[0-9a-f]{128}$/, 'expected 128 lower-case hex digits (Ed25519)'),
}) satisfies z.ZodType<SignedGrant>;

const names = z.array(name).max(65_536);
export const linkPolicySchema = z.strictObject({
  entries: names.optional(),
  imports: names.optional(),
  private: names.optional(),
  heap: z.int().min(1).max(HEAP_LIMIT).optional(),
  privileges: z.array(z.string().min(1).max(64)).max(64).optional(),
  shadowStack: z.boolean().optional(),
}) satisfies z.ZodType<LinkPolicy>;

/** Text of a file as JSON. Throws UserError naming `file`. */
export function parseJson(text: string, file: string): unknown {
  if (text.length > MAX_POLICY_FILE) throw new UserError(`${file}: is ${text.length} characters; at most ${MAX_POLICY_FILE} are accepted`);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`${file}: is not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Each throws UserError naming `file` and the place in it, such as `gates[3].offset: expected ...`. */
export const parseManifest = (text: string, file: string): Manifest => checked(manifestSchema, parseJson(text, file), file, 'manifest');
export const parseGrant = (text: string, file: string): Grant => checked(grantSchema, parseJson(text, file), file, 'grant');
export const parseSignedGrant = (text: string, file: string): SignedGrant =>
  checked(signedGrantSchema, parseJson(text, file), file, 'signed grant');
export const parseLinkPolicy = (text: string, file: string): LinkPolicy =>
  checked(linkPolicySchema, parseJson(text, file), file, 'link policy');

function checked<T>(schema: z.ZodType<T>, value: unknown, file: string, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new UserError(`${file}: is no valid ${what}: ${describeIssues(result.error)}`);
}

/** The first three issues as `path: message`. */
export function describeIssues(error: z.ZodError): string {
  const shown = error.issues
    .slice(0, 3)
    .map(({ path, message }) => `${pathText(path)}${message.charAt(0).toLowerCase()}${message.slice(1)}`);
  const more = error.issues.length - shown.length;
  return shown.join('; ') + (more > 0 ? ` (and ${more} more)` : '');
}

function pathText(path: readonly PropertyKey[]): string {
  if (path.length === 0) return '';
  const text = path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`)).join('');
  return `${text.replace(/^\./, '')}: `;
}
