import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { canonicalJson, manifestDigest } from './canonical.ts';
import { jsonSchemas, jsonSchemaText } from './json-schema.ts';
import type { Manifest } from './manifest.ts';
import { parseGrant, parseLinkPolicy, parseManifest, parseSignedGrant } from './schema.ts';

const digest = 'a'.repeat(64);
const manifest: Manifest = {
  format: 'portcullis-manifest-1',
  module: 'e1000',
  vermagic: '6.1',
  image: digest,
  source: digest,
  linker: 'x',
  gatePort: 0x5e,
  sections: [{ index: 1, name: '.text', role: 'text', size: 16, align: 16, init: false }],
  gates: [
    { kind: 'return', offset: 0, symbol: '' },
    { kind: 're-entry', offset: 16, symbol: '' },
    { kind: 'entry', offset: 32, symbol: 'f', section: '.text', sectionOffset: 0 },
  ],
  initGate: 32,
  cleanupGate: -1,
  imports: ['jiffies'],
  vector: false,
  privileges: ['pci-device'],
};
const grant = {
  format: 'portcullis-grant-1',
  manifest: digest,
  vms: ['web'],
  privileges: [{ kind: 'pci-device', parameters: { device: '0000:00:03.0', bars: [0, 1], shared: false } }],
  notBefore: '2026-01-01T00:00:00Z',
  notAfter: '2027-01-01T00:00:00.000Z',
  serial: '0'.repeat(32),
  onViolation: 'quarantine',
};

function message(parse: (text: string, file: string) => unknown, value: unknown): string {
  try {
    parse(typeof value === 'string' ? value : JSON.stringify(value), 'f.json');
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return (error as UserError).message;
  }
  return 'accepted';
}

describe('manifests', () => {
  test('come back as they were', () => expect(parseManifest(JSON.stringify(manifest), 'f.json')).toEqual(manifest));

  test.each<[string, unknown, string]>([
    ['no JSON', '{', 'f.json: is not JSON'],
    ['not an object', 'null', 'f.json: is no valid manifest: '],
    ['an unknown key', { ...manifest, extra: 1 }, 'unrecognized key: "extra"'],
    ['a missing key', { ...manifest, imports: undefined }, 'imports: '],
    ['a crooked gate', { ...manifest, gates: [...manifest.gates, { kind: 'call', offset: 49, symbol: 'f' }] }, 'gates[3].offset: '],
    ['an unknown gate kind', { ...manifest, gates: [{ ...manifest.gates[0], kind: 'exit' }, manifest.gates[1]] }, 'gates[0].kind: '],
    ['a fraction', { ...manifest, sections: [{ ...manifest.sections[0], size: 1.5 }] }, 'sections[0].size: '],
    ['a size out of range', { ...manifest, sections: [{ ...manifest.sections[0], size: 2 ** 40 }] }, 'sections[0].size: '],
    ['another port', { ...manifest, gatePort: 0x60 }, 'gatePort: '],
    ['another format', { ...manifest, format: 'portcullis-manifest-2' }, 'format: '],
    ['a digest in capitals', { ...manifest, image: 'A'.repeat(64) }, 'image: expected 64 lower-case hex digits'],
    ['a module name with a slash', { ...manifest, module: '../x' }, 'module: expected a module name'],
  ])('%s is refused', (_, value, expected) => expect(message(parseManifest, value)).toContain(expected));

  test('a file that is too large is refused before it is parsed', () => {
    expect(message(parseManifest, ' '.repeat(17 * 1024 * 1024))).toContain('at most 16777216 are accepted');
  });
});

test.each<[string, unknown, string]>([
  ['no virtual machine', { ...grant, vms: [] }, 'vms: '],
  ['an end before its start', { ...grant, notAfter: '2025-01-01T00:00:00Z' }, 'notAfter: expected a time after notBefore'],
  ['a local time', { ...grant, notBefore: '2026-01-01T00:00:00+02:00' }, 'notBefore: expected ISO 8601 in UTC'],
  ['a date that does not exist', { ...grant, notBefore: '2026-13-01T00:00:00Z' }, 'notBefore: expected a date that exists'],
  ['a short serial', { ...grant, serial: 'ab' }, 'serial: expected 32'],
  ['a nested parameter', { ...grant, privileges: [{ kind: 'msr', parameters: { deep: { er: 1 } } }] }, 'privileges[0].parameters.deep: '],
  ['an unknown reaction', { ...grant, onViolation: 'ignore' }, 'onViolation: '],
])('a grant with %s is refused', (_, value, expected) => expect(message(parseGrant, value)).toContain(expected));

test('valid grants, signed grants and link policies are accepted', () => {
  expect(message(parseGrant, grant)).toBe('accepted');
  expect(message(parseSignedGrant, { grant, keyId: '0'.repeat(32), signature: '0'.repeat(128) })).toBe('accepted');
  expect(message(parseLinkPolicy, { entries: ['init_module'], private: ['.data.secret'] })).toBe('accepted');
  expect(message(parseLinkPolicy, { entry: [] })).toContain('unrecognized key: "entry"');
});

describe('canonical JSON', () => {
  test('sorts keys, has no spaces, leaves out undefined', () => {
    expect(canonicalJson({ b: [1, 'x', null, true], a: { d: undefined, c: '\u00e9"' } })).toBe(
      '{"a":{"c":"\u00e9\\""},"b":[1,"x",null,true]}',
    );
  });
  test.each([1.5, Number.NaN, 2 ** 60, 1n, () => {}])('refuses %s', (value) => expect(() => canonicalJson({ value })).toThrow(TypeError));
  test('the digest depends on values, not on the order of keys', () => {
    const { format, ...rest } = manifest;
    expect(manifestDigest({ ...rest, format })).toBe(manifestDigest(manifest));
    expect(manifestDigest({ ...manifest, vector: true })).not.toBe(manifestDigest(manifest));
    expect(manifestDigest(manifest)).toMatch(/^[0-9a-f]{64}$/);
  });
});

test.each(Object.entries(jsonSchemas()))('docs/schema/%s is up to date (node tools/schema.mjs)', (name, schema) => {
  expect(readFileSync(new URL(`../../docs/schema/${name}`, import.meta.url), 'utf8')).toBe(jsonSchemaText(schema));
});
