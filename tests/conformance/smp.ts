/**
 * Several CPUs: what each may see of the others' memory accesses (Intel SDM vol. 3, 9.2: x86 lets a load pass an older store to another
 * place, and nothing else), locked operations, topology, INIT, and the wait that gives way.
 */
import { describe, expect, test } from 'vitest';
import { CODE, code, DATA, Guest, HANDLER_PORT, PT, SMALL, STACK } from './guest.ts';
import type { Boot } from './suite.ts';
import type { Together } from './together.ts';

/** One cell a round and variable, a cache line apart; results of 8 bytes a round and CPU. */
const LINE = 64;
const X = 0x40_0000;
const Y = 0x60_0000;
const RESULTS = 0x80_0000;
const RESULTS_SIZE = 0x4_0000;
const BARRIER = DATA;
const COUNTER = DATA + 0x200;

/** A jump to the next instruction: an engine may switch CPUs there. */
const STEP = 'eb 00';
const STORE_X = 'c7 03 01 00 00 00'; // movl $1,(%rbx)
const STORE_Y = 'c7 01 01 00 00 00'; // movl $1,(%rcx)
const XCHG_X = 'be 01 00 00 00 87 33'; // mov $1,%esi; xchg %esi,(%rbx)
const XCHG_Y = 'be 01 00 00 00 87 31'; // mov $1,%esi; xchg %esi,(%rcx)
const LOAD_X = '8b 03'; // mov (%rbx),%eax
const LOAD_Y = '8b 01'; // mov (%rcx),%eax
const THEN_LOAD_X = '8b 13'; // mov (%rbx),%edx
const THEN_LOAD_Y = '8b 11'; // mov (%rcx),%edx
const MFENCE = '0f ae f0';
const LOCKED = 'f0 83 04 24 00'; // lock addl $0,(%rsp)

/** An engine, and how its CPUs are run. */
interface Setting {
  readonly boot: Boot;
  readonly together: Together;
}

/** Little-endian bytes as text. */
const hex = (value: number, bytes: number) =>
  Array.from({ length: bytes }, (_, i) => ((value >> (8 * i)) & 0xff).toString(16).padStart(2, '0')).join(' ');

const hex32 = (bytes: Uint8Array) => bytes.reduceRight((value, byte) => value * 256 + byte, 0);

/** The CPUs of a fresh engine, each with its own code and stack. */
function cpus(boot: Boot, count: number): Guest[] {
  const first = boot({ cpus: count });
  return Array.from({ length: count }, (_, index) => {
    const guest = index === 0 ? first : new Guest(first.engine, index).longMode();
    guest.set('rip', CODE + 0x400 * index);
    guest.set('rsp', STACK - 0x200 * index);
    return guest;
  });
}

/** `rounds` times the body, with a jump back. r10 counts. */
function looped(body: string): string {
  const length = code(body).length;
  return `${body}\n 41 ff ca 0f 85 ${hex(-(length + 9), 4)} e6 f1`; // dec %r10d; jnz; out
}

/** How often each outcome was seen: per CPU what it loaded into EAX and then EDX, joined by "," and the CPUs by " ". */
async function litmus({ boot, together }: Setting, bodies: readonly (readonly string[])[]): Promise<Map<string, number>> {
  const guests = cpus(boot, bodies.length);
  const seen = new Map<string, number>();
  for (let pass = 0; pass < together.passes(bodies.length); pass++) {
    clear(guests[0] as Guest);
    await litmusPass(guests, together, bodies);
    count(guests[0] as Guest, together.rounds, bodies.length, seen);
  }
  return seen;
}

