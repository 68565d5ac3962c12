/** Attacks with the stack pointer at the border (promise P4), and with the GS base that per-CPU data hangs on (P7). */
import { hex } from '../base/hex.ts';
import { PAGE_SIZE, REG } from '../engine/contract.ts';
import { CORE, ENTRY_RSP, G, insideInner, KERNEL, STACK, T } from '../privileges/testing.ts';
import type { ContractAttack } from './attack.ts';
import { PRIVATE, type Stage, victim, viewPage } from './scenario.ts';

const MSR_GS_BASE = 0xc000_0101;

/** The kernel calls an entry with this stack pointer, its return address where it has put it. */
function enterOn(stage: Stage, rsp: number): void {
  stage.setRsp(rsp);
  stage.gate(G.probe);
}
const runsOn = (stage: Stage, what: string) => stage.inside() && `the module runs with its stack ${what}, at ${hex(stage.rsp())}`;

export const stackAttacks: readonly ContractAttack[] = [
  {
    name: 'stack-in-user-space',
    what: 'an entry with the stack pointer in the memory of a process, whose threads then steer the module',
    promises: ['P4'],
    defences: ['stack-kernel-address'],
    run() {
      const stage = victim();
      stage.tables.map(0x7000_0000, 0x90_0000);
      enterOn(stage, 0x7000_0800);
      return stage.outcome(runsOn(stage, 'in user memory'));
    },
  },
  {
    name: 'stack-misaligned',
    what: 'an entry with a stack pointer between two words',
    promises: ['P4'],
    defences: ['stack-alignment'],
    run() {
      const stage = victim();
      enterOn(stage, ENTRY_RSP - 4);
      return stage.outcome(runsOn(stage, 'misaligned'));
    },
  },
  {
    name: 'stack-read-only',
    what: "an entry with the stack pointer in memory that the kernel may only read: the VMM's own write would change it",
    promises: ['P4'],
    defences: ['stack-writable'],
    run() {
      const stage = victim();
      stage.tables.map(STACK + 0x3000, 0x90_0000, false);
      enterOn(stage, ENTRY_RSP);
      return stage.outcome(
        stage.engine.load(0x90_0000 + (ENTRY_RSP & 0xfff)) === stage.gateAddress(G.return) && 'the VMM wrote to read-only memory',
      );
    },
  },
  {
    name: 'stack-in-module-text',
    what: "an entry with a stack that is mapped onto the frame of the module's text: the VMM's own write would change it",
    promises: ['P4', 'P9'],
    defences: ['stack-not-text'],
    run() {
      const stage = victim();
      stage.tables.map(STACK + 0x3000, stage.cpu.translate(CORE, false));
      enterOn(stage, ENTRY_RSP);
      return stage.outcome(stage.word(ENTRY_RSP) === stage.gateAddress(G.return) && 'the VMM wrote to a protected frame');
    },
  },
  {
    name: 'stack-in-private-memory',
    what: "an entry with the stack pointer in the module's private memory, which its own pushes would then overwrite",
    promises: ['P4', 'P7'],
    defences: ['stack-clear-of-modules'],
    run() {
      const stage = victim();
      enterOn(stage, PRIVATE + 0x80);
      return stage.outcome(runsOn(stage, 'in its private memory'));
    },
  },
  {
    name: 'stack-right-above-private-memory',
    what: 'an entry with a stack that will grow into private memory',
    promises: ['P4', 'P7'],
    defences: ['stack-clear-of-modules'],
    run() {
      const stage = victim();
      stage.tables.map(CORE + 0x5000, 0x91_0000);
      enterOn(stage, CORE + 0x5040);
      return stage.outcome(runsOn(stage, 'a page above its own memory'));
    },
  },
  {
    name: 'stack-nowhere',
    what: 'entries with stack pointers that are not canonical, wrap, lie in a hole or in a device',
    promises: ['P4', 'P11'],
    defences: 'there is no memory: the frame of a stack is found by walking the page tables, and must be guest RAM to be written',
    run() {
      const stage = victim({ decision: { onViolation: 'log' } });
      stage.tables.map(STACK + 0x1000, 0xfeb0_0000);
      let gained: string | undefined;
      for (const value of [0x8000_0000_0000n, 0xffff_7fff_ffff_fff8n, 0xffff_ffff_ffff_fff8n, 8n, 0n]) {
        stage.cpu.registers.words[REG.rsp] = value;
        stage.gate(G.probe);
        gained ??= stage.inView();
      }
      for (const rsp of [STACK - 0x2000, STACK + 0x1800]) {
        enterOn(stage, rsp);
        gained ??= stage.inView();
      }
      return stage.outcome(gained);
    },
  },
  {
    name: 'call-from-a-private-stack',
    what: 'the kernel puts a frame of its own where, for it, the private stack lies, and has the module call out from there',
    promises: ['P4', 'P7'],
    defences: ['private-stack-exit', 'shadow-stack'],
    run() {
      const stage = victim({ tiny: { privateName: '.portcullis.private.stack' } });
      insideInner(stage);
      stage.within(CORE + T.innerAfterCall);
      const page = viewPage(stage, PRIVATE);
      new DataView(page.buffer, page.byteOffset).setBigInt64(PAGE_SIZE - 8, BigInt(stage.rsp()), true);
      const rsp = PRIVATE + PAGE_SIZE - 0x100;
      stage.setWord(rsp, stage.gateAddress(G.return));
      stage.setRsp(rsp);
      stage.gate(G.kfunc);
      return stage.outcome(
        stage.rip() === KERNEL.kfunc &&
          stage.rsp() === rsp &&
          "the kernel function runs on memory of the kernel's choice, and returns to it",
      );
    },
  },
  {
    name: 'per-cpu-data-in-private-memory',
    what: 'the kernel sets the GS base so that a per-CPU variable that the module writes falls on its private memory',
    promises: ['P7'],
    defences: ['per-cpu-base'],
    run() {
      const stage = victim();
      stage.cpu.msrs.set(MSR_GS_BASE, BigInt.asUintN(64, BigInt(PRIVATE - KERNEL.preempt_count)));
      stage.call(G.probe);
      return stage.outcome(stage.inside() && 'the module runs, and its per-CPU variable is its own private memory');
    },
  },
  {
    name: 'per-cpu-data-changed-while-away',
    what: 'the same, by a kernel function that the module has called',
    promises: ['P7'],
    defences: ['per-cpu-base'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.callOut(CORE + T.innerAfterCall);
      stage.cpu.msrs.set(MSR_GS_BASE, BigInt.asUintN(64, BigInt(PRIVATE - KERNEL.preempt_count)));
      stage.ret();
      return stage.outcome(stage.inside() && 'the module runs on, and its per-CPU variable is its own private memory');
    },
  },
];
