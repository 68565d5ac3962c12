/** Attacks on gates and on the way out: entering without a gate's leave, and staying privileged after leaving (promises P1 to P3). */
import { hex } from '../base/hex.ts';
import { PAGE_SIZE } from '../engine/contract.ts';
import { PageTables } from '../engine/fake/page-tables.ts';
import { FRAME_CAPACITY } from '../monitor/border.ts';
import { CORE, ENTRY_RSP, G, INIT, insideInner, KERNEL, KERNEL_TEXT, registered, STACK, T, tinyImage } from '../privileges/testing.ts';
import type { ContractAttack } from './attack.ts';
import { SECOND_RSP, SHIFT, Stage, twoVictims, victim } from './scenario.ts';

/** An attacker's page with a copy of the victim's gates. */
const COPY = 0xb0_0000;
const copyGates = (stage: Stage) => {
  const from = stage.cpu.translate(stage.gateAddress(0), false);
  stage.engine.memory.bytes.copyWithin(COPY, from, from + PAGE_SIZE);
};
const stillPrivileged = (stage: Stage, where: string) => stage.inside() && `${where} runs in view ${stage.cpu.view.name}`;

export const gateAttacks: readonly ContractAttack[] = [
  {
    name: 'entry-gate-from-user-space',
    what: 'a process maps the gates, sets a kernel stack pointer, and uses an entry gate at CPL 3',
    promises: ['P2'],
    defences: ['gate-privilege-level'],
    run() {
      const stage = victim();
      stage.cpu.privilegeLevel = 3;
      stage.call(G.probe);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'init-gate-from-user-space',
    what: 'a process uses the init gate of a module that the kernel is about to load',
    promises: ['P2', 'P9'],
    defences: ['gate-privilege-level'],
    silent: "a port write by user space is none of the monitor's business; the machine answers",
    run() {
      const image = tinyImage();
      const stage = new Stage([registered(image)]);
      stage.load(image);
      stage.cpu.privilegeLevel = 3;
      stage.call(G.init);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'return-in-from-user-space',
    what: 'a process uses the re-entry gate with the stack pointer of a thread that is away in the kernel',
    promises: ['P2', 'P8'],
    defences: ['gate-privilege-level'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.callOut(CORE + T.innerAfterCall);
      stage.cpu.privilegeLevel = 3;
      stage.ret();
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'gates-by-the-kernel',
    what: 'the kernel jumps to the return gate and to every call gate',
    promises: ['P2'],
    defences: 'these gates have no way in: they lead out of the view, and outside it there is nothing for them to do',
    run() {
      const stage = victim({ decision: { onViolation: 'log' } });
      let gained: string | undefined;
      for (const gate of [G.return, G.kfunc, G.stackFail, G.fpuBegin, G.fpuEnd]) {
        stage.setRsp(ENTRY_RSP);
        stage.gate(gate);
        gained ??= stage.inView();
      }
      return stage.outcome(gained);
    },
  },
  {
    name: 'every-byte-of-the-gate-section',
    what: 'the kernel executes `out` at every address of the gate section that is no entry gate',
    promises: ['P2'],
    defences: 'a gate is found by its exact address in a table of the registered image',
    run() {
      const stage = victim({ decision: { onViolation: 'log' } });
      const entries = new Set<number>([G.probe, G.withBp, G.inner, G.cleanup].map((gate) => 16 * gate));
      let gained: string | undefined;
      for (let offset = 0; offset < PAGE_SIZE; offset++) {
        if (entries.has(offset)) continue;
        stage.setRsp(ENTRY_RSP - 8);
        stage.handle(stage.cpu.out(CORE + 0x1000 + offset, 0x5e));
        gained ??= stage.inView();
      }
      return stage.outcome(gained);
    },
  },
  {
    name: 'gates-before-load',
    what: 'every gate action before any module is loaded, and after it is unloaded',
    promises: ['P2', 'P11'],
    defences: 'without an instance there is no view to enter, and nothing is looked up that might not be there',
    run() {
      const image = tinyImage();
      const stage = new Stage([registered(image)]);
      let gained: string | undefined;
      const everything = () => {
        for (let gate = 0; gate < 11; gate++) {
          if (gate === G.init) continue;
          stage.setRsp(ENTRY_RSP);
          stage.gate(gate);
          gained ??= stage.inView();
        }
        for (const address of [CORE, CORE + T.probe, -1]) stage.handle({ kind: 'fetch', address });
        gained ??= stage.inView();
      };
      everything();
      stage.start(image);
      stage.call(G.cleanup);
      stage.ret();
      everything();
      return stage.outcome(gained);
    },
  },
  {
    name: 'call-out-without-end',
    what: 'calls in and out nested without end, on sixteen stacks',
    promises: ['P8', 'P11'],
    defences: 'frames are typed arrays of a fixed size, and the oldest give way',
    run() {
      const stage = victim({ decision: { onViolation: 'log' } });
      for (let stack = 0; stack < 16; stack++) stage.stack(STACK + 0x100_0000 + stack * 0x8000);
      for (let depth = 0; depth < 300; depth++) {
        for (let stack = 0; stack < 16; stack++) {
          stage.call(G.probe, STACK + 0x100_4000 + stack * 0x8000 - 0x20 * depth);
          stage.gate(G.kfunc);
        }
      }
      const { live } = stage.monitor.frames();
      return stage.outcome(live > FRAME_CAPACITY && `${live} frames`);
    },
  },
  {
    name: 'jump-past-the-gates',
    what: 'the kernel jumps into the middle of a function of the module',
    promises: ['P2', 'P3'],
    defences: ['text-protection'],
    run() {
      const stage = victim();
      stage.setRsp(ENTRY_RSP);
      const at = CORE + T.innerAfterCall;
      if (stage.cpu.executable(at)) return stage.outcome(`${hex(at)} is executed outside the view, unnoticed`);
      stage.handle(stage.cpu.fetch(at));
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'text-through-an-alias',
    what: 'the kernel maps the frame of the text at another address and runs it there',
    promises: ['P2', 'P3'],
    defences: ['text-protection'],
    run() {
      const stage = victim();
      const alias = -0x7700_0000_0000;
      stage.tables.map(alias, stage.cpu.translate(CORE, false));
      stage.setRsp(ENTRY_RSP);
      if (stage.cpu.executable(alias + T.probe)) return stage.outcome(`${hex(alias)} is executed outside the view, unnoticed`);
      stage.handle(stage.cpu.fetch(alias + T.probe));
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'gate-page-remapped',
    what: 'the kernel maps a page of its own, with a copy of the gates, where the gates were',
    promises: ['P2', 'P9'],
    defences: ['gate-page-frame'],
    run() {
      const stage = victim();
      copyGates(stage);
      stage.tables.map(stage.gateAddress(0), COPY);
      stage.call(G.probe);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'gates-under-another-cr3',
    what: 'the kernel switches to page tables in which other memory lies behind the gates',
    promises: ['P2', 'P9'],
    defences: ['gate-page-frame'],
    run() {
      const stage = victim();
      copyGates(stage);
      const other = new PageTables(stage.engine.memory, 0xc0_0000, 0xc0_1000, 0xd0_0000);
      for (let page = 0; page < 0x4000; page += PAGE_SIZE) other.map(STACK + page, stage.cpu.translate(STACK + page, true));
      other.map(stage.gateAddress(0), COPY);
      stage.cpu.cr3 = 0xc0_0000;
      stage.call(G.probe);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'forged-gate',
    what: 'other code writes to the port of the gates, from kernel and user space',
    promises: ['P2', 'P9'],
    defences: 'the address of the instruction says which gate it is; code elsewhere is no gate',
    run() {
      const stage = victim();
      for (const address of [KERNEL_TEXT, 0x40_0000, CORE + 0x1021, -2]) stage.handle(stage.cpu.out(address, 0x5e));
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'call-into-user-memory',
    what: 'a function pointer of the kernel makes the module call user memory, which then runs at CPL 0 as if the module had chosen it',
    promises: ['P3'],
    defences: ['call-target'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.within(CORE + T.afterThunk);
      stage.handle(stage.cpu.fetch(0x40_0000));
      return stage.outcome(stage.rip() === 0x40_0000 && `${hex(0x40_0000)} runs as the module's call-out`);
    },
  },
  {
    name: 'call-into-own-data',
    what: 'a function pointer of the kernel makes the module call its own data, which the kernel has filled',
    promises: ['P3'],
    defences: ['call-target'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.within(CORE + T.afterThunk);
      stage.handle(stage.cpu.fetch(CORE + 0x4000));
      return stage.outcome(stage.rip() === CORE + 0x4000 && "the module's data runs as its call-out");
    },
  },
  ...[
    { name: 'call-into-own-text', to: 'the middle of a function of its own', target: (_: Stage) => CORE + T.fixup },
    {
      name: 'call-into-a-link-word',
      to: 'a link word of its gates, whose bytes the loader chose',
      target: (stage: Stage) => stage.gateAddress(G.kfunc) + 8,
    },
  ].map(
    ({ name, to, target }): ContractAttack => ({
      name,
      what: `a function pointer of the kernel makes the module call ${to}`,
      promises: ['P2', 'P3'],
      defences: ['pointer-landing'],
      run() {
        const stage = victim();
        insideInner(stage);
        stage.within(CORE + T.afterThunk);
        const exit = stage.cpu.jump(target(stage));
        if (exit) stage.handle(exit);
        return stage.outcome(stage.inside() && `the module goes on at ${hex(stage.rip())}, where the kernel wanted it`);
      },
    }),
  ),
  {
    name: 'wild-jump',
    what: 'the kernel makes the module jump to kernel code, to go on there with the privilege',
    promises: ['P3'],
    defences: ['own-return-address', 'shadow-stack', 'leave-view'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.push(0x1234);
      stage.handle(stage.cpu.fetch(KERNEL_TEXT));
      return stage.outcome(stillPrivileged(stage, 'kernel code'));
    },
  },
  {
    name: 'freed-init-code',
    what: 'the kernel makes the module call its init function, whose memory is long freed',
    promises: ['P3', 'P12'],
    defences: ['init-gone'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.within(CORE + T.afterThunk);
      stage.gate(G.init);
      return stage.outcome(stage.rip() === INIT && `the module goes on at ${hex(INIT)}, which belongs to the kernel again`);
    },
  },
  {
    name: 'privilege-in-a-kernel-function',
    what: 'a kernel function that the module calls by a gate probes for the privilege',
    promises: ['P1'],
    defences: ['leave-view'],
    silent: 'nothing is refused: the privilege is not there',
    run() {
      const stage = victim();
      insideInner(stage);
      stage.callOut(CORE + T.innerAfterCall);
      return stage.outcome(stage.rip() === KERNEL.kfunc && stillPrivileged(stage, 'the kernel function'));
    },
  },
  {
    name: 'privilege-in-a-call-by-pointer',
    what: 'a kernel function that the module calls through a pointer probes for the privilege',
    promises: ['P1'],
    defences: ['leave-view'],
    silent: 'nothing is refused: the privilege is not there',
    run() {
      const stage = victim();
      insideInner(stage);
      stage.within(CORE + T.afterThunk);
      stage.handle(stage.cpu.fetch(KERNEL_TEXT + 0x40));
      return stage.outcome(stillPrivileged(stage, 'the kernel function'));
    },
  },
  {
    name: 'privilege-in-a-tail-call',
    what: 'a kernel function that the module jumps to probes for the privilege',
    promises: ['P1'],
    defences: ['leave-view'],
    silent: 'nothing is refused: the privilege is not there',
    run() {
      const stage = victim();
      stage.call(G.probe);
      stage.gate(G.kfunc);
      return stage.outcome(stillPrivileged(stage, 'the kernel function'));
    },
  },
  {
    name: 'privilege-after-the-return',
    what: 'the caller of an entry probes for the privilege after it has returned',
    promises: ['P1'],
    defences: ['leave-view'],
    silent: 'nothing is refused: the privilege is not there',
    run() {
      const stage = victim();
      stage.call(G.probe);
      stage.ret();
      return stage.outcome(stillPrivileged(stage, 'the kernel'));
    },
  },
  ...(['interrupt', 'nmi', 'exception', 'software'] as const).map(
    (type): ContractAttack => ({
      name: `privilege-in-a-handler-${type}`,
      what: `the handler of an event (${type}) in the module probes for the privilege`,
      promises: ['P1', 'P6'],
      defences: ['leave-view'],
      silent: 'nothing is refused: the privilege is not there',
      run() {
        const stage = victim();
        insideInner(stage);
        stage.handle(stage.cpu.event(CORE + T.warn, { type, vector: type === 'exception' ? 14 : 2 }));
        const { view } = stage.cpu.delivered[0];
        return stage.outcome(view !== stage.engine.untrusted && `the handler runs in view ${view.name}`);
      },
    }),
  ),
  {
    name: 'privilege-in-nested-callbacks',
    what: 'kernel, callback, kernel, callback, kernel: probe at each step, with a second thread between',
    promises: ['P1', 'P8'],
    defences: ['leave-view'],
    silent: 'nothing is refused: the privilege is not there',
    run() {
      const stage = victim();
      let gained: string | false = false;
      const probe = (step: string) => {
        gained ||= stillPrivileged(stage, step);
      };
      insideInner(stage);
      stage.callOut(CORE + T.innerAfterCall);
      probe('the kernel, once away');
      if (gained) return stage.outcome(gained);
      const first = stage.rsp();
      insideInner(stage, stage.cpu, SECOND_RSP);
      stage.callOut(CORE + T.innerAfterCall);
      probe('the kernel, on another thread');
      insideInner(stage, stage.cpu, first - 0x80);
      stage.callOut(CORE + T.innerAfterCall);
      probe('the kernel, in the nested callback');
      return stage.outcome(gained);
    },
  },
  {
    name: 'privilege-at-another-module',
    what: "a guarded module is called by another one: the second one's code runs in the view of the first",
    promises: ['P1'],
    defences: ['leave-view'],
    silent: 'nothing is refused: the privilege is not there',
    run() {
      const stage = twoVictims();
      insideInner(stage);
      const first = stage.cpu.view;
      stage.within(CORE + T.afterThunk);
      stage.handle(stage.cpu.fetch(stage.gateAddress(G.probe, SHIFT)));
      return stage.outcome(stage.cpu.view === first && `the gate of b is reached in view ${first.name}`);
    },
  },
  {
    name: 'privilege-on-another-cpu',
    what: 'another CPU of the guest looks around while the first is in the module',
    promises: ['P1'],
    defences: 'a view belongs to a CPU: the engine keeps it with the registers',
    run() {
      const stage = victim({ cpus: 2 });
      insideInner(stage);
      return stage.outcome(stage.inView(stage.engine.cpus[1]));
    },
  },
  {
    name: 'text-patched-after-load',
    what: 'the kernel patches the loaded text at its address, through the direct map and by another mapping',
    promises: ['P3', 'P9'],
    defences: 'the view runs pages of the VMM that no guest address reaches; the copy that the kernel loaded is never run there',
    run() {
      const stage = victim();
      const at = CORE + T.probe;
      stage.tables.map(-0x7700_0000_0000, stage.cpu.translate(CORE, false));
      stage.poke(at, 0xc3);
      stage.poke(-0x7700_0000_0000 + T.inner, 0xc3);
      stage.call(G.probe);
      const page = stage.cpu.view.fixedPages.find(({ address }) => address === CORE)?.page.bytes;
      return stage.outcome((page?.[T.probe] === 0xc3 || page?.[T.inner] === 0xc3) && 'the patched byte is what runs');
    },
  },
  {
    name: 'text-remapped-after-load',
    what: 'the kernel maps its own page where the loaded text was, then calls the module',
    promises: ['P3', 'P9'],
    defences: "a view maps the module's addresses itself; the guest's page tables are not asked",
    run() {
      const stage = victim();
      stage.engine.memory.bytes.fill(0x90, COPY, COPY + PAGE_SIZE);
      stage.tables.map(CORE, COPY);
      stage.call(G.probe);
      const page = stage.cpu.view.fixedPages.find(({ address }) => address === CORE)?.page.bytes;
      return stage.outcome(page?.[T.probe] === 0x90 && "the guest's page is what runs");
    },
  },
];
