/** What the kernel does to the module's stack and registers while the module is away (P5, P6). */
import { hex } from '../base/hex.ts';
import { REG, setRegisterAddress } from '../engine/contract.ts';
import { CORE, ENTRY_RSP, G, insideInner, KERNEL_TEXT, reg, STACK_TOP, T } from '../privileges/testing.ts';
import type { ContractAttack } from './attack.ts';
import { type Stage, victim } from './scenario.ts';

const DIRECTION_FLAG = 0x400n;
const TRAP_FLAG = 0x100n;
const IO_PRIVILEGE = 0x3000n;
const NESTED_ALIGNMENT = 0x4_4000n;
/** Where the attacker wants the module to go on: its own code, at a moment of the attacker's choice. */
const GADGET = CORE + T.bpAfterCall;

/** The module's own `ret` out of inner, after pop %rbx. */
function returnOfInner(stage: Stage): number | undefined {
  if (!stage.inside()) return undefined;
  stage.setRsp(stage.rsp() + 8);
  const to = stage.cpu.ret();
  if (typeof to === 'number') return to;
  stage.handle(to);
  return undefined;
}
const steered = (to: number | undefined) => to === GADGET && `the module goes on at ${hex(GADGET)}, where the kernel wanted it`;

const flagAttack = (name: string, what: string, flags: bigint): ContractAttack => ({
  name,
  what,
  promises: ['P6'],
  defences: ['control-flags'],
  silent: 'the flags are left outside, and come back when the module has returned',
  run() {
    const stage = victim();
    stage.cpu.registers.words[REG.rflags] = 2n | flags;
    stage.call(G.probe);
    return stage.outcome(
      stage.inside() &&
        (stage.cpu.registers.words[REG.rflags] & flags) !== 0n &&
        `RFLAGS is ${hex(Number(stage.cpu.registers.words[REG.rflags]))} in the module`,
    );
  },
});

