/** The console on a real terminal (a pseudo-terminal made by `script`): escape keys, and the terminal given back as it was, however the run ends. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { afterAll, describe, expect, test } from 'vitest';
import { isOnPath } from '../../src/guest/c-module.ts';
import { elf32, exitWith, print, SPIN, TRIPLE_FAULT } from './bare-metal.ts';
import { cli, portcullis, scratch, skipReason } from './guest.ts';

const space = scratch();
afterAll(() => space.remove());

/** Prints "ready", then prints each byte of input back, 0x03 (ctrl-c) as well; a "q" ends the run with code 5. */
const ECHO = [
  ...print('ready\n'),
  0x66,
  0xba,
  0xfd,
  0x03, // mov dx, 0x3fd: line status
  0xec,
  0xa8,
  0x01,
  0x74,
  0xfb, // in al, dx; test al, 1; jz -5
  0x66,
  0xba,
  0xf8,
  0x03,
  0xec, // mov dx, 0x3f8; in al, dx
  0x3c,
  0x71,
  0x74,
  0x09, // cmp al, 'q'; je +9
  0x3c,
  0x03,
  0x75,
  0x02,
  0xb0,
  0x43, // cmp al, 3; jne +2; mov al, 'C'
  0xee,
  0xeb,
  0xe3, // out dx, al; jmp back to the line status
  ...exitWith(5),
];
const kernel = (code: readonly number[]) => space.write('kernel.elf', elf32(Uint8Array.from(code), { multiboot: true }));

/** Runs on a pseudo-terminal; `keys` are typed one after the other once "ready" or `until` is on the screen. Gives the screen and the states of the terminal before and after. */
function onTerminal(
  code: readonly number[],
  react: (screen: string, type: (keys: string) => void) => void,
  more = '',
): Promise<{ screen: string; before: string; after: string; code: string }> {
  const shell = `stty -g > before; ${process.execPath} ${cli} run --kernel ${kernel(code)} --memory 16M --debug-exit 0xf4 --timeout 30 ${more} & child=$!; echo $child > pid; fg >/dev/null; echo $? > code; stty -g > after`;
  const child = spawn('script', ['-qec', `bash -mc '${shell}'`, '/dev/null'], { cwd: space.folder, stdio: ['pipe', 'pipe', 'inherit'] });
  let screen = '';
  child.stdout.on('data', (chunk) => {
    screen += chunk;
    react(screen, (keys) => {
      child.stdin.write(keys);
    });
  });
  const read = (name: string) => readFileSync(`${space.folder}/${name}`, 'utf8').trim();
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', () => resolve({ screen, before: read('before'), after: read('after'), code: read('code') }));
  });
}

/** Reacts to each text once, in order. */
function steps(...list: [seen: string, then: string | (() => void)][]) {
  let from = 0;
  return (screen: string, type: (keys: string) => void) => {
    while (list.length > 0) {
      const at = screen.indexOf(list[0][0], from);
      if (at < 0) return;
      const [seen, then] = list.shift() as (typeof list)[number];
      from = at + seen.length;
      if (typeof then === 'string') type(then);
      else then();
    }
  };
}
const signal = (name: NodeJS.Signals) => () => {
  process.kill(Number(readFileSync(`${space.folder}/pid`, 'utf8')), name);
};

