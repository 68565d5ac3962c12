/**
 * Files as input: whatever bytes a file holds, its reader gives a value or a UserError, in bounded time. Where there is more to ask (what is written is
 * read again, what is linked verifies, what was signed is what was meant), it is asked.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { UserError } from '../../../src/base/errors.ts';
import { assemble } from '../../../src/cli/assemble.ts';
import { resolveRunOptions } from '../../../src/cli/run-options.ts';
import { readProgramHeaders } from '../../../src/elf/program.ts';
import { readObject } from '../../../src/elf/read.ts';
import { writeObject } from '../../../src/elf/write.ts';
import { createSoftEngine } from '../../../src/engine/soft/engine.ts';
import { buildCpio, type CpioEntry } from '../../../src/guest/cpio.ts';
import { readKernelImage } from '../../../src/guest/kernel-image.ts';
import { unpackPayload } from '../../../src/guest/payload.ts';
import { describeModule } from '../../../src/linker/describe.ts';
import { linkModule } from '../../../src/linker/link.ts';
import { FLAGS, TinyModule } from '../../../src/linker/testing.ts';
import { verifyLinked } from '../../../src/linker/verify.ts';
import { memoryMap } from '../../../src/machine/memory-map.ts';
import { boot } from '../../../src/machine/boot/index.ts';
import { imageFromElf } from '../../../src/monitor/image-elf.ts';
import { ChainReader, ChainWriter } from '../../../src/policy/audit-chain.ts';
import { canonicalJson } from '../../../src/policy/canonical.ts';
import type { Grant } from '../../../src/policy/grant.ts';
import { parseGrant, parseLinkPolicy, parseManifest, parseSignedGrant } from '../../../src/policy/schema.ts';
import { generateVmmKeyPair, openSecret, sealSecret } from '../../../src/policy/seal.ts';
import { generateKeyPair, signGrant, verifyGrant } from '../../../src/policy/signing.ts';
import { elf32, HALT } from '../../boots/bare-metal.ts';
import { mutate, mutateJson } from '../mutate.ts';
import { places, type Target } from '../target.ts';

/** The value, or undefined for a UserError. Anything else that is thrown is a finding. */
function refusable<T>(act: () => T): T | undefined {
  try {
    return act();
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
}
async function refusableLater<T>(act: () => Promise<T>): Promise<T | undefined> {
  try {
    return await act();
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
}

function expectSame(what: string, actual: Uint8Array | string, expected: Uint8Array | string): void {
  if (Buffer.from(actual).equals(Buffer.from(expected))) return;
  throw new Error(`${what}: differs`);
}

/** A module with a little of everything that the linker edits. */
function sampleModule(): Uint8Array {
  const tiny = new TinyModule();
  const callback = tiny.function('callback', (code) =>
    code
      .call(tiny.kernel('__fentry__'))
      .call(tiny.kernel('__x86_indirect_thunk_rax'))
      .emit(0xff, 0x15)
      .field(2, tiny.kernel('pv_ops'), 4)
      .emit(0x90, 0x90, 0x90)
      .jump(tiny.kernel('__x86_return_thunk')),
  );
  tiny.code(tiny.add('.rodata', FLAGS.rodata)).pointer(callback);
  const replacement = tiny.symbol('', 3, tiny.add('.altinstr_replacement', FLAGS.text, new Uint8Array([0x0f, 0x01, 0xcb])), 0);
  tiny.code(tiny.add('.altinstructions', FLAGS.rodata)).field(2, callback, 16).field(2, replacement, 0).emit(0x34, 0x01, 3, 3);
  tiny
    .code(tiny.add('__jump_table', FLAGS.data))
    .emit(...new Array(8).fill(0))
    .field(24, tiny.kernel('key'), 0);
  tiny.bss('.portcullis.private', 64);
  return tiny.bytes();
}

const digest = 'b'.repeat(64);
const GRANT: Grant = {
  format: 'portcullis-grant-1',
  manifest: digest,
  vms: ['web', 'mail'],
  privileges: [
    { kind: 'pci-device', parameters: { device: '0000:00:03.0', vendor: '8086' } },
    { kind: 'msr', parameters: { indices: [0x1a0, 0x199], write: true } },
  ],
  notBefore: '2026-01-01T00:00:00Z',
  notAfter: '2027-01-01T00:00:00Z',
  serial: '0123456789abcdef'.repeat(2),
  onViolation: 'quarantine',
};

const elf: Target = {
  name: 'elf',
  about: 'a kernel module with changed bytes: read, written, read again the same; linked, verified and registered; or a UserError',
  unit: 'file',
  share: 4000,
  reaches: ['read', 'refused', 'linked', 'not linked', 'registered'],
  prepare() {
    const sample = sampleModule();
    const linked = linkModule(sample, 'sample.ko');
    const view = new DataView(sample.buffer, sample.byteOffset, sample.length);
    const tables = Number(view.getBigUint64(40, true));
    const aim: [number, number][] = [
      [0, 64],
      [tables, sample.length],
      [Math.floor(tables / 2), tables],
    ];
    const { reached, at } = places();
    return {
      reached,
      run(random) {
        const file = mutate(random, random.once(3) ? linked.image : sample, aim);
        const object = refusable(() => readObject(file, 'fuzz.ko'));
        at(object ? 'read' : 'refused');
        if (object) {
          const written = refusable(() => writeObject(object));
          if (written) expectSame('written, read and written again', writeObject(readObject(written, 'again.ko')), written);
        }
        refusable(() => describeModule(file, 'fuzz.ko'));
        const made = refusable(() => linkModule(file, 'fuzz.ko'));
        at(made ? 'linked' : 'not linked');
        if (made) {
          const findings = verifyLinked(made.image, made.manifest, 'linked.ko');
          if (findings.length > 0) throw new Error(`what was linked does not verify: ${findings[0]}`);
          if (refusable(() => imageFromElf(made.image, made.manifest))) at('registered');
        }
        // A foreign image behind our manifest: the digest is the caller's to check, the rest must hold by itself.
        if (refusable(() => imageFromElf(file, linked.manifest))) at('registered');
        return 1;
      },
    };
  },
};

const manifest: Target = {
  name: 'manifest',
  about: 'changed manifests and link policies: a valid value that is written and read the same, or a UserError',
  unit: 'file',
  share: 4000,
  reaches: ['valid', 'refused'],
  prepare() {
    const image = sampleModule();
    const { manifest, image: linked } = linkModule(image, 'sample.ko');
    const policy = { entries: ['callback'], imports: ['_printk'], private: ['.data'], heap: 4096, privileges: ['msr'] };
    const { reached, at } = places();
    return {
      reached,
      run(random) {
        const isPolicy = random.once(4);
        const text = mutateJson(random, isPolicy ? policy : manifest);
        if (isPolicy) {
          const value = refusable(() => parseLinkPolicy(text, 'policy.json'));
          at(value ? 'valid' : 'refused');
          if (value) refusable(() => linkModule(image, 'sample.ko', value));
          return 1;
        }
        const value = refusable(() => parseManifest(text, 'manifest.json'));
        at(value ? 'valid' : 'refused');
        if (!value) return 1;
        const canonical = canonicalJson(value);
        expectSame('canonical form', canonicalJson(parseManifest(canonical, 'again.json')), canonical);
        refusable(() => verifyLinked(linked, value, 'sample.ko'));
        refusable(() => imageFromElf(linked, value));
        return 1;
      },
    };
  },
};

const grant: Target = {
  name: 'grant',
  about: 'changed grants, signatures and sealed secrets: what does not say what was signed is refused, and nothing throws',
  unit: 'file',
  share: 2000,
  reaches: ['as signed', 'refused', 'bad-signature', 'malformed', 'foreign-key', 'secret refused'],
  prepare() {
    const keys = generateKeyPair();
    const other = generateKeyPair();
    const vmm = generateVmmKeyPair();
    const signed = signGrant(GRANT, keys.privateKey);
    const forged = [signed, signed, { ...signed, keyId: other.keyId }, signGrant({ ...GRANT, vms: ['mail', 'db'] }, other.privateKey)];
    const meant = canonicalJson(GRANT);
    const secret = sealSecret(Buffer.from('a secret of the administrator'), vmm.publicKey, { manifest: digest, name: 'key' });
    const { reached, at } = places();
    return {
      reached,
      run(random) {
        const hex = Buffer.from(random.bytes(64)).toString('hex');
        const text = mutateJson(random, random.once(8) ? { ...signed, signature: hex } : random.pick(forged));
        refusable(() => parseSignedGrant(text, 'grant.json'));
        refusable(() => parseGrant(mutateJson(random, GRANT), 'grant.json'));
        let value: unknown;
        try {
          value = JSON.parse(text);
        } catch {
          value = text;
        }
        const verdict = verifyGrant(value, [keys.publicKey], { manifestDigest: digest, vm: 'mail', now: new Date('2026-06-01T00:00:00Z') });
        at(verdict.ok ? 'as signed' : 'refused');
        if (verdict.ok) expectSame('a grant that was not signed so is accepted', canonicalJson(verdict.grant), meant);
        else at(verdict.reason);
        const sealed = Buffer.from(mutate(random, Buffer.from(secret))).toString('latin1');
        const opened = refusable(() => openSecret(sealed, vmm.privateKey, { manifest: digest, name: 'key' }));
        if (opened) expectSame('a secret that was not sealed so is opened', opened, 'a secret of the administrator');
        else at('secret refused');
        return 1;
      },
    };
  },
};

const auditChain: Target = {
  name: 'audit-chain',
  about: 'an event log with lines changed, removed, moved or doubled: the reader notices, and never throws',
  unit: 'log',
  share: 3000,
  reaches: ['untouched', 'noticed'],
  prepare() {
    const { reached, at } = places();
    return {
      reached,
      run(random) {
        const lines: string[] = [];
        let last: Uint8Array | undefined;
        const runs = 1 + random.below(3);
        for (let run = 0; run < runs; run++) {
          const writer = new ChainWriter(last);
          lines.push(writer.start());
          const events = random.below(6);
          for (let event = 0; event < events; event++) lines.push(writer.event({ event: 'guard.violation', number: random.word() }));
          lines.push(writer.end());
          last = Buffer.from(lines[lines.length - 1]);
        }
        const before = lines.map((line) => Buffer.from(line) as Uint8Array);
        const after = before.map((line) => line);
        // The last line alone is nobody's witness: who changes it is found by the head that was kept elsewhere.
        for (const _ of random.steps(random.below(4))) {
          const where = random.below(after.length);
          switch (random.below(5)) {
            case 0:
              after.splice(where, 1);
              break;
            case 1:
              after.splice(where, 0, after[random.below(after.length)] ?? random.bytes(8));
              break;
            case 2:
              [after[where], after[0]] = [after[0] ?? random.bytes(3), after[where] ?? random.bytes(2)];
              break;
            case 3:
              after[where] = random.bytes(random.below(40));
              break;
            default:
              after[where] = mutate(random, after[where] ?? new Uint8Array(4));
          }
        }
        const reader = new ChainReader();
        reader.file();
        for (const line of after) reader.line(line);
        if (reader.broken) for (const [index, line] of after.entries()) reader.place(index + 1, line);
        const report = reader.report();
        const head = before.at(-1) as Uint8Array;
        const original = new ChainReader();
        original.file();
        for (const line of before) original.line(line);
        const same = after.length === before.length && after.every((line, index) => Buffer.from(line).equals(before[index]));
        const noticed = report.findings.length > 0 || !report.ended || report.head !== original.report().head;
        at(same ? 'untouched' : 'noticed');
        if (same && noticed) throw new Error(`an untouched log is called ${report.findings[0]?.kind ?? 'unfinished'}`);
        if (!same && !noticed) throw new Error(`a log of ${after.length} lines that is not the one written passes (${head.length})`);
        return 1;
      },
    };
  },
};

const OPTIONS = {
  kernel: '/nowhere/vmlinuz',
  memory: '256M',
  cpus: 2,
  net: ['peer', 'none,model=rtl8139', 'hub:a,mac=52:54:00:00:00:01'],
  name: 'web',
  append: 'console=ttyS0',
  timeout: 10,
  clock: 'instructions',
  seed: 3,
  put: ['bin/a=/dev/null'],
};

const config: Target = {
  name: 'config',
  about: 'changed config files and flags of a run: options, a machine that could be built, or a UserError',
  unit: 'file',
  share: 1500,
  reaches: ['options', 'refused', 'machine'],
  prepare() {
    const folder = mkdtempSync(join(tmpdir(), 'fuzz-config-'));
    const kernel = join(folder, 'kernel');
    writeFileSync(kernel, elf32(Uint8Array.from(HALT), { multiboot: true }));
    const path = join(folder, 'vm.json');
    const { reached, at } = places();
    return {
      reached,
      async run(random) {
        writeFileSync(path, mutateJson(random, { ...OPTIONS, kernel }));
        const flags: Record<string, unknown> = {};
        if (random.once(3)) flags.memory = Buffer.from(random.bytes(random.below(8))).toString('latin1');
        const options = refusable(() => resolveRunOptions(flags, path));
        at(options ? 'options' : 'refused');
        if (options && (await refusableLater(() => assemble(options, () => {})))) at('machine');
        return 1;
      },
      close: () => rmSync(folder, { recursive: true }),
    };
  },
};

/** LZ4 legacy frame of one block of literals. */
function lz4(data: Uint8Array): Uint8Array {
  const extra: number[] = [];
  for (let left = data.length - 15; left >= 0; left -= 255) extra.push(Math.min(left, 255));
  if (extra.at(-1) === 255) extra.push(0);
  const block = [0xf0, ...extra, ...data];
  const size = Buffer.alloc(8);
  size.writeUInt32LE(0x184c_2102, 0);
  size.writeUInt32LE(block.length, 4);
  return Buffer.concat([size, Uint8Array.from(block), new Uint8Array([data.length & 0xff, data.length >> 8, 0, 0])]);
}
/** Zstandard frame of one raw block (RFC 8878, 3.1.1), single segment. */
function zstd(data: Uint8Array): Uint8Array {
  const head = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0, 0, 0, 0]);
  head.writeUInt32LE(data.length, 5);
  head.writeUIntLE((data.length << 3) | 1, 9, 3);
  const size = Buffer.alloc(4);
  size.writeUInt32LE(data.length);
  return Buffer.concat([head, data, size]);
}

