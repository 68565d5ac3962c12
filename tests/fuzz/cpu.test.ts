/** Random code on the soft engine: it stays inside its memory, and comes back. */
import { shareOf } from './share.ts';
import { CPU_TARGETS } from './targets/cpu.ts';

shareOf(CPU_TARGETS);