export const awayAttacks: readonly ContractAttack[] = [
  {
    name: 'return-address-changed-during-a-call',
    what: "a kernel function changes a return address of the module's own on the stack",
    promises: ['P5'],
    defences: ['return-address-seal', 'shadow-stack'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.callOut(CORE + T.innerAfterCall);
      stage.setWord(stage.rsp() + 16, GADGET);
      stage.ret();
      return stage.outcome(steered(returnOfInner(stage)));
    },
  },
  {
    name: 'return-address-changed-during-an-interrupt',
    what: "an interrupt handler changes a return address of the module's own on the stack",
    promises: ['P5'],
    defences: ['return-address-seal', 'shadow-stack'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.handle(stage.cpu.event(CORE + T.warn, { vector: 32 }));
      stage.setWord(stage.rsp() + 8, GADGET);
      stage.handle(stage.cpu.fetch(CORE + T.warn));
      return stage.outcome(steered(returnOfInner(stage)));
    },
  },
  {
    name: 'return-address-changed-while-it-runs',
    what: 'another CPU changes a return address on the stack while the module runs',
    promises: ['P5'],
    defences: ['shadow-stack'],
    run() {
      const stage = victim({ cpus: 2 });
      insideInner(stage);
      stage.setWord(stage.rsp() + 8, GADGET);
      return stage.outcome(steered(returnOfInner(stage)));
    },
  },
  {
    name: 'return-address-changed-before-the-exit',
    what: 'another CPU changes the return address of a call between the call and the gate, so that the kernel function returns elsewhere in the module',
    promises: ['P5'],
    defences: ['own-return-address', 'shadow-stack'],
    run() {
      const stage = victim({ cpus: 2 });
      insideInner(stage);
      stage.within(CORE + T.innerAfterCall);
      stage.setWord(stage.rsp(), CORE + T.fixup + 1);
      stage.gate(G.kfunc);
      if (!stage.inside()) stage.ret();
      return stage.outcome(
        stage.inside() && stage.rip() === CORE + T.fixup + 1 && `the module goes on at ${hex(stage.rip())}, behind no call`,
      );
    },
  },
  {
    name: 'return-slot-changed-during-a-call',
    what: 'a kernel function changes its own return slot, to return elsewhere in the module',
    promises: ['P5'],
    defences: 'the slot holds the re-entry gate, and the true return address is in the frame: the slot is not read back',
    run() {
      const stage = victim();
      insideInner(stage);
      stage.callOut(CORE + T.innerAfterCall);
      stage.setWord(stage.rsp(), GADGET);
      stage.setRsp(stage.rsp() + 8);
      stage.gate(G.reentry);
      return stage.outcome(steered(stage.rip()));
    },
  },
  {
    name: 'saved-frame-pointer-changed',
    what: "a kernel function changes the frame pointer that the module saved, on which its caller's return address hangs",
    promises: ['P5'],
    defences: ['return-address-seal', 'shadow-stack'],
    run() {
      const stage = victim();
      stage.call(G.withBp);
      stage.push(STACK_TOP - 0x40);
      const frame = stage.rsp();
      setRegisterAddress(stage.cpu.registers, REG.rbp, frame);
      stage.setRsp(frame - 32);
      stage.callOut(CORE + T.bpAfterCall);
      stage.setWord(frame, STACK_TOP - 0x48);
      stage.ret();
      return stage.outcome(stage.inside() && "the module goes on with a frame pointer of the kernel's choice");
    },
  },
  {
    name: 'calls-too-deep-to-keep',
    what: 'the kernel makes the module recurse until not all return addresses can be kept, then changes one',
    promises: ['P5', 'P11'],
    defences: 'an exit that cannot be sealed whole is a violation',
    run() {
      const stage = victim();
      stage.call(G.probe);
      for (let depth = 0; depth < 300 && stage.inside(); depth++) {
        stage.setRsp(stage.rsp() - 16);
        stage.within(CORE + T.afterInner);
      }
      if (stage.inside()) stage.callOut(CORE + T.innerAfterCall);
      return stage.outcome(stage.rip() !== KERNEL_TEXT && 'the module left with unsealed return addresses');
    },
  },
  {
    name: 'callee-saved-registers-changed',
    what: 'a kernel function returns with other callee-saved registers: loop counters, pointers, lengths of the module',
    promises: ['P6'],
    defences: ['callee-saved-restore'],
    silent: 'the registers come from the frame, whatever the kernel left in them',
    run() {
      const stage = victim();
      insideInner(stage);
      setRegisterAddress(stage.cpu.registers, REG.rbx, 7);
      stage.callOut(CORE + T.innerAfterCall);
      setRegisterAddress(stage.cpu.registers, REG.rbx, 0x666);
      stage.ret();
      return stage.outcome(reg(stage, REG.rbx) === 0x666 && "the module goes on with the kernel's RBX");
    },
  },
  {
    name: 'interrupted-registers-changed',
    what: 'an interrupt handler changes the registers that the module is resumed with',
    promises: ['P6'],
    defences: ['register-restore'],
    silent: 'the registers come from the frame, whatever the kernel left in them',
    run() {
      const stage = victim();
      insideInner(stage);
      stage.handle(stage.cpu.event(CORE + T.warn, { vector: 32 }));
      setRegisterAddress(stage.cpu.registers, REG.rdi, 0x666);
      stage.handle(stage.cpu.fetch(CORE + T.warn));
      return stage.outcome(stage.inside() && reg(stage, REG.rdi) === 0x666 && "the module goes on with the handler's RDI");
    },
  },
  flagAttack('direction-flag', 'an entry with the direction flag set: the string instructions of the module run backwards', DIRECTION_FLAG),
  flagAttack('single-step', 'an entry with the trap flag set: the kernel sees every step of the module', TRAP_FLAG),
  flagAttack('io-privilege-level', 'an entry with I/O privilege 3', IO_PRIVILEGE),
  flagAttack('nested-task-and-alignment', 'an entry with the nested-task and the alignment-check flag set', NESTED_ALIGNMENT),
  {
    name: 'flags-changed-during-a-call',
    what: 'a kernel function returns with the direction and trap flags set',
    promises: ['P6'],
    defences: ['control-flags'],
    silent: 'the flags come from the frame',
    run() {
      const stage = victim();
      insideInner(stage);
      stage.callOut(CORE + T.innerAfterCall);
      stage.cpu.registers.words[REG.rflags] |= DIRECTION_FLAG | TRAP_FLAG;
      stage.ret();
      return stage.outcome(
        stage.inside() &&
          (stage.cpu.registers.words[REG.rflags] & (DIRECTION_FLAG | TRAP_FLAG)) !== 0n &&
          'DF and TF are set in the module',
      );
    },
  },
  ...(['interrupt', 'nmi', 'exception', 'software'] as const).map(
    (type): ContractAttack => ({
      name: `registers-read-by-a-handler-${type}`,
      what: `the handler of an event (${type}) in the module reads the registers`,
      promises: ['P6'],
      defences: ['register-scrub'],
      silent: 'the registers are zero, and come back with the module',
      run() {
        const stage = victim();
        insideInner(stage);
        for (let index = 0; index < 16; index++) if (index !== REG.rsp) setRegisterAddress(stage.cpu.registers, index, 0x5ec4_e700 + index);
        stage.handle(stage.cpu.event(CORE + T.warn, { type, vector: type === 'exception' ? 1 : 2 }));
        const { registers } = stage.cpu.delivered[0];
        const seen = registers.slice(0, 16).filter((value) => value >= 0x5ec4_e700n && value < 0x5ec4_e710n).length;
        return stage.outcome(seen > 0 && `${seen} registers of the module are the handler's to read`);
      },
    }),
  ),
  {
    name: 'vector-registers-read-by-a-handler',
    what: 'an interrupt handler reads the vector registers in which the module computes with a key',
    promises: ['P6'],
    defences: ['vector-scrub'],
    silent: 'the registers are in their initial state, and come back with the module',
    run() {
      const stage = victim({ tiny: { vector: true } });
      stage.call(G.probe);
      stage.setRsp(stage.rsp() - 16);
      stage.callOut(CORE + T.afterCall, G.fpuBegin);
      stage.ret();
      stage.cpu.vector.fill(0x77);
      stage.handle(stage.cpu.event(CORE + T.afterCall, { vector: 32 }));
      return stage.outcome(stage.cpu.delivered[0].vector.includes(0x77) && "the vector registers of the module are the handler's to read");
    },
  },
  {
    name: 'vector-registers-on-another-cpu',
    what: 'a kernel function that the module calls between kernel_fpu_begin and kernel_fpu_end returns on another CPU; an interrupt handler there reads the vector registers',
    promises: ['P6', 'P8'],
    defences: ['fpu-section'],
    silent: 'the registers are in their initial state, and come back with the module',
    run() {
      const stage = victim({ tiny: { vector: true }, cpus: 2 });
      const other = stage.engine.cpus[1];
      stage.call(G.probe);
      stage.setRsp(stage.rsp() - 16);
      stage.callOut(CORE + T.afterCall, G.fpuBegin);
      stage.ret();
      stage.callOut(CORE + T.afterCall);
      stage.setRsp(stage.rsp(), other);
      stage.ret(other);
      other.vector.fill(0x77);
      stage.handle(other.event(CORE + T.afterCall, { vector: 32 }), other);
      return stage.outcome(other.delivered[0].vector.includes(0x77) && "the vector registers of the module are the handler's to read");
    },
  },
  {
    name: 'resume-elsewhere',
    what: 'an interrupt handler returns to another place in the module',
    promises: ['P2', 'P6'],
    defences: ['resume-address'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.handle(stage.cpu.event(CORE + T.warn, { vector: 32 }));
      stage.handle(stage.cpu.fetch(GADGET));
      return stage.outcome(stage.inside() && steered(stage.rip()));
    },
  },
  {
    name: 'resume-behind-an-instruction',
    what: 'an interrupt handler returns behind the interrupted instruction, as if it were a WARN',
    promises: ['P6'],
    defences: ['resume-address'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.handle(stage.cpu.event(CORE + T.faulting, { vector: 6, type: 'exception' }));
      stage.handle(stage.cpu.fetch(CORE + T.faulting + 2));
      return stage.outcome(stage.inside() && 'the module goes on without one of its instructions');
    },
  },
  {
    name: 'resume-at-a-fixup-without-a-fault',
    what: 'an interrupt handler returns to the fixup of an instruction that has not faulted',
    promises: ['P6'],
    defences: ['resume-address'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.handle(stage.cpu.event(CORE + T.faulting, { vector: 32 }));
      stage.handle(stage.cpu.fetch(CORE + T.fixup));
      return stage.outcome(stage.inside() && 'the module goes on as if its access had failed');
    },
  },
  {
    name: 'fixup-with-forged-registers',
    what: 'the handler of a fault in the module returns to the fixup with registers of its choice',
    promises: ['P6'],
    defences: ['register-restore'],
    silent: "a fixup does what the registered image's table says, to the registers of the frame",
    run() {
      const stage = victim();
      insideInner(stage);
      setRegisterAddress(stage.cpu.registers, REG.rsi, 0x1234);
      stage.handle(stage.cpu.event(CORE + T.faulting, { vector: 14, type: 'exception', errorCode: 0, address: 0x10n }));
      setRegisterAddress(stage.cpu.registers, REG.rsi, 0x666);
      stage.handle(stage.cpu.fetch(CORE + T.fixup));
      return stage.outcome(stage.inside() && reg(stage, REG.rsi) === 0x666 && "the module goes on with the handler's RSI");
    },
  },
  {
    name: 'resume-with-another-stack-pointer',
    what: 'an interrupt handler returns to the interrupted instruction with another stack pointer',
    promises: ['P4', 'P6'],
    defences: ['frame-stack-pointer'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.handle(stage.cpu.event(CORE + T.warn, { vector: 32 }));
      stage.setRsp(stage.rsp() - 0x40);
      stage.handle(stage.cpu.fetch(CORE + T.warn));
      return stage.outcome(stage.inside() && `the module goes on ${ENTRY_RSP - stage.rsp()} bytes below its entry`);
    },
  },
  {
    name: 'resume-in-user-mode',
    what: 'a process jumps to the interrupted instruction, with the stack pointer of the interrupted thread',
    promises: ['P2', 'P6'],
    defences: ['resume-privilege-level'],
    run() {
      const stage = victim();
      insideInner(stage);
      stage.handle(stage.cpu.event(CORE + T.warn, { vector: 32 }));
      stage.cpu.privilegeLevel = 3;
      stage.handle(stage.cpu.fetch(CORE + T.warn));
      return stage.outcome(stage.inView());
    },
  },
];
