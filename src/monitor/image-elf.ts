/** The registered image from its file: what the manifest says, joined with the ELF structure of the guarded .ko. */
import { UserError } from '../base/errors.ts';
import { R } from '../elf/constants.ts';
import type { ElfObject, Section } from '../elf/object.ts';
import { readObject } from '../elf/read.ts';
import type { Manifest, ManifestSection } from '../policy/manifest.ts';
import { createImage } from './image.ts';
import type { ImageRelocation, ImageSection, ImageSource } from './image.ts';

/** Metadata that the monitor reads: where WARN stands, exception fixups, and stack frame sizes. */
const READ_METADATA = ['__bug_table', '__ex_table', '.orc_unwind', '.orc_unwind_ip'];

/** Throws UserError when the file is not the one that the manifest describes. Digests are checked by the caller, who has verified the grant. */
export function imageFromElf(file: Uint8Array, manifest: Manifest): ImageSource {
  const object = readObject(file, `image of ${manifest.module}`);
  const places = new Map<Section, number>();
  const chosen = manifest.sections.map((entry, index) => {
    const section = find(object, manifest, entry);
    places.set(section, index);
    return section;
  });
  const sections = manifest.sections.map((entry, index): ImageSection => {
    const section = chosen[index];
    const mapped = entry.role !== 'data' && entry.role !== 'metadata';
    const read = mapped || READ_METADATA.includes(entry.name);
    const size = section.size;
    // Zeros are made only for what will be mapped: a hostile .bss may claim a gigabyte.
    const bytes = !read ? new Uint8Array(0) : section.data.length === size ? section.data : new Uint8Array(limited(size, manifest, entry));
    return {
      name: entry.name,
      role: entry.role,
      init: entry.init,
      size,
      align: section.alignment,
      bytes,
      relocations: read ? relocationsOf(section, places, manifest) : [],
    };
  });
  return createImage(manifest, sections);
}

function find(object: ElfObject, manifest: Manifest, entry: ManifestSection): Section {
  const section = object.sections[entry.index];
  if (section?.name !== entry.name || section.size !== entry.size) {
    throw new UserError(
      `image of ${manifest.module}: section ${entry.index} is ${section ? `${section.name} of ${section.size} bytes` : 'missing'}; ` +
        `its manifest says ${entry.name} of ${entry.size} bytes`,
      'use the manifest that was made with this image',
    );
  }
  return section;
}

function limited(size: number, manifest: Manifest, entry: ManifestSection): number {
  if (size > 16 << 20)
    throw new UserError(`image of ${manifest.module}: section ${entry.name} of ${size} bytes; at most 16 MiB can be guarded`);
  return size;
}

function relocationsOf(section: Section, places: ReadonlyMap<Section, number>, manifest: Manifest): ImageRelocation[] {
  const out: ImageRelocation[] = [];
  for (const { offset, type, symbol, addend } of section.relocations) {
    if (type === R.none) continue;
    if (symbol.place === 'undefined') {
      out.push({ offset, type, section: -1, symbol: symbol.name, addend });
      continue;
    }
    const target = typeof symbol.place === 'string' ? undefined : places.get(symbol.place);
    if (target === undefined) {
      throw new UserError(
        `image of ${manifest.module}: ${section.name}+${offset} refers to ${symbol.name || 'a section'}, which is in no section that the manifest lists`,
        'link the module again',
      );
    }
    out.push({ offset, type, section: target, symbol: symbol.name, addend: symbol.value + addend });
  }
  return out;
}
