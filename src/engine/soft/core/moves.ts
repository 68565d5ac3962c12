// The slow ways of MOV's loads and stores of up to 4 bytes. Device memory: run() returns, without an unwinding and without a replay. A store is
// complete then; a load is completed by the host, which puts the answer into the register and RIP behind the instruction.
import { EXIT_NEXT, EXIT_REPLAY, EXIT_TARGET, REPLAY_COUNT, REPLAY_LOAD, REPLAY_NONE } from './layout';
import { reachesDevice, readSlow, writeSlow } from './memory';
import { recordAccess } from './mmio';
import { writeRegister } from './operands';
import { nextRip, OP_A } from './record';
import { cpu } from './state';

/** False: the load of `op` from `la` is done. True: run() is to leave with EXIT_MMIO, the exit record is filled. */
export function loadLeaves(op: usize, la: u64, size: u32): bool {
  const target: usize = load<u32>(op, OP_A);
  // With answers in the log this was another instruction when it began.
  if (load<u32>(cpu, REPLAY_COUNT) == 0 && reachesDevice(la, size, false)) {
    recordAccess(size, false, 0);
    store<u32>(cpu, REPLAY_LOAD, EXIT_REPLAY);
    store<u32>(cpu, <u32>target, EXIT_TARGET);
    store<u64>(cpu, nextRip(op), EXIT_NEXT);
    return true;
  }
  writeRegister(target, size, readSlow(la, size));
  return false;
}

/** Likewise a store; `value` may have more bits than are stored. */
export function storeLeaves(la: u64, size: u32, value: u32): bool {
  if (load<u32>(cpu, REPLAY_COUNT) == 0 && reachesDevice(la, size, true)) {
    recordAccess(size, true, size == 4 ? value : value & ((1 << (size << 3)) - 1));
    store<u32>(cpu, REPLAY_NONE, EXIT_REPLAY);
    return true;
  }
  writeSlow(la, size, value);
  return false;
}