const reason = ['script', 'bash', 'stty'].filter((name) => !isOnPath(name));
describe.skipIf(skipReason(reason.length ? `no ${reason.join(', ')}: no pseudo-terminal` : undefined))('on a terminal', () => {
  test('keys go to the guest, ctrl-c too; ctrl-a h helps; ctrl-a x leaves', async () => {
    const { screen, before, after, code } = await onTerminal(
      ECHO,
      steps(['ready', 'hi\x03'], ['hiC', '\x01h'], ['this help', 'z\x01\x01'], ['z\x01', '\x01x']),
    );
    expect(screen).toContain('stopped');
    expect(code).toBe('0');
    expect(after).toBe(before);
  });

  test('ctrl-a l pulls the cables of the cards and puts them in again', async () => {
    const keys = steps(['ready', '\x01l'], ['cables out', '\x01l'], ['cables in', 'q']);
    const { code } = await onTerminal(ECHO, keys, '--net none --net none --events cables.ndjson');
    expect(code).toBe('5');
    const events = readFileSync(`${space.folder}/cables.ndjson`, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(events.filter(({ event }) => event === 'card.link').map(({ card, up }) => [card, up])).toEqual([
      [0, false],
      [1, false],
      [0, true],
      [1, true],
    ]);
  });

  test.each([
    ['the guest ends the run', ECHO, steps(['ready', 'q']), '5'],
    ['the guest crashes', [...print('ready\n'), ...TRIPLE_FAULT], steps(), '33'],
    ['SIGTERM', [...print('ready\n'), ...SPIN], steps(['ready', signal('SIGTERM')]), '143'],
    ['SIGINT', [...print('ready\n'), ...SPIN], steps(['ready', signal('SIGINT')]), '130'],
    ['SIGHUP', [...print('ready\n'), ...SPIN], steps(['ready', signal('SIGHUP')]), '143'],
  ])('%s: the terminal is given back as it was', async (_, guest, react, expected) => {
    const { before, after, code } = await onTerminal(guest, react);
    expect(before).toMatch(/^[0-9a-f:]+$/);
    expect(after).toBe(before);
    expect(code).toBe(expected);
  });
});

test('on a pipe ctrl-a is a byte like others', () => {
  const { code, out } = portcullis(['run', '--kernel', kernel(ECHO), '--memory', '16M', '--debug-exit', '0xf4', '--timeout', '30'], {
    input: 'a\x01xbq',
  });
  expect(out).toBe('ready\na\x01xb');
  expect(code).toBe(5);
});

test('more input than fits anywhere waits for the guest, and none is lost', () => {
  const input = `${'0123456789abcdef'.repeat(12_000)}q`;
  const { code, out } = portcullis(['run', '--kernel', kernel(ECHO), '--memory', '16M', '--debug-exit', '0xf4', '--timeout', '60'], {
    input,
  });
  expect(code).toBe(5);
  expect(out.length).toBe('ready\n'.length + input.length - 1);
});

test('a reader that goes away ends the run without a word', async () => {
  const child = spawn('sh', [
    '-c',
    `"${process.execPath}" "${cli}" run --kernel "${kernel([...print('ready\n'), 0xb0, 0x79, 0xee, 0xeb, 0xfd])}" --memory 16M --timeout 30 < /dev/null | head -c 100000 | wc -c`,
  ]);
  let out = '';
  let err = '';
  child.stdout.on('data', (chunk) => {
    out += chunk;
  });
  child.stderr.on('data', (chunk) => {
    err += chunk;
  });
  await new Promise((resolve) => child.on('close', resolve));
  expect(out.trim()).toBe('100000');
  expect(err).not.toMatch(/error|EPIPE|limit/);
});

test('a reader that stalls holds up the guest, not the time limit', async () => {
  const flood = kernel([...print('ready\n'), 0xb0, 0x0a, 0xee, 0xeb, 0xfd]); // out dx, al for ever
  const child = spawn(
    'sh',
    [
      '-c',
      `{ "${process.execPath}" "${cli}" run --kernel "${flood}" --memory 16M --timeout 2 < /dev/null; echo "code $?" >&2; kill $(cat sleeper); } | { sleep 60 & echo $! > sleeper; wait; }`,
    ],
    { cwd: space.folder },
  );
  let err = '';
  child.stderr.on('data', (chunk) => {
    err += chunk;
  });
  await new Promise((resolve) => child.on('close', resolve));
  expect(err).toContain('time limit');
  expect(err).toContain('code 36');
});
