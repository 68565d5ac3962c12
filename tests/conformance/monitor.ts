/**
 * MONITOR and MWAIT (Intel SDM vol. 2): where they exist, what ends a wait, and what does not. The wait itself is outside `run`: it goes on as
 * long as `Cpu.monitoring` says so.
 */
import { describe, expect, test } from 'vitest';
import { type Exit, type HostPage, PERMISSION, type View } from '../../src/engine/contract.ts';
import { CODE, code, DATA, DONE_PORT, Guest, PT, SMALL, STACK } from './guest.ts';
import type { Boot } from './suite.ts';

const TEXT = -0x4000_0000;
const PRIVATE = TEXT + 0x1000;
const MONITOR = '0f 01 c8';
const MWAIT = '0f 01 c9';
const DONE = 'e6 f1';
const LINE = 64;
const MISC_ENABLE = 0x1a0;
const ENABLE_MONITOR = 1n << 18n;

interface Waiting {
  /** In the module view, about to monitor DATA. */
  guest: Guest;
  /** Outside, with RBX = DATA. */
  other: Guest;
  view: View;
}

/** CPU 0 in a module view that allows the instructions, with `bytes` as its text and RAX = DATA; CPU 1 outside with `code` to come. */
function module(boot: Boot, bytes: string): Waiting {
  const guest = boot({ cpus: 2 });
  const other = new Guest(guest.engine, 1).longMode();
  const [text, data] = guest.engine.allocateHostPages(2) as [HostPage, HostPage];
  text.bytes.set(code(bytes));
  const view = guest.engine.createView('module');
  view.setFixedPages([
    { address: TEXT, page: text, permission: PERMISSION.read | PERMISSION.execute },
    { address: PRIVATE, page: data, permission: PERMISSION.read | PERMISSION.write },
  ]);
  view.setAllowed(new Set(['monitor-mwait'] as const));
  guest.set('rip', TEXT);
  guest.set('rax', DATA);
  guest.cpu.enter(view);
  other.set('rsp', STACK - 0x400);
  other.set('rbx', DATA);
  return { guest, other, view };
}

/** CPU 0 waits for a store to the line at DATA + `offset`. */
function waiting(boot: Boot, offset = 0): Waiting {
  const found = module(boot, `${MONITOR} 31 c0 ${MWAIT} ${DONE}`); // xor %eax,%eax between
  found.guest.set('rax', DATA + offset);
  expect(found.guest.run()).toMatchObject({ kind: 'mwait', hints: 0, extensions: 0, refused: false });
  expect(found.guest.cpu.monitoring).toBe(true);
  return found;
}

const event = (exit: Exit) => {
  if (exit.kind !== 'event') throw new Error(`expected an event, got ${exit.kind}`);
  return exit.event;
};

/** Runs to the end; may be stopped once on the way because it woke another CPU. */
function finish(guest: Guest): void {
  const exit = guest.run();
  if (exit.kind === 'budget') guest.runToDone();
  else expect(exit).toMatchObject({ kind: 'io', port: DONE_PORT });
}

/** Runs `bytes` on a CPU outside, to its end. */
function outside(guest: Guest, bytes: string): void {
  guest.put(CODE, `${bytes} ${DONE}`);
  guest.set('rip', CODE);
  finish(guest);
}

