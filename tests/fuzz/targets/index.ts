/** Every fuzz target there is. */
import { border } from './border.ts';
import { CPU_TARGETS } from './cpu.ts';
import { DEVICE_TARGETS } from './devices.ts';
import { FILE_TARGETS } from './files.ts';
import { NETWORK_TARGETS } from './network.ts';
import type { Target } from '../target.ts';

export const TARGETS: readonly Target[] = [border, ...CPU_TARGETS, ...DEVICE_TARGETS, ...NETWORK_TARGETS, ...FILE_TARGETS];
