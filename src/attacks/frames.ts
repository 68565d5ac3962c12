/** Attacks on the record of unfinished crossings: replay, races, frames of others, and instances that should be gone (P8, P11, P12). */
import { REG, setRegisterAddress } from '../engine/contract.ts';
import {
  CORE,
  ENTRY_RSP,
  G,
  granted,
  insideInner,
  KERNEL_TEXT,
  reg,
  registered,
  returnFromInner,
  T,
  tinyImage,
} from '../privileges/testing.ts';
import type { ContractAttack } from './attack.ts';
import { PRIVATE, SECOND_RSP, SHIFT, Stage, twoVictims, victim, viewPage } from './scenario.ts';

/** Kernel: returns to the re-entry gate with a stack pointer of its choice. */
function comeBack(stage: Stage, rsp: number, cpu = stage.cpu, shift = 0): void {
  stage.setRsp(rsp + 8, cpu);
  stage.gate(G.reentry, cpu, shift);
}
/** A thread of the victim blocks in a kernel function; its stack pointer there. */
function blocked(stage: Stage, rsp = ENTRY_RSP): number {
  insideInner(stage, stage.cpu, rsp);
  stage.callOut(CORE + T.innerAfterCall);
  return stage.rsp();
}
/** The blocked thread comes back and its entry returns. */
function finish(stage: Stage): void {
  stage.ret();
  returnFromInner(stage);
  stage.ret();
}

