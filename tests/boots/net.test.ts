/** Each kind of `--net` with a stock guest: real frames to a real far end. */
import { spawn } from 'node:child_process';
import { accessSync, constants, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { type AddressInfo, createServer as createSocketServer } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { isOnPath } from '../../src/guest/c-module.ts';
import { createPeer } from '../../src/net/peer/peer.ts';
import type { Clock } from '../../src/net/ports.ts';
import { listenStream } from '../../src/net/stream.ts';
import { cli, type Finished, scratch, skipReason, stockModule } from './guest.ts';

const space = scratch();
afterAll(() => space.remove());

/** Runs beside this process's own servers. */
function command(file: string, args: string[]): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { cwd: space.folder, stdio: ['ignore', 'pipe', 'pipe'], timeout: 180_000 });
    let out = '';
    let err = '';
    child.stdout.on('data', (chunk) => {
      out += chunk;
    });
    child.stderr.on('data', (chunk) => {
      err += chunk;
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, out: out.replaceAll('\r', ''), err }));
  });
}

/** Arguments for a guest with the stock driver loaded that runs `script`. */
const guest = (script: string, ...args: string[]) => [
  cli,
  'run',
  '--append',
  'quiet',
  '--timeout',
  '90',
  '--put',
  `e1000.ko=${stockModule('e1000')}`,
  '--start',
  space.write('start.sh', `insmod /e1000.ko\nip link set eth0 up\n${script}\n`),
  ...args,
];

const LEASE = 'udhcpc -i eth0 -n -q -t 5 -T 1 >/dev/null 2>&1; ip -4 -o addr show eth0 | sed "s/.*inet /address /; s/ .*brd.*//"';

test('peer: with a capture that a reader of pcap files understands', { timeout: 120_000 }, async () => {
  const { code, out } = await command(process.execPath, guest(`${LEASE}\nping -c 2 -q 10.0.2.2`, '--net', 'peer', '--pcap', 'peer.pcap'));
  expect(code).toBe(0);
  expect(out).toContain('2 packets received');
  const capture = readFileSync(join(space.folder, 'peer.pcap'));
  const ethertypes = new Set<number>();
  let packets = 0;
  for (let at = 24; at < capture.length; packets++) {
    // libpcap file format: 24-byte header, then 16 bytes before each packet
    const length = capture.readUInt32LE(at + 8);
    ethertypes.add(capture.readUInt16BE(at + 16 + 12));
    at += 16 + length;
  }
  expect(packets).toBeGreaterThanOrEqual(10);
  expect([...ethertypes]).toEqual(expect.arrayContaining([0x0800, 0x0806]));
  if (!isOnPath('tcpdump')) return console.warn('SKIPPED: no tcpdump to read the capture with');
  const dump = await command('tcpdump', ['-nr', 'peer.pcap']);
  expect(dump.out).toMatch(/BOOTP\/DHCP, Request/);
  expect(dump.out.match(/ICMP echo reply/g)).toHaveLength(2);
});

const outside = Object.values(networkInterfaces())
  .flat()
  .some((entry) => entry && !entry.internal);
test.skipIf(skipReason(outside ? undefined : 'this host has no network interface: passt has nothing to copy'))(
  'user: through passt to a web server of the host',
  { timeout: 120_000 },
  async () => {
    const server = createServer((_, response) => response.end('from the host')).listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    try {
      const { port } = server.address() as AddressInfo;
      // passt maps the gateway's address to the host's loopback.
      const { code, out, err } = await command(
        process.execPath,
        guest(
          `${LEASE}\ngateway=$(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p')\nwget -q -O - http://$gateway:${port}/; echo`,
          '--net',
          'user',
        ),
      );
      expect(err).not.toContain('[error]');
      expect(out).toContain('from the host');
      expect(code).toBe(0);
    } finally {
      server.close();
    }
  },
);

