// Faults, traps and interrupts: how an instruction is abandoned, what is looked at between instructions, and in which order
// (Intel SDM vol. 3, 6.9 and 18.3). Delivery itself is in deliver.ts.
import { cpu } from './state';
import { unwind } from './shared';
import { dropAllCode, codeWritten } from './blocks';
import { clearReplay } from './mmio';
import { getFlags, setFlags } from './flags';
import { currentRip, OP_SEG } from './record';
import { SS } from './segments';
import { deliver } from './deliver';
import { disarm } from './monitor';
import { selectArray, refreshView } from './views';
import { instructionsNow, run, settle } from './run';
import { beginRun, endRun, serveRequests } from './together';
import {
  BUDGET, CR2, CUR_OP, DELIVERING, DELIVERY, DR, DROPPED, DROPPED_ALL, DROPPED_MAX, EVENT_ASKED, EVENT_DROP, EVENT_FORCED, EVENT_INTERRUPT, EVENT_KICK,
  EVENT_NMI, EVENT_STEP, EVENT_STEPPED, EVENT_TRAP, EVENT_TYPE_EXCEPTION, EVENT_TYPE_FAULT, EVENT_TYPE_INTERRUPT, EVENT_TYPE_NMI,
  EVENT_TYPE_NONE, EVENT_TYPE_SOFTWARE, EVENT_VIEWS, EVENT_WINDOW, EVENTS, EXIT_BUDGET, EXIT_CODE, EXIT_EVENT, EXIT_FETCH,
  EXIT_KICK, EXIT_LINEAR, EXIT_SHUTDOWN, EXIT_TYPE, EXIT_VECTOR, EXIT_WINDOW, EXTERNAL, FORCED_ADDRESS, FORCED_CODE, FORCED_TYPE,
  FORCED_VECTOR, GPR, INJECTED, MWAIT_STATE, NMI_BLOCKED, NMI_PENDING, NO_CODE, PENDING, PENDING_ADDRESS, PENDING_CODE, PENDING_EXIT, PENDING_FAULT,
  PENDING_NONE, PENDING_VECTOR, REPLAY_COUNT, REPLAY_INDEX, REPLAY_RIP, RFLAGS, RIP, SEG_BASE, SHADOW, SHADOW_COUNT, SHADOW_DEBUG,
  SHADOW_INTERRUPTS, STEP_FLAGS, TRAPS, VIEW, VIEW_ID, WINDOW_WANTED,
} from './layout';

// RFLAGS
const TF: u32 = 0x100;
const IF: u32 = 0x200;
const RF: u32 = 0x10000;

const DR6_BS: u32 = 0x4000;

// ---- Faults: none of these returns ---------------------------------------------------------------------------------------------

/** Raises an exception without error code as a fault of the running instruction. */
export function fault(vector: u32): void {
  faultWith(vector, NO_CODE);
}

/** Raises an exception with an error code. */
export function faultCode(vector: u32, code: u32): void {
  faultWith(vector, code);
}

export function pageFault(la: u64, code: u32): void {
  store<u64>(cpu, la, PENDING_ADDRESS);
  faultWith(14, code);
}

/**
 * A non-canonical data address: #SS(0) where the stack segment is meant, else #GP(0). PUSH, POP and CALL have two addresses: that
 * near RSP is the stack's.
 */
export function canonicalFault(la: u64): void {
  const op: usize = load<u32>(cpu, CUR_OP);
  const stack = op != 0 && (load<u8>(op, OP_SEG) == SS || la - load<u64>(cpu, GPR + 32) + 16 <= 32);
  faultWith(stack ? 12 : 13, 0);
}

function faultWith(vector: u32, code: u32): void {
  store<u32>(cpu, PENDING_FAULT, PENDING);
  store<u32>(cpu, vector, PENDING_VECTOR);
  store<u32>(cpu, code, PENDING_CODE);
  unwind();
}

/** A fetch that the view does not allow; the exit record is filled. */
export function fetchExit(): void {
  store<u32>(cpu, PENDING_EXIT, PENDING);
  store<u32>(cpu, EXIT_FETCH, PENDING_VECTOR);
  unwind();
}

/** RIP of the running instruction, or of the next one between instructions. */
export function currentRipOrNext(): u64 {
  return load<u32>(cpu, CUR_OP) ? currentRip() : load<u64>(cpu, RIP);
}

// ---- Entry points of the host side ---------------------------------------------------------------------------------------------