export const frameAttacks: readonly ContractAttack[] = [
  {
    name: 'return-in-without-a-frame',
    what: 'the re-entry gate with a stack pointer at which nothing is unfinished',
    promises: ['P2', 'P8'],
    defences: ['frame-stack-pointer'],
    run() {
      const stage = victim();
      const rsp = blocked(stage);
      comeBack(stage, rsp - 0x40);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'return-in-twice',
    what: 'a kernel function returns to the module a second time, long after its call has ended',
    promises: ['P2', 'P8'],
    defences: ['frame-single-use'],
    run() {
      const stage = victim();
      const rsp = blocked(stage);
      finish(stage);
      comeBack(stage, rsp);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'two-cpus-race-for-one-frame',
    what: 'two CPUs return to the module with the same frame',
    promises: ['P8'],
    defences: ['frame-single-use'],
    run() {
      const stage = victim({ cpus: 2 });
      const rsp = blocked(stage);
      comeBack(stage, rsp, stage.engine.cpus[0]);
      comeBack(stage, rsp, stage.engine.cpus[1]);
      const inside = stage.engine.cpus.filter((cpu) => stage.inside(cpu));
      return stage.outcome(inside.length > 1 && 'both CPUs are in the module, on one stack');
    },
  },
  {
    name: 'resume-twice',
    what: 'the kernel returns from one interrupt twice',
    promises: ['P6', 'P8'],
    defences: ['frame-single-use'],
    run() {
      const stage = victim({ decision: { onViolation: 'log' } });
      insideInner(stage);
      const rsp = stage.rsp();
      stage.handle(stage.cpu.event(CORE + T.warn, { vector: 32 }));
      stage.handle(stage.cpu.fetch(CORE + T.warn));
      returnFromInner(stage);
      stage.ret();
      stage.setRsp(rsp);
      stage.handle(stage.cpu.fetch(CORE + T.warn));
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'resume-after-a-broken-event',
    what: 'another CPU writes over a return address just before an interrupt, where violations are only logged; the interrupt returns',
    promises: ['P5', 'P6'],
    defences: ['broken-event-ends'],
    run() {
      const stage = victim({ decision: { onViolation: 'log' } });
      insideInner(stage);
      stage.setWord(stage.rsp() + 8, KERNEL_TEXT);
      stage.handle(stage.cpu.event(CORE + T.warn, { vector: 32 }));
      stage.handle(stage.cpu.fetch(CORE + T.warn));
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'resume-on-another-cpu-too',
    what: 'an interrupted thread is resumed on two CPUs',
    promises: ['P6', 'P8'],
    defences: ['frame-single-use'],
    run() {
      const stage = victim({ cpus: 2 });
      const [first, second] = stage.engine.cpus;
      insideInner(stage);
      const rsp = stage.rsp();
      stage.handle(first.event(CORE + T.warn, { vector: 32 }));
      stage.handle(first.fetch(CORE + T.warn), first);
      stage.setRsp(rsp, second);
      stage.handle(second.fetch(CORE + T.warn), second);
      return stage.outcome(stage.inside(first) && stage.inside(second) && 'both CPUs run the interrupted code');
    },
  },
  {
    name: 'stack-of-a-killed-thread-reused',
    what: 'a thread is killed in a call-out, its stack goes to a new one, and the old call returns',
    promises: ['P8'],
    defences: ['frame-nesting'],
    run() {
      const stage = victim();
      const rsp = blocked(stage, ENTRY_RSP - 0x200);
      stage.call(G.probe, ENTRY_RSP);
      stage.gate(G.kfunc);
      comeBack(stage, rsp);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'long-jump-to-an-older-frame',
    what: 'the kernel leaves a nested entry by a long jump, goes on in the outer one, and comes back to the nested one later',
    promises: ['P8'],
    defences: ['frame-single-use', 'frame-nesting'],
    run() {
      const stage = victim({ decision: { onViolation: 'log' } });
      const outer = blocked(stage);
      const inner = blocked(stage, outer - 0x80);
      comeBack(stage, outer);
      stage.callOut(CORE + T.innerAfterCall);
      comeBack(stage, inner);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'return-from-a-function-that-never-returns',
    what: '__stack_chk_fail, which ends a module whose stack is broken, returns to it',
    promises: ['P8'],
    defences: ['no-frame-for-no-return'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.callOut(CORE + T.innerAfterCall, G.stackFail);
      stage.ret();
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'exit-with-another-stack-pointer',
    what: 'the module is made to return from its entry before its frame is complete',
    promises: ['P4'],
    defences: ['frame-stack-pointer', 'shadow-stack'],
    run() {
      const stage = victim();
      stage.call(G.probe);
      stage.setRsp(stage.rsp() - 0x40);
      stage.gate(G.return);
      return stage.outcome(
        stage.rsp() === ENTRY_RSP - 0x48 &&
          stage.rip() === KERNEL_TEXT &&
          reg(stage, REG.rax) !== -1 &&
          'the entry has returned on another stack pointer',
      );
    },
  },
  {
    name: 'frame-of-another-module',
    what: "a thread that is away from one module comes back through the re-entry gate of another, into that one's privileges",
    promises: ['P1', 'P8'],
    defences: ['frame-instance', 'own-return-address', 'shadow-stack', 'return-address-seal'],
    run() {
      const stage = twoVictims();
      const rsp = blocked(stage);
      comeBack(stage, rsp, stage.cpu, SHIFT);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'frame-of-an-unloaded-instance',
    what: 'a module is unloaded while a thread is away from it, loaded again, and the old thread comes back to the new instance',
    promises: ['P12'],
    defences: ['end-drops-frames', 'frame-instance'],
    run() {
      const image = tinyImage();
      const stage = new Stage([registered(image)]);
      stage.start(image);
      const rsp = blocked(stage);
      stage.call(G.cleanup, SECOND_RSP);
      stage.ret();
      stage.load(image);
      stage.call(G.init, SECOND_RSP);
      setRegisterAddress(stage.cpu.registers, REG.rax, 0);
      stage.ret();
      comeBack(stage, rsp);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'two-machines',
    what: 'a frame of one machine, used in another machine with the same module at the same addresses',
    promises: ['P11'],
    defences: 'each machine has a monitor, an engine and memory of its own; nothing is shared that could be mixed up',
    run() {
      const rsp = blocked(victim());
      const other = victim();
      comeBack(other, rsp);
      return other.outcome(other.inView());
    },
  },
  {
    name: 'entry-after-a-violation',
    what: 'a module whose border was broken is called again',
    promises: ['P12'],
    defences: ['quarantine'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.push(0);
      stage.handle(stage.cpu.fetch(KERNEL_TEXT));
      stage.call(G.probe);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'return-after-a-violation',
    what: 'a thread that was away when the border was broken comes back to the module',
    promises: ['P12'],
    defences: ['quarantine'],
    run() {
      const stage = victim();
      const rsp = blocked(stage, SECOND_RSP);
      insideInner(stage);
      stage.push(0);
      stage.handle(stage.cpu.fetch(KERNEL_TEXT));
      comeBack(stage, rsp);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'stay-inside-a-quarantined-module',
    what: 'one CPU breaks a rule while another one is inside',
    promises: ['P1', 'P12'],
    defences: ['quarantine-every-cpu'],
    run() {
      const stage = victim({ cpus: 2 });
      const [first, second] = stage.engine.cpus;
      stage.call(G.probe, SECOND_RSP, second);
      insideInner(stage, first);
      stage.push(0, first);
      stage.handle(first.fetch(KERNEL_TEXT), first);
      return stage.outcome(stage.inView(second));
    },
  },
  {
    name: 'init-signal-while-inside',
    what: 'a CPU that is in the module gets an INIT from another one, and starts kernel code anew',
    promises: ['P1', 'P6'],
    defences: ['reset-leaves-module'],
    silent: 'INIT breaks no rule: the CPU leaves the module as at an event',
    run() {
      const stage = victim();
      insideInner(stage);
      stage.monitor.reset(stage.cpu);
      return { ...stage.outcome(undefined), gained: stage.inView() };
    },
  },
  {
    name: 'registers-after-init-signal',
    what: 'the same, to read the registers that the module had',
    promises: ['P6'],
    defences: ['register-scrub'],
    silent: 'INIT breaks no rule: the registers are zeroed',
    run() {
      const stage = victim();
      insideInner(stage);
      setRegisterAddress(stage.cpu.registers, REG.rbx, 0x5ec4e7);
      stage.monitor.reset(stage.cpu);
      return stage.outcome(reg(stage, REG.rbx) === 0x5ec4e7 && "RBX holds the module's value");
    },
  },
  {
    name: 'registers-after-a-violation',
    what: 'the kernel breaks a rule on purpose while the module computes, to read the registers that it is taken out with',
    promises: ['P6'],
    defences: ['register-scrub'],
    run() {
      const stage = victim();
      insideInner(stage);
      setRegisterAddress(stage.cpu.registers, REG.rdi, 0x5ec4e7);
      stage.push(0);
      stage.handle(stage.cpu.fetch(KERNEL_TEXT));
      return stage.outcome(reg(stage, REG.rdi) === 0x5ec4e7 && "RDI holds the module's value");
    },
  },
  {
    name: 'private-memory-after-unload',
    what: 'the host pages of a module that is gone are given to the next one, with what it left there',
    promises: ['P7', 'P12'],
    defences: 'the engine zeroes a host page when it is freed, before anybody can have it',
    run() {
      const image = tinyImage();
      const stage = new Stage([registered(image)]);
      stage.start(image);
      stage.call(G.probe);
      const page = viewPage(stage, PRIVATE);
      page.fill(0x5e, 0x100, 0x200);
      stage.ret();
      stage.call(G.cleanup);
      stage.ret();
      const left = page.some((byte) => byte !== 0);
      return stage.outcome(left && 'private memory was given back with its contents');
    },
  },
  {
    name: 'memory-freed-without-a-word',
    what: 'the kernel frees the memory of a live module without calling its exit, and writes to it',
    promises: ['P12'],
    defences: 'a frame that the module no longer maps ends the instance at the first write or entry',
    run() {
      const stage = victim();
      const gpa = stage.cpu.translate(CORE, false);
      stage.tables.unmap(CORE);
      stage.tables.unmap(CORE + 0x1000);
      stage.handle({ kind: 'mmio', gpa, size: 4, write: true, value: 0x1234, refused: false });
      return stage.outcome(stage.instances > 0 && 'the instance outlives its memory');
    },
  },
  {
    name: 'load-and-unload-500-times',
    what: 'loading and unloading, to make something grow',
    promises: ['P11', 'P12'],
    defences: 'pages, frames and views are counted; what an instance had is given back when it ends',
    run() {
      const image = tinyImage();
      const stage = new Stage([registered(image)]);
      stage.load(image);
      for (let round = 0; round < 500; round++) {
        stage.call(G.init);
        setRegisterAddress(stage.cpu.registers, REG.rax, 0);
        stage.ret();
        stage.call(G.cleanup);
        stage.ret();
      }
      const { engine, monitor } = stage;
      const left = engine.allocated + engine.views.size + engine.protectedFrames + monitor.frames().live;
      return stage.outcome(left > 0 && `${left} pages, views and frames are left`);
    },
  },
  {
    name: 'flood-of-refusals',
    what: 'ten thousand refused entries, to fill the disk of whoever keeps the audit log',
    promises: ['P11'],
    defences: ['audit-limit'],
    run() {
      const image = tinyImage();
      const stage = new Stage([registered(image)]);
      stage.load(image);
      for (let count = 0; count < 10_000; count++) stage.call(G.probe);
      return stage.outcome(stage.events.length > 1000 && `${stage.events.length} events`);
    },
  },
  {
    name: 'stop-policy',
    what: 'a module whose grant says stop is abused, to see whether the machine runs on',
    promises: ['P11', 'P12'],
    defences: ['quarantine'],
    run() {
      const image = tinyImage();
      const stage = new Stage([registered(image, granted({ onViolation: 'stop' }))]);
      stage.start(image);
      insideInner(stage);
      stage.push(0);
      const verdict = stage.handle(stage.cpu.fetch(KERNEL_TEXT));
      return stage.outcome(typeof verdict !== 'object' && 'the machine runs on');
    },
  },
];
