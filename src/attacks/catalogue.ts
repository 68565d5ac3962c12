/** All attacks: those staged at the engine contract, and those of a hostile guest. */
import type { About, ContractAttack, Result } from './attack.ts';
import { awayAttacks } from './away.ts';
import { frameAttacks } from './frames.ts';
import { gateAttacks } from './gates.ts';
import { grantAttacks } from './grants.ts';
import { GUEST_ATTACKS } from './guest-attacks.ts';
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

export type Listed = About & Pick<Result, 'stage'>;

/** In the order of the table. */
export const CATALOGUE: readonly Listed[] = [
  ...GUEST_ATTACKS.map(({ by: _, action: __, last: ___, ...about }): Listed => ({ ...about, stage: 'guest' })),
  ...CONTRACT_ATTACKS.map(({ run: _, ...about }): Listed => ({ ...about, stage: 'contract' })),
];
