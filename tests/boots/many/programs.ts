/**
 * Programs of Debian packages for the guest, with the shared libraries that they name: busybox makes no virtual links and no journalled file
 * systems. The packages are listed by hand, so that a program's optional dependencies (perl, debconf, ...) stay out of the archive.
 */
import { readdirSync, readFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { readProgramHeaders, type Segment } from '../../../src/elf/program.ts';
import { fetchPackage } from '../../../src/guest/packages.ts';

/** Program by name: the package that has it and the packages of its libraries. */
const PROGRAMS = {
  ip: ['iproute2', 'libbpf1', 'libelf1', 'libmnl0', 'libbsd0', 'libmd0', 'libcap2', 'zlib1g'],
  tc: ['iproute2', 'libbpf1', 'libelf1', 'libmnl0', 'libbsd0', 'libmd0', 'libcap2', 'zlib1g', 'libxtables12'],
  bridge: ['iproute2', 'libmnl0', 'libcap2'],
  tipc: ['iproute2', 'libmnl0', 'libcap2'],
  nft: [
    'nftables',
    'libnftables1',
    'libnftnl11',
    'libmnl0',
    'libgmp10',
    'libjansson4',
    'libxtables12',
    'libedit2',
    'libbsd0',
    'libmd0',
    'libtinfo6',
  ],
  'xtables-legacy-multi': ['iptables', 'libxtables12', 'libip4tc2', 'libip6tc2'],
  ipset: ['ipset', 'libipset13', 'libmnl0'],
  iw: ['iw', 'libnl-3-200', 'libnl-genl-3-200'],
  wg: ['wireguard-tools'],
  mke2fs: ['e2fsprogs', 'libext2fs2', 'libcom-err2', 'libblkid1', 'libuuid1'],
  mksquashfs: ['squashfs-tools', 'liblzma5', 'liblzo2-2', 'zlib1g', 'liblz4-1', 'libzstd1', 'libgcc-s1'],
  dmsetup: ['dmsetup', 'libdevmapper1.02.1', 'libudev1', 'libselinux1', 'libpcre2-8-0', 'libcap2'],
  mdadm: ['mdadm', 'libudev1', 'libcap2'],
  socat: [
    'socat',
    'libssl3',
    'libwrap0',
    'libreadline8',
    'libnsl2',
    'libtirpc3',
    'libtinfo6',
    'libgssapi-krb5-2',
    'libkrb5-3',
    'libk5crypto3',
    'libkrb5support0',
    'libcom-err2',
    'libkeyutils1',
  ],
  'kcapi-dgst': ['kcapi-tools', 'libkcapi1'],
  'kcapi-enc': ['kcapi-tools', 'libkcapi1'],
  'kcapi-rng': ['kcapi-tools', 'libkcapi1'],
  fuse2fs: ['fuse2fs', 'libfuse2', 'libext2fs2', 'libcom-err2', 'libblkid1', 'libuuid1'],
} as const satisfies Record<string, readonly string[]>;

export type ProgramName = keyof typeof PROGRAMS;

/** Libraries that a program opens by itself, with the folder where it looks for them; libgcc_s is glibc's when a thread ends. */
const OPENED: Partial<Record<ProgramName, { folder: string; files: readonly string[] }>> = {
  'xtables-legacy-multi': {
    folder: 'usr/lib/x86_64-linux-gnu/xtables',
    files: [
      'libxt_standard.so',
      'libxt_conntrack.so',
      'libxt_set.so',
      'libxt_MASQUERADE.so',
      'libipt_REJECT.so',
      'libxt_tcp.so',
      'libipt_icmp.so',
    ],
  },
  mksquashfs: { folder: 'lib/x86_64-linux-gnu', files: ['libgcc_s.so.1'] },
};

/** Every program needs these. */
const EVERY = ['libc6'];

/** ELF dynamic section (gABI "Dynamic Section"). */
const PT_DYNAMIC = 2;
const PT_LOAD = 1;
const DT_NEEDED = 1;
const DT_STRTAB = 5;

/** Names of the libraries that a program or library needs. */
function neededLibraries(path: string): string[] {
  const { segments } = readProgramHeaders(readFileSync(path), path);
  const dynamic = segments.find(({ type }) => type === PT_DYNAMIC);
  if (!dynamic) return [];
  const view = new DataView(dynamic.data.buffer, dynamic.data.byteOffset, dynamic.data.byteLength);
  const tags = Array.from({ length: view.byteLength / 16 }, (_, index) => ({
    tag: Number(view.getBigUint64(16 * index, true)),
    value: view.getBigUint64(16 * index + 8, true),
  }));
  const table = tags.find(({ tag }) => tag === DT_STRTAB)?.value ?? 0n;
  const holder = segments.find(
    ({ type, virtualAddress, data }: Segment) =>
      type === PT_LOAD && table >= virtualAddress && table < virtualAddress + BigInt(data.length),
  );
  if (!holder) throw new Error(`${path} has no string table`);
  const strings = Buffer.from(holder.data.subarray(Number(table - holder.virtualAddress)));
  return tags
    .filter(({ tag }) => tag === DT_NEEDED)
    .map(({ value }) => strings.toString('latin1', Number(value), strings.indexOf(0, Number(value))));
}

/** Files of an unpacked package, links followed, by base name. */
function filesOf(folder: string): Map<string, string> {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true }).filter(
    (entry) => (entry.isFile() || entry.isSymbolicLink()) && /\/(s?bin|lib64|lib(\/x86_64-linux-gnu(\/xtables)?)?)$/.test(entry.parentPath),
  );
  return new Map(entries.map((entry) => [entry.name, join(entry.parentPath, entry.name)]));
}

/** Fetches what the programs need. Gives `--put` arguments: programs in /usr/bin, libraries in /lib/x86_64-linux-gnu, the loader in /lib64. */
export async function programs(names: readonly ProgramName[]): Promise<string[]> {
  const found = new Map<string, string>();
  for (const name of new Set([...names.flatMap((program): readonly string[] => PROGRAMS[program]), ...(names.length > 0 ? EVERY : [])])) {
    for (const [file, path] of filesOf((await fetchPackage(name, () => {})).folder)) if (!found.has(file)) found.set(file, path);
  }
  const put = new Map<string, string>();
  const add = (file: string, folder: string) => {
    const path = found.get(file);
    if (path === undefined) throw new Error(`no package of ${names.join(', ')} has ${file}`);
    const guest = `${folder}/${file}`;
    if (put.has(guest)) return;
    put.set(guest, realpathSync(path));
    for (const needed of neededLibraries(path)) add(needed, needed.startsWith('ld-linux') ? 'lib64' : 'lib/x86_64-linux-gnu');
  };
  for (const name of names) {
    add(name, 'usr/bin');
    for (const file of OPENED[name]?.files ?? []) add(file, OPENED[name]?.folder ?? '');
  }
  if (names.length > 0) add('ld-linux-x86-64.so.2', 'lib64');
  return [...put].flatMap(([guest, host]) => ['--put', `${guest}=${host}`]);
}