/** Executes from the architectural state until an exit; the host catches what it throws and calls `unwound`. */
export function resume(): i32 {
  beginRun();
  if (load<u32>(cpu, MWAIT_STATE) != 0) disarm(); // the wait is over
  setFlags(load<u64>(cpu, RFLAGS));
  flagsChanged();
  return carryOn();
}

/** After `unwound` returned 0. */
export function carryOn(): i32 {
  const code = run();
  if (load<u32>(cpu, EVENTS) & EVENT_STEPPED) {
    // Left in a single step: after its instruction, or (budget) before it.
    clearEvent(EVENT_STEPPED);
    if (code != EXIT_BUDGET) afterStep();
  }
  store<u64>(cpu, getFlags(), RFLAGS);
  endRun();
  return code;
}

/** Finishes an instruction that was unwound: 0 = call `carryOn`, else the exit code. May unwind again. */
export function unwound(): i32 {
  const kind = load<u32>(cpu, PENDING);
  store<u32>(cpu, PENDING_NONE, PENDING);
  settle();
  store<u32>(cpu, 0, REPLAY_INDEX);
  store<u32>(cpu, 0, EXTERNAL);
  store<u32>(cpu, 0, DELIVERY);
  let code: i32 = load<u32>(cpu, PENDING_VECTOR);
  if (kind == PENDING_FAULT) {
    clearReplay();
    store<u32>(cpu, 0, SHADOW);
    store<u32>(cpu, 0, TRAPS);
    code = raise(code, load<u32>(cpu, PENDING_CODE));
  } else updateStep();
  settle(); // COUNT includes the delivery
  if (code == 0 && load<i64>(cpu, BUDGET) <= 0) code = EXIT_BUDGET;
  if (code != 0) {
    store<u64>(cpu, getFlags(), RFLAGS);
    endRun();
  }
  return code;
}

// ---- Exceptions --------------------------------------------------------------------------------------------------------------

function contributory(vector: u32): bool {
  return vector == 0 || (vector >= 10 && vector <= 13);
}

/** Delivers an exception, or turns it into a double fault, a shutdown or (in a module view) an 'event' exit. */
function raise(vector: u32, code: u32): i32 {
  const first = load<u32>(cpu, DELIVERING);
  if (first != 0) {
    const outer = first - 1;
    const severe = contributory(vector) || vector == 14;
    if (outer == 8 && severe) return shutdown();
    if ((contributory(outer) && contributory(vector)) || (outer == 14 && severe)) {
      vector = 8;
      code = 0;
    }
  }
  store<u32>(cpu, 0, DELIVERING);
  if (intercepted()) return eventExit(EVENT_TYPE_EXCEPTION, vector, code, load<u64>(cpu, PENDING_ADDRESS));
  deliverException(vector, code, load<u64>(cpu, PENDING_ADDRESS));
  return 0;
}

function shutdown(): i32 {
  store<u32>(cpu, 0, DELIVERING);
  return EXIT_SHUTDOWN;
}

function deliverException(vector: u32, code: u32, address: u64): void {
  if (vector == 14) store<u64>(cpu, address, CR2);
  store<u32>(cpu, vector + 1, DELIVERING);
  deliver(vector, EVENT_TYPE_EXCEPTION, code);
  store<u32>(cpu, 0, DELIVERING);
}

/** True in a module view: nothing is delivered there. */
export function intercepted(): bool {
  return load<u32>(load<u32>(cpu, VIEW), VIEW_ID) != 0;
}

export function eventExit(type: u32, vector: u32, code: u32, address: u64): i32 {
  store<u32>(cpu, type, EXIT_TYPE);
  store<u32>(cpu, vector, EXIT_VECTOR);
  store<u32>(cpu, code, EXIT_CODE);
  store<u64>(cpu, address, EXIT_LINEAR);
  return EXIT_EVENT;
}

/** INT n, INT3, INTO; RIP is past the instruction. */
export function softwareInterrupt(vector: u32): i32 {
  store<u32>(cpu, 0, STEP_FLAGS);
  if (intercepted()) return eventExit(EVENT_TYPE_SOFTWARE, vector, NO_CODE, 0);
  deliver(vector, EVENT_TYPE_SOFTWARE, NO_CODE);
  return 0;
}

/** INT1 (ICEBP): a debug trap without DPL check. */
export function debugInterrupt(): i32 {
  store<u32>(cpu, 0, STEP_FLAGS);
  return raise(1, NO_CODE);
}

// ---- Between instructions ------------------------------------------------------------------------------------------------------

