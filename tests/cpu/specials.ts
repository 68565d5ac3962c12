/**
 * What random operands would never hit: each entry gives the implicit operands of some instructions useful values
 * (a pointer for XLAT, a dividend that fits for DIV, a valid image for FRSTOR, equal values for CMPXCHG).
 * Runs before the memory form is chosen, so that a base register never takes a register that is set here.
 */
import { little } from './encode.ts';
import { CODE, DATA, DATA_END, LOW, STACK } from './layout.ts';
import { addressBits, type Plan, usesSmallAddresses } from './plan.ts';
import { initialState, integer } from './state.ts';

const [RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI] = [0, 1, 2, 3, 4, 5, 6, 7] as const;

const SPECIALS: readonly (readonly [RegExp, (plan: Plan) => void])[] = [
  [/^(SHL|SHR|SAL|SAR|ROL|ROR|RCL|RCR|SHLD|SHRD)$/, shiftCount],
  [/^(BT|BTS|BTR|BTC)$/, bitOffset],
  [/^I?DIV$/, division],
  [/^CMPXCHG$/, compareExchange],
  [/^CMPXCHG(8B|16B)$/, compareExchangeWide],
  [
    /^XLATB?$/,
    (plan) => {
      setPointer(plan, RBX, usesSmallAddresses(plan) ? LOW + 0x200 : DATA + 0x200);
    },
  ],
  [
    /^(LOOP|LOOPN?[EZ]|LOOPNZ|J[ER]?CXZ|JrCXZ)/,
    (plan) => {
      setCounter(plan, plan.random.below(3));
    },
  ],
  [/^(JMP|CALL)$/, indirectTarget],
  [
    /^RET/,
    (plan) => {
      patchStack(plan, codePointer(plan));
    },
  ],
  [
    /^POPF/,
    (plan) => {
      patchStack(plan, BigInt(plan.random.next() & ~0x100));
    },
  ],
  [
    /^LEAVE$/,
    (plan) => {
      plan.registers.set(RBP, BigInt(stackPointer(plan, DATA + 0x1400 + 8 * plan.random.below(64))));
    },
  ],
  [/^ENTER$/, enter],
  [/^BOUND$/, bound],
  [/^(MOVS|CMPS|STOS|LODS|SCAS)$/, stringOperands],
  [
    /^MASKMOV/,
    (plan) => {
      setPointer(plan, RDI, usesSmallAddresses(plan) ? LOW + 0x600 : DATA + 0xff0 - plan.random.below(64));
    },
  ],
  [/^PCMPESTR/, stringLengths],
  [/^(FLDENV|FRSTOR)$/, loadEnvironment],
  [/^(FNSTENV|FNSAVE)$/, storeEnvironment],
  [
    /^FXSAVE/,
    (plan) => {
      ignoreFx(plan);
    },
  ],
  [
    /^FXRSTOR/,
    (plan) => {
      patchFx(plan);
    },
  ],
  [
    /^XSAVE/,
    (plan) => {
      ignoreFx(plan);
      featureMask(plan);
      ignore(plan, 512, 8);
    },
  ],
  [/^XRSTOR/, restoreExtended],
  // Reserved bits are #GP.
  [
    /^LDMXCSR$/,
    (plan) => {
      patch(plan, [plan.random.below(256), plan.random.below(256), plan.random.chance(15) ? 1 : 0, 0]);
    },
  ],
];

export function prepare(plan: Plan): void {
  for (const [mnemonic, special] of SPECIALS) if (mnemonic.test(plan.row.mnemonic)) special(plan);
}

const registerBits = (plan: Plan): number => (plan.bits === 64 ? 64 : 32);
const mask = (plan: Plan, value: bigint): bigint => BigInt.asUintN(registerBits(plan), value);

function patch(plan: Plan, bytes: Iterable<number>): void {
  if (plan.address === undefined || plan.target === 'readonly') return;
  plan.patches.push({ address: plan.address, bytes: clip(plan.address, Uint8Array.from(bytes)) });
}

