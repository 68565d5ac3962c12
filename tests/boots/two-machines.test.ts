/**
 * Several machines in one process, their guarded cards joined by a hub: the same guarded module in all, a grant for each. What belongs to one
 * machine (frames, grants, devices, events) never shows in another.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { elf32, exitWith, print } from './bare-metal.ts';
import { lastJson, portcullis, scratch, succeed } from './guest.ts';

const space = scratch();
afterAll(() => space.remove());
const LIMIT = { timeout: 300_000 };
const MIB = 1 << 20;

const ok = (...args: string[]) => succeed(space.folder, ...args);
const config = (name: string, options: object) => space.write(`${name}.json`, JSON.stringify({ name, ...options }));

const ADDRESS = { one: '10.98.0.1', two: '10.98.0.2', three: '10.98.0.3' } as const;
const COMPLAINTS = 'dmesg | grep -E "BUG:|Oops|WARNING|Call Trace|stall" | sed "s/^/@@ kernel: /"';
/** Loads the driver, and leaves only when the other one has what it wanted. */
const script = (own: keyof typeof ADDRESS, other: keyof typeof ADDRESS, seed: number) => `
insmod /lib/modules/e1000.ko && echo "@@ loaded yes"
ip link set eth0 up
ip addr add ${ADDRESS[own]}/24 dev eth0
mkdir /tmp/www
yes ${own}-${seed} | head -c ${MIB} > /tmp/www/file
httpd -h /tmp/www
until ping -c 1 -W 1 -q ${ADDRESS[other]} > /dev/null; do :; done
echo "@@ ping $(ping -c 5 -i 0.2 -q ${ADDRESS[other]} | grep -o '[0-9]* packets received')"
for round in 1 2; do echo "@@ sum $(wget -q -O - http://${ADDRESS[other]}/file | sha256sum | cut -d' ' -f1)"; done
echo "@@ neighbour $(ip neigh show ${ADDRESS[other]} | grep -o 'lladdr [0-9a-f:]*')"
echo "@@ probe $(devmem $(($(head -n 1 /sys/bus/pci/devices/0000:00:03.0/resource | cut -d' ' -f1) + 8)))"
touch /tmp/www/done
until wget -q -O /dev/null http://${ADDRESS[other]}/done; do sleep 0.2; done
sleep 1
ip link set eth0 down
rmmod e1000 && echo "@@ unloaded yes"
${COMPLAINTS}
`;
const REFUSED = `
insmod /lib/modules/e1000.ko && echo "@@ loaded yes"
echo "@@ interface $(ls /sys/class/net | grep -v lo | wc -l)"
${COMPLAINTS}
`;
const contents = (name: string, seed: number) =>
  createHash('sha256')
    .update(Buffer.alloc(MIB, `${name}-${seed}\n`))
    .digest('hex');

