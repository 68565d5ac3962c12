// The core's exports: everything that the host side calls.
export { attach } from './shared';
export { carryOn, resume, unwound } from './events';
export { codeWritten, dropAllCode } from './blocks';
export { getFlags, setFlags } from './flags';

/** First byte of linear memory that the core's own data does not use. */
export function heapBase(): usize {
  return __heap_base;
}