async function litmusPass(guests: readonly Guest[], together: Together, bodies: readonly (readonly string[])[]): Promise<void> {
  bodies.forEach((body, index) => {
    const guest = guests[index] as Guest;
    guest.set('rbx', X);
    guest.set('rcx', Y);
    guest.set('rdi', BARRIER);
    guest.set('r8', bodies.length);
    guest.set('r9', RESULTS + index * RESULTS_SIZE);
    guest.set('r10', together.rounds);
    guest.set('rip', CODE + 0x400 * index);
    guest.put(
      CODE + 0x400 * index,
      looped(`
      41 f7 c2 ${hex(together.batch(bodies.length) - 1, 4)} 75 10 ; test $batch - 1,%r10d; jnz 2f
      f0 ff 07                            ; lock incl (%rdi): all have come here
      f3 90 8b 37 44 39 c6 72 f7          ; 1: pause; mov (%rdi),%esi; cmp %r8d,%esi; jb 1b
      41 83 c0 ${hex(bodies.length, 1)}   ; add $cpus,%r8d
      31 c0 31 d2                         ; 2: xor %eax,%eax; xor %edx,%edx
      ${body.map((instruction) => `${instruction} ${STEP}`).join(' ')}
      41 89 01 41 89 51 04                ; mov %eax,(%r9); mov %edx,4(%r9)
      48 83 c3 40 48 83 c1 40 49 83 c1 08 ; add $64,%rbx; add $64,%rcx; add $8,%r9`),
    );
  });
  await together.run(guests);
}

function clear({ engine: { memory } }: Guest): void {
  memory.bytes.fill(0, X, RESULTS + 16 * RESULTS_SIZE);
  memory.words[BARRIER / 4] = 0;
}

function count({ engine: { memory } }: Guest, rounds: number, cpuCount: number, seen: Map<string, number>): void {
  const { words } = memory;
  for (let round = 0; round < rounds; round++) {
    if (words[(X + LINE * round) / 4] !== 1 || words[(Y + LINE * round) / 4] !== 1) throw new Error(`a store of round ${round} is lost`);
    let outcome = '';
    for (let index = 0; index < cpuCount; index++) {
      const at = (RESULTS + index * RESULTS_SIZE + 8 * round) / 4;
      outcome += `${index > 0 ? ' ' : ''}${words[at]},${words[at + 1]}`;
    }
    seen.set(outcome, (seen.get(outcome) ?? 0) + 1);
  }
}

/** Nothing but these outcomes, and more than one of them: else the CPUs did not meet. */
function only(seen: ReadonlyMap<string, number>, allowed: readonly string[]): void {
  expect([...seen.keys()].filter((outcome) => !allowed.includes(outcome))).toEqual([]);
  expect(seen.size).toBeGreaterThan(1);
}

function litmusTests(setting: Setting): void {
  test('store buffering with MFENCE, LOCK or XCHG between: not both CPUs read the old values', async () => {
    for (const fence of [MFENCE, LOCKED]) {
      const seen = await litmus(setting, [
        [STORE_X, fence, LOAD_Y],
        [STORE_Y, fence, LOAD_X],
      ]);
      only(seen, ['0,0 1,0', '1,0 0,0', '1,0 1,0']);
    }
    const seen = await litmus(setting, [
      [XCHG_X, LOAD_Y],
      [XCHG_Y, LOAD_X],
    ]);
    only(seen, ['0,0 1,0', '1,0 0,0', '1,0 1,0']);
  });

  test('store buffering without a fence: any outcome is allowed, a CPU sees its own store at once', async () => {
    const seen = await litmus(setting, [
      [STORE_X, LOAD_Y, THEN_LOAD_X],
      [STORE_Y, LOAD_X, THEN_LOAD_Y],
    ]);
    for (const outcome of seen.keys()) expect(outcome).toMatch(/^[01],1 [01],1$/);
    expect(seen.size).toBeGreaterThan(1);
  });

  test('message passing: who sees the flag sees the data', async () => {
    const seen = await litmus(setting, [
      [STORE_X, STORE_Y],
      [LOAD_Y, THEN_LOAD_X],
    ]);
    only(seen, ['0,0 0,0', '0,0 0,1', '0,0 1,1']);
  });

  test('load buffering: not both CPUs read what the other stores afterwards', async () => {
    const seen = await litmus(setting, [
      [LOAD_X, STORE_Y],
      [LOAD_Y, STORE_X],
    ]);
    only(seen, ['0,0 0,0', '0,0 1,0', '1,0 0,0']);
  });

  test('independent reads of independent writes: two readers agree on the order', async () => {
    const seen = await litmus(setting, [[STORE_X], [STORE_Y], [LOAD_X, THEN_LOAD_Y], [LOAD_Y, THEN_LOAD_X]]);
    expect(seen.size).toBeGreaterThan(4);
    expect([...seen.keys()]).not.toContain('0,0 0,0 1,0 1,0');
  });

  test('write to read causality: what one passes on, the third sees whole', async () => {
    // The second stores what it read of X to Y; at the end of a round both are 1.
    const wait = '85 c0 74 f8'; // 1: (mov (%rbx),%eax; jmp +0;) test %eax,%eax; jz 1b
    const pass = '89 01'; // mov %eax,(%rcx)
    const seen = await litmus(setting, [[STORE_X], [LOAD_X, wait, pass], [LOAD_Y, THEN_LOAD_X]]);
    only(seen, ['0,0 1,0 0,0', '0,0 1,0 0,1', '0,0 1,0 1,1']);
  });
}

