/** The sse family: MMX, SSE to SSE4.2 and vector state instructions, by the handlers of isa/sse.ts. */

import * as H from './generated/sse';
import { FPU_OK, MXCSR, VECTOR_SCRATCH } from './layout';
import { cpu } from './state';
import { ea, gpr, OP_CODE, OP_IMM, OP_MOD, OP_PREFIX, OP_REG, OP_SUB, PREFIX_66, PREFIX_REP, PREFIX_REPNE } from './record';
import { probeRead, rd128, rd32, rd64, wr128, wr32, wr64 } from './memory';
import { faultCode } from './events';
import { fpuUnusable, mmxUnusable, sseUnusable } from './control';
import { alignedAddress, enterMmx, low64, mmxReg, mmxRm, setMmx, src128, src64, xmmReg, xmmRm } from './xmm';
import { CF, PF, setArith, ZF } from './flags';
import { begin, commit, MXCSR_MASK, roundingMode } from './mxcsr';
import { TRUNCATE } from './softfloat80';
import { packed } from './packed';
import { execMmx } from './mmx';
import { checkPending } from './x87state';
import * as M from './ssemove';
import * as F from './ssefloat';
import * as C from './sseconvert';
import * as X from './sse4';
import { fxrstor, fxsave, xrstor, xsave } from './fxsave';

/** Last handlers of the groups of isa/sse.ts. */
const LAST_LANE: u32 = H.PMULLD;
const LAST_MOVE: u32 = H.PINSRD;
const LAST_FLOAT: u32 = H.DPPD;

/** Executes one instruction of the family; may unwind. */
export function execSse(op: usize): void {
  const sub: u32 = load<u16>(op, OP_SUB);
  if ((load<u32>(cpu, FPU_OK) & 3) != 3) checkUsable(op, sub);
  if (sub <= LAST_LANE) {
    if (hasXmm(op)) byLanes(op, sub);
    else execMmx(op, sub);
  } else if (sub <= LAST_MOVE) {
    execMove(op, sub);
  } else if (sub <= LAST_FLOAT) {
    execFloat(op, sub);
  } else {
    execRest(op, sub);
  }
}

/** Rows that exist for MMX and XMM registers: 66 means XMM. */
// @ts-ignore: decorator
@inline
function hasXmm(op: usize): bool {
  return (load<u16>(op, OP_PREFIX) & PREFIX_66) != 0;
}

// ---- moves within and between registers and memory

