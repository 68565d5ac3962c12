/** An initramfs archive in the "newc" format (Linux Documentation/driver-api/early-userspace/buffer-format.rst). */

export type CpioEntry =
  | { kind: 'file'; path: string; mode?: number; data: Uint8Array }
  | { kind: 'folder'; path: string; mode?: number }
  | { kind: 'link'; path: string; target: string }
  | { kind: 'device'; path: string; mode?: number; character: boolean; major: number; minor: number };

const TYPE = { file: 0o100000, folder: 0o040000, link: 0o120000, character: 0o020000, block: 0o060000 } as const;

function modeOf(entry: CpioEntry): number {
  switch (entry.kind) {
    case 'file':
      return TYPE.file | (entry.mode ?? 0o644);
    case 'folder':
      return TYPE.folder | (entry.mode ?? 0o755);
    case 'link':
      return TYPE.link | 0o777;
    case 'device':
      return (entry.character ? TYPE.character : TYPE.block) | (entry.mode ?? 0o600);
  }
}

/** Builds the archive. Parent folders that are not listed are added. Paths are relative, without a leading slash. Same input, same bytes. */
export function buildCpio(entries: readonly CpioEntry[]): Uint8Array {
  const chunks: Uint8Array[] = [];
  let offset = 0;
  let inode = 1;
  const push = (bytes: Uint8Array) => {
    chunks.push(bytes);
    offset += bytes.length;
    const pad = -offset & 3;
    if (pad) chunks.push(new Uint8Array(pad));
    offset += pad;
  };
  const add = (path: string, mode: number, data: Uint8Array, rdev: [number, number] = [0, 0], links = 1) => {
    const name = Buffer.from(`${path}\0`);
    const fields = [inode++, mode, 0, 0, links, 0, data.length, 0, 0, rdev[0], rdev[1], name.length, 0];
    push(Buffer.concat([Buffer.from(`070701${fields.map((value) => value.toString(16).padStart(8, '0')).join('')}`), name]));
    if (data.length) push(data);
  };
  const seen = new Set<string>();
  const none = new Uint8Array(0);
  const parents = (path: string) => {
    const parts = path.split('/');
    for (let depth = 1; depth < parts.length; depth++) {
      const folder = parts.slice(0, depth).join('/');
      if (!seen.has(folder)) {
        seen.add(folder);
        add(folder, TYPE.folder | 0o755, none);
      }
    }
  };
  for (const entry of entries) {
    parents(entry.path);
    if (entry.kind === 'folder' && seen.has(entry.path)) continue;
    seen.add(entry.path);
    switch (entry.kind) {
      case 'file':
        add(entry.path, modeOf(entry), entry.data);
        break;
      case 'folder':
        add(entry.path, modeOf(entry), none);
        break;
      case 'link':
        add(entry.path, modeOf(entry), Buffer.from(entry.target));
        break;
      case 'device':
        add(entry.path, modeOf(entry), none, [entry.major, entry.minor]);
        break;
    }
  }
  add('TRAILER!!!', 0, none);
  return Buffer.concat(chunks);
}