describe('three machines on one hub', () => {
  test('P10 P11 two guarded cards carry traffic between them; a grant for another machine gives nothing', LIMIT, () => {
    ok('keygen', 'admin');
    ok('link', 'e1000');
    const machines = ['one', 'two', 'three'] as const;
    const grant = (vm: string) =>
      ok(
        ...['grant', '--manifest', 'e1000.guarded.ko.manifest.json', '--key', 'admin.key', '--vm', vm, '--output', `${vm}.grant.json`],
        ...['--privilege', 'pci-device,device=0000:00:03.0,vendor=8086,product=100e'],
      );
    grant('one');
    grant('two');
    const scripts = { one: script('one', 'two', 1), two: script('two', 'one', 2), three: REFUSED };
    const files = machines.map((name) =>
      config(name, {
        net: ['hub:lan'],
        memory: '128M',
        module: ['e1000.guarded.ko'],
        // Both grants are offered to all: each machine takes its own, the third has none.
        grant: ['one.grant.json', 'two.grant.json'],
        trust: ['admin.pub'],
        start: space.write(`${name}.sh`, scripts[name]),
        events: `${name}.ndjson`,
        append: 'quiet iomem=relaxed',
        timeout: 200,
      }),
    );
    const { code, out, err } = portcullis(['group', '--json', ...files], { cwd: space.folder });
    const result = lastJson(out);
    const screen = err.replaceAll('\r', '');
    expect(code, screen).toBe(41); // one of the modules was refused
    const said = (name: string, what: string) =>
      [...screen.matchAll(new RegExp(`^${name.padEnd(5)} \\| @@ ${what} (.*)$`, 'gm'))].map(([, text]) => text);

    for (const name of machines) expect(said(name, 'kernel:')).toEqual([]);
    for (const [own, other, seed] of [
      ['one', 'two', 2],
      ['two', 'one', 1],
    ] as const) {
      expect([said(own, 'loaded'), said(own, 'unloaded')]).toEqual([['yes'], ['yes']]);
      expect(said(own, 'ping')).toEqual(['5 packets received']);
      expect(said(own, 'sum')).toEqual([contents(other, seed), contents(other, seed)]);
      expect(said(own, 'probe')).toEqual(['0xFFFFFFFF']);
    }
    expect([said('one', 'neighbour'), said('two', 'neighbour')]).toEqual([['lladdr 52:54:00:12:35:56'], ['lladdr 52:54:00:12:34:56']]);
    expect([said('three', 'loaded'), said('three', 'interface')]).toEqual([[], ['0']]);

    // biome-ignore lint/suspicious/noExplicitAny: the reports of three machines
    const [one, two, three] = result.machines as any[];
    expect(result.machines.map(({ name }: { name: string }) => name)).toEqual([...machines]);
    for (const machine of [one, two]) {
      const { callIn, returnOut, callOut, returnIn, eventOut, resume } = machine.crossings;
      expect([callIn, callOut, eventOut]).toEqual([returnOut, returnIn, resume]);
      expect(callIn).toBeGreaterThan(100);
      expect(machine.refusals).toEqual([]);
      expect(machine.refusedAccesses.reads).toBe(1); // its own probe, and nobody else's
    }
    expect(three.crossings.callIn).toBe(0);
    expect(three.refusals).toEqual([expect.objectContaining({ module: 'e1000', reason: 'no-grant' })]);
    // Each machine's log is a chain of its own, with its own instances and no more.
    const events = machines.map((name) => {
      ok('audit', 'verify', `${name}.ndjson`);
      const lines = readFileSync(join(space.folder, `${name}.ndjson`), 'utf8')
        .trimEnd()
        .split('\n');
      return lines.map((line) => JSON.parse(line).event as string);
    });
    for (const names of events.slice(0, 2))
      expect(names.filter((name) => name.startsWith('module.') || name === 'privilege.attached').sort()).toEqual([
        'module.ended',
        'module.live',
        'module.loaded',
        'module.registered',
        'privilege.attached',
      ]);
    expect(events[2]).not.toContain('privilege.attached');
  });
});

describe('a group', () => {
  const kernel = (name: string, text: string, exit: number) =>
    space.write(`${name}.elf`, elf32(Uint8Array.from([...print(`${text}\n`), ...exitWith(exit)]), { multiboot: true }));
  const member = (name: string, exit: number, options: object = {}) =>
    config(name, { kernel: kernel(name, `I am ${name}`, exit), memory: '16M', debugExit: 0xf4, ...options });

  test('lines have the name of their machine; the exit code is the first that is not 0', () => {
    const { code, out, err } = portcullis(['group', member('web', 0), member('database', 7)], { cwd: space.folder });
    expect(out.split('\n').sort()).toEqual(['', 'database | I am database', 'web      | I am web']);
    expect(err).toContain('web: the guest ended the run with code 0');
    expect(code).toBe(7);
  });

  test.each<[string, () => string[], RegExp]>([
    ['the same name', () => [member('a', 0), config('b', { kernel: kernel('b', '', 0), name: 'a' })], /the same name: a/],
    ['one event log', () => [member('a', 0, { events: 'x' }), member('b', 0, { events: 'x' })], /the same event log: x/],
    [
      'one card address',
      () => ['a', 'b'].map((name) => member(name, 0, { net: ['hub:lan,mac=52:54:00:00:00:01'] })),
      /the same card address: 52:54:00:00:00:01/,
    ],
  ])('machines with %s are a clear error', (_, files, message) => {
    const { code, err } = portcullis(['group', ...files()], { cwd: space.folder });
    expect(err).toMatch(message);
    expect(code).toBe(2);
  });

  test('one that cannot start ends the others', () => {
    const spin = config('spin', {
      kernel: space.write('spin.elf', elf32(Uint8Array.from([0xeb, 0xfe]), { multiboot: true })),
      memory: '16M',
    });
    const lost = member('lost', 0, { net: ['stream:unix:/does/not/exist'] });
    const { code, err } = portcullis(['group', spin, lost], { cwd: space.folder });
    expect(err).toContain('/does/not/exist');
    expect(code).toBe(1);
  });
});