/** The first four are the loops of memcpy and strlen: their accesses are inline. */
function execMove(op: usize, sub: u32): void {
  switch (sub) {
    case H.MOVU_load: {
      v128.store(xmmReg(op), load<u8>(op, OP_MOD) != 0 ? rd128(ea(op)) : v128.load(xmmRm(op)));
      return;
    }
    case H.MOVU_store: {
      const value = v128.load(xmmReg(op));
      if (load<u8>(op, OP_MOD) != 0) wr128(ea(op), value);
      else v128.store(xmmRm(op), value);
      return;
    }
    case H.MOVA_load: {
      v128.store(xmmReg(op), load<u8>(op, OP_MOD) != 0 ? rd128(alignedAddress(op)) : v128.load(xmmRm(op)));
      return;
    }
    case H.MOVA_store: {
      const value = v128.load(xmmReg(op));
      if (load<u8>(op, OP_MOD) != 0) wr128(alignedAddress(op), value);
      else v128.store(xmmRm(op), value);
      return;
    }
    case H.MOVQ_load: {
      const value = src64(op);
      const d = xmmReg(op);
      store<u64>(d, value);
      store<u64>(d, 0, 8);
      return;
    }
    case H.MOVQ_store: {
      const value = load<u64>(xmmReg(op));
      if (load<u8>(op, OP_MOD) != 0) {
        wr64(ea(op), value);
      } else {
        store<u64>(xmmRm(op), value);
        store<u64>(xmmRm(op), 0, 8);
      }
      return;
    }
    case H.MOVLPS_store: { wr64(ea(op), load<u64>(xmmReg(op))); return; }
    case H.MOVHPS_store: { wr64(ea(op), load<u64>(xmmReg(op), 8)); return; }
    case H.MOVLPS_load: { store<u64>(xmmReg(op), rd64(ea(op))); return; }
    case H.MOVHPS_load: { store<u64>(xmmReg(op), rd64(ea(op)), 8); return; }
    case H.MOVSS_load: {
      const value = rd32(ea(op));
      const d = xmmReg(op);
      store<u64>(d, value);
      store<u64>(d, 0, 8);
      return;
    }
    case H.MOVSS_store: { wr32(ea(op), load<u32>(xmmReg(op))); return; }
    case H.MOVD_load: { M.movdLoad(op); return; }
    case H.MOVD_store: { M.movdStore(op); return; }
    case H.PMOVMSKB: { store<u64>(gpr(load<u8>(op, OP_REG)), <u64>i8x16.bitmask(v128.load(xmmRm(op)))); return; }
    case H.XORP: { const b = src128(op); const d = xmmReg(op); v128.store(d, v128.xor(v128.load(d), b)); return; }
    case H.ANDP: { const b = src128(op); const d = xmmReg(op); v128.store(d, v128.and(v128.load(d), b)); return; }
    case H.ANDNP: { const b = src128(op); const d = xmmReg(op); v128.store(d, v128.andnot(b, v128.load(d))); return; }
    case H.ORP: { const b = src128(op); const d = xmmReg(op); v128.store(d, v128.or(v128.load(d), b)); return; }
    case H.PSRLW_Ib: { shiftImmediate(op, H.PSRLW); return; }
    case H.PSRLD_Ib: { shiftImmediate(op, H.PSRLD); return; }
    case H.PSRLQ_Ib: { shiftImmediate(op, H.PSRLQ); return; }
    case H.PSRAW_Ib: { shiftImmediate(op, H.PSRAW); return; }
    case H.PSRAD_Ib: { shiftImmediate(op, H.PSRAD); return; }
    case H.PSLLW_Ib: { shiftImmediate(op, H.PSLLW); return; }
    case H.PSLLD_Ib: { shiftImmediate(op, H.PSLLD); return; }
    case H.PSLLQ_Ib: { shiftImmediate(op, H.PSLLQ); return; }
    case H.PSRLDQ: { M.shiftBytes(op, false); return; }
    case H.PSLLDQ: { M.shiftBytes(op, true); return; }
    case H.PALIGNR: { M.palignr(op); return; }
    case H.PSHUFD: { M.pshufd(op); return; }
    case H.PSHUFLW: { M.pshufWords(op, 0); return; }
    case H.PSHUFHW: { M.pshufWords(op, 8); return; }
    case H.SHUFPS: { M.shufps(op); return; }
    case H.SHUFPD: { M.shufpd(op); return; }
    case H.UNPCKLPS: { byLanes(op, H.PUNPCKLDQ); return; }
    case H.UNPCKHPS: { byLanes(op, H.PUNPCKHDQ); return; }
    case H.UNPCKLPD: { byLanes(op, H.PUNPCKLQDQ); return; }
    case H.UNPCKHPD: { byLanes(op, H.PUNPCKHQDQ); return; }
    case H.MOVSS_reg: { store<u32>(xmmReg(op), load<u32>(xmmRm(op))); return; }
    case H.MOVSD_reg: { store<u64>(xmmReg(op), load<u64>(xmmRm(op))); return; }
    case H.MOVSS_reg_reversed: { store<u32>(xmmRm(op), load<u32>(xmmReg(op))); return; }
    case H.MOVSD_reg_reversed: { store<u64>(xmmRm(op), load<u64>(xmmReg(op))); return; }
    case H.MOVHLPS: { store<u64>(xmmReg(op), load<u64>(xmmRm(op), 8)); return; }
    case H.MOVLHPS: { store<u64>(xmmReg(op), load<u64>(xmmRm(op)), 8); return; }
    case H.MOVSLDUP: { const b = src128(op); v128.store(xmmReg(op), i32x4.shuffle(b, b, 0, 0, 2, 2)); return; }
    case H.MOVSHDUP: { const b = src128(op); v128.store(xmmReg(op), i32x4.shuffle(b, b, 1, 1, 3, 3)); return; }
    case H.MOVDDUP: { v128.store(xmmReg(op), i64x2.splat(src64(op))); return; }
    case H.MOVMSKPS: { store<u64>(gpr(load<u8>(op, OP_REG)), <u64>i32x4.bitmask(v128.load(xmmRm(op)))); return; }
    case H.MOVMSKPD: { store<u64>(gpr(load<u8>(op, OP_REG)), <u64>i64x2.bitmask(v128.load(xmmRm(op)))); return; }
    case H.MOVNTI: { M.movnti(op); return; }
    case H.MASKMOVDQU: { M.maskedStore(op, v128.load(xmmReg(op)), v128.load(xmmRm(op))); return; }
    case H.MOVQ2DQ: {
      checkPending();
      const d = xmmReg(op);
      store<u64>(d, load<u64>(mmxRm(op)));
      store<u64>(d, 0, 8);
      enterMmx();
      return;
    }
    case H.MOVDQ2Q: {
      checkPending();
      setMmx(mmxReg(op), load<u64>(xmmRm(op)));
      enterMmx();
      return;
    }
    case H.PINSRW: { M.insert(op, 2); return; }
    case H.PINSRB: { M.insert(op, 1); return; }
    case H.PINSRD: { M.insert(op, M.rexW(op) ? 8 : 4); return; }
    case H.PEXTRW: { store<u64>(gpr(load<u8>(op, OP_REG)), <u64>load<u16>(xmmRm(op) + ((load<u8>(op, OP_IMM) & 7) << 1))); return; }
    case H.PEXTRW_store: { M.extract(op, 2); return; }
    case H.PEXTRB: { M.extract(op, 1); return; }
    case H.PEXTRD: { M.extract(op, M.rexW(op) ? 8 : 4); return; }
    case H.EXTRACTPS: { M.extract(op, 4); return; }
    case H.INSERTPS: { M.insertps(op); return; }
    case H.BLENDPS: { M.blend(op, 4); return; }
    case H.BLENDPD: { M.blend(op, 8); return; }
    case H.PBLENDW: { M.blend(op, 2); return; }
    case H.PBLENDVB: { X.blendVariable(op, i8x16.shr_s(X.xmm0(), 7)); return; }
    case H.BLENDVPS: { X.blendVariable(op, i32x4.shr_s(X.xmm0(), 31)); return; }
    case H.BLENDVPD: { X.blendVariable(op, i64x2.shr_s(X.xmm0(), 63)); return; }
    default: execMmx(op, sub);
  }
}

