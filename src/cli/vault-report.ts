/** Judges the vault's demo: are the signatures right, and was the key found anywhere? */
import { VAULT_LONG_MESSAGE, VAULT_MESSAGES } from '../guest/vault-script.ts';
import type { MemorySearch } from '../vm/config.ts';
import type { DemoTranscript, Probe } from './demo-transcript.ts';
import { columns, indent, mark, styled, title } from './output.ts';
import type { Ended } from './supervise.ts';
import type { Needle } from './vault-needles.ts';

export interface Signature {
  message: string;
  signature: string;
  ok: boolean;
}
export interface VaultResult {
  ok: boolean;
  kernel: string;
  signatures: Signature[];
  probes: Probe[];
  /** Interrupts that arrived in the vault while a timer of the guest looked. */
  interrupts: { ticks: number; inVault: number };
  crossings: Record<string, number>;
  checks: { name: string; ok: boolean; detail: string }[];
}

export interface VaultEvidence {
  release: string;
  transcript: DemoTranscript;
  ended: Ended;
  needles: readonly Needle[];
  sign(message: string): string;
  host: readonly MemorySearch[];
}

/** Three kinds of search by the guest, with the vault loaded and unloaded. */
const GUEST_SEARCHES = 6;
const HOST_SEARCHES = 2;
const GUEST_PROBES = 3;

export function judgeVault({ release, transcript, ended, needles, sign, host }: VaultEvidence): VaultResult {
  const { report } = ended;
  const given = transcript.values.get('signature') ?? [];
  const messages = [...VAULT_MESSAGES, VAULT_LONG_MESSAGE];
  const signatures = messages.map((message, index) => {
    const signature = (message === VAULT_LONG_MESSAGE ? transcript.value('long') : given[index]) ?? '';
    return { message: message.length > 64 ? `${message.length} bytes` : message, signature, ok: signature === sign(message) };
  });
  const searches = (transcript.values.get('search') ?? []).map((text) => guestSearch(text, needles));
  const hosts = host.flatMap((search, index) => [
    searchProbe(`snapshot ${index + 1} of guest memory, from the host`, search.bytes, search.memory, needles),
    searchProbe(`device reading all memory, ${index + 1}`, search.dmaBytes, search.dma, needles),
  ]);
  const dead = (transcript.values.get('bytes_at') ?? []).map((text): Probe => {
    const [name, got] = text.split(' ');
    // The heap's header is in the image that the kernel loads, and no secret.
    const expected = name === 'heap' ? got : '0';
    return { name: `kernel code reads the vault's own address of ${name}`, expected, got: got ?? '', ok: expected === got };
  });
  const probes = [...transcript.probes, ...searches.map(({ probe }) => probe), ...dead, ...hosts.map(({ probe }) => probe)];
  // /dev/mem of a stock kernel shows no RAM; whoever can read RAM must have found what is there for all to find.
  const reading = [...searches, ...hosts].filter(({ bytes }) => bytes > 1 << 24);
  const ticks = Number(transcript.value('ticks') ?? 0);
  const inVault = Number(transcript.value('inside') ?? 0);
  const { crossings } = report;
  const check = (name: string, ok: boolean, detail: string) => ({ name, ok, detail });
  const checks = [
    check('the guest finished and powered off', ended.exit === 'ok' && transcript.stages.at(-1)?.name === 'done', ended.exit),
    check(
      'the vault was loaded and unloaded',
      ['loaded', 'unloaded'].every((name) => transcript.value(name) === 'yes'),
      '',
    ),
    check('it loads on its own too, without a key', transcript.value('plain') === 'loaded', transcript.value('plain') ?? ''),
    check(
      'every signature is right',
      signatures.every(({ ok }) => ok),
      `${signatures.filter(({ ok }) => ok).length} of ${signatures.length}`,
    ),
    check(
      'every search was made',
      searches.length === GUEST_SEARCHES && host.length >= HOST_SEARCHES && dead.length === 3 && transcript.probes.length === GUEST_PROBES,
      `${searches.length} by the guest, ${host.length} by the host`,
    ),
    check(
      'no search found the key in any form',
      probes.every(({ ok }) => ok),
      `${probes.filter(({ ok }) => ok).length} of ${probes.length}`,
    ),
    check(
      'searches that can read RAM found what they may find',
      reading.length >= 4 + 2 * HOST_SEARCHES && reading.every(({ control }) => control > 0),
      `${reading.length} searches`,
    ),
    check('interrupts arrived in the vault and were looked at', inVault > 0 && crossings.eventOut > 0, `${inVault} of ${ticks}`),
    check(
      'no crossing was left open',
      crossings.callIn === crossings.returnOut && crossings.callOut === crossings.returnIn && crossings.eventOut === crossings.resume,
      '',
    ),
    check('nothing was refused', report.refusals.length === 0, report.refusals.map(({ reason }) => reason).join(', ')),
    check('the guest kernel reported no error', transcript.value('bugs') === '0', `${transcript.value('bugs') ?? '?'} reports`),
  ];
  return {
    ok: checks.every(({ ok }) => ok),
    kernel: transcript.value('kernel') ?? release,
    signatures,
    probes,
    interrupts: { ticks, inVault },
    crossings: { ...crossings },
    checks,
  };
}

interface Search {
  bytes: number;
  control: number;
  probe: Probe;
}

/** "NAME: BYTES COUNT COUNT ...", as the guest says it. */
function guestSearch(text: string, needles: readonly Needle[]): Search {
  const colon = text.lastIndexOf(':');
  const [bytes, ...counts] = text
    .slice(colon + 1)
    .trim()
    .split(' ')
    .map(Number);
  return searchProbe(text.slice(0, colon), bytes, counts, needles);
}

function searchProbe(who: string, bytes: number, counts: readonly number[], needles: readonly Needle[]): Search {
  const found = needles.flatMap(({ name }, index) => (index > 0 && counts[index] > 0 ? [name] : []));
  const whole = counts.length === needles.length && counts.every((count) => Number.isInteger(count));
  const got = !whole ? 'no-answer' : found.length > 0 ? [...new Set(found)].join('+').replaceAll(' ', '-') : 'nothing';
  const probe = { name: `${who} (${Math.round((bytes || 0) / 1048576)} MiB)`, expected: 'nothing', got, ok: got === 'nothing' };
  return { bytes, control: counts[0] ?? 0, probe };
}

export function vaultSummary(result: VaultResult, ended: Ended): string {
  return [
    title(`Signatures (HMAC-SHA-256), kernel ${result.kernel}`),
    indent(columns(result.signatures.map(({ message, signature, ok }) => [mark(ok), signature, message]))),
    title('The key, looked for'),
    indent(
      columns(
        result.probes.map((probe) => [mark(probe.ok), probe.name, probe.ok ? probe.got : `expected ${probe.expected}, got ${probe.got}`]),
      ),
    ),
    title('Border crossings of the vault'),
    indent(columns(Object.entries(result.crossings).map(([kind, count]) => [kind, count.toLocaleString('en')]))),
    title('Verdict'),
    indent(columns(result.checks.map((entry) => [mark(entry.ok), entry.name, entry.detail]))),
    `\n${result.ok ? styled('green', 'All held.') : styled('red', 'Something did not hold.')}${ended.exit === 'ok' ? '' : ` The machine ended: ${ended.exit}.`}`,
  ].join('\n');
}