function lockedTests({ boot, together }: Setting): void {
  const COUNT = together.count;
  /** What a lock protects: mov (%rdi),%eax; inc %eax; mov %eax,(%rdi). */
  const INCREMENT = `8b 07 ${STEP} ff c0 ${STEP} 89 07 ${STEP}`;
  /** Every CPU does this COUNT times with RDI at the counter. */
  const hammer = async (body: string, counter = COUNTER, count = 3) => {
    const guests = cpus(boot, count);
    guests.forEach((guest, index) => {
      guest.set('rdi', counter);
      guest.set('r10', COUNT);
      guest.put(CODE + 0x400 * index, looped(body));
    });
    await together.run(guests);
    return guests[0] as Guest;
  };

  test.each([
    ['LOCK INC', `f0 ff 07 ${STEP}`],
    ['LOCK XADD', `b8 01 00 00 00 ${STEP} f0 0f c1 07 ${STEP}`], // mov $1,%eax; lock xadd %eax,(%rdi)
    ['LOCK ADC', `f8 f0 83 17 01 ${STEP}`], // clc; lock adcl $1,(%rdi)
    // 1: mov (%rdi),%eax; lea 1(%rax),%edx; lock cmpxchg %edx,(%rdi); jnz 1b
    ['LOCK CMPXCHG in a loop', `8b 07 ${STEP} 8d 50 01 ${STEP} f0 0f b1 17 ${STEP} 75 ef`],
    // 1: mov $1,%eax; xchg %eax,4(%rdi); test %eax,%eax; jz 2f; pause; jmp 1b; 2: INCREMENT; movl $0,4(%rdi)
    ['a spin lock by XCHG', `b8 01 00 00 00 87 47 04 85 c0 74 04 f3 90 eb f0 ${INCREMENT} c7 47 04 00 00 00 00 ${STEP}`],
    // 1: lock btsl $0,4(%rdi); jnc 2f; pause; jmp 1b; 2: INCREMENT; lock btrl $0,4(%rdi)
    ['a spin lock by LOCK BTS', `f0 0f ba 6f 04 00 73 04 f3 90 eb f4 ${INCREMENT} f0 0f ba 77 04 00 ${STEP}`],
  ])('%s by three CPUs: nothing is lost', async (_, body) => {
    expect((await hammer(body)).get32(COUNTER)).toBe(3 * COUNT);
  });

  test.each([
    ['over two cache lines', 62],
    ['over two pages', 0xffe],
  ])('LOCK INC of a word %s: nothing is lost', async (_, offset) => {
    const at = DATA + 0x4000 + offset;
    const { bytes } = (await hammer(`f0 ff 07 ${STEP}`, at)).engine.memory;
    expect(hex32(bytes.subarray(at, at + 4))).toBe(3 * COUNT);
  });

  test('LOCK CMPXCHG16B: both halves change together', async () => {
    // 1: mov (%rdi),%rax; mov 8(%rdi),%rdx; lea 1(%rax),%rbx; lea 1(%rdx),%rcx; lock cmpxchg16b (%rdi); jnz 1b
    const guest = await hammer(`48 8b 07 ${STEP} 48 8b 57 08 ${STEP} 48 8d 58 01 48 8d 4a 01 ${STEP} f0 48 0f c7 0f ${STEP} 75 e2`);
    expect([guest.get64(COUNTER), guest.get64(COUNTER + 8)]).toEqual([BigInt(3 * COUNT), BigInt(3 * COUNT)]);
  });
}