/** Shift by an immediate; the MMX forms are in mmx.ts. */
function shiftImmediate(op: usize, sub: u32): void {
  if (!hasXmm(op)) {
    execMmx(op, load<u16>(op, OP_SUB));
    return;
  }
  const d = xmmRm(op);
  v128.store(d, packed(sub, v128.load(d), low64(<u64>load<u8>(op, OP_IMM))));
}

/** Destination and aligned source through the lane operation `sub`. */
function byLanes(op: usize, sub: u32): void {
  const b = src128(op);
  const d = xmmReg(op);
  v128.store(d, packed(sub, v128.load(d), b));
}

// ---- who may use what

/** The vector unit is not wholly usable: unwinds when this instruction needs what is not. */
function checkUsable(op: usize, sub: u32): void {
  switch (sub) {
    case H.FENCE:
    case H.CLFLUSH:
    case H.MOVNTI: return;
    case H.XSAVE:
    case H.XSAVEOPT:
    case H.XRSTOR: return; // fxsave.ts
    default:
  }
  const usable = load<u32>(cpu, FPU_OK);
  if (sub == H.FXSAVE || sub == H.FXRSTOR) {
    if ((usable & 1) == 0) fpuUnusable();
  } else if (isMmx(op)) {
    if ((usable & 1) == 0) mmxUnusable();
  } else if ((usable & 2) == 0) {
    sseUnusable();
  }
}

