/** Every fuzz target there is. */
import { border } from './border.ts';
import { FILE_TARGETS } from './files.ts';
import type { Target } from '../target.ts';

export const TARGETS: readonly Target[] = [border, ...FILE_TARGETS];