function changeTests({ boot, together }: Setting): void {
  const FLAGS = DATA + 0x1000; // the round, and 64 bytes on its acknowledgement

  /** Both CPUs run these with RDI at FLAGS, R10 the rounds, ESI 0. */
  const pair = async (first: string, second: string, set: (guests: readonly Guest[]) => void) => {
    const guests = cpus(boot, 2);
    [first, second].forEach((body, index) => {
      const guest = guests[index] as Guest;
      guest.set('rdi', FLAGS);
      guest.set('rsi', 0);
      guest.set('r10', together.count);
      guest.put(CODE + 0x400 * index, body);
    });
    set(guests);
    await together.run(guests);
    return guests[0] as Guest;
  };
  const acknowledged = 'f3 90 39 77 40 75 f9'; // 2: pause; cmp %esi,64(%rdi); jne 2b
  const announced = 'ff c6 f3 90 39 37 75 fa'; // inc %esi; 2: pause; cmp %esi,(%rdi); jne 2b

  test('code that another CPU wrote is what runs, after a serialising instruction', async () => {
    const FUNCTION = CODE + 0x1003; // its immediate operand is aligned
    await pair(
      // 1: inc %esi; mov %esi,(%rbx); mov %esi,(%rdi); wait; dec %r10d; jnz 1b; out
      `ff c6 89 33 89 37 ${acknowledged} 41 ff ca 75 ee e6 f1`,
      // 1: wait; push %rbx; xor %eax,%eax; cpuid; pop %rbx; call *%rbx; cmp %esi,%eax; jne 3f; mov %esi,64(%rdi); dec %r10d; jnz 1b; out; 3: out
      `${announced} 53 31 c0 0f a2 5b ff d3 39 f0 75 0a 89 77 40 41 ff ca 75 e4 e6 f1 e6 f2`,
      ([writer, runner]) => {
        writer?.put(FUNCTION, 'b8 00 00 00 00 c3'); // mov $0,%eax; ret
        writer?.set('rbx', FUNCTION + 1);
        runner?.set('rbx', FUNCTION);
      },
    );
  });

  test('a page that another CPU mapped elsewhere is found there, after INVLPG', async () => {
    const entry = (page: number) => BigInt(SMALL + page * 4096) | 0x67n;
    await pair(
      // 1: inc %esi; xchg %rcx,%rdx; mov %rcx,(%rbx); mov %esi,(%rdi); wait; dec %r10d; jnz 1b; out
      `ff c6 48 87 ca 48 89 0b 89 37 ${acknowledged} 41 ff ca 75 ea e6 f1`,
      // 1: wait; invlpg (%rbx); mov (%rbx),%eax; xor $1,%edx; cmp %edx,%eax; jne 3f; mov %esi,64(%rdi); dec %r10d; jnz 1b; out; 3: out
      `${announced} 0f 01 3b 8b 03 83 f2 01 39 d0 75 0a 89 77 40 41 ff ca 75 e4 e6 f1 e6 f2`,
      ([mapper, reader]) => {
        mapper?.set('rbx', PT);
        mapper?.set('rcx', entry(1));
        mapper?.set('rdx', entry(2));
        mapper?.put(SMALL + 2 * 4096, '01');
        reader?.set('rbx', SMALL);
        reader?.set('rdx', 0);
      },
    );
  });

  test('accessed and dirty bits are set without losing what another CPU does to the entry', async () => {
    const guest = await pair(
      'f0 48 01 0b 41 ff ca 75 f7 e6 f1', // 1: lock add %rcx,(%rbx); dec %r10d; jnz 1b; out
      'f0 48 83 23 9f 0f 01 3a 89 32 41 ff ca 75 f1 e6 f1', // 1: lock andq $~0x60,(%rbx); invlpg (%rdx); mov %esi,(%rdx); dec %r10d; jnz 1b; out
      (guests) => {
        for (const each of guests) each.set('rbx', PT);
        guests[0]?.set('rcx', 1n << 52n); // ignored bits, and XD
        guests[1]?.set('rdx', SMALL);
      },
    );
    expect(guest.get64(PT)).toBe(BigInt(SMALL) | 0x67n | (BigInt(together.count % 4096) << 52n));
  });
}

/** What holds for CPUs that run together, however they do. */
export function togetherTests(boot: Boot, together: Together): void {
  const setting = { boot, together };
  describe('memory order', () => {
    litmusTests(setting);
  });
  describe('locked operations', () => {
    lockedTests(setting);
  });
  describe('code and page tables', () => {
    changeTests(setting);
  });
}

