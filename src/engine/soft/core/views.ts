// Which translations, decode mode and vector rights hold now: everything derived from CPL, control registers and the view. Also the
// translation sets: one for each pair of view and PCID in use, so that changing either forgets nothing (see memory.ts).
import { CR0_EM, CR0_TS, CR4_OSFXSR, CR4_PCIDE, CR4_SMAP } from './control-bits';
import { cpu } from './state';
import { dropAllCode } from './blocks';
import { EXECUTE_TAG, ENTRY_FLAGS, READ_TAG, entryAt, setTlb } from './memory';
import { disarm } from './monitor';
import { ENTRY_GLOBAL, ENTRY_HUGE, ENTRY_LARGE, hugeHash, largeHash, pageHash, testBit } from './paging';
import { ATTR_DB, ATTR_L, CS, longMode, segAttr } from './segments';
import {
  ALLOW_VECTOR, BUDGET, CODE_EPOCH, CODE_PAGES, CODE_PAGES_SIZE, CPL, CR0, CR3, CR4, FLUSHES, FPU_OK, GLOBAL_EPOCH, LARGE_PAGES, LAST_EPOCH, MODE, RFLAGS, RUN_END,
  SET_CLOCK, SET_EPOCH, SET_FILLED, SET_GENERATION, SET_GLOBAL, SET_HEADER, SET_LAST_USE, SET_PCID, SET_USED, SET_VIEW, TLB_ARRAY_SIZE, TLB_ENTRY_SIZE,
  TLB_SET, TLB_SET_SIZE, TLB_SETS, TLB_SETS_AT, TLB_SYS, VIEW, VIEW_ALLOWED, VIEW_GENERATION, VIEW_ID,
} from './layout';

const AC: u64 = 1 << 18;
const MAX_EPOCH: u32 = 0x1fffffff;

/** After any change of CPL, CS, CR0, CR4, EFER or view. */
export function updateContext(): void {
  const attr = segAttr(CS);
  store<u32>(cpu, longMode() && attr & ATTR_L ? 2 : attr & ATTR_DB ? 1 : 0, MODE);
  updateVector();
  selectArray();
}

/** FPU_OK from CR0, CR4 and the view (Intel SDM vol. 3, table 13-1). */
function updateVector(): void {
  const cr0 = load<u64>(cpu, CR0);
  let ok: u32 = 0;
  if (!(cr0 & (CR0_EM | CR0_TS)) && vectorAllowed()) ok = load<u64>(cpu, CR4) & CR4_OSFXSR ? 3 : 1;
  store<u32>(cpu, ok, FPU_OK);
}

/** False in a module view without the vector unit: its instructions raise vector 7. */
export function vectorAllowed(): bool {
  const view: usize = load<u32>(cpu, VIEW);
  return load<u32>(view, VIEW_ID) == 0 || (load<u32>(view, VIEW_ALLOWED) & ALLOW_VECTOR) != 0;
}

/** Chooses the array of the current set by CPL and AC, and the epoch of code by set and privilege. */
export function selectArray(): void {
  const set: usize = load<u32>(cpu, TLB_SET);
  const user = load<u32>(cpu, CPL) == 3;
  const array: u32 = user ? 2 : (load<u64>(cpu, RFLAGS) & AC) != 0 && (load<u64>(cpu, CR4) & CR4_SMAP) != 0 ? 1 : 0;
  setTlb(set + SET_HEADER + array * TLB_ARRAY_SIZE);
  store<u32>(cpu, <u32>(set + SET_HEADER), TLB_SYS);
  store<u32>(cpu, (load<u32>(set, SET_EPOCH) << 1) | u32(user), CODE_EPOCH);
  store<u32>(cpu, (load<u32>(set, SET_GLOBAL) << 1) | u32(user), GLOBAL_EPOCH);
}

function currentPcid(): u32 {
  return load<u64>(cpu, CR4) & CR4_PCIDE ? <u32>load<u64>(cpu, CR3) & 0xfff : 0;
}

// @ts-ignore: decorator
@inline
function setAt(index: u32): usize {
  return cpu + TLB_SETS_AT + index * TLB_SET_SIZE;
}

