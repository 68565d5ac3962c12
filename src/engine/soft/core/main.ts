// The core's exports: what the host side calls.
export * from './host';
export { initVector, loadVector, saveVector } from './fxsave';
