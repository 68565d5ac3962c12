/**
 * System instructions: segments, descriptor tables, control registers, privilege transfers, I/O, model-specific registers and time
 * (Intel SDM vol. 2, tables; vol. 3, 2.8). All of them end a block. Privilege is checked by the handlers.
 */
import type { Row } from './row.ts';

const segments: Row[] = [
  ['06', 'PUSH ES', 'i64 h:PUSH_S'],
  ['0E', 'PUSH CS', 'i64 h:PUSH_S'],
  ['16', 'PUSH SS', 'i64 h:PUSH_S'],
  ['1E', 'PUSH DS', 'i64 h:PUSH_S'],
  ['0F A0', 'PUSH FS', 'd64 h:PUSH_S'],
  ['0F A8', 'PUSH GS', 'd64 h:PUSH_S'],
  ['07', 'POP ES', 'i64 h:POP_S'],
  ['17', 'POP SS', 'i64 h:POP_S'],
  ['1F', 'POP DS', 'i64 h:POP_S'],
  ['0F A1', 'POP FS', 'd64 h:POP_S'],
  ['0F A9', 'POP GS', 'd64 h:POP_S'],
  ['8C', 'MOV Ev,Sw', 'h:MOV_E_S'],
  ['8E', 'MOV Sw,Ew', 'h:MOV_S_E'],
  ['C4 m', 'LES Gv,Mp', 'i64 h:LOAD_FAR'],
  ['C5 m', 'LDS Gv,Mp', 'i64 h:LOAD_FAR'],
  ['0F B2 m', 'LSS Gv,Mp', 'h:LOAD_FAR'],
  ['0F B4 m', 'LFS Gv,Mp', 'h:LOAD_FAR'],
  ['0F B5 m', 'LGS Gv,Mp', 'h:LOAD_FAR'],
  ['0F 02', 'LAR Gv,Ew', 'h:LAR'],
  ['0F 03', 'LSL Gv,Ew', 'h:LSL'],
  ['0F 00 /4', 'VERR Ew', 'h:VERR'],
  ['0F 00 /5', 'VERW Ew', 'h:VERW'],
  ['63', 'ARPL Ew,Gw', 'i64 h:ARPL'],
  ['F3 0F AE /0 r', 'RDFSBASE Ry', 'o64 cpuid:fsgsbase h:RDBASE'],
  ['F3 0F AE /1 r', 'RDGSBASE Ry', 'o64 cpuid:fsgsbase h:RDBASE'],
  ['F3 0F AE /2 r', 'WRFSBASE Ry', 'o64 cpuid:fsgsbase h:WRBASE'],
  ['F3 0F AE /3 r', 'WRGSBASE Ry', 'o64 cpuid:fsgsbase h:WRBASE'],
  ['0F 01 =F8', 'SWAPGS', 'o64 cpl0'],
];

const tables: Row[] = [
  ['0F 00 /0', 'SLDT Ev', 'h:SLDT'],
  ['0F 00 /1', 'STR Ev', 'h:STR'],
  ['0F 00 /2', 'LLDT Ew', 'cpl0 h:LLDT'],
  ['0F 00 /3', 'LTR Ew', 'cpl0 h:LTR'],
  ['0F 01 /0 m', 'SGDT Ms', 'h:SGDT'],
  ['0F 01 /1 m', 'SIDT Ms', 'h:SIDT'],
  ['0F 01 /2 m', 'LGDT Ms', 'cpl0 h:LGDT'],
  ['0F 01 /3 m', 'LIDT Ms', 'cpl0 h:LIDT'],
];