/** Cuts what would lie behind the end of the data window. */
function clip(address: number, bytes: Uint8Array): Uint8Array {
  return address >= DATA_END ? new Uint8Array(0) : address + bytes.length > DATA_END ? bytes.subarray(0, DATA_END - address) : bytes;
}

function ignore(plan: Plan, offset: number, size: number): void {
  if (plan.address !== undefined) plan.ignored.push({ address: plan.address + offset, size });
}

/** A register as pointer; with a 67 prefix in 64-bit mode its upper half is noise. */
function setPointer(plan: Plan, register: number, address: number): void {
  const noise = plan.bits === 64 && plan.addressPrefix ? BigInt(plan.random.next()) << 32n : 0n;
  plan.registers.set(register, BigInt(address) | noise);
}

function setCounter(plan: Plan, count: number): void {
  const width = BigInt(addressBits(plan));
  const noise = width < 64n ? BigInt(plan.random.next()) << width : 0n; // above the counter
  plan.registers.set(RCX, mask(plan, BigInt(count) | noise));
}

/** Explicit lengths: -20..20, beyond 16 they saturate. */
function stringLengths(plan: Plan): void {
  for (const register of [RAX, RDX]) {
    if (plan.random.chance(85)) plan.registers.set(register, mask(plan, BigInt(plan.random.below(41) - 20)));
  }
}

function shiftCount(plan: Plan): void {
  const { random, size, row } = plan;
  const double = row.mnemonic.length === 4;
  const counts = [0, 1, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, random.below(256), random.below(32)];
  // The result of a 16-bit SHLD or SHRD by more than 16 is undefined (SDM vol. 2, SHLD).
  const count = random.pick(double && size === 16 ? counts.filter((n) => (n & 31) <= 16) : counts);
  if (plan.immediates[0] !== undefined) plan.immediates[0].value = BigInt(count);
  else if (row.operands.some(({ text }) => text === 'CL')) plan.registers.set(RCX, (random.word() & 0xffffff00n) | BigInt(count));
}

/** The bit offset of a memory operand reaches far beyond it; keep it inside the data window. */
function bitOffset(plan: Plan): void {
  if (plan.address === undefined || plan.immediates.length > 0) return;
  const offset = plan.random.below(0x1000) - 0x800;
  plan.registers.set(plan.reg, BigInt.asUintN(plan.size, BigInt(offset)));
  if (plan.size < 64 && plan.target !== 'readonly') plan.patches.push({ address: plan.address & ~63, bytes: 'operands' });
}

function division(plan: Plan): void {
  const { random, row } = plan;
  const bits = BigInt(row.operands.at(-1)?.size === 'b' ? 8 : plan.size);
  if (random.chance(20)) return; // mostly #DE
  const signed = row.mnemonic === 'IDIV';
  const cut = (value: bigint): bigint => (signed ? BigInt.asIntN(Number(bits), value) : BigInt.asUintN(Number(bits), value));
  let divisor = cut(integer(random));
  const quotient = cut(integer(random));
  if (divisor === 0n) divisor = 3n;
  const magnitude = divisor < 0n ? -divisor : divisor;
  const product = quotient * divisor;
  let remainder = random.word() % magnitude;
  if (product < 0n) remainder = -remainder;
  const dividend = BigInt.asUintN(2 * Number(bits), product + remainder);
  const keep = (old: bigint, value: bigint): bigint => (bits >= 32n ? value : mask(plan, (old & ~((1n << bits) - 1n)) | value));
  const low = BigInt.asUintN(Number(bits), dividend),
    high = dividend >> bits;
  if (bits === 8n) plan.registers.set(RAX, keep(random.word() & ~0xffffn, dividend & 0xffn) | ((dividend >> 8n) << 8n));
  else {
    plan.registers.set(RAX, keep(random.word(), low));
    plan.registers.set(RDX, keep(random.word(), high));
  }
  const value = BigInt.asUintN(Number(bits), divisor);
  if (plan.address !== undefined) patch(plan, little(value, Number(bits) / 8));
  else if (bits > 8n && plan.rm !== RAX && plan.rm !== RDX && plan.rm !== RSP) plan.registers.set(plan.rm, value);
  else if (bits === 8n && plan.rm > 0 && plan.rm < 4) plan.registers.set(plan.rm, value);
}