function bzImage(payload: Uint8Array): Uint8Array {
  const image = Buffer.alloc(1024 + payload.length);
  image[0x1f1] = 1;
  image.writeUInt16LE(0xaa55, 0x1fe);
  image[0x201] = 0x66;
  image.write('HdrS', 0x202, 'latin1');
  image.writeUInt16LE(0x020f, 0x206);
  image.writeUInt32LE(payload.length, 0x24c);
  image.set(payload, 1024);
  return image;
}

/** An ELF64 executable with a PT_LOAD at 1 MiB (gABI, "Program Header"). */
function elf64(code: Uint8Array): Uint8Array {
  const file = Buffer.alloc(120 + code.length);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  for (const [at, value] of [
    [16, 2],
    [18, 62],
    [52, 64],
    [54, 56],
    [56, 1],
  ])
    file.writeUInt16LE(value, at);
  file.writeUInt32LE(1, 20);
  for (const [at, value] of [
    [24, 0x10_0078],
    [32, 64],
    [72, 0],
    [80, 0x10_0000],
    [88, 0x10_0000],
    [96, file.length],
    [104, file.length + 4096],
    [112, 4096],
  ])
    file.writeBigUInt64LE(BigInt(value), at);
  file.writeUInt32LE(1, 64);
  file.writeUInt32LE(7, 68);
  file.set(code, 120);
  return file;
}

