// CALL, RET and indirect jumps in a view with a shadow stack (contract.ts, View.setShadowStack). Such views have decoded code of their own, in which these
// instructions lead here; everybody else's never ask.
import * as H from './generated/integer';
import { call, execBranch, jumpTo } from './branch';
import {
  EXIT_LINEAR, EXIT_SHADOW_STACK, EXIT_TYPE, FIXED_LANDING, FIXED_PERMISSION, GPR, PENDING, PENDING_EXIT, PENDING_VECTOR, RIP, SHADOW_STACK,
  SHADOW_STACK_DEPTH, SHADOW_STACK_FAR, SHADOW_STACK_FULL, SHADOW_STACK_LANDING, SHADOW_STACK_MAX, SHADOW_STACK_MISMATCH, VIEW, VIEW_SHADOW_STACK,
} from './layout';
import { readFirst } from './operands';
import { fixedPage } from './paging';
import { popped, top } from './pushpop';
import { OP_CODE, OP_IMM, OP_SIZE, OP_SUB } from './record';
import { unwind } from './shared';
import { cpu } from './state';

const RSP = GPR + 32;
const ENTRY_SHIFT: usize = 4;
const ENTRY_SLOT: usize = 8;

/** True if the current view keeps a shadow stack. */
export function shadowStackOn(): bool {
  return load<u32>(load<u32>(cpu, VIEW), VIEW_SHADOW_STACK) != 0;
}

/** RIP already holds the next instruction's. */
export function execShadowed(op: usize): void {
  switch (load<u16>(op, OP_CODE) >> 8) {
    case 0xe8: direct(op); break;
    case 0xff: indirect(op); break; // JMP, CALL
    case 0xc2: ret(op, load<u16>(op, OP_IMM)); break;
    case 0xc3: ret(op, 0); break;
    default: refuse(SHADOW_STACK_FAR, 0); // RETF, IRET: a module has no use for them, and no entry here says where they may go
  }
}

function direct(op: usize): void {
  const back = roomFor();
  execBranch(op); // may fault, also by the push: then nothing has happened yet
  enter(back);
}

/** The target is read once, as RET's is. */
function indirect(op: usize): void {
  const size: u32 = load<u8>(op, OP_SIZE);
  const to = readFirst(op, size);
  if (!mayLand(to)) refuse(SHADOW_STACK_LANDING, to);
  if (load<u16>(op, OP_SUB) == H.JMP_E) {
    jumpTo(to);
    return;
  }
  const back = roomFor();
  call(to, size);
  enter(back);
}

/** Function pointers come from memory that others write, so they must not lead into the middle of the view's own code. */
function mayLand(to: u64): bool {
  const fixed = fixedPage(load<u32>(cpu, VIEW), to & ~0xfff);
  if (fixed == 0 || !(load<u32>(fixed, FIXED_PERMISSION) & 4)) return true;
  const landing = load<u16>(fixed, FIXED_LANDING);
  return landing != 0 && (to & (landing - 1)) == 0;
}

/** The return address of the running call, for which there is room. */
function roomFor(): u64 {
  if (load<u32>(cpu, SHADOW_STACK_DEPTH) >= <u32>SHADOW_STACK_MAX) refuse(SHADOW_STACK_FULL, 0);
  return load<u64>(cpu, RIP);
}

/** The call has pushed `back`. */
function enter(back: u64): void {
  const depth = load<u32>(cpu, SHADOW_STACK_DEPTH);
  const entry = cpu + (<usize>depth << ENTRY_SHIFT);
  store<u64>(entry, back, SHADOW_STACK);
  store<u64>(entry, load<u64>(cpu, RSP), SHADOW_STACK + ENTRY_SLOT);
  store<u32>(cpu, depth + 1, SHADOW_STACK_DEPTH);
}

/** The word on the stack is read once: another CPU may change it between a look and a second one. */
function ret(op: usize, extra: u32): void {
  const size: u32 = load<u8>(op, OP_SIZE);
  const to = top(size);
  const depth = load<u32>(cpu, SHADOW_STACK_DEPTH) - 1;
  if (<i32>depth < 0) refuse(SHADOW_STACK_MISMATCH, to);
  const entry = cpu + (<usize>depth << ENTRY_SHIFT);
  if (load<u64>(entry, SHADOW_STACK) != to || load<u64>(entry, SHADOW_STACK + ENTRY_SLOT) != load<u64>(cpu, RSP)) refuse(SHADOW_STACK_MISMATCH, to);
  popped(size + extra);
  store<u32>(cpu, depth, SHADOW_STACK_DEPTH);
  store<u64>(cpu, to, RIP);
}

/** Leaves run() before the instruction. */
function refuse(why: u32, to: u64): void {
  store<u32>(cpu, why, EXIT_TYPE);
  store<u64>(cpu, to, EXIT_LINEAR);
  store<u32>(cpu, PENDING_EXIT, PENDING);
  store<u32>(cpu, EXIT_SHADOW_STACK, PENDING_VECTOR);
  unwind();
}
