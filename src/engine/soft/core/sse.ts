/** The sse family: MMX, SSE to SSE4.2 and vector state instructions, by the handlers of isa/sse.ts. */

import * as H from './generated/sse';
import { FPU_OK, MXCSR, VECTOR_SCRATCH } from './layout';
import { cpu } from './state';
import { ea, gpr, OP_CODE, OP_IMM, OP_MOD, OP_PREFIX, OP_REG, OP_SUB, PREFIX_66, PREFIX_REP, PREFIX_REPNE } from './record';
import { probeRead, rd32, rd64, wr128, wr32, wr64 } from './memory';
import { faultCode } from './events';
import { fpuUnusable, mmxUnusable, sseUnusable } from './control';
import { dst128, enterMmx, low64, mmxReg, mmxRm, setMmx, src128, src64, unaligned128, xmmReg, xmmRm } from './xmm';
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

/** Executes one instruction of the family; may unwind. */
export function execSse(op: usize): void {
  const sub: u32 = load<u16>(op, OP_SUB);
  if ((load<u32>(cpu, FPU_OK) & 3) != 3) checkUsable(op, sub);
  const xmm = (load<u16>(op, OP_PREFIX) & PREFIX_66) != 0;
  // string and copy loops, and what compilers make of zeroing: the hot ones
  switch (sub) {
    case H.MOVU_load: {
      v128.store(xmmReg(op), unaligned128(op));
      return;
    }
    case H.MOVU_store: {
      const value = v128.load(xmmReg(op));
      if (load<u8>(op, OP_MOD) != 0) wr128(ea(op), value);
      else v128.store(xmmRm(op), value);
      return;
    }
    case H.MOVA_load: {
      v128.store(xmmReg(op), src128(op));
      return;
    }
    case H.MOVA_store: {
      dst128(op, v128.load(xmmReg(op)));
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
    case H.PXOR: {
      if (!xmm) break;
      const b = src128(op);
      const d = xmmReg(op);
      v128.store(d, v128.xor(v128.load(d), b));
      return;
    }
    case H.PCMPEQB: {
      if (!xmm) break;
      const b = src128(op);
      const d = xmmReg(op);
      v128.store(d, i8x16.eq(v128.load(d), b));
      return;
    }
    case H.PMINUB: {
      if (!xmm) break;
      const b = src128(op);
      const d = xmmReg(op);
      v128.store(d, i8x16.min_u(v128.load(d), b));
      return;
    }
    case H.POR: {
      if (!xmm) break;
      const b = src128(op);
      const d = xmmReg(op);
      v128.store(d, v128.or(v128.load(d), b));
      return;
    }
    default:
  }
  if (execFloat(op, sub) || execShuffle(op, sub) || execRest(op, sub)) return;
  if (!xmm) {
    execMmx(op, sub);
    return;
  }
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

function execFloat(op: usize, sub: u32): bool {
  switch (sub) {
    case H.ADDPS: { F.packed32(op, F.ADD); return true; }
    case H.ADDPD: { F.packed64(op, F.ADD); return true; }
    case H.ADDSS: { F.scalar32(op, F.ADD); return true; }
    case H.ADDSD: { F.scalar64(op, F.ADD); return true; }
    case H.SUBPS: { F.packed32(op, F.SUB); return true; }
    case H.SUBPD: { F.packed64(op, F.SUB); return true; }
    case H.SUBSS: { F.scalar32(op, F.SUB); return true; }
    case H.SUBSD: { F.scalar64(op, F.SUB); return true; }
    case H.MULPS: { F.packed32(op, F.MUL); return true; }
    case H.MULPD: { F.packed64(op, F.MUL); return true; }
    case H.MULSS: { F.scalar32(op, F.MUL); return true; }
    case H.MULSD: { F.scalar64(op, F.MUL); return true; }
    case H.DIVPS: { F.packed32(op, F.DIV); return true; }
    case H.DIVPD: { F.packed64(op, F.DIV); return true; }
    case H.DIVSS: { F.scalar32(op, F.DIV); return true; }
    case H.DIVSD: { F.scalar64(op, F.DIV); return true; }
    case H.SQRTPS: { F.packed32(op, F.SQRT); return true; }
    case H.SQRTPD: { F.packed64(op, F.SQRT); return true; }
    case H.SQRTSS: { F.scalar32(op, F.SQRT); return true; }
    case H.SQRTSD: { F.scalar64(op, F.SQRT); return true; }
    case H.MINPS: { F.packed32(op, F.MIN); return true; }
    case H.MINPD: { F.packed64(op, F.MIN); return true; }
    case H.MINSS: { F.scalar32(op, F.MIN); return true; }
    case H.MINSD: { F.scalar64(op, F.MIN); return true; }
    case H.MAXPS: { F.packed32(op, F.MAX); return true; }
    case H.MAXPD: { F.packed64(op, F.MAX); return true; }
    case H.MAXSS: { F.scalar32(op, F.MAX); return true; }
    case H.MAXSD: { F.scalar64(op, F.MAX); return true; }
    case H.CMPPS: { F.comparePacked32(op); return true; }
    case H.CMPPD: { F.comparePacked64(op); return true; }
    case H.CMPSS: { F.compareScalar32(op); return true; }
    case H.CMPSD: { F.compareScalar64(op); return true; }
    case H.COMISS: { compareToFlags32(op, true); return true; }
    case H.UCOMISS: { compareToFlags32(op, false); return true; }
    case H.COMISD: { compareToFlags64(op, true); return true; }
    case H.UCOMISD: { compareToFlags64(op, false); return true; }
    case H.CVTSI2SS: { C.cvtsi2ss(op); return true; }
    case H.CVTSI2SD: { C.cvtsi2sd(op); return true; }
    case H.CVTSS2SI: { C.cvtss2si(op, roundingMode()); return true; }
    case H.CVTTSS2SI: { C.cvtss2si(op, TRUNCATE); return true; }
    case H.CVTSD2SI: { C.cvtsd2si(op, roundingMode()); return true; }
    case H.CVTTSD2SI: { C.cvtsd2si(op, TRUNCATE); return true; }
    case H.CVTSS2SD: { C.cvtss2sd(op); return true; }
    case H.CVTSD2SS: { C.cvtsd2ss(op); return true; }
    case H.CVTPS2PD: { C.cvtps2pd(op); return true; }
    case H.CVTPD2PS: { C.cvtpd2ps(op); return true; }
    case H.CVTDQ2PS: { C.cvtdq2ps(op); return true; }
    case H.CVTDQ2PD: { C.cvtdq2pd(op); return true; }
    case H.CVTPS2DQ: { C.cvtps2dq(op, roundingMode()); return true; }
    case H.CVTTPS2DQ: { C.cvtps2dq(op, TRUNCATE); return true; }
    case H.CVTPD2DQ: { C.cvtpd2dq(op, roundingMode()); return true; }
    case H.CVTTPD2DQ: { C.cvtpd2dq(op, TRUNCATE); return true; }
    case H.CVTPI2PS: {
      C.cvtpi2ps(op, mmxOperand(op));
      return true;
    }
    case H.CVTPI2PD: {
      C.cvtpi2pd(op, mmxOperand(op));
      return true;
    }
    case H.CVTPS2PI: { toMmx32(op, roundingMode()); return true; }
    case H.CVTTPS2PI: { toMmx32(op, TRUNCATE); return true; }
    case H.CVTPD2PI: { toMmx64(op, roundingMode()); return true; }
    case H.CVTTPD2PI: { toMmx64(op, TRUNCATE); return true; }
    case H.ROUNDPS: { C.roundps(op); return true; }
    case H.ROUNDPD: { C.roundpd(op); return true; }
    case H.ROUNDSS: { C.roundss(op); return true; }
    case H.ROUNDSD: { C.roundsd(op); return true; }
    case H.RCPPS: { C.approximatePacked(op, false); return true; }
    case H.RCPSS: { C.approximateScalar(op, false); return true; }
    case H.RSQRTPS: { C.approximatePacked(op, true); return true; }
    case H.RSQRTSS: { C.approximateScalar(op, true); return true; }
    case H.HADDPS: { X.horizontal32(op, F.ADD); return true; }
    case H.HADDPD: { X.horizontal64(op, F.ADD); return true; }
    case H.HSUBPS: { X.horizontal32(op, F.SUB); return true; }
    case H.HSUBPD: { X.horizontal64(op, F.SUB); return true; }
    case H.ADDSUBPS: { X.addsub32(op); return true; }
    case H.ADDSUBPD: { X.addsub64(op); return true; }
    case H.DPPS: { X.dpps(op); return true; }
    case H.DPPD: { X.dppd(op); return true; }
    default: return false;
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

// ---- moves within and between registers

/** Shift by an immediate; the MMX forms are in mmx.ts. */
function shiftImmediate(op: usize, sub: u32): bool {
  if ((load<u16>(op, OP_PREFIX) & PREFIX_66) == 0) return false;
  const d = xmmRm(op);
  v128.store(d, packed(sub, v128.load(d), low64(<u64>load<u8>(op, OP_IMM))));
  return true;
}

function execShuffle(op: usize, sub: u32): bool {
  switch (sub) {
    case H.PSRLW_Ib: return shiftImmediate(op, H.PSRLW);
    case H.PSRLD_Ib: return shiftImmediate(op, H.PSRLD);
    case H.PSRLQ_Ib: return shiftImmediate(op, H.PSRLQ);
    case H.PSRAW_Ib: return shiftImmediate(op, H.PSRAW);
    case H.PSRAD_Ib: return shiftImmediate(op, H.PSRAD);
    case H.PSLLW_Ib: return shiftImmediate(op, H.PSLLW);
    case H.PSLLD_Ib: return shiftImmediate(op, H.PSLLD);
    case H.PSLLQ_Ib: return shiftImmediate(op, H.PSLLQ);
    case H.PSRLDQ: { M.shiftBytes(op, false); return true; }
    case H.PSLLDQ: { M.shiftBytes(op, true); return true; }
    case H.PALIGNR: { M.palignr(op); return true; }
    case H.PSHUFD: { M.pshufd(op); return true; }
    case H.PSHUFLW: { M.pshufWords(op, 0); return true; }
    case H.PSHUFHW: { M.pshufWords(op, 8); return true; }
    case H.SHUFPS: { M.shufps(op); return true; }
    case H.SHUFPD: { M.shufpd(op); return true; }
    case H.UNPCKLPS: { interleave(op, H.PUNPCKLDQ); return true; }
    case H.UNPCKHPS: { interleave(op, H.PUNPCKHDQ); return true; }
    case H.UNPCKLPD: { interleave(op, H.PUNPCKLQDQ); return true; }
    case H.UNPCKHPD: { interleave(op, H.PUNPCKHQDQ); return true; }
    case H.MOVSS_reg: { store<u32>(xmmReg(op), load<u32>(xmmRm(op))); return true; }
    case H.MOVSD_reg: { store<u64>(xmmReg(op), load<u64>(xmmRm(op))); return true; }
    case H.MOVSS_reg_reversed: { store<u32>(xmmRm(op), load<u32>(xmmReg(op))); return true; }
    case H.MOVSD_reg_reversed: { store<u64>(xmmRm(op), load<u64>(xmmReg(op))); return true; }
    case H.MOVHLPS: { store<u64>(xmmReg(op), load<u64>(xmmRm(op), 8)); return true; }
    case H.MOVLHPS: { store<u64>(xmmReg(op), load<u64>(xmmRm(op)), 8); return true; }
    case H.MOVSLDUP: { const b = src128(op); v128.store(xmmReg(op), i32x4.shuffle(b, b, 0, 0, 2, 2)); return true; }
    case H.MOVSHDUP: { const b = src128(op); v128.store(xmmReg(op), i32x4.shuffle(b, b, 1, 1, 3, 3)); return true; }
    case H.MOVDDUP: { v128.store(xmmReg(op), i64x2.splat(src64(op))); return true; }
    case H.MOVMSKPS: { store<u64>(gpr(load<u8>(op, OP_REG)), <u64>i32x4.bitmask(v128.load(xmmRm(op)))); return true; }
    case H.MOVMSKPD: { store<u64>(gpr(load<u8>(op, OP_REG)), <u64>i64x2.bitmask(v128.load(xmmRm(op)))); return true; }
    case H.MOVNTI: { M.movnti(op); return true; }
    case H.MASKMOVDQU: { M.maskedStore(op, v128.load(xmmReg(op)), v128.load(xmmRm(op))); return true; }
    case H.MOVQ2DQ: {
      checkPending();
      const d = xmmReg(op);
      store<u64>(d, load<u64>(mmxRm(op)));
      store<u64>(d, 0, 8);
      enterMmx();
      return true;
    }
    case H.MOVDQ2Q: {
      checkPending();
      setMmx(mmxReg(op), load<u64>(xmmRm(op)));
      enterMmx();
      return true;
    }
    case H.PINSRW: { M.insert(op, 2); return true; }
    case H.PINSRB: { M.insert(op, 1); return true; }
    case H.PINSRD: { M.insert(op, M.rexW(op) ? 8 : 4); return true; }
    case H.PEXTRW: { store<u64>(gpr(load<u8>(op, OP_REG)), <u64>load<u16>(xmmRm(op) + ((load<u8>(op, OP_IMM) & 7) << 1))); return true; }
    case H.PEXTRW_store: { M.extract(op, 2); return true; }
    case H.PEXTRB: { M.extract(op, 1); return true; }
    case H.PEXTRD: { M.extract(op, M.rexW(op) ? 8 : 4); return true; }
    case H.EXTRACTPS: { M.extract(op, 4); return true; }
    case H.INSERTPS: { M.insertps(op); return true; }
    case H.BLENDPS: { M.blend(op, 4); return true; }
    case H.BLENDPD: { M.blend(op, 8); return true; }
    case H.PBLENDW: { M.blend(op, 2); return true; }
    case H.PBLENDVB: { X.blendVariable(op, i8x16.shr_s(X.xmm0(), 7)); return true; }
    case H.BLENDVPS: { X.blendVariable(op, i32x4.shr_s(X.xmm0(), 31)); return true; }
    case H.BLENDVPD: { X.blendVariable(op, i64x2.shr_s(X.xmm0(), 63)); return true; }
    default: return false;
  }
}

function interleave(op: usize, sub: u32): void {
  const b = src128(op);
  const d = xmmReg(op);
  v128.store(d, packed(sub, v128.load(d), b));
}

// ---- the rest of SSE4, and state

function extend(op: usize, value: v128): bool {
  v128.store(xmmReg(op), value);
  return true;
}

function execRest(op: usize, sub: u32): bool {
  switch (sub) {
    case H.PMOVSXBW: return extend(op, i16x8.extend_low_i8x16_s(X.narrowSource(op, 8)));
    case H.PMOVSXBD: return extend(op, i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(X.narrowSource(op, 4))));
    case H.PMOVSXBQ: return extend(op, i64x2.extend_low_i32x4_s(i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(X.narrowSource(op, 2)))));
    case H.PMOVSXWD: return extend(op, i32x4.extend_low_i16x8_s(X.narrowSource(op, 8)));
    case H.PMOVSXWQ: return extend(op, i64x2.extend_low_i32x4_s(i32x4.extend_low_i16x8_s(X.narrowSource(op, 4))));
    case H.PMOVSXDQ: return extend(op, i64x2.extend_low_i32x4_s(X.narrowSource(op, 8)));
    case H.PMOVZXBW: return extend(op, i16x8.extend_low_i8x16_u(X.narrowSource(op, 8)));
    case H.PMOVZXBD: return extend(op, i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(X.narrowSource(op, 4))));
    case H.PMOVZXBQ: return extend(op, i64x2.extend_low_i32x4_u(i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(X.narrowSource(op, 2)))));
    case H.PMOVZXWD: return extend(op, i32x4.extend_low_i16x8_u(X.narrowSource(op, 8)));
    case H.PMOVZXWQ: return extend(op, i64x2.extend_low_i32x4_u(i32x4.extend_low_i16x8_u(X.narrowSource(op, 4))));
    case H.PMOVZXDQ: return extend(op, i64x2.extend_low_i32x4_u(X.narrowSource(op, 8)));
    case H.PTEST: { X.ptest(op); return true; }
    case H.MPSADBW: { X.mpsadbw(op); return true; }
    case H.PHMINPOSUW: { X.phminposuw(op); return true; }
    case H.PCMPESTRI: { X.compareStrings(op, true, false); return true; }
    case H.PCMPESTRM: { X.compareStrings(op, true, true); return true; }
    case H.PCMPISTRI: { X.compareStrings(op, false, false); return true; }
    case H.PCMPISTRM: { X.compareStrings(op, false, true); return true; }
    case H.LDMXCSR: {
      const value = rd32(ea(op));
      if ((value & ~MXCSR_MASK) != 0) faultCode(13, 0);
      store<u32>(cpu, value, MXCSR);
      return true;
    }
    case H.STMXCSR: { wr32(ea(op), load<u32>(cpu, MXCSR)); return true; }
    case H.FENCE: {
      atomic.add<u32>(cpu + VECTOR_SCRATCH, 0); // asc 0.28 does not validate atomic.fence; any atomic access orders as well
      return true;
    }
    case H.CLFLUSH: { probeRead(ea(op), 1); return true; }
    case H.FXSAVE: { fxsave(op); return true; }
    case H.FXRSTOR: { fxrstor(op); return true; }
    case H.XSAVE: { xsave(op, false); return true; }
    case H.XSAVEOPT: { xsave(op, true); return true; }
    case H.XRSTOR: { xrstor(op); return true; }
    default: return false;
  }
}