const kernelImage: Target = {
  name: 'kernel-image',
  about:
    'changed kernels of each boot protocol and compression, loaded into RAM: an entry inside RAM and nothing written outside, or a UserError',
  unit: 'file',
  share: 4000,
  reaches: ['read', 'refused', 'linux64', 'pvh', 'multiboot'],
  prepare() {
    const engine = createSoftEngine({ memorySize: 16 << 20, cpus: 1, clock: 'instructions' });
    const code = Uint8Array.from(HALT);
    const plain = elf64(code);
    const samples = [
      elf32(code, { multiboot: true }),
      elf32(code, { pvh: true }),
      plain,
      ...[plain, gzipSync(plain), lz4(plain), zstd(plain)].map(bzImage),
    ];
    const map = memoryMap(16 << 20);
    const { reached, at } = places();
    return {
      reached,
      async run(random) {
        const sample = random.pick(samples);
        const aim: [number, number][] =
          sample.length > 1024
            ? [
                [0x1f1, 0x290],
                [1024, sample.length],
              ]
            : [[0, sample.length]];
        const file = mutate(random, sample, aim);
        const initramfs = random.once(4) ? new Uint8Array(random.below(0x20_0000)) : undefined;
        const length = random.below(3000);
        const wanted = random.pick([undefined, undefined, undefined, 'linux64', 'pvh', 'multiboot'] as const);
        const image = await refusableLater(() => readKernelImage(file, 'k'));
        at(image ? 'read' : 'refused');
        if (!image) return 1;
        const protocol = refusable(() =>
          boot(
            engine.cpus[0],
            engine.memory,
            {
              elf: image.elf,
              setupHeader: image.setupHeader,
              name: 'k',
              initramfs,
              commandLine: 'x'.repeat(length),
              memoryMap: map,
              rsdp: 0xe0000,
            },
            wanted,
          ),
        );
        if (protocol) at(protocol);
        return 1;
      },
    };
  },
};