test('stream: another process that speaks the framing', { timeout: 120_000 }, async () => {
  const clock: Clock = {
    now: () => performance.now() * 1e6,
    timer(fire) {
      let timer: NodeJS.Timeout | undefined;
      return {
        arm(at) {
          clearTimeout(timer);
          if (Number.isFinite(at)) timer = setTimeout(fire, Math.max(0, at / 1e6 - performance.now()));
        },
      };
    },
  };
  const path = join(space.folder, 'far-end.sock');
  const wire = await listenStream({ path }, { log: silentLog });
  const peer = createPeer({ clock, log: silentLog });
  for (const [from, to] of [
    [wire, peer],
    [peer, wire],
  ] as const) {
    from.receive = (frame) => {
      to.send(frame);
      return true;
    };
  }
  try {
    const { code, out } = await command(process.execPath, guest(`${LEASE}\nping -c 2 -q 10.0.2.2`, '--net', `stream:unix:${path}`));
    expect(out).toContain('2 packets received');
    expect(code).toBe(0);
  } finally {
    wire.close();
    peer.close();
  }
});

test('stream: a far end that sends garbage is cut off, and the guest lives on', { timeout: 120_000 }, async () => {
  const server = createSocketServer((socket) => socket.on('error', () => {}).write(Buffer.alloc(65536, 0xff))).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  try {
    const { port } = server.address() as AddressInfo;
    const { code, out, err } = await command(
      process.execPath,
      guest('ping -c 1 -W 1 -q 10.0.2.2; echo alive', '--net', `stream:tcp:127.0.0.1:${port}`),
    );
    expect(err).toContain('impossible frame');
    expect(out).toContain('alive');
    expect(code).toBe(0);
  } finally {
    server.close();
  }
});

function tapReason(): string | undefined {
  if (process.getuid?.() !== 0) return 'not root: no TAP interface';
  for (const name of ['unshare', 'ip']) if (!isOnPath(name)) return `no ${name}: no TAP interface`;
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
    return undefined;
  } catch {
    return 'no /dev/net/tun: no TAP interface';
  }
}
test.skipIf(skipReason(tapReason()))('tap: in a network namespace of its own', { timeout: 120_000 }, async () => {
  const args = guest('ip addr add 10.99.0.2/24 dev eth0\nping -c 2 -q 10.99.0.1', '--net', 'tap:pc0');
  const setUp = 'ip tuntap add dev pc0 mode tap && ip addr add 10.99.0.1/24 dev pc0 && ip link set pc0 up && exec "$@"';
  const { code, out, err } = await command('unshare', ['--net', 'sh', '-c', setUp, 'sh', process.execPath, ...args]);
  expect(out, err).toContain('2 packets received');
  expect(code).toBe(0);
});

test('hub: two machines of one process reach each other', { timeout: 180_000 }, async () => {
  const dist = (path: string) => JSON.stringify(new URL(`../../dist/${path}`, import.meta.url).href);
  const script = (own: number, other: number) =>
    space.write(
      `start-${own}.sh`,
      `insmod /e1000.ko
ip link set eth0 up; ip addr add 10.98.0.${own}/24 dev eth0
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do ping -c 1 -W 1 -q 10.98.0.${other} >/dev/null && { echo reached; break; }; done
sleep 3
`,
    );
  const program = space.write(
    'hub.mjs',
    `
import { assemble } from ${dist('cli/assemble.js')};
import { resolveRunOptions } from ${dist('cli/run-options.js')};
import { startVm } from ${dist('vm/host.js')};
const run = async (name, start, mac) => {
  const config = await assemble(resolveRunOptions({ name, start, net: ['hub:lan'], append: 'quiet', put: ['e1000.ko=${stockModule('e1000')}'] }), () => {});
  config.cards[0].mac = mac;
  let text = '';
  const vm = await startVm(config, { console(bytes) { text += Buffer.from(bytes).toString('latin1'); } });
  const { outcome } = await vm.ended;
  return [outcome.kind, text.includes('reached')];
};
console.log(JSON.stringify(await Promise.all([run('one', ${JSON.stringify(script(1, 2))}, '52:54:00:00:00:01'), run('two', ${JSON.stringify(script(2, 1))}, '52:54:00:00:00:02')])));
`,
  );
  const { code, out, err } = await command(process.execPath, [program]);
  expect(out.trim(), err).toBe('[["off",true],["off",true]]');
  expect(code).toBe(0);
});

test('a socket of nobody is a clear error', async () => {
  const { code, err } = await command(process.execPath, [cli, 'run', '--net', 'stream:unix:/does/not/exist']);
  expect(code).toBe(1);
  expect(err).toContain('/does/not/exist');
});
