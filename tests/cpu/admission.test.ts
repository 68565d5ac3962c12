/** What may run on a host, by example: nothing that enters its kernel, nothing of features that the engine lacks, nothing without one outcome. */
import { expect, test } from 'vitest';
import { opcodeTable } from '../../src/engine/soft/isa/table.ts';
import { admit, type Sides } from './admission.ts';
import { newCase } from './fixture.ts';
import { rowFinder } from './match.ts';

const features = new Set(['INTEL8086', 'INTEL386', 'INTEL486', 'X64', 'SSE', 'SYSCALL', 'SEP', 'TSC']);
const sides: Sides = { engine: features, host: features, rowOf: rowFinder(opcodeTable()) };

test.each([
  ['0f05', 'a system call'],
  ['0f34', 'a system call'],
  ['cd80', 'INT n other than 3 and 4: gates of the host'],
  ['eb01900f05', 'a system call'], // jumped to
  ['7402eb000f05', 'a system call'], // behind a branch on either way
  ['0f31', 'time, counters, random numbers'],
  ['8ed8', 'descriptors of the host'],
  ['ebfe', 'a branch back: may not end'],
  ['660fc8', 'undefined: BSWAP of 16 bits'],
  ['21d89c', 'reads a flag that another left undefined'], // AND; PUSHF
  ['f0f0f0f0f00f04', 'undefined, or too long'],
  ['6767268f8a966fa9a4e5a673e36e66', 'undefined, or too long'], // XOP
  ['660f01c1cccccccccccccccccccccc', 'a call of the hypervisor'],
])('%s: left out: %s', (code, reason) => {
  const verdict = admit(newCase(64, Buffer.from(code, 'hex'), 'gi', 1), sides);
  expect(verdict).toEqual({ kind: 'leave out', reason });
});

// The last: KORB with a reserved bit, which Zen 4 executes
test.each(['c5f877', '0f01d9', '660f78c00102', 'c56545c3cccccccccccccccccccccc'])(
  '%s, of a feature that the engine lacks, must be refused',
  (code) => {
    expect(admit(newCase(64, Buffer.from(code, 'hex'), 'gi', 1), sides)).toEqual({ kind: 'refuse' });
  },
);

test.each([
  ['01d8', 'ADD'],
  ['f34190', 'PAUSE'],
  ['660f58c0', 'ADDPD'],
])('%s is compared, by the row of %s', (code, mnemonic) => {
  const both = { ...sides, engine: new Set([...features, 'SSE2', 'PAUSE']), host: new Set([...features, 'SSE2', 'PAUSE']) };
  expect(admit(newCase(64, Buffer.from(code, 'hex'), 'gi', 1), both)).toMatchObject({ kind: 'compare', row: { mnemonic } });
});

test('an instruction behind one that leaves a flag undefined is compared when it reads others', () => {
  const program = newCase(64, [0x21, 0xd8, 0x0f, 0x9a, 0xc0], 'gi', 1); // AND EAX, EBX; SETP AL
  expect(admit(program, sides)).toEqual({ kind: 'compare', row: undefined, instructions: 2 });
  expect(program.undefinedFlags).toBe(0x10); // AF
});
