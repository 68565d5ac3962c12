/** What a stock guest does on this machine beside its drivers: ends, the deterministic clock, 32-bit programs, a C module of one's own. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { isOnPath } from '../../src/guest/c-module.ts';
import { elf32 } from './bare-metal.ts';
import { boot, portcullis, scratch, skipReason, succeed } from './guest.ts';

const space = scratch();
afterAll(() => space.remove());

describe('how a guest ends', () => {
  test.each([
    ['panic', 'echo c > /proc/sysrq-trigger', 34, 'panic'],
    ['reboot', 'reboot -f', 32, 'reset'],
    ['halt', 'halt -f', 0, 'ok'],
    ['power off, having said "Kernel panic - not syncing" itself', 'echo Kernel panic - not syncing; poweroff -f', 0, 'ok'],
  ])('%s', { timeout: 120_000 }, (_, script, code, exit) => {
    const ended = boot(space.folder, script);
    expect(ended.code).toBe(code);
    expect(ended.result).toMatchObject({ ok: code === 0, exit, code });
  });
});

test('what is piped in before the guest listens reaches its shell', { timeout: 120_000 }, () => {
  const { code, out } = portcullis(['run', '--append', 'quiet', '--timeout', '60'], {
    input: 'echo $((6 * 7))-from-the-pipe\npoweroff -f\n',
  });
  expect(code).toBe(0);
  expect(out).toContain('42-from-the-pipe');
});

test('with the deterministic clock the same guest runs the same, to the byte and the instruction', { timeout: 240_000 }, () => {
  const script = 'uname -a; cat /proc/interrupts /proc/uptime; date; head -c 16 /dev/urandom | hexdump -C; dmesg | sha256sum';
  const once = boot(space.folder, script, '--clock', 'instructions', '--net', 'peer');
  const again = boot(space.folder, script, '--clock', 'instructions', '--net', 'peer');
  expect(once.code).toBe(0);
  expect(again.console).toBe(once.console);
  expect(again.result).toEqual(once.result);
});

test('a 32-bit user program prints and exits by int 0x80', { timeout: 120_000 }, () => {
  const text = 'thirty-two bits\n';
  const program = elf32(
    Uint8Array.from([
      0xe8,
      text.length,
      0,
      0,
      0,
      ...Buffer.from(text), // call over the text
      0x59, // pop ecx
      0xba,
      text.length,
      0,
      0,
      0, // mov edx, length
      0xbb,
      1,
      0,
      0,
      0,
      0xb8,
      4,
      0,
      0,
      0,
      0xcd,
      0x80, // write(1, ecx, edx)
      0xbb,
      7,
      0,
      0,
      0,
      0xb8,
      1,
      0,
      0,
      0,
      0xcd,
      0x80, // exit(7)
    ]),
  );
  const { console: screen } = boot(space.folder, '/program; echo "code $?"', '--put', `program=${space.write('program', program)}`);
  expect(screen).toContain('thirty-two bits\ncode 7');
});

const lacking = ['gcc', 'make'].filter((name) => !isOnPath(name));
test.skipIf(skipReason(lacking.length ? `no ${lacking.join(' and ')}: C module not built` : undefined))(
  'a C module is built, linked, granted, and runs guarded',
  { timeout: 240_000 },
  () => {
    const source = fileURLToPath(new URL('../../modules/example/example.c', import.meta.url));
    const ok = (...args: string[]) => succeed(space.folder, ...args);
    ok('build-module', source);
    expect(existsSync(`${space.folder}/example.ko`)).toBe(true);
    ok('link', './example.ko');
    ok('keygen', 'admin');
    ok('grant', '--manifest', 'example.guarded.ko.manifest.json', '--key', 'admin.key', '--vm', 'vm', '--output', 'example.grant.json');
    const {
      code,
      result,
      console: screen,
    } = boot(
      space.folder,
      `
cd /sys/module
insmod /lib/modules/example.ko step=20
cat example/parameters/counter
echo 1 > example/parameters/step
cat example/parameters/counter
rmmod example
dmesg | grep example:
`,
      '--module',
      'example.guarded.ko',
      '--grant',
      'example.grant.json',
      '--trust',
      'admin.pub',
    );
    expect(code).toBe(0);
    expect(screen).toMatch(/\n20\n21\n/);
    expect(screen).toContain('example: loaded, step 20');
    expect(screen).toContain('example: unloaded after 21');
    expect(result.modules).toEqual([{ module: 'example', state: 'ended', calls: { in: 4, out: 4 } }]);
    expect(result.refusals).toEqual([]);
  },
);

test('a module that does not compile: the compiler is quoted, without our folders', () => {
  if (lacking.length) return expect(lacking).not.toEqual([]);
  const { code, err } = portcullis(['build-module', space.write('wrong.c', 'int x = ;\n')]);
  expect(code).toBe(1);
  expect(err).toContain('wrong.c:1:9: error:');
  expect(err).not.toContain('portcullis-module-');
});
