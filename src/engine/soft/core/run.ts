// What surrounds the interpreter's loop (generated/run.ts): events between instructions, leaving the loop, and settling what an unwinding
// left behind.
import { afterStep, pollEvents } from './events';
import { BUDGET, COUNT, CUR_OP, EVENT_STEP, EVENT_STEPPED, EVENTS, RIP, RUN_END } from './layout';
import { currentRip, OP_LEFT } from './record';
import { cpu } from './state';

export { run } from './generated/run';

/** Leaves run(): RIP and COUNT become exact. */
export function stop(rip: u64, exit: i32): i32 {
  store<u64>(cpu, rip, RIP);
  store<u32>(cpu, 0, CUR_OP);
  store<u64>(cpu, load<u64>(cpu, RUN_END) - load<u64>(cpu, BUDGET), COUNT);
  return exit;
}

/** Leaves run() at the instruction `op`, which counts as executed, in the middle of its block. */
export function leave(op: usize, rip: u64, exit: i32): i32 {
  store<i64>(cpu, load<i64>(cpu, BUDGET) + <i64>load<u8>(op, OP_LEFT) - 1, BUDGET);
  return stop(rip, exit);
}

/** Between two instructions with EVENTS not 0. 0 = go on at RIP, else an exit that run() returns. */
export function serveEvents(rip: u64): i32 {
  store<u64>(cpu, rip, RIP);
  store<u32>(cpu, 0, CUR_OP);
  if (load<u32>(cpu, EVENTS) & EVENT_STEPPED) {
    atomic.and<u32>(cpu + EVENTS, ~EVENT_STEPPED);
    afterStep();
  }
  const exit = pollEvents();
  if (exit != 0) return stop(load<u64>(cpu, RIP), exit);
  if (load<u32>(cpu, EVENTS) & EVENT_STEP) atomic.or<u32>(cpu + EVENTS, EVENT_STEPPED);
  return 0;
}

/**
 * After an unwinding: RIP becomes that of the instruction which did not complete, and COUNT counts those that did. To be called before
 * anything else looks at them.
 */
export function settle(): void {
  const op: usize = load<u32>(cpu, CUR_OP);
  if (op != 0) {
    store<u64>(cpu, currentRip(), RIP);
    store<i64>(cpu, load<i64>(cpu, BUDGET) + <i64>load<u8>(op, OP_LEFT), BUDGET);
  }
  atomic.and<u32>(cpu + EVENTS, ~EVENT_STEPPED);
  stop(load<u64>(cpu, RIP), 0);
}

/** Instructions completed so far; exact within an instruction too. */
export function instructionsNow(): u64 {
  const op: usize = load<u32>(cpu, CUR_OP);
  return load<u64>(cpu, RUN_END) - load<u64>(cpu, BUDGET) - (op != 0 ? <u64>load<u8>(op, OP_LEFT) : 0);
}