function wakeTests(boot: Boot): void {
  test.each<[string, string]>([
    ['MOV of a byte', '88 03'],
    ['MOV of 8 bytes', '48 89 03'],
    ['a store of the value that was there', 'c7 03 00 00 00 00'],
    ['a store into the line from the one before', '48 89 43 fc'],
    ['PUSH', '48 8d 63 08 50'], // lea 8(%rbx),%rsp; push %rax
    ['MOVUPS', '0f 11 03'],
    ['FXSAVE', '0f ae 03'],
    ['REP STOSB', '48 89 df b9 40 00 00 00 f3 aa'],
    ['REP MOVSQ', '48 89 df b9 08 00 00 00 f3 48 a5'],
    ['INC', 'ff 03'],
    ['LOCK OR', 'f0 80 0b 08'],
    ['LOCK CMPXCHG that fails', 'b8 05 00 00 00 f0 0f b1 0b'],
    ['LOCK XADD', 'f0 48 0f c1 03'],
    ['XCHG', '87 03'],
    ['LOCK CMPXCHG16B', 'f0 48 0f c7 0b'],
    ['a locked operation over two lines', 'f0 48 83 43 fc 01'],
    ['SETcc', '0f 94 03'],
    ['FSTP', 'db e3 d9 e8 dd 1b'], // fninit; fld1; fstpl (%rbx),
    ['SGDT', '0f 01 03'],
  ])('%s by another CPU ends the wait', (_, bytes) => {
    const { guest, other } = waiting(boot);
    outside(other, bytes);
    expect(guest.cpu.monitoring).toBe(false);
    guest.runToDone();
  });

  test.each<[string, string]>([
    ['a store to the line before', '48 89 43 f8'],
    ['a store to the line behind', '88 43 40'],
    ['a load', '8a 03'],
    ['another page', '88 83 00 10 00 00'],
    ['the instruction fetch', '90'],
  ])('%s does not end it', (_, bytes) => {
    const { guest, other } = waiting(boot);
    outside(other, bytes);
    expect(guest.cpu.monitoring).toBe(true);
  });

  test('a CPU that wrote there before is noticed as well, through every address of the page', () => {
    const { guest, other } = module(boot, `${MONITOR} ${MWAIT} ${DONE}`);
    other.setPage(0, BigInt(DATA) | 3n); // the frame of DATA is at SMALL too
    const stores = ['c6 04 25 00 00 03 00 01', 'c6 04 25 00 00 20 00 01']; // movb $1,DATA; movb $1,SMALL
    expect([DATA, SMALL]).toEqual([0x3_0000, 0x20_0000]);
    outside(other, stores.join(' '));
    for (const bytes of stores) {
      guest.set('rip', TEXT);
      guest.set('rax', DATA);
      expect(guest.run().kind).toBe('mwait');
      outside(other, bytes);
      expect(guest.cpu.monitoring).toBe(false);
    }
  });

  test('a device that writes to the line ends it, one that writes beside it does not', () => {
    const { guest } = waiting(boot, LINE);
    const { memory } = guest.engine;
    memory.written(DATA, LINE);
    memory.written(DATA + 2 * LINE, 8192);
    memory.written(DATA + 0x1000, 64);
    expect(guest.cpu.monitoring).toBe(true);
    memory.written(DATA - 4096, 4096 + LINE + 1);
    expect(guest.cpu.monitoring).toBe(false);
    guest.runToDone();
  });

  test('the accessed bit that a page walk sets is a store', () => {
    const { guest, other } = module(boot, `${MONITOR} ${MWAIT} ${DONE}`);
    guest.set('rax', PT + 8 * 5);
    expect(guest.run().kind).toBe('mwait');
    outside(other, '8a 04 25 00 50 20 00'); // SMALL + 5 pages
    expect(guest.cpu.monitoring).toBe(false);
  });

  test('private memory can be monitored, and only the module stores there', () => {
    const { guest, other, view } = module(boot, `${MONITOR} ${MWAIT} ${DONE} c7 00 01 00 00 00 ${DONE}`);
    guest.set('rax', PRIVATE);
    expect(guest.run().kind).toBe('mwait');
    other.cpu.enter(view);
    other.set('rip', TEXT + 8);
    other.set('rax', PRIVATE);
    finish(other);
    expect(guest.cpu.monitoring).toBe(false);
  });

  test('two CPUs that monitor one line both wake', () => {
    const { guest, other, view } = waiting(boot);
    other.set('rip', TEXT);
    other.set('rax', DATA);
    other.cpu.enter(view);
    expect(other.run().kind).toBe('mwait');
    guest.engine.memory.written(DATA + 63, 1);
    expect([guest.cpu.monitoring, other.cpu.monitoring]).toEqual([false, false]);
  });

  test('code in the monitored page is noticed when it changes', () => {
    const { guest, other } = module(boot, `${MONITOR} ${MWAIT} ${DONE}`);
    other.put(DATA, `b0 01 ${DONE}`);
    other.set('rip', DATA);
    other.runToDone();
    expect(guest.run().kind).toBe('mwait');
    outside(other, 'c6 43 01 02'); // movb $2,1(%rbx)
    expect(guest.cpu.monitoring).toBe(false);
    other.set('rip', DATA);
    finish(other);
    expect(other.get('rax') & 0xffn).toBe(2n);
  });

  test('the store that ends a wait ends the turn of the CPU that made it', () => {
    const { guest, other } = waiting(boot);
    other.put(CODE, 'c6 03 01 eb fe'); // movb $1,(%rbx); 1: jmp 1b
    const before = guest.engine.clock.now();
    expect(other.run(1e9).kind).toBe('budget');
    expect(guest.engine.clock.now() - before).toBeLessThan(1e6);
    // Nobody waits any more.
    other.set('rip', CODE);
    expect(other.run(1e6).kind).toBe('budget');
    expect(guest.engine.clock.now() - before).toBeGreaterThanOrEqual(1e6);
  });

  test('the end of a wait is seen however the turns fall', () => {
    const rounds = 500;
    const { guest, other } = tableTennis(boot, rounds);
    const running = new Set([guest, other]);
    const asleep = new Set<Guest>();
    let waits = 0;
    for (let turn = 0; running.size > 0; turn++) {
      if (turn > 100_000) throw new Error('a store was missed');
      const ready = [...running].filter((cpu) => !asleep.has(cpu) || !cpu.cpu.monitoring);
      if (ready.length === 0) throw new Error('both wait for ever');
      const cpu = ready[turn % ready.length] as Guest;
      asleep.delete(cpu);
      const exit = cpu.run(4 * (1 + ((turn * 7) % 13)));
      if (exit.kind === 'mwait') {
        asleep.add(cpu);
        waits += 1;
      } else if (exit.kind === 'io') running.delete(cpu);
      else expect(exit.kind).toBe('budget');
    }
    expect(waits).toBeGreaterThan(rounds / 4);
  });
}

