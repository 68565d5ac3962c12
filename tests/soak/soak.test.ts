/** The soak in small, and faults that end a machine: what cannot be part of a run that must go on. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { elf32, exitWith, print } from '../boots/bare-metal.ts';
import { cli, lastJson, portcullis, scratch, skipReason } from '../boots/guest.ts';

const space = scratch();
afterAll(() => space.remove());

test('a minute of guarded traffic with every fault: nothing is lost, nothing stays open', { timeout: 400_000 }, () => {
  const tool = fileURLToPath(new URL('../../tools/soak.mjs', import.meta.url));
  const { status, stdout, stderr } = spawnSync(process.execPath, [tool, '--minutes', '0.75', '--json'], {
    encoding: 'utf8',
    env: { ...process.env, PORTCULLIS_SOAK_BUILT: '1' },
    maxBuffer: 64 << 20,
    timeout: 380_000,
  });
  const result = lastJson(stdout);
  expect(
    result.checks.filter(({ ok }: { ok: boolean }) => !ok),
    `seed ${result.seed}\n${stderr}\n${result.errors}\n${result.tail}`,
  ).toEqual([]);
  expect(status).toBe(0);
  // A run without work would hold, too.
  expect(result.crossings.callIn).toBeGreaterThan(500);
  expect(result.checks.length).toBeGreaterThan(10);
});

test('npm run soak says how it is used', () => {
  const tool = fileURLToPath(new URL('../../tools/soak.mjs', import.meta.url));
  const help = spawnSync(process.execPath, [tool, '--help'], { encoding: 'utf8' });
  expect([help.status, help.stdout]).toEqual([0, expect.stringContaining('--minutes M')]);
  for (const wrong of [
    ['--minutes', '0'],
    ['--seed', 'x'],
    ['--sed', '1'],
  ])
    expect(spawnSync(process.execPath, [tool, ...wrong]).status, wrong.join(' ')).toBe(2);
});

const SPIN = [0xeb, 0xfe];
const kernel = (code: readonly number[]) => space.write('kernel.elf', elf32(Uint8Array.from(code), { multiboot: true }));
const small = (code: readonly number[]) => ['run', '--kernel', kernel(code), '--memory', '16M', '--debug-exit', '0xf4', '--timeout', '60'];

/** A disk of 8 KiB, of which so much is taken; then `command`. */
const onDisk = (taken: number, command: string) => {
  const disk = join(space.folder, 'disk');
  mkdirSync(disk, { recursive: true });
  const script = `mount -t tmpfs -o size=8k none '${disk}' && head -c ${taken} /dev/zero > '${disk}/ballast' && ${command}`;
  return spawnSync('unshare', ['-m', 'sh', '-c', script], { encoding: 'utf8', cwd: space.folder, timeout: 120_000 });
};
const mountable = spawnSync('unshare', ['-m', 'sh', '-c', 'mount -t tmpfs none /mnt'], { stdio: 'ignore' }).status === 0;

describe.skipIf(skipReason(mountable ? undefined : 'not root: no file system that can be filled'))(
  'the disk of the event log is full',
  () => {
    const line = (args: readonly string[]) => `'${process.execPath}' '${cli}' ${args.map((word) => `'${word}'`).join(' ')}`;
    const run = line([...small([...print('done\n'), ...exitWith(0)]), '--events', 'disk/events.ndjson']);

    test('from the start: no machine without its log', () => {
      const { status, stdout, stderr } = onDisk(8192, run);
      expect(stdout).toBe('');
      expect(stderr).toMatch(/ENOSPC.*\n.*--events-lost continue/);
      expect(status).toBe(1);
    });

    test('later: the machine waits, and goes on when there is room', () => {
      // The log's own page is there; what is written behind it finds none.
      const { status, stdout, stderr } = onDisk(
        4096,
        `head -c 3950 /dev/zero | tr '\\0' x > disk/events.ndjson; echo >> disk/events.ndjson; (sleep 3; rm disk/ballast) & ${run}; code=$?; tail -n +2 disk/events.ndjson > log; exit $code`,
      );
      expect(stderr).toContain('cannot be written: ENOSPC: no space left on device, write; the machine waits until it can be');
      expect(stderr).toContain('is written again');
      expect(stdout).toBe('done\n');
      expect(status).toBe(0);
      const names = readFileSync(join(space.folder, 'log'), 'utf8')
        .trimEnd()
        .split('\n')
        .map((text) => JSON.parse(text).event);
      expect(names).toEqual(['audit.started', 'vm.started', 'vm.ended', 'audit.ended']);
    });

    test('and the administrator says stop: exit code 42', () => {
      const spin = line([...small(SPIN), '--events', 'disk/events.ndjson', '--events-lost', 'stop', '--json']);
      const { status, stdout, stderr } = onDisk(
        4096,
        `head -c 3950 /dev/zero | tr '\\0' x > disk/events.ndjson; echo >> disk/events.ndjson; ${spin}`,
      );
      expect(stderr).toContain('the machine is stopped');
      expect(status).toBe(42);
      const result = lastJson(stdout);
      expect(result).toMatchObject({ ok: false, exit: 'unaudited', code: 42, outcome: { kind: 'stopped' } });
      expect(result.eventsLost).toBeGreaterThan(0);
    });
  },
);

test('a machine whose log waits can be ended, and its time limit holds', () => {
  const fifo = join(space.folder, 'fifo');
  // Something reads the pipe's start and never more; the console floods nothing, so only a full log could hold it up.
  const script = `mkfifo '${fifo}'; sleep 100 < '${fifo}' & reader=$!; '${process.execPath}' '${cli}' ${small(SPIN).slice(0, -1).join(' ')} 2 --events '${fifo}'; code=$?; kill $reader; exit $code`;
  const { status, stderr } = spawnSync('sh', ['-c', script], { encoding: 'utf8', timeout: 60_000 });
  expect(stderr).toContain('time limit');
  expect(status).toBe(36);
});

test('a reader of the event log that leaves ends the machine: exit code 42; with continue it goes on', async () => {
  const start = (...more: string[]) => {
    const args = [cli, ...small(SPIN).slice(0, -1), '4', '--events', 'fd:3', ...more];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe', 'pipe'] });
    let stderr = '';
    child.stderr?.on('data', (chunk) => {
      stderr += chunk;
    });
    child.stdio[3]?.once('data', () => child.stdio[3]?.destroy());
    return new Promise<{ code: number | null; stderr: string }>((resolve) => child.on('close', (code) => resolve({ code, stderr })));
  };
  const [hold, onward] = await Promise.all([start(), start('--events-lost', 'continue')]);
  // Nothing tells a writer that its reader has left but the next write: that of the machine's start, or, if the reader was slow, of its end.
  expect(hold.stderr).toMatch(/the event log fd:3 (ended|lacks)/);
  expect([36, 42]).toContain(hold.code);
  expect(onward.code).toBe(36);
});

test('a console that is closed ends the machine in order: its log has its end', () => {
  const log = join(space.folder, 'closed.ndjson');
  const flood = kernel([...print('ready\n'), 0xb0, 0x0a, 0xee, 0xeb, 0xfd]); // out dx, al for ever
  const script = `'${process.execPath}' '${cli}' run --progress none --kernel '${flood}' --memory 16M --timeout 60 --events '${log}' < /dev/null | head -c 1000 > /dev/null`;
  const { stderr } = spawnSync('sh', ['-c', script], { encoding: 'utf8', timeout: 120_000 });
  expect(stderr).toBe('portcullis: stopped\n');
  expect(portcullis(['audit', 'verify', log]).out).toContain('whole');
});