/** No prefix, and an opcode of the MMX columns: 60.. less CMPPS, SHUFPS of map 0F, or any of 0F 38 and 0F 3A. */
function isMmx(op: usize): bool {
  if ((load<u16>(op, OP_PREFIX) & (PREFIX_66 | PREFIX_REP | PREFIX_REPNE)) != 0) return false;
  const opcode = load<u16>(op, OP_CODE) >> 8;
  return opcode < 0x10 || (opcode >= 0x1c && opcode <= 0x1e) || (opcode >= 0x60 && opcode != 0xc2 && opcode != 0xc6 && opcode != 0xae);
}

// ---- floating point

function execFloat(op: usize, sub: u32): void {
  switch (sub) {
    case H.ADDPS: { F.packed32(op, F.ADD); return; }
    case H.ADDPD: { F.packed64(op, F.ADD); return; }
    case H.ADDSS: { F.scalar32(op, F.ADD); return; }
    case H.ADDSD: { F.scalar64(op, F.ADD); return; }
    case H.SUBPS: { F.packed32(op, F.SUB); return; }
    case H.SUBPD: { F.packed64(op, F.SUB); return; }
    case H.SUBSS: { F.scalar32(op, F.SUB); return; }
    case H.SUBSD: { F.scalar64(op, F.SUB); return; }
    case H.MULPS: { F.packed32(op, F.MUL); return; }
    case H.MULPD: { F.packed64(op, F.MUL); return; }
    case H.MULSS: { F.scalar32(op, F.MUL); return; }
    case H.MULSD: { F.scalar64(op, F.MUL); return; }
    case H.DIVPS: { F.packed32(op, F.DIV); return; }
    case H.DIVPD: { F.packed64(op, F.DIV); return; }
    case H.DIVSS: { F.scalar32(op, F.DIV); return; }
    case H.DIVSD: { F.scalar64(op, F.DIV); return; }
    case H.SQRTPS: { F.packed32(op, F.SQRT); return; }
    case H.SQRTPD: { F.packed64(op, F.SQRT); return; }
    case H.SQRTSS: { F.scalar32(op, F.SQRT); return; }
    case H.SQRTSD: { F.scalar64(op, F.SQRT); return; }
    case H.MINPS: { F.packed32(op, F.MIN); return; }
    case H.MINPD: { F.packed64(op, F.MIN); return; }
    case H.MINSS: { F.scalar32(op, F.MIN); return; }
    case H.MINSD: { F.scalar64(op, F.MIN); return; }
    case H.MAXPS: { F.packed32(op, F.MAX); return; }
    case H.MAXPD: { F.packed64(op, F.MAX); return; }
    case H.MAXSS: { F.scalar32(op, F.MAX); return; }
    case H.MAXSD: { F.scalar64(op, F.MAX); return; }
    case H.CMPPS: { F.comparePacked32(op); return; }
    case H.CMPPD: { F.comparePacked64(op); return; }
    case H.CMPSS: { F.compareScalar32(op); return; }
    case H.CMPSD: { F.compareScalar64(op); return; }
    case H.COMISS: { compareToFlags32(op, true); return; }
    case H.UCOMISS: { compareToFlags32(op, false); return; }
    case H.COMISD: { compareToFlags64(op, true); return; }
    case H.UCOMISD: { compareToFlags64(op, false); return; }
    case H.CVTSI2SS: { C.cvtsi2ss(op); return; }
    case H.CVTSI2SD: { C.cvtsi2sd(op); return; }
    case H.CVTSS2SI: { C.cvtss2si(op, roundingMode()); return; }
    case H.CVTTSS2SI: { C.cvtss2si(op, TRUNCATE); return; }
    case H.CVTSD2SI: { C.cvtsd2si(op, roundingMode()); return; }
    case H.CVTTSD2SI: { C.cvtsd2si(op, TRUNCATE); return; }
    case H.CVTSS2SD: { C.cvtss2sd(op); return; }
    case H.CVTSD2SS: { C.cvtsd2ss(op); return; }
    case H.CVTPS2PD: { C.cvtps2pd(op); return; }
    case H.CVTPD2PS: { C.cvtpd2ps(op); return; }
    case H.CVTDQ2PS: { C.cvtdq2ps(op); return; }
    case H.CVTDQ2PD: { C.cvtdq2pd(op); return; }
    case H.CVTPS2DQ: { C.cvtps2dq(op, roundingMode()); return; }
    case H.CVTTPS2DQ: { C.cvtps2dq(op, TRUNCATE); return; }
    case H.CVTPD2DQ: { C.cvtpd2dq(op, roundingMode()); return; }
    case H.CVTTPD2DQ: { C.cvtpd2dq(op, TRUNCATE); return; }
    case H.CVTPI2PS: {
      C.cvtpi2ps(op, mmxOperand(op));
      return;
    }
    case H.CVTPI2PD: {
      C.cvtpi2pd(op, mmxOperand(op));
      return;
    }
    case H.CVTPS2PI: { toMmx32(op, roundingMode()); return; }
    case H.CVTTPS2PI: { toMmx32(op, TRUNCATE); return; }
    case H.CVTPD2PI: { toMmx64(op, roundingMode()); return; }
    case H.CVTTPD2PI: { toMmx64(op, TRUNCATE); return; }
    case H.ROUNDPS: { C.roundps(op); return; }
    case H.ROUNDPD: { C.roundpd(op); return; }
    case H.ROUNDSS: { C.roundss(op); return; }
    case H.ROUNDSD: { C.roundsd(op); return; }
    case H.RCPPS: { C.approximatePacked(op, false); return; }
    case H.RCPSS: { C.approximateScalar(op, false); return; }
    case H.RSQRTPS: { C.approximatePacked(op, true); return; }
    case H.RSQRTSS: { C.approximateScalar(op, true); return; }
    case H.HADDPS: { X.horizontal32(op, F.ADD); return; }
    case H.HADDPD: { X.horizontal64(op, F.ADD); return; }
    case H.HSUBPS: { X.horizontal32(op, F.SUB); return; }
    case H.HSUBPD: { X.horizontal64(op, F.SUB); return; }
    case H.ADDSUBPS: { X.addsub32(op); return; }
    case H.ADDSUBPD: { X.addsub64(op); return; }
    case H.DPPS: { X.dpps(op); return; }
    case H.DPPD: { X.dppd(op); return; }
    default: unreachable();
  }
}