/** Two CPUs in one module: each waits until the other has counted its word up, and then counts the other's up, `rounds` times. CPU 0 begins. */
function tableTennis(boot: Boot, rounds: number): Waiting {
  const found = module(
    boot,
    `
      48 89 d8 31 c9 31 d2 ${MONITOR}  ; 0: mov %rbx,%rax; xor %ecx,%ecx; xor %edx,%edx; monitor
      44 39 23 73 05 31 c0 ${MWAIT}    ; cmp %r12d,(%rbx); jae 1f; xor %eax,%eax; mwait
      44 39 23 72 e7                   ; 1: cmp %r12d,(%rbx); jb 0b
      44 01 2f 41 ff c4 41 ff ce       ; add %r13d,(%rdi); inc %r12d; dec %r14d
      75 dc ${DONE}                    ; jnz 0b`,
  );
  const { guest, other, view } = found;
  other.cpu.enter(view);
  for (const [index, cpu] of [guest, other].entries()) {
    cpu.set('rip', TEXT);
    cpu.set('rbx', DATA + LINE * index);
    cpu.set('rdi', DATA + LINE * (1 - index));
    cpu.set('r12', 1);
    cpu.set('r13', 1);
    cpu.set('r14', rounds);
  }
  guest.engine.memory.bytes[DATA] = 1;
  return found;
}

/** In threads: no store may be missed, however close it comes to MONITOR, the look at the word, or MWAIT. */
export function parallelMonitorTests(boot: Boot): void {
  test('a store by a CPU in another thread ends the wait', async () => {
    const rounds = 20_000;
    const { guest, other } = tableTennis((options) => boot({ clock: 'host', ...options }), rounds);
    const threads = await guest.engine.startThreads(2);
    if (threads === undefined) throw new Error('this engine has no threads here');
    const idle = new Set([guest, other]);
    let done = 0;
    while (done < 2) {
      for (const cpu of [...idle]) {
        if (cpu.cpu.monitoring) continue;
        idle.delete(cpu);
        threads.all[cpu.index]?.start(cpu.cpu, Number.MAX_VALUE, false);
      }
      for (const cpu of [guest, other]) {
        const thread = threads.all[cpu.index];
        if (!thread?.returned) continue;
        const exit = thread.finish();
        if (exit.kind === 'io') done += 1;
        else if (exit.kind === 'mwait' || exit.kind === 'budget') idle.add(cpu);
        else throw new Error(`CPU ${cpu.index} came back with ${exit.kind}`);
      }
      const waiting = [...idle].every((cpu) => cpu.cpu.monitoring);
      if (done < 2 && waiting && idle.size === 2 - done) throw new Error('both wait for ever');
    }
    expect([guest.engine.memory.words[DATA / 4], guest.engine.memory.words[(DATA + LINE) / 4]]).toEqual([rounds + 1, rounds]);
  });
}

