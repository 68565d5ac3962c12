/** What a guest reaches of the machine and its network. */
import { shareOf } from './share.ts';
import { DEVICE_TARGETS } from './targets/devices.ts';
import { NETWORK_TARGETS } from './targets/network.ts';

shareOf([...DEVICE_TARGETS, ...NETWORK_TARGETS]);