/** ZF, PF, CF as FCOMI gives them: 111 unordered, 000 greater, 001 less, 100 equal. */
export function orderFlags(order: i32): u32 {
  return order == 2 ? ZF | PF | CF : order < 0 ? CF : order == 0 ? ZF : 0;
}

function compareToFlags32(op: usize, signaling: bool): void {
  const b = F.source32(op);
  begin();
  const order = F.order32(load<u32>(xmmReg(op)), b, signaling);
  commit();
  setArith(orderFlags(order));
}

function compareToFlags64(op: usize, signaling: bool): void {
  const b = F.source64(op);
  begin();
  const order = F.order64(load<u64>(xmmReg(op)), b, signaling);
  commit();
  setArith(orderFlags(order));
}

/** MMX source of an instruction whose other operand is an XMM register; one in memory leaves the x87 alone. */
function mmxOperand(op: usize): u64 {
  if (load<u8>(op, OP_MOD) != 0) return rd64(ea(op));
  checkPending();
  enterMmx();
  return load<u64>(mmxRm(op));
}

function toMmx32(op: usize, rc: u32): void {
  checkPending();
  const source = src64(op);
  enterMmx();
  setMmx(mmxReg(op), C.cvtps2pi(source, rc));
}

function toMmx64(op: usize, rc: u32): void {
  checkPending();
  const source = src128(op);
  enterMmx();
  setMmx(mmxReg(op), C.cvtpd2pi(source, rc));
}

