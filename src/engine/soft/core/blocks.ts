// The cache of decoded code. A block is a run of records up to a transfer of control, the end of the page, or MAX_RECORDS. Blocks belong
// to the page of linear memory that their bytes lie in, so that writing to the page can drop them; they know nothing of linear addresses,
// so that one copy serves all mappings of the page. Links from record to record stay inside a page for the same reasons.
//
// Memory of this CPU's code area, in order: two records for single steps, the jump cache, the page hash, and the pool. The pool holds
// page descriptors and blocks and is only ever emptied as a whole, when it is full.
import { decode, DECODED, DECODED_END, NEEDS_MORE } from './decode';
import { faultCode } from './events';
import { ENTRY_FLAGS, entryIn, fetchHost, fetchOrRefuse, tlb } from './memory';
import { H_END, H_RELOOKUP } from './generated/handlers';
import { FLAG_EFFECT, FUSION_INDEX, FUSION_PAIRS, QUIET } from './generated/tables';
import {
  CODE_AREA, CODE_AREA_SIZE, CODE_EPOCH, CODE_PAGES, CODE_POOL, CUR_OP, FRAME_CODE, FRAME_CODE_SETTLED, GLOBAL_EPOCH, MODE, PAGE_BASE, RIP, SEG_BASE, SEG_LIMIT, STAT_BLOCKS,
  STAT_PAGE_DROPS,
  STAT_POOL_DROPS, STAT_RECORDS,
} from './layout';
import { ENTRY_GLOBAL, pageHash, setBit } from './paging';
import { OP_HANDLER, OP_LEFT, OP_LENGTH, OP_OFFSET, RECORD_SIZE } from './record';
import { shadowStackOn } from './shadow-stack';
import { cpu } from './state';
import { noticeWrites } from './together';

const MAX_RECORDS: u32 = 64;

// Jump cache: 16-byte entries {u64 address, u32 key, u32 record}, direct-mapped by the code's linear address
const JUMP_ENTRIES: usize = 8192;
// Page hash: heads of descriptor chains by page number
const PAGE_HEADS: usize = 4096;

const AT_SINGLE: usize = 0;
const SINGLE_BYTES: usize = 128; // {header, record, end record}
const AT_BYTES: usize = 128; // 32 bytes: an instruction that straddles two pages, put together
const AT_JUMPS: usize = 4096;
const AT_HEADS: usize = AT_JUMPS + JUMP_ENTRIES * 16;
const AT_POOL: usize = AT_HEADS + PAGE_HEADS * 4;

// Page descriptor
const PAGE_ADDRESS: usize = 0; // u32
const PAGE_CHAIN: usize = 4; // u32, next descriptor of the same hash
const PAGE_STRADDLERS: usize = 8; // u32, list of blocks whose one instruction ends in this page but begins in another
const PAGE_BLOCKS: usize = 16; // 64 x u32, lists of blocks by offset / 64
const PAGE_BYTES: usize = 16 + 64 * 4;

// Block header, right before the first record
const BLOCK_NEXT: usize = 0; // u32
const BLOCK_OFFSET: usize = 4; // u16
const BLOCK_MODE: usize = 6; // u8: MODE, or with STRADDLES, SHADOWED
const BLOCK_RECORDS: usize = 7; // u8: records, the END record included
const BLOCK_SECOND: usize = 8; // u32, the page that it ends in
const BLOCK_NEXT_STRADDLER: usize = 12; // u32, in the list of that page
const BLOCK_HEADER: usize = 16;

const STRADDLES: u32 = 4;
const SHADOWED: u32 = 8; // decoded for a view with a shadow stack
const DROPPED_OFFSET: u32 = 0xffff; // BLOCK_OFFSET of a straddler whose second page was written

const ROOM: usize = PAGE_BYTES * 2 + BLOCK_HEADER + (<usize>MAX_RECORDS + 1) * RECORD_SIZE;

// ---- Jump cache ----------------------------------------------------------------------------------------------------------------

/** Jump-cache entry for a linear address (CS base + RIP). */
// @ts-ignore: decorator
@inline
export function jumpEntry(la: u64): usize {
  return jumps + ((<usize>(la ^ (la >> 13)) & (JUMP_ENTRIES - 1)) << 4);
}

let jumps: usize = 0;

/** What an entry of the jump cache depends on besides the address: translations, privilege and mode of code. */
export function codeKey(): u32 {
  return (load<u32>(cpu, CODE_EPOCH) << 2) | load<u32>(cpu, MODE);
}

/** The key of blocks in global pages, which changes of address space leave alone. */
export function globalKey(): u32 {
  return (load<u32>(cpu, GLOBAL_EPOCH) << 2) | load<u32>(cpu, MODE);
}

