/** The x87 family: dispatch by the handlers of isa/x87.ts, register forms, constants and control (Intel SDM vol. 1, chapter 8). */

import * as H from './generated/x87';
import { FCW, FPU_OK, FSW, GPR } from './layout';
import { cpu } from './state';
import { ea, OP_CODE, OP_REG, OP_RM, OP_SUB } from './record';
import { rd16, rd32, rd64, wr16 } from './memory';
import { checkWait, fpuUnusable } from './control';
import { cond, setArith } from './flags';
import { copyAToB, DOWN, TRUNCATE, unpack32, unpack64, unpackInt, UP } from './softfloat80';
import {
  checkPending, INDEFINITE_SIG, INDEFINITE_WORD, initX87, isEmpty, loadSt, noteInstruction, noteOperand, pop, push, roundingControl,
  setC1, setControl, setEmpty, setSt, setTop, signal, st, stackFault, top,
} from './x87state';
import { orderFlags } from './sse';
import * as A from './x87arith';
import * as E from './x87env';
import * as M from './x87memory';
import * as T from './x87math';

/** ST(i) of a register form. */
// @ts-ignore: decorator
@inline
function index(op: usize): u32 {
  return load<u8>(op, OP_RM) & 7;
}

/** The operation in the reg field. */
// @ts-ignore: decorator
@inline
function operation(op: usize): u32 {
  return load<u8>(op, OP_REG) & 7;
}

/** Executes one instruction of the family; may unwind. */
export function execX87(op: usize): void {
  const sub: u32 = load<u16>(op, OP_SUB);
  if (sub == H.FWAIT) {
    checkWait();
    checkPending();
    return;
  }
  if ((load<u32>(cpu, FPU_OK) & 1) == 0) fpuUnusable();
  if (execControl(op, sub)) return;
  checkPending();
  if (execWaitingControl(op, sub)) return;
  if (execMemory(op, sub) || execRegister(op, sub)) noteInstruction(op);
  else unreachable();
}

// ---- control instructions, which do not touch FIP and FOP

/** Those that look at no pending exception. */
function execControl(op: usize, sub: u32): bool {
  switch (sub) {
    case H.FNENI: return true; // and FNDISI, FNSETPM: of the 8087 and 80287
    case H.FNINIT: { initX87(); return true; }
    case H.FNCLEX: { store<u16>(cpu, load<u16>(cpu, FSW) & 0x7f00, FSW); return true; }
    case H.FNSTCW_m16: { wr16(ea(op), load<u16>(cpu, FCW)); return true; }
    case H.FNSTSW_m16: { wr16(ea(op), load<u16>(cpu, FSW)); return true; }
    case H.FNSTSW_AX: { store<u16>(cpu, load<u16>(cpu, FSW), GPR); return true; }
    case H.FNSTENV_m: { E.storeEnvironment(op); return true; }
    case H.FNSAVE_m: { E.saveState(op); return true; }
    default: return false;
  }
}

function execWaitingControl(op: usize, sub: u32): bool {
  switch (sub) {
    case H.FLDCW_m16: { setControl(rd16(ea(op))); return true; }
    case H.FLDENV_m: { E.loadEnvironment(op); return true; }
    case H.FRSTOR_m: { E.restoreState(op); return true; }
    case H.FINCSTP: { setTop(top() + 1); setC1(false); return true; }
    case H.FDECSTP: { setTop(top() - 1); setC1(false); return true; }
    case H.FFREE_ST_i: { setEmpty(index(op)); setC1(false); return true; }
    case H.FFREEP_ST_i: { setEmpty(index(op)); setC1(false); pop(); return true; }
    case H.FNOP: return true;
    default: return false;
  }
}

// ---- instructions with a memory operand

/** The loaded operand a becomes b, ST(0) becomes a; then the operation of the reg field. */
function withMemory(op: usize): void {
  const code = operation(op);
  if ((code & 6) == 2) {
    if (isEmpty(0)) {
      if (A.unorderedFault() && code == 3) pop();
      return;
    }
    copyAToB();
    loadSt(0);
    if (A.compare(false) && code == 3) pop();
    return;
  }
  if (!A.used()) return;
  copyAToB();
  loadSt(0);
  A.arithmetic(code, 0);
}

