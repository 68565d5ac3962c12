// What the processor says of itself: CPUID (Intel SDM vol. 2, CPUID) and the control-register bits that go with it.
//
// One place: a feature is announced here exactly when the core implements it. The model is chosen so that stock Linux needs no
// work-arounds: GenuineIntel with IA32_ARCH_CAPABILITIES saying "not affected" (msr.ts), the TSC's frequency in leaf 15h.
import { cpu } from './state';
import { shared } from './shared';
import { CPU_INDEX, CR4, MONITOR_LINE_SIZE, SHARED_CPU_COUNT } from './layout';
import { mwaitExists } from './monitor';
import { PHYSICAL_BITS } from './paging';

// Results of cpuid()
export let eax: u32 = 0;
export let ebx: u32 = 0;
export let ecx: u32 = 0;
export let edx: u32 = 0;

/** VME..OSXMMEXCPT as far as they exist here, UMIP no, FSGSBASE, PCIDE, OSXSAVE, SMEP, SMAP. VME and PVI are absent. */
export const CR4_SUPPORTED: u64 = 0x7fc | (1 << 16) | (1 << 17) | (1 << 18) | (1 << 20) | (1 << 21);

/** Family 6, model 8Fh (Sapphire Rapids), stepping 8: in none of Linux' lists of flawed models. */
const SIGNATURE: u32 = 0x000806f8;

/** Leaf 1, ECX. */
const FEATURES_1C: u32 = (1 << 0) // SSE3
  | (1 << 9) // SSSE3
  | (1 << 13) // CMPXCHG16B
  | (1 << 17) // PCID
  | (1 << 19) // SSE4.1
  | (1 << 20) // SSE4.2
  | (1 << 22) // MOVBE
  | (1 << 23) // POPCNT
  | (1 << 24) // TSC deadline
  | (1 << 26) // XSAVE
  | (1 << 30) // RDRAND
  | (1 << 31); // hypervisor
/** Leaf 1, EDX. */
const FEATURES_1D: u32 = (1 << 0) // x87
  | (1 << 2) // debugging extensions
  | (1 << 3) // 4 MiB pages
  | (1 << 4) // TSC
  | (1 << 5) // MSRs
  | (1 << 6) // PAE
  | (1 << 7) // machine-check exception
  | (1 << 8) // CMPXCHG8B
  | (1 << 9) // APIC
  | (1 << 11) // SYSENTER
  | (1 << 12) // MTRR
  | (1 << 13) // global pages
  | (1 << 14) // machine-check architecture
  | (1 << 15) // CMOV
  | (1 << 16) // PAT
  | (1 << 19) // CLFLUSH
  | (1 << 23) // MMX
  | (1 << 24) // FXSAVE
  | (1 << 25) // SSE
  | (1 << 26) // SSE2
  | (1 << 27); // self-snoop
/** Leaf 7, EBX. */
const FEATURES_7B: u32 = (1 << 0) // FSGSBASE
  | (1 << 1) // TSC_ADJUST
  | (1 << 7) // SMEP
  | (1 << 9) // ERMS
  | (1 << 10) // INVPCID
  | (1 << 18) // RDSEED
  | (1 << 20); // SMAP
/** Leaf 7, ECX. */
const FEATURES_7C: u32 = 1 << 22; // RDPID
/** Leaf 7, EDX. */
const FEATURES_7D: u32 = (1 << 4) // FSRM
  | (1 << 26) // IBRS, IBPB
  | (1 << 27) // STIBP
  | (1 << 29); // ARCH_CAPABILITIES
/** Leaf 80000001h. */
const FEATURES_E1C: u32 = 1; // LAHF in 64-bit mode
const FEATURES_E1D: u32 = (1 << 11) // SYSCALL
  | (1 << 20) // NX
  | (1 << 26) // 1 GiB pages
  | (1 << 27) // RDTSCP
  | (1 << 29); // long mode

const MAX_LEAF: u32 = 0x16;
const MAX_EXTENDED: u32 = 0x80000008;
const MAX_HYPERVISOR: u32 = 0x40000000;
const TSC_HZ: u32 = 1_000_000_000;

function answer(a: u32, b: u32, c: u32, d: u32): void {
  eax = a;
  ebx = b;
  ecx = c;
  edx = d;
}

/** Four characters of text, the first in the low byte. */
// @ts-ignore: decorator
@inline
function word(text: u32): u32 {
  return bswap<u32>(text);
}