function compareExchange(plan: Plan): void {
  const value = mask(plan, integer(plan.random));
  plan.registers.set(RAX, value);
  if (plan.random.chance(40)) return;
  if (plan.address !== undefined) patch(plan, little(value, 8));
  else if (plan.rm !== RSP) plan.registers.set(plan.rm, value);
}

function compareExchangeWide(plan: Plan): void {
  const low = mask(plan, integer(plan.random)),
    high = mask(plan, integer(plan.random));
  plan.registers.set(RAX, low);
  plan.registers.set(RDX, high);
  plan.registers.set(RBX, mask(plan, integer(plan.random)));
  plan.registers.set(RCX, mask(plan, integer(plan.random)));
  if (plan.random.chance(35)) return;
  const half = plan.size === 64 || plan.wide ? 8 : 4;
  patch(plan, [...little(low, half), ...little(high, half)]);
}

function codePointer(plan: Plan): bigint {
  const { random } = plan;
  // Not in 16-bit code: Intel checks a call's target against the limit before it pushes, AMD after.
  if (plan.bits !== 16 && random.chance(8)) return plan.bits === 64 ? random.pick([0x8000_0000_0000n, BigInt(DATA_END)]) : BigInt(DATA_END);
  return BigInt((plan.bits === 16 ? 0 : CODE) + 0x400 + 16 * random.below(32));
}

function patchStack(plan: Plan, value: bigint): void {
  const rsp = plan.registers.get(RSP) ?? BigInt(STACK);
  if (rsp < BigInt(DATA) || rsp >= BigInt(DATA_END)) return;
  plan.patches.push({ address: Number(rsp), bytes: clip(Number(rsp), Uint8Array.from(little(value, 8))) });
}

function stackPointer(plan: Plan, address: number): number {
  return plan.random.chance(10) ? DATA_END - 4 : address;
}

function indirectTarget(plan: Plan): void {
  if (!plan.row.hasModrm) return;
  const target = codePointer(plan);
  if (plan.address !== undefined) patch(plan, little(target, 8));
  else if (plan.rm !== RSP) plan.registers.set(plan.rm, target);
}

function enter(plan: Plan): void {
  plan.registers.set(RBP, BigInt(DATA + 0x1800));
  const level = plan.random.pick([0, 0, 1, 2, 3, 5, 31, 34]);
  plan.immediates = [
    { value: BigInt(plan.random.below(0x200)), size: 2 },
    { value: BigInt(level), size: 1 },
  ];
}

function bound(plan: Plan): void {
  const bytes = plan.size / 8;
  patch(plan, [...little(BigInt(plan.random.below(20) - 10), bytes), ...little(BigInt(plan.random.below(200)), bytes)]);
  plan.registers.set(plan.reg, BigInt.asUintN(plan.size, BigInt(plan.random.below(60) - 20)));
}