/** True if an entry of the jump cache is that of `la`, by either key. */
// @ts-ignore: decorator
@inline
export function knows(entry: usize, la: u64, key: u32, keyOfGlobal: u32): bool {
  if (load<u64>(entry) != la) return false;
  const own = load<u32>(entry, 8);
  return own == key || own == keyOfGlobal;
}

/** CS base: 0 in 64-bit mode. */
export function codeBase(): u64 {
  return load<u32>(cpu, MODE) == 2 ? 0 : load<u64>(cpu + 8, SEG_BASE);
}

/** Called once, before anything else of this file. */
export function attachArea(): void {
  jumps = load<u32>(cpu, CODE_AREA) + AT_JUMPS;
  if (load<u32>(cpu, CODE_POOL) == 0) reset();
}

/** Forgets the whole cache; no record may be used afterwards. */
function reset(): void {
  const area: usize = load<u32>(cpu, CODE_AREA);
  memory.fill(area + AT_JUMPS, 0xff, JUMP_ENTRIES * 16); // key ffffffffh: never valid
  memory.fill(area + AT_HEADS, 0, PAGE_HEADS * 4);
  store<u32>(cpu, <u32>(area + AT_POOL), CODE_POOL);
}

/** Fills in a link between records of one page, if the record found can be linked to. */
export function link(patch: usize, op: usize): void {
  // A straddler depends on the translation of a second page; a dropped record would be looked up at every jump.
  if (load<u8>(op - BLOCK_HEADER, BLOCK_MODE) & STRADDLES || load<u16>(op) == H_RELOOKUP) return;
  store<u32>(patch, <u32>op);
}

// ---- Lookup --------------------------------------------------------------------------------------------------------------------

/**
 * The first record of the block at `rip`; sets PAGE_BASE and the jump cache, fills in the link `patch` (or 0). Unwinds where the fetch
 * faults; 0 when the view does not allow it: run() is to leave with EXIT_FETCH. May empty the pool: no record found earlier may be used afterwards.
 */
export function lookup(rip: u64, patch: usize): usize {
  store<u64>(cpu, rip, RIP);
  store<u32>(cpu, 0, CUR_OP);
  if (load<u32>(cpu, CODE_POOL) + <u32>ROOM > load<u32>(cpu, CODE_AREA) + load<u32>(cpu, CODE_AREA_SIZE)) {
    dropAllCode();
    patch = 0;
  }
  const mode = load<u32>(cpu, MODE);
  const kind = shadowStackOn() ? mode | SHADOWED : mode;
  const la = linearRip(rip, mode);
  const host = fetchOrRefuse(la);
  if (host == 0) return 0;
  const global = (load<u32>(entryIn(tlb, la), ENTRY_FLAGS) & ENTRY_GLOBAL) != 0;
  const offset = <u32>host & 0xfff;
  const page = descriptor(host - offset);
  const head = page + PAGE_BLOCKS + ((offset >> 6) << 2);
  let block = find(head, offset, kind, la);
  if (block == 0) {
    markCode(host - offset);
    block = decodeBlock(la, host, mode, kind);
    store<u32>(block, load<u32>(head), BLOCK_NEXT);
    store<u32>(head, <u32>block);
  }
  const op = block + BLOCK_HEADER;
  store<u64>(cpu, rip - <u64>offset, PAGE_BASE);
  const tag = rip + codeBase();
  const entry = jumpEntry(tag);
  const straddles = (load<u8>(block, BLOCK_MODE) & STRADDLES) != 0;
  setBit(CODE_PAGES, pageHash(la));
  if (straddles) setBit(CODE_PAGES, pageHash(la + 0x1000));
  store<u64>(entry, tag);
  store<u32>(entry, global && !straddles ? globalKey() : codeKey(), 8);
  store<u32>(entry, <u32>op, 12);
  if (patch != 0) link(patch, op);
  return op;
}

/** The block in the list at `head`, or 0; takes dropped straddlers out of the list. */
function find(head: usize, offset: u32, wanted: u32, la: u64): usize {
  let place = head;
  let block: usize = load<u32>(place);
  while (block != 0) {
    const at: u32 = load<u16>(block, BLOCK_OFFSET);
    if (at == DROPPED_OFFSET) {
      block = load<u32>(block, BLOCK_NEXT);
      store<u32>(place, <u32>block);
      continue;
    }
    if (at == offset) {
      const kind: u32 = load<u8>(block, BLOCK_MODE);
      if (kind == wanted || (kind == (wanted | STRADDLES) && load<u32>(block, BLOCK_SECOND) == fetchHost((la & ~0xfff) + 0x1000))) return block;
    }
    place = block + BLOCK_NEXT;
    block = load<u32>(place);
  }
  return 0;
}

