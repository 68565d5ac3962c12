// CPUs that run at the same time, in threads of their own. Most of what they share needs nothing but x86's own memory order and WebAssembly's
// atomics. For the rest one CPU asks all others and goes on when each has answered between two blocks of code, or is not running:
//
//  - `noticeWrites`: from now on every write to a page takes the slow path. An answer says that no translation for writing to it is left and
//    that no write which began before is under way.
//  - `stopOthers`: nobody executes an instruction until `letGo`, for locked operations that no atomic of WebAssembly can do.
//
// One CPU at a time asks. Whoever waits, for the lock or for answers, answers meanwhile, so none waits for another in a circle. A CPU that is
// not running counts as having answered: it finds the request before its next instruction.
import { cpu } from './state';
import { purgeNoticed, purgeWrites } from './memory';
import { frames, shared } from './shared';
import {
  ANSWERED, ASKED, CPU_INDEX, EVENT_ASKED, EVENTS, PURGE_WANTED, RUNNING, SHARED_CPU_COUNT, SHARED_CPUS, SHARED_LOCK, SHARED_PARALLEL,
  SHARED_STOPPED,
} from './layout';

/** Looks at a word before the thread sleeps, and how long it then sleeps at most, ns: the other one may have lost its processor. */
const SPINS: u32 = 20_000;
const NAP: i64 = 20_000;

/** True if CPUs may run at the same time. */
// @ts-ignore: decorator
@inline
export function parallel(): bool {
  return load<u32>(shared, SHARED_PARALLEL) != 0;
}

/** What serialising instructions and fences do: no later load is done before every earlier store is seen (Intel SDM vol. 3, 9.3). */
export function serialize(): void {
  if (parallel()) atomic.or<u32>(cpu + EVENTS, 0); // asc 0.28 does not validate atomic.fence; any atomic access orders as well
}

/** Before anything else of a run. A locked store: EVENTS is looked at after everybody can see it. */
export function beginRun(): void {
  if (parallel()) atomic.store<u32>(cpu + RUNNING, 1);
}

export function endRun(): void {
  if (parallel()) atomic.store<u32>(cpu + RUNNING, 0);
}

/** EVENT_ASKED, between two blocks. */
export function serveRequests(): void {
  answer();
  for (let spins: u32 = 0; atomic.load<u32>(shared + SHARED_STOPPED) != 0; spins++) {
    pause(spins, shared + SHARED_STOPPED, 1);
    answer();
  }
}

/** The order matters: a request that comes after `asked` is read sets the bit again. */
function answer(): void {
  if (!(atomic.load<u32>(cpu + EVENTS) & EVENT_ASKED)) return;
  atomic.and<u32>(cpu + EVENTS, ~EVENT_ASKED);
  const asked = atomic.load<u32>(cpu + ASKED);
  if (atomic.xchg<u32>(cpu + PURGE_WANTED, 0) != 0) purgeNoticed();
  atomic.store<u32>(cpu + ANSWERED, asked);
}

/** One look in a wait for the word at `address` to change from `value`. */
function pause(spins: u32, address: usize, value: u32): void {
  if (spins >= SPINS) atomic.wait<i32>(address, value, NAP);
}

function lock(): void {
  const me = load<u32>(cpu, CPU_INDEX) + 1;
  for (let spins: u32 = 0; ; spins++) {
    const holder = atomic.cmpxchg<u32>(shared + SHARED_LOCK, 0, me);
    if (holder == 0) return;
    answer();
    pause(spins, shared + SHARED_LOCK, holder);
  }
}

function unlock(): void {
  atomic.store<u32>(shared + SHARED_LOCK, 0);
}

function blockOf(index: u32): usize {
  return load<u32>(shared + (index << 2), SHARED_CPUS);
}

/** Asks all others and waits for their answers. With the lock. */
function askOthers(purge: bool): void {
  const count = load<u32>(shared, SHARED_CPU_COUNT);
  for (let i: u32 = 0; i < count; i++) {
    const other = blockOf(i);
    if (other == cpu) continue;
    if (purge) atomic.store<u32>(other + PURGE_WANTED, 1);
    atomic.add<u32>(other + ASKED, 1);
    atomic.or<u32>(other + EVENTS, EVENT_ASKED);
  }
  for (let i: u32 = 0; i < count; i++) {
    const other = blockOf(i);
    if (other == cpu) continue;
    for (let spins: u32 = 0; atomic.load<u32>(other + RUNNING) != 0; spins++) {
      const answered = atomic.load<u32>(other + ANSWERED);
      if (answered == load<u32>(other + ASKED)) break;
      pause(spins, other + ANSWERED, answered);
    }
  }
}

/**
 * From now on every write to the page of linear memory at `page` is looked at. `bit`: FRAME_CODE or FRAME_MONITORED, `settled` the bit that goes
 * with it. To be called before what depends on it is read.
 */
export function noticeWrites(page: usize, bit: u32, settled: u32): void {
  const frame = frames + (page >>> 12);
  if (!parallel()) {
    if (!(load<u8>(frame) & bit)) {
      store<u8>(frame, <u8>(load<u8>(frame) | bit));
      purgeWrites(page, true);
    }
    return;
  }
  const both = bit | settled;
  if ((atomic.load<u8>(frame) & both) == both) return;
  lock();
  if ((atomic.load<u8>(frame) & both) != both) {
    // Set by one who asked while code was dropped; nobody may trust it before the others have answered.
    atomic.and<u8>(frame, <u8>~settled);
    atomic.or<u8>(frame, <u8>bit);
    purgeWrites(page, false);
    askOthers(true);
    atomic.or<u8>(frame, <u8>settled);
  }
  unlock();
}

/** Nobody else executes anything until `letGo`. Between the two nothing may unwind. */
export function stopOthers(): void {
  lock();
  atomic.store<u32>(shared + SHARED_STOPPED, 1);
  askOthers(false);
}

export function letGo(): void {
  atomic.store<u32>(shared + SHARED_STOPPED, 0);
  unlock();
}