/** Makes the set of the current view and PCID the current one; takes the least recently used when there is none. */
export function selectSet(): void {
  const view: usize = load<u32>(cpu, VIEW);
  const id = load<u32>(view, VIEW_ID);
  const pcid = currentPcid();
  const now = load<u32>(cpu, SET_CLOCK) + 1;
  store<u32>(cpu, now, SET_CLOCK);
  let oldest = setAt(0);
  let set: usize = 0;
  for (let i: u32 = 0; i < <u32>TLB_SETS; i++) {
    const at = setAt(i);
    if (load<u32>(at, SET_USED) != 0) {
      if (load<u32>(at, SET_VIEW) == id && load<u32>(at, SET_PCID) == pcid) {
        set = at;
        break;
      }
      if (load<u32>(oldest, SET_USED) != 0 && now - load<u32>(at, SET_LAST_USE) > now - load<u32>(oldest, SET_LAST_USE)) oldest = at;
    } else if (load<u32>(oldest, SET_USED) != 0) oldest = at;
  }
  const generation = load<u32>(view, VIEW_GENERATION);
  if (set == 0) {
    set = oldest;
    clearSet(set);
    store<u32>(set, 1, SET_USED);
    store<u32>(set, id, SET_VIEW);
    store<u32>(set, pcid, SET_PCID);
    store<u32>(set, generation, SET_GENERATION);
    shareGlobal(set);
  } else if (load<u32>(set, SET_GENERATION) != generation) {
    clearSet(set);
    store<u32>(set, generation, SET_GENERATION);
    shareGlobal(set);
  }
  store<u32>(set, now, SET_LAST_USE);
  store<u32>(cpu, <u32>set, TLB_SET);
}

/** The host changed VIEW, or a view changed. */
export function refreshView(): void {
  selectSet();
  updateContext();
}

/** Host: makes `view` (its descriptor's address) current. What one view monitors is no concern of another. */
export function enterView(view: usize): void {
  disarm();
  store<u32>(cpu, <u32>view, VIEW);
  refreshView();
}

// ---- Forgetting ------------------------------------------------------------------------------------------------------------

function nextEpoch(): u32 {
  let epoch = load<u32>(cpu, LAST_EPOCH) + 1;
  if (epoch > MAX_EPOCH) {
    // Numbers begin anew: nothing may remember an old one.
    dropAllCode();
    for (let i: u32 = 0; i < <u32>TLB_SETS; i++) {
      store<u32>(setAt(i), 2 * i + 1, SET_EPOCH);
      store<u32>(setAt(i), 2 * i + 2, SET_GLOBAL);
    }
    epoch = 2 * TLB_SETS + 1;
  }
  store<u32>(cpu, epoch, LAST_EPOCH);
  return epoch;
}

function newEpoch(set: usize): void {
  store<u32>(set, nextEpoch(), SET_EPOCH);
}

/** Gives a set the epoch of global translations of the other sets of its view, or a new one if it has no equals. */
function shareGlobal(set: usize): void {
  store<u32>(set, 0, SET_GLOBAL);
  for (let i: u32 = 0; i < <u32>TLB_SETS; i++) {
    const other = setAt(i);
    if (load<u32>(other, SET_USED) == 0 || load<u32>(other, SET_GLOBAL) == 0) continue;
    if (load<u32>(other, SET_VIEW) != load<u32>(set, SET_VIEW) || load<u32>(other, SET_GENERATION) != load<u32>(set, SET_GENERATION)) continue;
    store<u32>(set, load<u32>(other, SET_GLOBAL), SET_GLOBAL);
    return;
  }
  store<u32>(set, nextEpoch(), SET_GLOBAL);
}

/**
 * Ends the present slice of execution sooner by `instructions` that do not count as executed: for work that takes as long as that many, so
 * that a guest which asks for it all the time cannot keep the host waiting.
 */
function slowWork(instructions: i64): void {
  const budget = load<i64>(cpu, BUDGET);
  const cut = min<i64>(budget, instructions);
  if (cut <= 0) return;
  store<i64>(cpu, budget - cut, BUDGET);
  store<u64>(cpu, load<u64>(cpu, RUN_END) - cut, RUN_END);
}

/** Forgets a set's translations. */
function clearSet(set: usize): void {
  for (let i: u32 = 0; i < 3; i++) {
    if (load<u32>(set + (i << 2), SET_FILLED) != 0) memory.fill(set + SET_HEADER + i * TLB_ARRAY_SIZE, 0xff, TLB_ARRAY_SIZE);
    store<u32>(set + (i << 2), 0, SET_FILLED);
  }
  newEpoch(set);
  slowWork(200);
  store<u64>(cpu, load<u64>(cpu, FLUSHES) + 1, FLUSHES);
}

