import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { UserError } from '../base/errors.ts';
import { silentLog } from '../base/log.ts';
import { openTap } from './tap.ts';

/** Why a TAP device cannot be tried here, or undefined. */
function obstacle(): string | undefined {
  if (process.platform !== 'linux') return 'not Linux';
  if (process.getuid?.() !== 0) return 'not root';
  if (!existsSync('/dev/net/tun')) return 'no /dev/net/tun';
  try {
    execFileSync('unshare', ['-n', 'ip', 'link'], { stdio: 'ignore' });
  } catch {
    return 'no network namespace can be made';
  }
  return undefined;
}
const reason = obstacle();
if (reason !== undefined) console.warn(`TAP test skipped: ${reason}`);

/** Runs in its own network namespace: a TAP interface that the peer answers on, used by the host's own TCP/IP. */
const SCRIPT = `
import { execSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { get } from 'node:http';
const { openTap } = await import(process.argv[1] + '/src/net/tap.ts');
const { createPeer } = await import(process.argv[1] + '/src/net/peer/peer.ts');
const log = { trace() {}, debug() {}, info() {}, warn() {}, error: console.error };
const tap = openTap('tap%d', { log });
execSync('ip addr add 10.0.2.15/24 dev ' + tap.interfaceName + ' && ip link set ' + tap.interfaceName + ' up');
const clock = {
  now: () => performance.now() * 1e6,
  timer(callback) { let id; return { arm(time) { clearTimeout(id); if (time !== Infinity) id = setTimeout(callback, (time - clock.now()) / 1e6); } }; },
};
const peer = createPeer({ clock });
let refused = 0;
tap.receive = (frame) => { if (refused++ % 50 === 49) { setImmediate(() => tap.ready()); return false; } peer.send(frame); return true; };
peer.receive = (frame) => { tap.send(frame); return true; };
get('http://10.0.2.2/file?bytes=3000000&seed=4', (response) => {
  const hash = createHash('sha256');
  response.on('data', (data) => hash.update(data)).on('end', () => {
    console.log(tap.interfaceName, hash.digest('hex') === peer.expectedSha256(3000000, 4) ? 'same' : 'different');
    tap.close();
    peer.close();
  });
});
`;

describe.skipIf(reason !== undefined)('TAP', () => {
  test("the host's own TCP/IP downloads from the peer over it, and it lets the process end", () => {
    const root = new URL('../..', import.meta.url).pathname.replace(/\/$/, '');
    const loader = `import(${JSON.stringify(`${root}/tools/typescript-loader.mjs`)}).then(async () => {${SCRIPT.replace(/^import \{ (\w+) \} from '([\w:]+)';$/gm, "const { $1 } = await import('$2');")}})`;
    const output = execFileSync('unshare', ['-n', process.execPath, '-e', loader, root], { encoding: 'utf8', timeout: 60_000 });
    expect(output).toMatch(/^tap\d+ same$/m);
  }, 60_000);
});

test('an impossible name is a user error', () => {
  for (const name of ['', 'a b', 'x'.repeat(16), 'a/b']) expect(() => openTap(name, { log: silentLog })).toThrow(UserError);
});