function setEvent(bit: u32): void { atomic.or<u32>(cpu + EVENTS, bit); }
/** Only this CPU clears bits, so a bit that is not seen needs no locked operation. */
function clearEvent(bit: u32): void { if (load<u32>(cpu, EVENTS) & bit) atomic.and<u32>(cpu + EVENTS, ~bit); }

/** Called where EVENTS is not 0, between instructions with RIP exact. Returns 0 (RIP may have changed) or an exit code. */
export function pollEvents(): i32 {
  store<u32>(cpu, 0, CUR_OP);
  const events = atomic.load<u32>(cpu + EVENTS);
  if (events & EVENT_ASKED) serveRequests();
  if (events & EVENT_DROP) dropQueued();
  if (events & EVENT_VIEWS) {
    clearEvent(EVENT_VIEWS);
    refreshView();
  }
  if (events & EVENT_KICK) {
    clearEvent(EVENT_KICK);
    return EXIT_KICK;
  }
  if (events & EVENT_FORCED) return deliverForced();
  if (load<u32>(cpu, REPLAY_COUNT) != 0) {
    // The instruction has begun; nothing may come between its device accesses. Somewhere else now? Then it was given up.
    if (load<u64>(cpu, REPLAY_RIP) == load<u64>(cpu, RIP)) {
      store<u32>(cpu, <u32>load<u64>(cpu, RFLAGS) & (TF | RF), STEP_FLAGS);
      return 0;
    }
    clearReplay();
    updateStep();
  }
  const held = shadow();
  if (events & EVENT_TRAP && !(held & SHADOW_DEBUG)) return debugTrap();
  if (held == 0) {
    if (events & EVENT_NMI) return takeNmi();
    if (events & EVENT_INTERRUPT) return takeInterrupt();
    if (events & EVENT_WINDOW) {
      clearEvent(EVENT_WINDOW);
      store<u32>(cpu, 0, WINDOW_WANTED);
      return EXIT_WINDOW;
    }
  } else if (events & (EVENT_TRAP | EVENT_NMI | EVENT_INTERRUPT | EVENT_WINDOW)) {
    setEvent(EVENT_STEP); // exactly the instruction in the shadow, then look again
    return beginStep();
  }
  return events & EVENT_STEP ? beginStep() : 0;
}

/** SHADOW_* bits that hold now: for one instruction after that which began the shadow. */
function shadow(): u32 {
  const bits = load<u32>(cpu, SHADOW);
  if (bits == 0 || instructionsNow() == load<u64>(cpu, SHADOW_COUNT)) return bits;
  store<u32>(cpu, 0, SHADOW);
  return 0;
}

function takeNmi(): i32 {
  clearEvent(EVENT_NMI);
  store<u32>(cpu, 0, NMI_PENDING);
  if (intercepted()) return eventExit(EVENT_TYPE_NMI, 2, NO_CODE, 0);
  return deliverExternal(2, EVENT_TYPE_NMI);
}

function takeInterrupt(): i32 {
  const vector = load<u32>(cpu, INJECTED) - 1;
  clearEvent(EVENT_INTERRUPT);
  store<u32>(cpu, 0, INJECTED);
  if (intercepted()) return eventExit(EVENT_TYPE_INTERRUPT, vector, NO_CODE, 0);
  return deliverExternal(vector, EVENT_TYPE_INTERRUPT);
}

function deliverExternal(vector: u32, type: u32): i32 {
  if (type == EVENT_TYPE_NMI) store<u32>(cpu, 1, NMI_BLOCKED);
  deliver(vector, type, NO_CODE);
  return 0;
}

/** What `Cpu.deliver` queued: delivered in whatever view. */
function deliverForced(): i32 {
  clearEvent(EVENT_FORCED);
  const type = load<u32>(cpu, FORCED_TYPE);
  const vector = load<u32>(cpu, FORCED_VECTOR);
  store<u32>(cpu, EVENT_TYPE_NONE, FORCED_TYPE);
  store<u32>(cpu, 0, SHADOW);
  if (type == EVENT_TYPE_FAULT) return raise(vector, load<u32>(cpu, FORCED_CODE));
  if (type == EVENT_TYPE_EXCEPTION) deliverException(vector, load<u32>(cpu, FORCED_CODE), load<u64>(cpu, FORCED_ADDRESS));
  else if (type == EVENT_TYPE_SOFTWARE) deliver(vector, type, NO_CODE);
  else return deliverExternal(vector, type);
  return 0;
}