export function smpTests(boot: Boot): void {
  test('PAUSE ends a run that yields, behind the instruction, and no other', () => {
    const [guest] = cpus(boot, 2) as [Guest];
    guest.put(CODE, '90 f3 90 90 90 e6 f1'); // nop; pause; nop; nop; out
    const end = guest.engine.clock.now() + 1_000_000;
    expect(guest.cpu.run(end, true).kind).toBe('budget');
    expect(guest.get('rip')).toBe(BigInt(CODE + 3));
    expect(guest.cpu.instructions).toBe(2);
    expect(guest.engine.clock.now()).toBeLessThan(end);
    expect(guest.cpu.run(end, true).kind).toBe('io');
    guest.set('rip', CODE);
    expect(guest.cpu.run(end).kind).toBe('io');
    expect(guest.cpu.instructions).toBe(10);
  });

  test('one CPU that waits and one that works, in turns: the wait costs next to nothing', () => {
    const [waiting, working] = cpus(boot, 2) as [Guest, Guest];
    waiting.set('rdi', BARRIER);
    waiting.put(CODE, 'f3 90 83 3f 00 74 f9 e6 f1'); // 1: pause; cmpl $0,(%rdi); jz 1b; out
    working.set('rdi', BARRIER);
    working.put(CODE + 0x400, 'b9 a0 86 01 00 ff c9 75 fc ff 07 e6 f1'); // mov $100000,%ecx; 1: dec %ecx; jnz 1b; incl (%rdi); out
    for (let done = 0; done < 2; ) {
      done = 0;
      for (const guest of [waiting, working]) if (guest.cpu.run(guest.engine.clock.now() + 50_000, true).kind === 'io') done += 1;
      if (working.get32(BARRIER) === 1) break;
    }
    waiting.runToDone();
    expect(working.cpu.instructions).toBeGreaterThan(200_000);
    expect(waiting.cpu.instructions).toBeLessThan(1000);
  });

  test('INIT forgets everything that waited to be delivered', () => {
    const [first, second] = cpus(boot, 2) as [Guest, Guest];
    second.set('rflags', 0x202);
    second.cpu.inject(0x40);
    second.cpu.nmi();
    second.cpu.requestInterruptWindow();
    second.cpu.reset('init');
    second.longMode();
    second.set('rflags', 0x202);
    second.put(CODE, '90 90 e6 f1');
    second.runToDone();
    second.set('rip', CODE);
    second.cpu.nmi(); // NMIs are not held back either
    expect(second.run()).toMatchObject({ kind: 'io', port: HANDLER_PORT });
    expect(first.cpu.instructions).toBe(0);
  });

  test.each([1, 2, 3, 4, 6, 16])('CPUID of %s CPUs: each its own APIC ID, one package, a core each', (count) => {
    const guests = cpus(boot, count);
    const bits = Math.ceil(Math.log2(count));
    guests.forEach((guest, index) => {
      const leaf = (number: number, subleaf = 0) => {
        guest.put(CODE + 0x400 * index, '0f a2 e6 f1');
        guest.set('rip', CODE + 0x400 * index);
        guest.set('rax', number);
        guest.set('rcx', subleaf);
        guest.runToDone();
        const [eax, ebx, ecx, edx] = (['rax', 'rbx', 'rcx', 'rdx'] as const).map((register) => Number(guest.get(register)));
        return { eax, ebx, ecx, edx } as Record<'eax' | 'ebx' | 'ecx' | 'edx', number>;
      };
      const basic = leaf(1);
      expect(basic.ebx >>> 24).toBe(index);
      expect((basic.ebx >>> 16) & 0xff).toBe(2 ** bits); // addressable IDs
      expect((basic.edx >>> 28) & 1).toBe(count > 1 ? 1 : 0); // HTT
      const cache = leaf(4, 2); // one L2 for each core
      expect([(cache.eax >>> 26) + 1, ((cache.eax >>> 14) & 0xfff) + 1]).toEqual([2 ** bits, 1]);
      expect(leaf(0xb, 0)).toEqual({ eax: 0, ebx: 1, ecx: 0x100, edx: index }); // one thread a core
      expect(leaf(0xb, 1)).toEqual({ eax: bits, ebx: count, ecx: 0x201, edx: index });
      expect(leaf(0xb, 2)).toEqual({ eax: 0, ebx: 0, ecx: 2, edx: index });
    });
  });
}
