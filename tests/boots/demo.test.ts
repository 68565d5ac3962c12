/** The main job, whole: the stock kernel, the stock driver guarded, every probe. Needs the kernel package (fetched once into the cache). */
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const cli = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

test('npm start -- --json: everything holds', { timeout: 600_000 }, () => {
  const events = join(tmpdir(), `demo-${process.pid}.ndjson`);
  const run = spawnSync(process.execPath, [cli, 'demo', '--json', '--download', '4', '--events', events], {
    encoding: 'utf8',
    input: '',
    maxBuffer: 64 << 20,
  });
  const result = JSON.parse(run.stdout.trimEnd().split('\n').at(-1) ?? '');
  expect(
    result.checks.filter((check: { ok: boolean }) => !check.ok),
    run.stderr,
  ).toEqual([]);
  expect(run.status).toBe(0);
  expect(result).toMatchObject({ ok: true, engine: 'soft', download: { bytes: 4 << 20, ok: true } });
  for (const kind of ['callIn', 'returnOut', 'callOut', 'returnIn', 'eventOut', 'resume'])
    expect(result.crossings[kind]).toBeGreaterThan(0);
  expect(result.packets.rx).toBeGreaterThan(2000);
  expect(result.probes.length).toBeGreaterThan(10);
  const kinds = new Set(
    readFileSync(events, 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line).event),
  );
  for (const kind of [
    'vm.started',
    'module.registered',
    'module.loaded',
    'module.live',
    'module.refused',
    'privilege.attached',
    'module.ended',
    'window.refused',
    'vm.ended',
  ]) {
    expect([...kinds]).toContain(kind);
  }
  rmSync(events);
});