function execMemory(op: usize, sub: u32): bool {
  switch (sub) {
    case H.ARITH_m32: {
      const la = ea(op);
      const bits = rd32(la);
      noteOperand(op, la);
      A.begin();
      unpack32(bits);
      withMemory(op);
      return true;
    }
    case H.ARITH_m64: {
      const la = ea(op);
      const bits = rd64(la);
      noteOperand(op, la);
      A.begin();
      unpack64(bits);
      withMemory(op);
      return true;
    }
    case H.ARITH_mi16: { withInteger(op, true); return true; }
    case H.ARITH_mi32: { withInteger(op, false); return true; }
    case H.FLD_m32: { M.loadSingle(op); return true; }
    case H.FLD_m64: { M.loadDouble(op); return true; }
    case H.FLD_m80: { M.loadExtended(op); return true; }
    case H.FILD_m16: { M.loadInteger(op, 2); return true; }
    case H.FILD_m32: { M.loadInteger(op, 4); return true; }
    case H.FILD_m64: { M.loadInteger(op, 8); return true; }
    case H.FBLD_m80: { M.loadDecimal(op); return true; }
    case H.FST_m32: { M.storeSingle(op, false); return true; }
    case H.FSTP_m32: { M.storeSingle(op, true); return true; }
    case H.FST_m64: { M.storeDouble(op, false); return true; }
    case H.FSTP_m64: { M.storeDouble(op, true); return true; }
    case H.FSTP_m80: { M.storeExtended(op); return true; }
    case H.FIST_m16: { M.storeInteger(op, 2, roundingControl(), false); return true; }
    case H.FIST_m32: { M.storeInteger(op, 4, roundingControl(), false); return true; }
    case H.FISTP_m16: { M.storeInteger(op, 2, roundingControl(), true); return true; }
    case H.FISTP_m32: { M.storeInteger(op, 4, roundingControl(), true); return true; }
    case H.FISTP_m64: { M.storeInteger(op, 8, roundingControl(), true); return true; }
    case H.FISTTP_m16: { M.storeInteger(op, 2, TRUNCATE, true); return true; }
    case H.FISTTP_m32: { M.storeInteger(op, 4, TRUNCATE, true); return true; }
    case H.FISTTP_m64: { M.storeInteger(op, 8, TRUNCATE, true); return true; }
    case H.FBSTP_m80: { M.storeDecimal(op); return true; }
    default: return false;
  }
}

function withInteger(op: usize, short: bool): void {
  const la = ea(op);
  const value: i64 = short ? <i64>(<i16>rd16(la)) : <i64>(<i32>rd32(la));
  noteOperand(op, la);
  A.begin();
  unpackInt(value);
  withMemory(op);
}

// ---- instructions on registers

/** ST(0) op ST(i) to ST(to), popping if stored and `pops`. */
function withRegister(op: usize, to: u32, pops: bool): void {
  const i = index(op);
  if (!A.bothUsed(0, i, to, pops)) return;
  A.begin();
  loadSt(i);
  copyAToB();
  loadSt(0);
  if (A.arithmetic(operation(op), to) && pops) pop();
}

function compareRegisters(op: usize, quiet: bool, pops: u32): void {
  const i = index(op);
  let proceeds: bool;
  if (isEmpty(0) || isEmpty(i)) {
    proceeds = A.unorderedFault();
  } else {
    A.begin();
    loadSt(i);
    copyAToB();
    loadSt(0);
    proceeds = A.compare(quiet);
  }
  if (!proceeds) return;
  if (pops > 0) pop();
  if (pops > 1) pop();
}

/** FCOMI and its kin: the order goes to ZF, PF, CF. */
function compareToFlags(op: usize, quiet: bool, pops: bool): void {
  const i = index(op);
  let order = 2;
  let proceeds: bool;
  if (isEmpty(0) || isEmpty(i)) {
    proceeds = stackFault(false);
  } else {
    A.begin();
    loadSt(i);
    copyAToB();
    loadSt(0);
    order = A.compareOperands(quiet);
    proceeds = signal();
  }
  setArith(orderFlags(order));
  if (pops && proceeds) pop();
}