/** Linear address of an instruction; outside 64-bit mode it must lie within the limit of CS. */
function linearRip(rip: u64, mode: u32): u64 {
  if (mode == 2) return rip;
  if (rip > <u64>load<u32>(cpu + 4, SEG_LIMIT)) faultCode(13, 0);
  return (load<u64>(cpu + 8, SEG_BASE) + rip) & 0xffffffff;
}

/** Decodes exactly one instruction, outside the cache. */
export function single(rip: u64): usize {
  store<u64>(cpu, rip, RIP);
  store<u32>(cpu, 0, CUR_OP);
  const mode = load<u32>(cpu, MODE);
  const la = linearRip(rip, mode);
  const host = fetchHost(la);
  const op: usize = load<u32>(cpu, CODE_AREA) + AT_SINGLE + BLOCK_HEADER;
  memory.fill(op - BLOCK_HEADER, 0, SINGLE_BYTES);
  if (decode(op, host, 0x1000 - (<u32>host & 0xfff), <u32>host & 0xfff, mode) == NEEDS_MORE) decodeStraddler(op, la, host, mode);
  store<u8>(op, 1, OP_LEFT);
  // It may be followed by anything, so its links are not to be used again: the next single() overwrites them.
  endRecord(op + RECORD_SIZE, <u32>load<u16>(op, OP_OFFSET) + load<u8>(op, OP_LENGTH));
  store<u64>(cpu, rip - <u64>(<u32>host & 0xfff), PAGE_BASE);
  return op;
}

// ---- Blocks --------------------------------------------------------------------------------------------------------------------

/** The descriptor of a page of linear memory. */
function descriptor(page: usize): usize {
  const head = load<u32>(cpu, CODE_AREA) + AT_HEADS + (((page >>> 12) & (PAGE_HEADS - 1)) << 2);
  let found: usize = load<u32>(head);
  while (found != 0 && load<u32>(found) != page) found = load<u32>(found, PAGE_CHAIN);
  if (found != 0) return found;
  found = load<u32>(cpu, CODE_POOL);
  store<u32>(cpu, <u32>(found + PAGE_BYTES), CODE_POOL);
  memory.fill(found, 0, PAGE_BYTES);
  store<u32>(found, <u32>page);
  store<u32>(found, load<u32>(head), PAGE_CHAIN);
  store<u32>(head, <u32>found);
  return found;
}

/** From now on writes to the page of linear memory are noticed. Before its bytes are read: a write between would go unseen. */
function markCode(page: usize): void {
  noticeWrites(page, FRAME_CODE, FRAME_CODE_SETTLED);
}

function endRecord(op: usize, offset: u32): void {
  memory.fill(op, 0, RECORD_SIZE);
  store<u16>(op, H_END, OP_HANDLER);
  store<u16>(op, <u16>offset, OP_OFFSET);
}

/** Decodes a block at the end of the pool and takes what it needs of it: nothing, if the fetch of a second page unwinds. */
function decodeBlock(la: u64, host: usize, mode: u32, kind: u32): usize {
  const block: usize = load<u32>(cpu, CODE_POOL);
  const records = block + BLOCK_HEADER;
  const first = <u32>host & 0xfff;
  let op = records;
  let offset = first;
  let count: u32 = 0;
  let answer: u32 = DECODED;
  while (answer == DECODED && count < MAX_RECORDS && offset < 0x1000) {
    answer = decode(op, host + (offset - first), 0x1000 - offset, offset, mode);
    if (answer == NEEDS_MORE) break;
    count++;
    offset += load<u8>(op, OP_LENGTH);
    op += RECORD_SIZE;
  }
  memory.fill(block, 0, BLOCK_HEADER);
  store<u16>(block, <u16>first, BLOCK_OFFSET);
  store<u8>(block, <u8>kind, BLOCK_MODE);
  if (count == 0) {
    answer = decodeStraddler(op, la, host, mode);
    count = 1;
    offset += load<u8>(op, OP_LENGTH);
    op += RECORD_SIZE;
    store<u8>(block, <u8>(kind | STRADDLES), BLOCK_MODE);
  }
  if (answer != DECODED_END) {
    endRecord(op, offset);
    op += RECORD_SIZE;
  }
  store<u8>(block, <u8>((op - records) / RECORD_SIZE), BLOCK_RECORDS);
  store<u32>(cpu, <u32>op, CODE_POOL);
  for (let i: u32 = 0; i < count; i++) store<u8>(records + i * RECORD_SIZE, <u8>(count - i), OP_LEFT);
  dropDeadFlags(records, count);
  fuse(records, count);
  if (load<u8>(block, BLOCK_MODE) & STRADDLES) {
    const second = descriptor(fetchHost((la & ~0xfff) + 0x1000));
    store<u32>(block, load<u32>(second), BLOCK_SECOND);
    store<u32>(block, load<u32>(second, PAGE_STRADDLERS), BLOCK_NEXT_STRADDLER);
    store<u32>(second, <u32>block, PAGE_STRADDLERS);
  }
  store<u32>(cpu, load<u32>(cpu, STAT_BLOCKS) + 1, STAT_BLOCKS);
  store<u32>(cpu, load<u32>(cpu, STAT_RECORDS) + count, STAT_RECORDS);
  return block;
}

