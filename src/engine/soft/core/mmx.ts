/** MMX: 64-bit operands in the significands of the x87 registers (Intel SDM vol. 1, chapter 9). */

import * as H from './generated/sse';
import { FTW, VECTOR_SCRATCH } from './layout';
import { cpu } from './state';
import { ea, gpr, OP_IMM, OP_MOD, OP_PREFIX, OP_REG, OP_RM, PREFIX_REXW } from './record';
import { rd16, rd32, rd64, wr32, wr64 } from './memory';
import { enterMmx, low64, mmxReg, mmxRm, setMmx, srcMmx } from './xmm';
import { packed } from './packed';
import { maskedStore } from './ssemove';
import { checkPending } from './x87state';

// @ts-ignore: decorator
@inline
function pair(a: u64, b: u64): v128 {
  return i64x2.replace_lane(i64x2.splat(a), 1, b);
}

/** An instruction of the sse family whose operands are MMX registers only. */
export function execMmx(op: usize, sub: u32): void {
  checkPending();
  const register = (load<u16>(op, OP_PREFIX) & PREFIX_REXW) != 0;
  switch (sub) {
    case H.MOVQ_load_mmx: {
      finish(mmxReg(op), srcMmx(op));
      return;
    }
    case H.MOVQ_store_mmx: {
      const value = load<u64>(mmxReg(op));
      if (load<u8>(op, OP_MOD) != 0) {
        wr64(ea(op), value);
        enterMmx();
      } else {
        finish(mmxRm(op), value);
      }
      return;
    }
    case H.MOVD_load_mmx: {
      const from = gpr(load<u8>(op, OP_RM));
      let value: u64;
      if (load<u8>(op, OP_MOD) != 0) value = register ? rd64(ea(op)) : <u64>rd32(ea(op));
      else value = register ? load<u64>(from) : <u64>load<u32>(from);
      finish(mmxReg(op), value);
      return;
    }
    case H.MOVD_store_mmx: {
      const value = load<u64>(mmxReg(op));
      if (load<u8>(op, OP_MOD) == 0) store<u64>(gpr(load<u8>(op, OP_RM)), register ? value : value & 0xffffffff);
      else if (register) wr64(ea(op), value);
      else wr32(ea(op), <u32>value);
      enterMmx();
      return;
    }
    case H.EMMS: {
      enterMmx();
      store<u8>(cpu, 0, FTW);
      return;
    }
    case H.PMOVMSKB_mmx: {
      store<u64>(gpr(load<u8>(op, OP_REG)), <u64>i8x16.bitmask(low64(load<u64>(mmxRm(op)))));
      enterMmx();
      return;
    }
    case H.MASKMOVQ: {
      maskedStore(op, low64(load<u64>(mmxReg(op))), low64(load<u64>(mmxRm(op))));
      enterMmx();
      return;
    }
    case H.PSHUFW: {
      const b = srcMmx(op);
      const order = load<u8>(op, OP_IMM);
      const result = ((b >> ((order & 3) << 4)) & 0xffff) | (((b >> (((order >> 2) & 3) << 4)) & 0xffff) << 16)
        | (((b >> (((order >> 4) & 3) << 4)) & 0xffff) << 32) | ((b >> ((order >> 6) << 4)) << 48);
      finish(mmxReg(op), result);
      return;
    }
    case H.PINSRW_mmx: {
      const word = <u64>(load<u8>(op, OP_MOD) != 0 ? rd16(ea(op)) : load<u16>(gpr(load<u8>(op, OP_RM))));
      const shift = <u64>(load<u8>(op, OP_IMM) & 3) << 4;
      const d = mmxReg(op);
      finish(d, (load<u64>(d) & ~(<u64>0xffff << shift)) | (word << shift));
      return;
    }
    case H.PEXTRW_mmx: {
      store<u64>(gpr(load<u8>(op, OP_REG)), (load<u64>(mmxRm(op)) >> (<u64>(load<u8>(op, OP_IMM) & 3) << 4)) & 0xffff);
      enterMmx();
      return;
    }
    case H.PALIGNR_mmx: {
      const b = srcMmx(op);
      const n = <usize>load<u8>(op, OP_IMM);
      v128.store(cpu, pair(b, load<u64>(mmxReg(op))), VECTOR_SCRATCH);
      store<u64>(cpu, 0, VECTOR_SCRATCH + 16);
      finish(mmxReg(op), n < 16 ? load<u64>(cpu + n, VECTOR_SCRATCH) : 0);
      return;
    }
    case H.PSRLW_Ib: { shift(op, H.PSRLW); return; }
    case H.PSRLD_Ib: { shift(op, H.PSRLD); return; }
    case H.PSRLQ_Ib: { shift(op, H.PSRLQ); return; }
    case H.PSRAW_Ib: { shift(op, H.PSRAW); return; }
    case H.PSRAD_Ib: { shift(op, H.PSRAD); return; }
    case H.PSLLW_Ib: { shift(op, H.PSLLW); return; }
    case H.PSLLD_Ib: { shift(op, H.PSLLD); return; }
    case H.PSLLQ_Ib: { shift(op, H.PSLLQ); return; }
    // the source in memory has 32 bits only; bits that do not reach the result
    case H.PUNPCKLBW:
    case H.PUNPCKLWD:
    case H.PUNPCKLDQ: {
      const b = load<u8>(op, OP_MOD) != 0 ? <u64>rd32(ea(op)) : load<u64>(mmxRm(op));
      finish(mmxReg(op), i64x2.extract_lane(packed(sub, low64(load<u64>(mmxReg(op))), low64(b)), 0));
      return;
    }
    // the high parts of 64-bit operands are in the upper half of interleaving the low parts of 128-bit ones
    case H.PUNPCKHBW: { interleaveHigh(op, H.PUNPCKLBW); return; }
    case H.PUNPCKHWD: { interleaveHigh(op, H.PUNPCKLWD); return; }
    case H.PUNPCKHDQ: { interleaveHigh(op, H.PUNPCKLDQ); return; }
    // results made of both operands in turn: both operands as one
    case H.PACKSSWB:
    case H.PACKUSWB:
    case H.PACKSSDW:
    case H.PHADDW:
    case H.PHADDD:
    case H.PHADDSW:
    case H.PHSUBW:
    case H.PHSUBD:
    case H.PHSUBSW: {
      const b = srcMmx(op);
      const both = pair(load<u64>(mmxReg(op)), b);
      finish(mmxReg(op), i64x2.extract_lane(packed(sub, both, both), 0));
      return;
    }
    case H.PSHUFB: {
      const b = srcMmx(op);
      finish(mmxReg(op), i64x2.extract_lane(packed(sub, low64(load<u64>(mmxReg(op))), low64(b & 0x8787878787878787)), 0));
      return;
    }
    default: {
      const b = srcMmx(op);
      finish(mmxReg(op), i64x2.extract_lane(packed(sub, low64(load<u64>(mmxReg(op))), low64(b)), 0));
    }
  }
}

function finish(register: usize, value: u64): void {
  setMmx(register, value);
  enterMmx();
}

function shift(op: usize, sub: u32): void {
  const d = mmxRm(op);
  finish(d, i64x2.extract_lane(packed(sub, low64(load<u64>(d)), low64(<u64>load<u8>(op, OP_IMM))), 0));
}

function interleaveHigh(op: usize, sub: u32): void {
  const b = srcMmx(op);
  finish(mmxReg(op), i64x2.extract_lane(packed(sub, low64(load<u64>(mmxReg(op))), low64(b)), 1));
}