function execRegister(op: usize, sub: u32): bool {
  switch (sub) {
    case H.ARITH_ST0_STi: {
      const code = operation(op);
      if ((code & 6) == 2) compareRegisters(op, false, code & 1);
      else withRegister(op, 0, false);
      return true;
    }
    case H.ARITH_STi_ST0: {
      const code = operation(op);
      if ((code & 6) == 2) compareRegisters(op, false, code & 1);
      else withRegister(op, index(op), false);
      return true;
    }
    case H.ARITHP_STi_ST0: {
      if (operation(op) == 2) compareRegisters(op, false, 1);
      else withRegister(op, index(op), true);
      return true;
    }
    case H.FCOMPP: { compareRegisters(op, false, 2); return true; }
    case H.FUCOM_ST_i: { compareRegisters(op, true, 0); return true; }
    case H.FUCOMP_ST_i: { compareRegisters(op, true, 1); return true; }
    case H.FUCOMPP: { compareRegisters(op, true, 2); return true; }
    case H.FCOMI_ST_0_ST_i: { compareToFlags(op, false, false); return true; }
    case H.FCOMIP_ST_0_ST_i: { compareToFlags(op, false, true); return true; }
    case H.FUCOMI_ST_0_ST_i: { compareToFlags(op, true, false); return true; }
    case H.FUCOMIP_ST_0_ST_i: { compareToFlags(op, true, true); return true; }
    case H.FLD_ST_i: { loadRegister(index(op)); return true; }
    case H.FST_ST_i: { storeRegister(index(op), false); return true; }
    case H.FSTP_ST_i: { storeRegister(index(op), true); return true; }
    case H.FSTPNCE_STi: {
      // "no check": an empty ST(0) is popped and nothing else
      if (isEmpty(0)) {
        setC1(false);
        pop();
      } else {
        storeRegister(index(op), true);
      }
      return true;
    }
    case H.FXCH_ST_i: { exchange(index(op)); return true; }
    case H.FCMOVcc: { conditionalMove(op, true); return true; }
    case H.FCMOVNcc: { conditionalMove(op, false); return true; }
    case H.FLDCONST: { loadConstant(load<u16>(op, OP_CODE) & 7); return true; }
    case H.FCHS: { A.changeSign(true); return true; }
    case H.FABS: { A.changeSign(false); return true; }
    case H.FTST: { A.testZero(); return true; }
    case H.FXAM: { A.examine(); return true; }
    case H.FSQRT: { A.root(); return true; }
    case H.FRNDINT: { A.roundToInteger(); return true; }
    case H.FSCALE: { A.scale(); return true; }
    case H.FXTRACT: { A.extractExponent(); return true; }
    case H.FPREM: { A.partialRemainder(false); return true; }
    case H.FPREM1: { A.partialRemainder(true); return true; }
    case H.FSIN: { T.sine(); return true; }
    case H.FCOS: { T.cosine(); return true; }
    case H.FSINCOS: { T.sineCosine(); return true; }
    case H.FPTAN: { T.tangent(); return true; }
    case H.FPATAN: { T.angle(); return true; }
    case H.F2XM1: { T.powerLessOne(); return true; }
    case H.FYL2X: { T.logarithm(); return true; }
    case H.FYL2XP1: { T.logarithmPlusOne(); return true; }
    default: return false;
  }
}

function loadRegister(i: u32): void {
  if (isEmpty(i)) {
    if (stackFault(false)) push(INDEFINITE_SIG, INDEFINITE_WORD);
    return;
  }
  M.pushRaw(load<u64>(st(i)), load<u16>(st(i), 8));
}

function storeRegister(i: u32, pops: bool): void {
  if (isEmpty(0)) {
    if (!stackFault(false)) return;
    setSt(i, INDEFINITE_SIG, INDEFINITE_WORD);
  } else {
    setC1(false);
    setSt(i, load<u64>(st(0)), load<u16>(st(0), 8));
  }
  if (pops) pop();
}

/** FXCH: the masked response to an empty operand is the indefinite value in its place. */
function exchange(i: u32): void {
  if (isEmpty(0) || isEmpty(i)) {
    if (!stackFault(false)) return;
    if (isEmpty(0)) setSt(0, INDEFINITE_SIG, INDEFINITE_WORD);
    if (isEmpty(i)) setSt(i, INDEFINITE_SIG, INDEFINITE_WORD);
  }
  setC1(false);
  const sig = load<u64>(st(0));
  const word: u32 = load<u16>(st(0), 8);
  setSt(0, load<u64>(st(i)), load<u16>(st(i), 8));
  setSt(i, sig, word);
}

/** FCMOVcc: reg field 0 B, 1 E, 2 BE, 3 U; `when`: the condition or its negation. */
function conditionalMove(op: usize, when: bool): void {
  const code = operation(op);
  const condition: u32 = code == 3 ? 10 : 2 + (code << 1); // P, or B, Z, BE
  const i = index(op);
  if (!A.bothUsed(0, i, 0, false)) return;
  if (cond(condition) == when) setSt(0, load<u64>(st(i)), load<u16>(st(i), 8));
}

/** FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ, by ModRM.rm; rounded by RC from longer values (SDM vol. 1, 8.3.8). */
function loadConstant(which: u32): void {
  const rc = roundingControl();
  const down = rc == DOWN || rc == TRUNCATE;
  switch (which) {
    case 0: { M.pushRaw(0x8000000000000000, 0x3fff); break; }
    case 1: { M.pushRaw(rc == UP ? 0xd49a784bcd1b8aff : 0xd49a784bcd1b8afe, 0x4000); break; }
    case 2: { M.pushRaw(down ? 0xb8aa3b295c17f0bb : 0xb8aa3b295c17f0bc, 0x3fff); break; }
    case 3: { M.pushRaw(down ? 0xc90fdaa22168c234 : 0xc90fdaa22168c235, 0x4000); break; }
    case 4: { M.pushRaw(down ? 0x9a209a84fbcff798 : 0x9a209a84fbcff799, 0x3ffd); break; }
    case 5: { M.pushRaw(down ? 0xb17217f7d1cf79ab : 0xb17217f7d1cf79ac, 0x3ffe); break; }
    default: { M.pushRaw(0, 0); break; }
  }
}