const payload: Target = {
  name: 'payload',
  about: 'changed and random compressed data (gzip, zstd, lz4) and program headers: data, or a UserError',
  unit: 'file',
  share: 1000,
  reaches: ['gzip', 'zstd', 'lz4', 'refused', 'headers'],
  prepare() {
    const text = Buffer.from('a text that repeats itself, a text that repeats itself; '.repeat(8));
    const samples = [gzipSync(text), lz4(text), zstd(text)];
    const { reached, at } = places();
    return {
      reached,
      async run(random) {
        const file = mutate(random, random.pick(samples), [[4, 24]]);
        const unpacked = file[0] === 0xfd ? undefined : await refusableLater(() => unpackPayload(file, 'k'));
        at(unpacked?.format ?? 'refused');
        const headers = refusable(() => readProgramHeaders(mutate(random, elf64(Uint8Array.from(HALT)), [[0, 120]]), 'k'));
        if (headers) at('headers');
        return 1;
      },
    };
  },
};

/** Reads a newc archive back (Linux Documentation/driver-api/early-userspace/buffer-format.rst), as the kernel would. */
function readCpio(archive: Uint8Array): { path: string; data: Uint8Array; mode: number }[] {
  const bytes = Buffer.from(archive);
  const found: { path: string; data: Uint8Array; mode: number }[] = [];
  for (let at = 0; ; ) {
    if (bytes.toString('latin1', at, at + 6) !== '070701') throw new Error(`no header at ${at}`);
    const field = (index: number) => Number.parseInt(bytes.toString('latin1', at + 6 + 8 * index, at + 14 + 8 * index), 16);
    const [size, length] = [field(6), field(11)];
    const path = bytes.toString('utf8', at + 110, at + 110 + length - 1);
    const start = (at + 110 + length + 3) & ~3;
    if (path === 'TRAILER!!!') return found;
    found.push({ path, data: bytes.subarray(start, start + size), mode: field(1) });
    at = (start + size + 3) & ~3;
  }
}