/** Raises #DB for the traps that earlier instructions left. */
function debugTrap(): i32 {
  const traps = load<u32>(cpu, TRAPS);
  clearEvent(EVENT_TRAP);
  store<u32>(cpu, 0, TRAPS);
  return raiseDebug(traps);
}

/** Notes the cause in DR6 and raises #DB. */
export function raiseDebug(causes: u32): i32 {
  store<u64>(cpu + 48, (load<u64>(cpu + 48, DR) & ~0xf) | causes, DR);
  return raise(1, NO_CODE);
}

/** Instruction breakpoints, then the notes that afterStep needs. */
function beginStep(): i32 {
  const flags = <u32>load<u64>(cpu, RFLAGS);
  if (!(flags & RF)) {
    const hit = codeBreakpoints();
    if (hit != 0) return raiseDebug(hit);
  }
  store<u32>(cpu, flags & (TF | RF), STEP_FLAGS);
  return 0;
}

function codeBreakpoints(): u32 {
  const dr7 = <u32>load<u64>(cpu + 56, DR);
  if (!(dr7 & 0xff)) return 0;
  const la = load<u64>(cpu, RIP) + load<u64>(cpu + 8, SEG_BASE);
  let hit: u32 = 0;
  for (let i: u32 = 0; i < 4; i++) {
    if (((dr7 >> (i << 1)) & 3) != 0 && ((dr7 >> (16 + (i << 2))) & 3) == 0 && load<u64>(cpu + (i << 3), DR) == la) hit |= 1 << i;
  }
  return hit;
}

/** Called after the one instruction (or REP iteration) that EVENT_STEP asked for, with RIP and flags of the state after it. */
export function afterStep(): void {
  clearReplay();
  const began = load<u32>(cpu, STEP_FLAGS);
  if (began & TF && !(shadow() & SHADOW_DEBUG)) store<u32>(cpu, load<u32>(cpu, TRAPS) | DR6_BS, TRAPS);
  if (began & RF) setFlags(getFlags() & ~(<u64>RF));
  if (load<u32>(cpu, TRAPS) != 0) setEvent(EVENT_TRAP);
  updateStep();
}

/** EVENT_STEP is wanted while anything must be looked at after each instruction. */
export function updateStep(): void {
  const flags = <u32>load<u64>(cpu, RFLAGS);
  const wanted = (flags & (TF | RF)) != 0 || (<u32>load<u64>(cpu + 56, DR) & 0xff) != 0 || load<u32>(cpu, REPLAY_COUNT) != 0;
  if (wanted) setEvent(EVENT_STEP);
  else clearEvent(EVENT_STEP);
}

/** After any change of RFLAGS' system bits by setFlags (IF, TF, RF, AC): renews what depends on them. */
export function flagsChanged(): void {
  updateStep();
  updateWaiting();
  selectArray();
}

/** Sets the event bits of what waits for RFLAGS.IF or for the end of an NMI. */
export function updateWaiting(): void {
  if (load<u64>(cpu, RFLAGS) & IF) {
    if (load<u32>(cpu, INJECTED) != 0) setEvent(EVENT_INTERRUPT);
    else if (load<u32>(cpu, WINDOW_WANTED) != 0) setEvent(EVENT_WINDOW);
  } else clearEvent(EVENT_INTERRUPT | EVENT_WINDOW);
  if (load<u32>(cpu, NMI_PENDING) != 0 && load<u32>(cpu, NMI_BLOCKED) == 0) setEvent(EVENT_NMI);
}

/**
 * Begins the shadow of STI, or (with `debug`) of MOV SS and POP SS, the running instruction: the next one runs before anything is
 * delivered.
 */
export function beginShadow(debug: bool): void {
  store<u32>(cpu, debug ? SHADOW_INTERRUPTS | SHADOW_DEBUG : SHADOW_INTERRUPTS, SHADOW);
  store<u64>(cpu, instructionsNow() + 1, SHADOW_COUNT);
}

/** Drops decoded code that other CPUs or the host have overwritten. */
function dropQueued(): void {
  clearEvent(EVENT_DROP);
  for (let i: u32 = 0; i < <u32>DROPPED_MAX; i++) {
    const at = cpu + DROPPED + (i << 2);
    if (load<u32>(at) != 0) codeWritten(atomic.xchg<u32>(at, 0));
  }
  if (load<u32>(cpu, DROPPED_ALL) != 0) {
    atomic.store<u32>(cpu + DROPPED_ALL, 0);
    dropAllCode();
  }
}
