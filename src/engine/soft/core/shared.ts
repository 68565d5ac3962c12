// What all virtual CPUs share: guest RAM, the page table of linear memory, and the host's three functions. Addresses are
// copied into WebAssembly globals when the instance is bound to its CPU.
import { SHARED, SHARED_FRAMES, SHARED_RAM, SHARED_RAM_SIZE } from './layout';
import { attachState } from './state';

/** Address of the block shared by all CPUs. */
export let shared: usize = 0;
/** Address of the table with one byte (FRAME_*) for each page of linear memory. */
export let frames: usize = 0;
/** Address of guest physical address 0, and the bytes of guest RAM. */
export let ram: usize = 0;
export let ramSize: u64 = 0;

/** Binds the instance to the state block of its CPU, whose SHARED word is set. Called once, before anything else. */
export function attach(block: usize): void {
  attachState(block);
  shared = load<u32>(block, SHARED);
  frames = load<u32>(shared, SHARED_FRAMES);
  ram = load<u32>(shared, SHARED_RAM);
  ramSize = load<u32>(shared, SHARED_RAM_SIZE);
}

// @ts-ignore: decorator
@external('env', 'unwind')
declare function hostUnwind(): void;

/** Host clock: ns since the start. */
// @ts-ignore: decorator
@external('env', 'now')
export declare function hostNow(): f64;

/** 32 random bits. */
// @ts-ignore: decorator
@external('env', 'random')
export declare function hostRandom(): u32;

/** Abandons the running instruction: the host throws, every WebAssembly frame vanishes, and `unwound()` finishes it. */
export function unwind(): void {
  hostUnwind();
  unreachable();
}