/** Source and destination in the data window, sometimes overlapping, crossing a page, or running off its end. */
function stringOperands(plan: Plan): void {
  const { random } = plan;
  const low = usesSmallAddresses(plan);
  const start = low ? LOW : DATA,
    end = low ? LOW + 0x2000 : DATA_END;
  const compares = /^(CMPS|SCAS)/.test(plan.row.mnemonic);
  if (random.chance(70)) plan.prefixes.push(compares && random.chance(50) ? 0xf2 : 0xf3);
  const repeated = plan.prefixes.some((byte) => byte === 0xf2 || byte === 0xf3);
  const count = random.chance(4) ? 100 + random.below(150) : random.pick([0, 1, 2, 3, 5, 9, 17, 40]);
  if (repeated) setCounter(plan, count);
  const backwards = random.chance(30);
  plan.rflags = BigInt(0x202 | (random.next() & 0x8d5) | (backwards ? 0x400 : 0));
  const position = (): number =>
    random.pick([
      start + 0x400 + random.below(0x400),
      start + 0x400 + random.below(0x400),
      start + 0x1000 - random.below(24) + (backwards ? 16 : 0),
      backwards ? start + random.below(24) : end - random.below(24) - 1,
    ]);
  const source = position();
  const destination = random.chance(25) ? source + random.below(17) - 8 : position();
  setPointer(plan, RSI, source);
  setPointer(plan, RDI, destination);
  if (!compares) return;
  const from = (at: number): number => (backwards ? at - 40 : at);
  const same = new Uint8Array(80).fill(random.pick([0, 0x41, 0xff]));
  if (random.chance(40)) same[random.below(80)] = 0x7f;
  for (const at of plan.row.mnemonic.startsWith('CMPS') ? [source, destination] : [destination]) {
    const address = Math.max(start, from(at));
    if (address < end) plan.patches.push({ address, bytes: same.subarray(0, Math.min(80, end - address)) });
  }
  if (random.chance(70)) plan.registers.set(RAX, mask(plan, BigInt(same[0] as number) * 0x0101010101010101n));
}

function isSmallEnvironment(plan: Plan): boolean {
  return plan.idle66 !== (plan.bits === 16);
}

/** x87 environment: 28 bytes, or 14 with an operand size prefix (SDM vol. 1, figures 8-9 to 8-12). */
function environment(plan: Plan): { control: number; words: number[] } {
  const fx = new DataView(initialState('xi', plan.random.next(), 64).fx.buffer);
  let tags = 0;
  for (let i = 0; i < 8; i++) tags |= ((fx.getUint8(4) >> i) & 1 ? plan.random.below(3) : 3) << (2 * i);
  return { control: isSmallEnvironment(plan) ? 2 : 4, words: [fx.getUint16(0, true), fx.getUint16(2, true), tags, 0, 0, 0, 0] };
}

function loadEnvironment(plan: Plan): void {
  const { control, words } = environment(plan);
  const bytes = words.flatMap((word) => little(BigInt(word), control));
  if (plan.row.mnemonic === 'FRSTOR') {
    const fx = initialState('xi', plan.random.next(), 64).fx;
    for (let i = 0; i < 8; i++) bytes.push(...fx.subarray(32 + 16 * i, 42 + 16 * i));
  }
  patch(plan, bytes);
}

/** The last-instruction pointers and opcode are not compared; see `normalise`. */
function storeEnvironment(plan: Plan): void {
  ignore(plan, isSmallEnvironment(plan) ? 6 : 12, isSmallEnvironment(plan) ? 8 : 16);
}

function ignoreFx(plan: Plan): void {
  ignore(plan, 5, 19);
  ignore(plan, 28, 4);
  for (let i = 0; i < 8; i++) ignore(plan, 42 + 16 * i, 6);
  ignore(plan, 416, 96);
}

function patchFx(plan: Plan): Uint8Array {
  const fx = initialState(plan.random.pick(['xi', 'sd', 'dd']), plan.random.next(), 64).fx;
  if (plan.random.chance(15)) fx[26] = 1; // reserved MXCSR bit: #GP
  patch(plan, fx.subarray(0, 416));
  return fx;
}

function featureMask(plan: Plan): void {
  plan.registers.set(RAX, BigInt(plan.random.below(4)));
  plan.registers.set(RDX, 0n);
}

/** XSAVE header: XSTATE_BV, XCOMP_BV, six reserved words (SDM vol. 1, 13.4.2). */
function restoreExtended(plan: Plan): void {
  patchFx(plan);
  featureMask(plan);
  const header = new Uint8Array(64);
  header[0] = plan.random.below(4);
  if (plan.random.chance(15)) header[plan.random.pick([7, 8, 16, 63])] = 1;
  if (plan.address !== undefined && plan.address + 576 <= DATA_END) plan.patches.push({ address: plan.address + 512, bytes: header });
}