// ---- the rest of SSE4, and state

function execRest(op: usize, sub: u32): void {
  switch (sub) {
    case H.PMOVSXBW: { v128.store(xmmReg(op), i16x8.extend_low_i8x16_s(X.narrowSource(op, 8))); return; }
    case H.PMOVSXBD: { v128.store(xmmReg(op), i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(X.narrowSource(op, 4)))); return; }
    case H.PMOVSXBQ: {
      const words = i16x8.extend_low_i8x16_s(X.narrowSource(op, 2));
      v128.store(xmmReg(op), i64x2.extend_low_i32x4_s(i32x4.extend_low_i16x8_s(words)));
      return;
    }
    case H.PMOVSXWD: { v128.store(xmmReg(op), i32x4.extend_low_i16x8_s(X.narrowSource(op, 8))); return; }
    case H.PMOVSXWQ: { v128.store(xmmReg(op), i64x2.extend_low_i32x4_s(i32x4.extend_low_i16x8_s(X.narrowSource(op, 4)))); return; }
    case H.PMOVSXDQ: { v128.store(xmmReg(op), i64x2.extend_low_i32x4_s(X.narrowSource(op, 8))); return; }
    case H.PMOVZXBW: { v128.store(xmmReg(op), i16x8.extend_low_i8x16_u(X.narrowSource(op, 8))); return; }
    case H.PMOVZXBD: { v128.store(xmmReg(op), i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(X.narrowSource(op, 4)))); return; }
    case H.PMOVZXBQ: {
      const words = i16x8.extend_low_i8x16_u(X.narrowSource(op, 2));
      v128.store(xmmReg(op), i64x2.extend_low_i32x4_u(i32x4.extend_low_i16x8_u(words)));
      return;
    }
    case H.PMOVZXWD: { v128.store(xmmReg(op), i32x4.extend_low_i16x8_u(X.narrowSource(op, 8))); return; }
    case H.PMOVZXWQ: { v128.store(xmmReg(op), i64x2.extend_low_i32x4_u(i32x4.extend_low_i16x8_u(X.narrowSource(op, 4)))); return; }
    case H.PMOVZXDQ: { v128.store(xmmReg(op), i64x2.extend_low_i32x4_u(X.narrowSource(op, 8))); return; }
    case H.PTEST: { X.ptest(op); return; }
    case H.MPSADBW: { X.mpsadbw(op); return; }
    case H.PHMINPOSUW: { X.phminposuw(op); return; }
    case H.PCMPESTRI: { X.compareStrings(op, true, false); return; }
    case H.PCMPESTRM: { X.compareStrings(op, true, true); return; }
    case H.PCMPISTRI: { X.compareStrings(op, false, false); return; }
    case H.PCMPISTRM: { X.compareStrings(op, false, true); return; }
    case H.LDMXCSR: {
      const value = rd32(ea(op));
      if ((value & ~MXCSR_MASK) != 0) faultCode(13, 0);
      store<u32>(cpu, value, MXCSR);
      return;
    }
    case H.STMXCSR: { wr32(ea(op), load<u32>(cpu, MXCSR)); return; }
    case H.FENCE: {
      atomic.add<u32>(cpu + VECTOR_SCRATCH, 0); // asc 0.28 does not validate atomic.fence; any atomic access orders as well
      return;
    }
    case H.CLFLUSH: { probeRead(ea(op), 1); return; }
    case H.FXSAVE: { fxsave(op); return; }
    case H.FXRSTOR: { fxrstor(op); return; }
    case H.XSAVE: { xsave(op, false); return; }
    case H.XSAVEOPT: { xsave(op, true); return; }
    case H.XRSTOR: { xrstor(op); return; }
    default: unreachable();
  }
}
