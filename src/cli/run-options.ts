/**
 * The options of a virtual machine, once: this table makes the flags, the config file's schema, `--help` and the documentation.
 * Precedence: flags, then environment (PORTCULLIS_<NAME>), then config file, then defaults.
 */
import { type Command, Option } from 'commander';
import * as z from 'zod';
import { UserError } from '../base/errors.ts';
import { NET_FORMS } from '../net/index.ts';
import { grantSerial } from '../policy/schema.ts';
import { CARD_MODELS } from '../vm/config.ts';
import { LIMITS, readInput } from './command.ts';
import { EVENTS_LOST } from './event-stream.ts';
import { nearest } from './nearest.ts';
import { columns } from './output.ts';

const list = z.array(z.string());
/** "256M", "1G", or bytes. */
const memory = z.union([z.int(), z.string()]).transform((value, context) => {
  const match = /^(\d+)\s*([KMG])?(?:iB|B)?$/i.exec(String(value));
  const bytes = match ? Number(match[1]) * ({ K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 }[match[2]?.toUpperCase() ?? ''] ?? 1) : Number.NaN;
  if (!(bytes >= 16 << 20 && bytes <= 3 * 2 ** 30)) {
    context.addIssue({ code: 'custom', message: `"${value}" is not a size from 16M to 3G` });
    return z.NEVER;
  }
  return Math.ceil(bytes / (2 << 20)) * (2 << 20);
});
const count = (least: number, most: number) => z.coerce.number().int().min(least).max(most);
/** "0=1,2=0": virtual CPU to core. */
const pins = z.string().transform((text, context) => {
  const pairs = text.split(',').map((pair) => /^(\d{1,2})=(\d{1,2})$/.exec(pair.trim()));
  const numbers = pairs.map((match): [number, number] => [Number(match?.[1]), Number(match?.[2])]);
  if (pairs.every((match) => match !== null) && new Set(numbers.map(([cpu]) => cpu)).size === numbers.length) return numbers;
  context.addIssue({ code: 'custom', message: `"${text}" is not a list of CPU=CORE with each CPU once` });
  return z.NEVER;
});

interface OptionRow {
  flags: string;
  group: 'guest' | 'guard' | 'devices' | 'run';
  text: string;
  schema: z.ZodType;
}

export const RUN_OPTIONS = {
  name: {
    flags: '--name <name>',
    group: 'guest',
    text: 'name of the machine, as grants know it; default: vm',
    schema: z
      .string()
      .regex(/^[\w.-]{1,64}$/, 'letters, digits, dot, dash; at most 64')
      .default('vm'),
  },
  kernel: {
    flags: '--kernel <file>',
    group: 'guest',
    text: 'bzImage or ELF; default: the stock Debian kernel, fetched once',
    schema: z.string().optional(),
  },
  boot: {
    flags: '--boot <protocol>',
    group: 'guest',
    text: 'linux64, pvh or multiboot; default: by what the image offers',
    schema: z.enum(['linux64', 'pvh', 'multiboot']).optional(),
  },
  initramfs: {
    flags: '--initramfs <file>',
    group: 'guest',
    text: 'initial RAM file system; default: busybox with a shell',
    schema: z.string().optional(),
  },
  append: { flags: '--append <text>', group: 'guest', text: 'added to the kernel command line', schema: z.string().default('') },
  commandLine: { flags: '--command-line <text>', group: 'guest', text: 'replaces the kernel command line', schema: z.string().optional() },
  put: {
    flags: '--put <guest=host...>',
    group: 'guest',
    text: 'put a file into the built initramfs, e.g. lib/modules/x.ko=./x.ko',
    schema: list.default([]),
  },
  start: {
    flags: '--start <script>',
    group: 'guest',
    text: 'shell script that the built initramfs runs instead of a shell',
    schema: z.string().optional(),
  },
  memory: { flags: '--memory <size>', group: 'guest', text: 'guest memory, 16M to 3G; default: 256M', schema: memory.default(256 << 20) },
  cpus: { flags: '--cpus <number>', group: 'guest', text: 'virtual CPUs, 1 to 16; default: 1', schema: count(1, 16).default(1) },
  cores: {
    flags: '--cores <number>',
    group: 'guest',
    text: 'cores that they share, each with a host thread, 1 to 16; default: one each, or as many as the host has processors',
    schema: count(1, 16).optional(),
  },
  pin: {
    flags: '--pin <cpu=core,..>',
    group: 'guest',
    text: 'keep virtual CPUs on cores; the others move to where there is less to do',
    schema: pins.optional(),
  },
  module: {
    flags: '--module <file...>',
    group: 'guard',
    text: 'guarded module (with FILE.manifest.json beside it) to register',
    schema: list.default([]),
  },
  grant: { flags: '--grant <file...>', group: 'guard', text: 'signed grant', schema: list.default([]) },
  trust: { flags: '--trust <file...>', group: 'guard', text: 'public key of an administrator (PEM)', schema: list.default([]) },
  revoked: {
    flags: '--revoked <serial...>',
    group: 'guard',
    text: 'serial of a grant that was withdrawn: it gives nothing (a grant shows its serial)',
    schema: z.array(grantSerial).default([]),
  },
  vmmKey: {
    flags: '--vmm-key <file>',
    group: 'guard',
    text: 'private key of this VMM, to open secrets in grants (keygen --vmm)',
    schema: z.string().optional(),
  },
  msr: {
    flags: '--msr <index=value...>',
    group: 'guard',
    text: "first value of an MSR of the VMM's own, 0x40000000 to 0x400000ff",
    schema: list.default([]),
  },
  onViolation: {
    flags: '--on-violation <what>',
    group: 'guard',
    text: 'stricter than the grant says: quarantine or stop',
    schema: z.enum(['quarantine', 'stop']).optional(),
  },
  net: {
    flags: '--net <backend...>',
    group: 'devices',
    text: 'a network card each, the first at 0000:00:03.0; see Networks below',
    schema: list.default([]),
  },
  pcap: {
    flags: '--pcap <file...>',
    group: 'devices',
    text: "capture of each card's frames, in the order of --net",
    schema: list.default([]),
  },
  debugExit: {
    flags: '--debug-exit <port>',
    group: 'devices',
    text: 'I/O port, e.g. 0xf4: writing N to it ends the run with exit code N',
    schema: z.coerce.number().int().min(1).max(0xffff).optional(),
  },
  engine: { flags: '--engine <name>', group: 'run', text: 'what executes the guest: soft', schema: z.enum(['soft']).default('soft') },
  clock: {
    flags: '--clock <kind>',
    group: 'run',
    text: 'host, or instructions (deterministic: same run, same result); default: host',
    schema: z.enum(['host', 'instructions']).default('host'),
  },
  seed: {
    flags: '--seed <number>',
    group: 'run',
    text: "draw the lengths of CPUs' turns; with --clock instructions a run repeats exactly",
    schema: count(0, 2 ** 32 - 1).optional(),
  },
  timeout: {
    flags: '--timeout <seconds>',
    group: 'run',
    text: 'end the run after this time (exit code 36)',
    schema: count(1, 1_000_000).optional(),
  },
  events: {
    flags: '--events <where>',
    group: 'run',
    text: 'audit events as NDJSON to a path, - (standard output) or fd:N',
    schema: z.string().optional(),
  },
  eventsLost: {
    flags: '--events-lost <what>',
    group: 'run',
    text: 'while events cannot be written, the machine is to hold, stop or continue; default: hold',
    schema: z.enum(EVENTS_LOST).default('hold'),
  },
  watch: {
    flags: '--watch',
    group: 'run',
    text: "check the border's invariants at every crossing; the machine fails if one breaks",
    schema: z.union([z.boolean(), z.stringbool()]).default(false),
  },
  log: {
    flags: '--log <level>',
    group: 'run',
    text: 'trace, debug, info, warn or error; default: warn',
    schema: z.enum(['trace', 'debug', 'info', 'warn', 'error']).default('warn'),
  },
} as const satisfies Record<string, OptionRow>;

