/** Thousands of random border actions on two CPUs, with a seed (P2, P11): nothing may give, break or grow. */
import { REG } from '../engine/contract.ts';
import { CORE, G, INIT, KERNEL_TEXT, STACK_TOP, T } from '../privileges/testing.ts';
import type { ContractAttack } from './attack.ts';
import { PRIVATE, victim } from './scenario.ts';

const STEPS = 4000;
const SEED = 20140618;

/** Numbers from 0 to 2^32 - 1 (Marsaglia, xorshift32). */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

export const randomAttacks: readonly ContractAttack[] = [
  {
    name: 'random-border-actions',
    what: `${STEPS} random gates, jumps, events, writes and stack pointers, on two CPUs, from kernel and user mode`,
    promises: ['P2', 'P3', 'P4', 'P11'],
    defences: ['gate-privilege-level'],
    run() {
      const stage = victim({ cpus: 2, decision: { onViolation: 'log' } });
      const pick = random(SEED);
      const places = [CORE, CORE + T.warn, CORE + T.fixup, CORE + 0x1000, PRIVATE, INIT, KERNEL_TEXT, 0x40_0000, -8];
      const stacks = [0n, 8n, 0xffff_ffff_ffff_fff8n, 0x8000_0000_0000n, BigInt.asUintN(64, BigInt(PRIVATE + 0x80))];
      for (let step = 0; step < STEPS && stage.invariant === undefined; step++) {
        const cpu = stage.engine.cpus[pick(2)];
        const inside = stage.inside(cpu);
        cpu.privilegeLevel = inside || pick(4) > 0 ? 0 : 3;
        if (pick(3) > 0) {
          const word = pick(8);
          cpu.registers.words[REG.rsp] = stacks[word] ?? BigInt.asUintN(64, BigInt(STACK_TOP - 8 * (1 + pick(0x100))));
        }
        const at = places[pick(places.length)];
        switch (pick(5)) {
          case 0:
            stage.gate(pick(13), cpu);
            break;
          case 1:
            if (cpu.translate(stage.rsp(cpu) - 8, true) >= 0) stage.call(pick(13), stage.rsp(cpu), cpu);
            break;
          case 2:
            if (!cpu.executable(at)) stage.handle(cpu.fetch(at), cpu);
            break;
          case 3:
            if (inside) stage.handle(cpu.event(at, { vector: 6, type: 'exception' }), cpu);
            break;
          default:
            stage.handle({ kind: 'mmio', gpa: Math.max(0, cpu.translate(at, false)), size: 4, write: true, value: 0, refused: false }, cpu);
        }
        if (pick(200) === 0 && stage.instances > 0 && stage.inside(cpu)) stage.gate(G.return, cpu);
      }
      return stage.outcome(stage.invariant && `seed ${SEED}: ${stage.invariant}`);
    },
  },
];