function mannerTests(boot: Boot): void {
  test('without a MONITOR, or after the line was stored to, MWAIT goes straight on', () => {
    const { guest, other } = module(boot, `${MWAIT} ${MONITOR} e6 80 ${MWAIT} ${DONE}`);
    guest.set('rax', DATA);
    expect(guest.run()).toMatchObject({ kind: 'io', port: 0x80 });
    outside(other, '88 03');
    guest.runToDone();
  });

  test('a wait uses the MONITOR up', () => {
    const { guest } = module(boot, `${MONITOR} ${MWAIT} ${MWAIT} ${DONE}`);
    expect(guest.run().kind).toBe('mwait');
    guest.runToDone();
  });

  test("the CPU's own store counts too", () => {
    const { guest } = module(boot, `${MONITOR} c7 00 00 00 00 00 ${MWAIT} ${DONE}`);
    guest.runToDone();
  });

  test('hints mean nothing, and are passed on with the extensions', () => {
    const { guest } = module(boot, `${MONITOR} b8 f0 00 00 00 ff c1 ${MWAIT} ${DONE}`); // mov $0xf0,%eax; inc %ecx
    guest.set('rdx', 0xffff_ffff);
    expect(guest.run()).toMatchObject({ kind: 'mwait', hints: 0xf0, extensions: 1, refused: false });
  });

  test.each<[string, bigint]>([
    ['bit 1', 2n],
    ['bit 31', 1n << 31n],
    ['bit 32', 1n << 32n],
  ])('#GP for extensions that do not exist: %s', (_, rcx) => {
    const { guest } = module(boot, `${MONITOR} ${MWAIT}`);
    guest.set('rcx', rcx);
    expect(event(guest.run())).toMatchObject({ vector: 13, errorCode: 0 });
    guest.set('rip', TEXT + 3);
    expect(event(guest.run())).toMatchObject({ vector: 13, errorCode: 0 });
    guest.set('rip', TEXT);
    guest.set('rcx', 1); // MONITOR has none at all
    expect(event(guest.run())).toMatchObject({ vector: 13, errorCode: 0 });
  });

  test('MONITOR faults as a load would', () => {
    const { guest } = module(boot, `${MONITOR} 64 ${MONITOR}`);
    guest.set('rax', 0x300_0000);
    expect(event(guest.run())).toMatchObject({ vector: 14, errorCode: 0, address: 0x300_0000n });
    guest.set('rax', 1n << 63n);
    expect(event(guest.run())).toMatchObject({ vector: 13 });
  });

  test('device memory is not read, and not monitored', () => {
    const { guest } = module(boot, `${MONITOR} ${MWAIT} ${DONE}`);
    guest.set('rax', 0x4000_0000);
    guest.runToDone();
  });

  test('an interrupt ends it; with RFLAGS.IF it leaves the view, and the wait is not taken up again', () => {
    const { guest } = module(boot, `fb ${MONITOR} ${MWAIT} ${MWAIT} ${DONE}`);
    expect(guest.run().kind).toBe('mwait');
    expect(guest.cpu.canInterrupt).toBe(true);
    guest.cpu.inject(0x33);
    expect(event(guest.run())).toMatchObject({ type: 'interrupt', vector: 0x33 });
    expect(guest.get('rip')).toBe(BigInt.asUintN(64, BigInt(TEXT + 7)));
    guest.runToDone();
  });

  test('STI right before MWAIT: an interrupt that waits is taken behind it', () => {
    const { guest } = module(boot, `${MONITOR} fb ${MWAIT} ${DONE}`);
    guest.cpu.requestInterruptWindow();
    expect(guest.run().kind).toBe('mwait');
    expect(guest.cpu.canInterrupt).toBe(true);
  });

  test('an NMI that waits in the shadow of STI keeps it from waiting', () => {
    const { guest } = module(boot, `${MONITOR} e6 80 fb ${MWAIT} ${DONE}`);
    expect(guest.run()).toMatchObject({ kind: 'io', port: 0x80 });
    expect(guest.run(4).kind).toBe('budget');
    expect(guest.get('rip')).toBe(BigInt.asUintN(64, BigInt(TEXT + 6)));
    guest.cpu.nmi();
    expect(event(guest.run())).toMatchObject({ type: 'nmi' });
    expect(guest.get('rip')).toBe(BigInt.asUintN(64, BigInt(TEXT + 9)));
  });

  test('a single-step trap is taken, not slept over', () => {
    const { guest } = module(boot, `${MONITOR} ${MWAIT}`);
    guest.set('rflags', 0x102);
    expect(event(guest.run())).toMatchObject({ vector: 1 });
    expect(event(guest.run())).toMatchObject({ vector: 1 });
    expect(guest.get('rip')).toBe(BigInt.asUintN(64, BigInt(TEXT + 6)));
  });

  test('INIT ends it', () => {
    const { guest } = waiting(boot);
    guest.cpu.enter(guest.engine.untrusted);
    guest.cpu.reset('init');
    expect(guest.cpu.monitoring).toBe(false);
  });
}