const control: Row[] = [
  ['0F 01 /4', 'SMSW Ev', 'h:SMSW'],
  ['0F 01 /6', 'LMSW Ew', 'cpl0 h:LMSW'],
  ['0F 06', 'CLTS', 'cpl0'],
  ['0F 20', 'MOV Ry,Cy', 'cpl0 h:MOV_R_C'],
  ['0F 21', 'MOV Ry,Dy', 'cpl0 h:MOV_R_D'],
  ['0F 22', 'MOV Cy,Ry', 'cpl0 h:MOV_C_R'],
  ['0F 23', 'MOV Dy,Ry', 'cpl0 h:MOV_D_R'],
  ['0F 01 /7 m', 'INVLPG Mb', 'cpl0 h:INVLPG'],
  ['66 0F 38 82 m', 'INVPCID Gy,Mdq', 'cpl0 cpuid:invpcid h:INVPCID'],
  ['0F 08', 'INVD', 'cpl0 h:WBINVD'],
  ['0F 09', 'WBINVD', 'cpl0 h:WBINVD'],
  ['NP 0F 01 =CA', 'CLAC', 'cpl0 cpuid:smap'],
  ['NP 0F 01 =CB', 'STAC', 'cpl0 cpuid:smap'],
  ['NP 0F 01 =D0', 'XGETBV', 'cpuid:xsave'],
  ['NP 0F 01 =D1', 'XSETBV', 'cpl0 cpuid:xsave'],
];

const transfers: Row[] = [
  ['9A', 'CALLF Ap', 'i64 h:CALLF_A'],
  ['EA', 'JMPF Ap', 'i64 h:JMPF_A'],
  ['FF /3 m', 'CALLF Mp', 'h:CALLF_M'],
  ['FF /5 m', 'JMPF Mp', 'h:JMPF_M'],
  ['CA', 'RETF Iw'],
  ['CB', 'RETF', 'h:RETF'],
  ['CC', 'INT3'],
  ['CD', 'INT Ib', 'h:INT'],
  ['CE', 'INTO', 'i64'],
  ['CF', 'IRET'],
  ['F1', 'INT1'],
  ['0F 05', 'SYSCALL', 'o64'],
  ['0F 07', 'SYSRET', 'o64 cpl0'],
  ['0F 34', 'SYSENTER'],
  ['0F 35', 'SYSEXIT', 'cpl0'],
];

const ports: Row[] = [
  ['E4', 'IN AL,Ib', 'h:IN_I'],
  ['E5', 'IN eAX,Ib', 'h:IN_I'],
  ['EC', 'IN AL,DX', 'h:IN_DX'],
  ['ED', 'IN eAX,DX', 'h:IN_DX'],
  ['E6', 'OUT Ib,AL', 'h:OUT_I'],
  ['E7', 'OUT Ib,eAX', 'h:OUT_I'],
  ['EE', 'OUT DX,AL', 'h:OUT_DX'],
  ['EF', 'OUT DX,eAX', 'h:OUT_DX'],
  ['6C', 'INS Yb,DX', 'h:INS'],
  ['6D', 'INS Yz,DX', 'h:INS'],
  ['6E', 'OUTS DX,Xb', 'h:OUTS'],
  ['6F', 'OUTS DX,Xz', 'h:OUTS'],
];

const rest: Row[] = [
  ['FA', 'CLI'],
  ['FB', 'STI'],
  ['F4', 'HLT', 'cpl0'],
  ['NP 0F 01 =C8', 'MONITOR', 'cpuid:monitor'],
  ['NP 0F 01 =C9', 'MWAIT', 'cpuid:monitor'],
  ['0F A2', 'CPUID'],
  ['0F 30', 'WRMSR', 'cpl0'],
  ['0F 32', 'RDMSR', 'cpl0'],
  ['0F 31', 'RDTSC'],
  ['0F 01 =F9', 'RDTSCP', 'cpuid:rdtscp'],
  ['0F 33', 'RDPMC'],
  ['NP 0F C7 /6 r', 'RDRAND Rv', 'cpuid:rdrand h:RDRAND'],
  ['66 0F C7 /6 r', 'RDRAND Rv', 'cpuid:rdrand h:RDRAND'],
  ['NP 0F C7 /7 r', 'RDSEED Rv', 'cpuid:rdseed h:RDRAND'],
  ['66 0F C7 /7 r', 'RDSEED Rv', 'cpuid:rdseed h:RDRAND'],
  ['F3 0F C7 /7 r', 'RDPID Ry', 'cpuid:rdpid h:RDPID'],
];

export const systemRows: readonly Row[] = [...segments, ...tables, ...control, ...transfers, ...ports, ...rest];