export function cpuid(leaf: u32, subleaf: u32): void {
  const index = load<u32>(cpu, CPU_INDEX);
  const count = load<u32>(shared, SHARED_CPU_COUNT);
  if (leaf >= 0x40000000 && leaf <= 0x4fffffff && leaf != MAX_HYPERVISOR) leaf = 0x40000001;
  // SDM: as the highest basic leaf
  else if (leaf > MAX_LEAF && (leaf < 0x80000000 || leaf > MAX_EXTENDED) && leaf >> 28 != 4) leaf = MAX_LEAF;
  switch (leaf) {
    case 0: // "GenuineIntel"
      answer(MAX_LEAF, word(0x47656e75), word(0x6e74656c), word(0x696e6549));
      break;
    case 1:
      answer(SIGNATURE, (index << 24) | (1 << (16 + roundedLog(count))) | (8 << 8), FEATURES_1C | (load<u64>(cpu, CR4) & (1 << 18) ? 1 << 27 : 0)
        | (mwaitExists() ? 1 << 3 : 0), FEATURES_1D
        | (count > 1 ? 1 << 28 : 0));
      break;
    case 2: // no descriptors: see leaf 4
      answer(0x00feff01, 0, 0, 0);
      break;
    case 4: cacheLeaf(subleaf, count); break;
    case 5: // MONITOR and MWAIT: a line's size, extensions enumerated, interrupts as break events; no states but the one
      if (mwaitExists()) answer(MONITOR_LINE_SIZE, MONITOR_LINE_SIZE, 3, 0);
      else answer(0, 0, 0, 0);
      break;
    case 7:
      if (subleaf == 0) answer(0, FEATURES_7B, FEATURES_7C, FEATURES_7D);
      else answer(0, 0, 0, 0);
      break;
    case 0xb: topologyLeaf(subleaf, index, count); break;
    case 0xd: // XSAVE: legacy area and header only; XSAVEOPT
      if (subleaf == 0) answer(3, 576, 576, 0);
      else if (subleaf == 1) answer(1, 576, 0, 0);
      else answer(0, 0, 0, 0);
      break;
    case 0x15: // TSC = core crystal clock * 1
      answer(1, 1, TSC_HZ, 0);
      break;
    case 0x16:
      answer(TSC_HZ / 1_000_000, TSC_HZ / 1_000_000, 100, 0);
      break;
    case 0x40000000: // "PortcullisVM"
      answer(MAX_HYPERVISOR, word(0x506f7274), word(0x63756c6c), word(0x6973564d));
      break;
    case 0x80000000: answer(MAX_EXTENDED, 0, 0, 0); break;
    case 0x80000001: answer(0, 0, FEATURES_E1C, FEATURES_E1D); break;
    case 0x80000002: // "Portcullis soft virtual CPU"
      answer(word(0x506f7274), word(0x63756c6c), word(0x69732073), word(0x6f667420));
      break;
    case 0x80000003: answer(word(0x76697274), word(0x75616c20), word(0x43505500), 0); break;
    case 0x80000006: answer(0, 0, (1024 << 16) | (8 << 12) | 64, 0); break; // L2: 1 MiB, 16 ways, 64-byte lines
    case 0x80000007: answer(0, 0, 0, 1 << 8); break; // invariant TSC
    case 0x80000008: answer(PHYSICAL_BITS | (48 << 8), 0, 0, 0); break;
    default: answer(0, 0, 0, 0);
  }
}

/** Deterministic cache parameters: 32 KiB L1 of each kind, 1 MiB L2, per core. */
function cacheLeaf(subleaf: u32, count: u32): void {
  const cores = (roundedLog(count) > 0 ? (1 << roundedLog(count)) - 1 : 0) << 26;
  if (subleaf == 0) answer(0x121 | cores, (7 << 22) | 63, 63, 0);
  else if (subleaf == 1) answer(0x122 | cores, (7 << 22) | 63, 63, 0);
  else if (subleaf == 2) answer(0x143 | cores, (15 << 22) | 63, 1023, 0);
  else answer(0, 0, 0, 0);
}

function roundedLog(count: u32): u32 {
  return count <= 1 ? 0 : 32 - clz<u32>(count - 1);
}

/** One thread a core, all cores in one package. */
function topologyLeaf(subleaf: u32, index: u32, count: u32): void {
  if (subleaf == 0) answer(0, 1, 0x100, index);
  else if (subleaf == 1) answer(roundedLog(count), count, 0x201, index);
  else answer(0, 0, subleaf & 0xff, index);
}