const cpio: Target = {
  name: 'cpio',
  about: 'archives of random entries: read back by a reader of the format, the same entries, every parent before its children',
  unit: 'archive',
  share: 2000,
  reaches: ['entries'],
  prepare() {
    const { reached, at } = places();
    return {
      reached,
      run(random) {
        const names = ['a', 'bin', 'x.ko', 'h\u00e9', 'a b', '.'.repeat(3), 'n'.repeat(200)];
        const entries: CpioEntry[] = [];
        const paths = new Set<string>();
        for (const _ of random.steps(random.below(12))) {
          const path = Array.from({ length: 1 + random.below(4) }, () => random.pick(names)).join('/');
          if (paths.has(path) || [...paths].some((other) => path.startsWith(`${other}/`) || other.startsWith(`${path}/`))) continue;
          paths.add(path);
          entries.push(
            random.pick<CpioEntry>([
              { kind: 'file', path, data: random.bytes(random.below(50)) },
              { kind: 'folder', path },
              { kind: 'link', path, target: random.pick(names) },
              { kind: 'device', path, character: true, major: random.below(256), minor: random.below(256) },
            ]),
          );
        }
        const read = readCpio(buildCpio(entries));
        const seen = new Set(['']);
        for (const { path } of read) {
          if (seen.has(path)) throw new Error(`${path} is there twice`);
          const parent = path.split('/').slice(0, -1).join('/');
          if (!seen.has(parent)) throw new Error(`${path} comes before its folder`);
          seen.add(path);
        }
        for (const entry of entries) {
          const found = read.find(({ path }) => path === entry.path);
          if (!found) throw new Error(`${entry.path} is missing`);
          if (entry.kind === 'file') expectSame(entry.path, found.data, entry.data);
          if (entry.kind === 'link') expectSame(entry.path, found.data, entry.target);
          at('entries');
        }
        return 1;
      },
    };
  },
};

export const FILE_TARGETS: readonly Target[] = [elf, manifest, grant, auditChain, config, kernelImage, payload, cpio];