/**
 * Rotates whose flags nothing can see get their quiet variant: an instruction that replaces all flags follows, with nothing in between that
 * reads flags or could fault. (Events are taken between blocks only, and single steps do not come here.)
 */
function dropDeadFlags(records: usize, count: u32): void {
  let dead = false;
  for (let i = <i32>count - 1; i >= 0; i--) {
    const op = records + <usize>i * RECORD_SIZE;
    const handler: usize = load<u16>(op, OP_HANDLER);
    const quiet = load<u16>(QUIET + (handler << 1));
    if (dead && quiet != 0) store<u16>(op, quiet, OP_HANDLER);
    const effect = load<u8>(FLAG_EFFECT + handler);
    if (effect != 1) dead = effect == 2;
  }
}

/** Gives pairs of records one handler (isa/fusion.ts); the pair at the end first, since it may be a comparison and its jump. */
function fuse(records: usize, count: u32): void {
  if (count < 2) return;
  let last = count - 1;
  if (fusePair(records + (last - 1) * RECORD_SIZE)) last--;
  for (let i: u32 = 0; i < last; i++) if (i + 1 < last && fusePair(records + i * RECORD_SIZE)) i++;
}

function fusePair(op: usize): bool {
  const index = FUSION_INDEX + (<usize>load<u16>(op, OP_HANDLER) << 2);
  const second = load<u16>(op + RECORD_SIZE, OP_HANDLER);
  let pair = FUSION_PAIRS + (<usize>load<u16>(index) << 2);
  const end = pair + (<usize>load<u16>(index, 2) << 2);
  for (; pair < end; pair += 4) {
    if (load<u16>(pair) != second) continue;
    store<u16>(op, load<u16>(pair, 2), OP_HANDLER);
    return true;
  }
  return false;
}

/** Decodes the instruction at `la`, which runs over the end of its page. */
function decodeStraddler(op: usize, la: u64, host: usize, mode: u32): u32 {
  const bytes: usize = load<u32>(cpu, CODE_AREA) + AT_BYTES;
  const here = 0x1000 - (<u32>host & 0xfff);
  const second = fetchHost(la + here);
  markCode(second);
  memory.copy(bytes, host, here);
  memory.copy(bytes + here, second, 15);
  return decode(op, bytes, 15, <u32>host & 0xfff, mode);
}

// ---- Dropping ------------------------------------------------------------------------------------------------------------------

/** Drops the decoded code of a page of linear memory on this CPU: its records become RELOOKUP. */
export function codeWritten(page: usize): void {
  let found: usize = load<u32>(load<u32>(cpu, CODE_AREA) + AT_HEADS + (((page >>> 12) & (PAGE_HEADS - 1)) << 2));
  while (found != 0 && load<u32>(found) != page) found = load<u32>(found, PAGE_CHAIN);
  if (found == 0) return;
  store<u32>(cpu, load<u32>(cpu, STAT_PAGE_DROPS) + 1, STAT_PAGE_DROPS);
  for (let i: usize = 0; i < 64; i++) {
    const head = found + PAGE_BLOCKS + (i << 2);
    let block: usize = load<u32>(head);
    store<u32>(head, 0);
    while (block != 0) {
      dropBlock(block);
      block = load<u32>(block, BLOCK_NEXT);
    }
  }
  let block: usize = load<u32>(found, PAGE_STRADDLERS);
  store<u32>(found, 0, PAGE_STRADDLERS);
  while (block != 0) {
    // It stays in the list of its first page until the next lookup there.
    dropBlock(block);
    store<u16>(block, <u16>DROPPED_OFFSET, BLOCK_OFFSET);
    block = load<u32>(block, BLOCK_NEXT_STRADDLER);
  }
}

function dropBlock(block: usize): void {
  const records: u32 = load<u8>(block, BLOCK_RECORDS);
  for (let i: u32 = 0; i < records; i++) store<u16>(block + BLOCK_HEADER + i * RECORD_SIZE, H_RELOOKUP, OP_HANDLER);
}

/** Drops all decoded code of this CPU. Only where no record is in use. */
export function dropAllCode(): void {
  store<u32>(cpu, load<u32>(cpu, STAT_POOL_DROPS) + 1, STAT_POOL_DROPS);
  reset();
}