type Rows = typeof RUN_OPTIONS;
const shape = Object.fromEntries(Object.entries(RUN_OPTIONS).map(([name, row]) => [name, row.schema])) as {
  [K in keyof Rows]: Rows[K]['schema'];
};
export const runSchema = z.strictObject(shape);
export type RunOptions = z.output<typeof runSchema>;

const GROUP_TITLES: Record<OptionRow['group'], string> = {
  guest: 'Guest:',
  guard: 'Guarded modules:',
  devices: 'Devices:',
  run: 'Run:',
};

/** What `--net` takes, for help texts. */
export function networksHelp(): string {
  const forms = [
    ...NET_FORMS,
    ['FORM,model=MODEL', `another card than e1000: ${CARD_MODELS.join(', ')}`] as const,
    ['FORM,mac=ADDRESS', "the card's address; default: 52:54:00:12:34:56 and up"] as const,
  ];
  return `\nNetworks:\n${columns(forms.map(([form, meaning]) => [`  ${form}`, meaning]))}\n`;
}

/** Adds the table's flags to a command, grouped by task. */
export function addRunOptions(command: Command, names: readonly (keyof Rows)[] = Object.keys(RUN_OPTIONS) as (keyof Rows)[]): Command {
  for (const name of names) {
    const { flags, group, text } = RUN_OPTIONS[name];
    command.addOption(new Option(flags, text).helpGroup(GROUP_TITLES[group]));
  }
  return command;
}

const environmentName = (name: string) => `PORTCULLIS_${name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;

/** Joins flags, environment and config file, and checks them. Throws UserError naming the option, what was found and what is expected. */
export function resolveRunOptions(flags: Record<string, unknown>, configFile: string | undefined): RunOptions {
  const merged: Record<string, unknown> = configFile === undefined ? {} : readConfig(configFile);
  for (const [name, row] of Object.entries(RUN_OPTIONS)) {
    const value = process.env[environmentName(name)];
    // Lists are separated by commas; one may stand before a setting of a card.
    if (value !== undefined) merged[name] = row.flags.includes('...') ? value.split(/,(?!model=|mac=)/) : value;
    if (flags[name] !== undefined) merged[name] = flags[name];
  }
  const result = runSchema.safeParse(merged);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  if (issue.code === 'unrecognized_keys') {
    const near = nearest(issue.keys[0], Object.keys(RUN_OPTIONS));
    throw new UserError(
      `unknown option ${issue.keys.map((key) => `"${key}"`).join(', ')} in ${configFile}`,
      near ? `Did you mean "${near}"?` : `known: ${Object.keys(RUN_OPTIONS).join(', ')}`,
    );
  }
  const name = String(issue.path[0]);
  throw new UserError(
    `option ${name}: ${issue.message} (found ${JSON.stringify(merged[name])})`,
    `${RUN_OPTIONS[name as keyof Rows]?.flags ?? name}: ${RUN_OPTIONS[name as keyof Rows]?.text ?? ''}`,
  );
}

function readConfig(path: string): Record<string, unknown> {
  const bytes = readInput(path, LIMITS.config, 'config file');
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'));
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('expected an object of options');
    return { ...value };
  } catch (error) {
    throw new UserError(
      `${path}: ${(error as Error).message}`,
      'a config file is a JSON object of the options in `portcullis run --help`, e.g. {"memory": "512M"}',
    );
  }
}
