/** All attacks that are staged at the engine contract. */
import type { ContractAttack } from './attack.ts';
import { awayAttacks } from './away.ts';
import { frameAttacks } from './frames.ts';
import { gateAttacks } from './gates.ts';
import { grantAttacks } from './grants.ts';
import { loadingAttacks } from './loading.ts';
import { privilegeAttacks } from './privileges.ts';
import { randomAttacks } from './random.ts';
import { stackAttacks } from './stacks.ts';

export const CONTRACT_ATTACKS: readonly ContractAttack[] = [
  ...gateAttacks,
  ...stackAttacks,
  ...frameAttacks,
  ...awayAttacks,
  ...loadingAttacks,
  ...privilegeAttacks,
  ...grantAttacks,
  ...randomAttacks,
];
