/** Monitor and model agree on every decision (SECURITY.md, P1 to P6, P8, P11, P12), whatever the guest does. */
import { shareOf } from './share.ts';
import { border } from './targets/border.ts';

shareOf([border]);