/** Forgets all but global translations of a set. */
function clearSetLocal(set: usize): void {
  for (let i: u32 = 0; i < 3; i++) {
    if (load<u32>(set + (i << 2), SET_FILLED) == 0) continue;
    let e = set + SET_HEADER + i * TLB_ARRAY_SIZE;
    const end = e + TLB_ARRAY_SIZE;
    for (; e < end; e += TLB_ENTRY_SIZE) if (!(load<u32>(e, ENTRY_FLAGS) & ENTRY_GLOBAL)) forget(e);
  }
  newEpoch(set);
  slowWork(200);
  store<u64>(cpu, load<u64>(cpu, FLUSHES) + 1, FLUSHES);
}

function forget(e: usize): void {
  v128.store(e, i64x2.splat(-1));
  v128.store(e + 16, i64x2.splat(-1));
}

/** All translations of all sets: changes of paging mode, of global pages, of the views' common permissions. */
export function flushAll(): void {
  for (let i: u32 = 0; i < <u32>TLB_SETS; i++) {
    const set = setAt(i);
    if (load<u32>(set, SET_USED) == 0) continue;
    clearSet(set);
    store<u32>(set, 0, SET_USED);
  }
  memory.fill(cpu + CODE_PAGES, 0, CODE_PAGES_SIZE);
  memory.fill(cpu + LARGE_PAGES, 0, 512);
  selectSet();
  selectArray();
}

/** All translations but global ones: of one PCID, or with `everyPcid` of all. */
export function flushLocal(pcid: u32, everyPcid: bool): void {
  for (let i: u32 = 0; i < <u32>TLB_SETS; i++) {
    const set = setAt(i);
    if (load<u32>(set, SET_USED) != 0 && (everyPcid || load<u32>(set, SET_PCID) == pcid)) clearSetLocal(set);
  }
  selectArray();
}

/** The translations of one linear page in every set (allowed to be more than the instruction asked for). */
export function flushPage(la: u64): void {
  const page = la & ~0xfff;
  for (let i: u32 = 0; i < <u32>TLB_SETS; i++) {
    const set = setAt(i);
    if (load<u32>(set, SET_USED) == 0) continue;
    for (let array: u32 = 0; array < 3; array++) forget(entryAt(set + SET_HEADER + array * TLB_ARRAY_SIZE, page));
  }
  if (testBit(LARGE_PAGES, largeHash(la))) flushLarge(la, ENTRY_LARGE, 21);
  if (testBit(LARGE_PAGES, hugeHash(la))) flushLarge(la, ENTRY_HUGE, 30);
  if (testBit(CODE_PAGES, pageHash(la))) renewEpochs();
}

/** The entries made from the large page around `la`. */
function flushLarge(la: u64, flag: u32, shift: u64): void {
  slowWork(2000);
  for (let i: u32 = 0; i < <u32>TLB_SETS; i++) {
    const set = setAt(i);
    if (load<u32>(set, SET_USED) == 0) continue;
    for (let array: u32 = 0; array < 3; array++) {
      if (load<u32>(set + (array << 2), SET_FILLED) == 0) continue;
      let e = set + SET_HEADER + array * TLB_ARRAY_SIZE;
      const end = e + TLB_ARRAY_SIZE;
      for (; e < end; e += TLB_ENTRY_SIZE) {
        if (load<u32>(e, ENTRY_FLAGS) & flag && sameRegion(e, la, shift)) forget(e);
      }
    }
  }
  renewEpochs();
}

function sameRegion(e: usize, la: u64, shift: u64): bool {
  const read = load<u64>(e, READ_TAG);
  const tag = read != u64.MAX_VALUE ? read : load<u64>(e, EXECUTE_TAG);
  return tag >> shift == la >> shift;
}

/** The jump cache forgets everything. */
function renewEpochs(): void {
  for (let i: u32 = 0; i < <u32>TLB_SETS; i++) store<u32>(setAt(i), 0, SET_GLOBAL);
  for (let i: u32 = 0; i < <u32>TLB_SETS; i++) {
    const set = setAt(i);
    if (load<u32>(set, SET_USED) == 0) continue;
    newEpoch(set);
    shareGlobal(set);
  }
  memory.fill(cpu + CODE_PAGES, 0, CODE_PAGES_SIZE);
  selectArray();
}