function absenceTests(boot: Boot): void {
  test('#UD in the untrusted view at every privilege level, and in a module view without them', () => {
    for (const [instruction, bytes] of [MONITOR, MWAIT].entries()) {
      const { guest, view } = module(boot, `${MONITOR} ${MWAIT}`);
      view.setAllowed(new Set());
      guest.set('rip', TEXT + 3 * instruction);
      expect(event(guest.run())).toMatchObject({ vector: 6, errorCode: -1 });
      view.setAllowed(new Set(['monitor-mwait'] as const));
      guest.cpu.enter(guest.engine.untrusted);
      guest.put(CODE, bytes);
      guest.put(0x2_0000, bytes); // USER
      guest.set('rip', CODE);
      expect(guest.runToHandler()).toMatchObject({ vector: 6 });
      guest.user();
      expect(guest.runToHandler()).toMatchObject({ vector: 6, cs: 0x2b });
    }
  });

  test('CPUID says so in the view that has them and nowhere else', () => {
    const leaves = 'b8 01 00 00 00 0f a2 89 ce b8 05 00 00 00 31 c9 0f a2'; // leaf 1, ECX to ESI; leaf 5
    const { guest, other, view } = module(boot, `${leaves} ${DONE}`);
    guest.runToDone();
    const said = (from: Guest) => [(from.get('rsi') >> 3n) & 1n, from.get('rax'), from.get('rbx'), from.get('rcx'), from.get('rdx')];
    expect(said(guest)).toEqual([1n, 64n, 64n, 3n, 0n]);
    outside(other, leaves);
    expect(said(other)).toEqual([0n, 0n, 0n, 0n, 0n]);
    view.setAllowed(new Set());
    guest.set('rip', TEXT);
    guest.runToDone();
    expect(said(guest)).toEqual([0n, 0n, 0n, 0n, 0n]);
  });

  test('IA32_MISC_ENABLE says that they are not there, and cannot be told otherwise', () => {
    const guest = boot();
    expect(guest.cpu.readMsr(MISC_ENABLE) & ENABLE_MONITOR).toBe(0n);
    guest.put(CODE, '0f 30');
    guest.set('rcx', MISC_ENABLE);
    guest.set('rax', ENABLE_MONITOR);
    expect(guest.runToHandler()).toMatchObject({ vector: 13, errorCode: 0 });
  });

  test('what is monitored is forgotten when the view is left', () => {
    const { guest } = module(boot, `${MONITOR} e6 80 ${MWAIT} ${DONE}`);
    const { view } = guest.cpu;
    guest.run();
    guest.cpu.enter(guest.engine.untrusted);
    expect(guest.cpu.monitoring).toBe(false);
    guest.cpu.enter(view);
    guest.runToDone();
  });

  test('withheld on a CPU: refused at once, without a fault, and only there', () => {
    const { guest, other, view } = module(boot, `${MONITOR} ff c1 ${MWAIT} ${DONE}`);
    guest.cpu.withholdMwait(true);
    expect(guest.run()).toMatchObject({ kind: 'mwait', extensions: 1, refused: true });
    expect(guest.cpu.monitoring).toBe(false);
    guest.runToDone();
    other.set('rip', TEXT);
    other.set('rax', DATA);
    other.set('rcx', 0);
    other.cpu.enter(view);
    expect(other.run()).toMatchObject({ kind: 'mwait', refused: false });
    guest.cpu.withholdMwait(false);
    guest.set('rip', TEXT);
    guest.set('rax', DATA);
    guest.set('rcx', 0);
    expect(guest.run()).toMatchObject({ kind: 'mwait', refused: false });
  });
}

export function monitorTests(boot: Boot): void {
  describe('what ends a wait', () => {
    wakeTests(boot);
  });
  describe('how it is asked for', () => {
    mannerTests(boot);
  });
  describe('where they do not exist', () => {
    absenceTests(boot);
  });
}
