/** The example of docs/privileges.md, so that it keeps working; and the header for module writers, so that it keeps saying what the VMM does. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { Attachment, Privilege, PrivilegeTarget } from '../monitor/privilege.ts';
import {
  HEAP_HEADER,
  HEAP_SECTION,
  PRIVILEGE_BITS,
  SECRET_SECTION,
  STACK_SECTION,
  STATUS_MAGIC,
  STATUS_SECTION,
  STATUS_VERSION,
} from '../policy/private-memory.ts';
import { badParameter, onlyParameters, type Parameters } from './parameters.ts';
import { PRIVILEGE_KINDS } from './privileges.ts';
import { G, Guest, granted, registered, tinyImage } from './testing.ts';

// example begins
/** `vm-name`: tells the module, in its private memory, in which virtual machine it runs. A guest can lie about that; the VMM does not. */
const VM_NAME = 'vm-name';
const SECTION = '.portcullis.private.vm-name';

/** `bytes`: how much room the module has, 1 to 256. Throws UserError. */
function vmNameParameters(parameters: Parameters): { bytes: number } {
  onlyParameters(VM_NAME, parameters, ['bytes']);
  const bytes = Number(parameters.bytes ?? 256);
  if (!(Number.isInteger(bytes) && bytes >= 1 && bytes <= 256))
    throw badParameter(VM_NAME, `bytes ${parameters.bytes}`, 'a number from 1 to 256');
  return { bytes };
}

class VmNamePrivilege implements Privilege {
  readonly kind = VM_NAME;
  readonly description: string;

  constructor(
    private readonly name: string,
    private readonly bytes: number,
  ) {
    this.description = `the name of the machine, ${name}`;
  }

  attach(target: PrivilegeTarget): Attachment {
    const place = target.privateSection(SECTION);
    place?.write(0, Buffer.from(this.name).subarray(0, this.bytes));
    return { passive: true, raise: () => {}, lower: () => {}, detach: () => place?.clear() };
  }
}
// example ends

test('the example works', () => {
  const { bytes } = vmNameParameters({ bytes: '4' });
  expect(() => vmNameParameters({ bytes: 0 })).toThrow(/found|expected/);
  const image = tinyImage({ privateName: SECTION });
  const guest = new Guest([registered(image, granted({ privileges: [new VmNamePrivilege('web-1', bytes)] }))]);
  guest.start(image);
  guest.call(G.probe);
  const memory = guest.cpu.view.fixedPages.map(({ page }) => Buffer.from(page.bytes));
  expect(memory.some((page) => page.subarray(0, 4).toString() === 'web-')).toBe(true);
});

const page = readFileSync(new URL('../../docs/privileges.md', import.meta.url), 'utf8');

test('docs/privileges.md shows the example, and every kind', () => {
  const source = readFileSync(new URL(import.meta.url), 'utf8');
  const [, example] = /\/\/ example begins\n([\s\S]*?)\/\/ example ends\n/.exec(source) ?? [];
  expect(page.replaceAll(/^export /gm, '')).toContain(example);
  for (const kind of PRIVILEGE_KINDS) expect(page).toContain(`\`${kind}\``);
});

test('modules/portcullis.h has the names and numbers of policy/private-memory.ts', () => {
  const header = readFileSync(new URL('../../modules/portcullis.h', import.meta.url), 'utf8');
  for (const section of [STATUS_SECTION, HEAP_SECTION, `${STACK_SECTION}.`, SECRET_SECTION]) expect(header).toContain(`"${section}"`);
  expect(header).toContain(`#define PORTCULLIS_MAGIC 0x${STATUS_MAGIC.toString(16)}u`);
  expect(header).toContain(`#define PORTCULLIS_VERSION ${STATUS_VERSION}u`);
  expect(header).toContain(`u8 memory[(bytes) - ${HEAP_HEADER}]`);
  for (const [kind, bit] of Object.entries(PRIVILEGE_BITS)) {
    const name = kind === 'secret' ? 'SECRET_KIND' : kind.replaceAll('-', '_').toUpperCase();
    expect(header).toContain(`#define PORTCULLIS_${name} ${bit}u`);
  }
});
