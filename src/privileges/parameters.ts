/** Reading the parameters of a grant. Every function throws UserError with the privilege, what was found and what was expected. */
import { UserError } from '../base/errors.ts';
import type { PrivilegeGrant } from '../policy/grant.ts';

export type Parameters = PrivilegeGrant['parameters'];

/** Throws for a parameter that `known` does not name. */
export function onlyParameters(kind: string, parameters: Parameters, known: readonly string[]): void {
  const unknown = Object.keys(parameters).find((name) => !known.includes(name));
  if (unknown !== undefined) throw badParameter(kind, `unknown parameter "${unknown}"`, known.join(', '));
}

export function badParameter(kind: string, found: string, expected: string): UserError {
  return new UserError(
    `privilege ${kind}: ${found}; expected ${expected}`,
    'sign the grant again; docs/privileges.md has an example of each kind',
  );
}

/** A list of numbers or of texts, one element without brackets included. Absent = none. */
export function listOf(parameters: Parameters, name: string): readonly (string | number)[] {
  const value = parameters[name];
  if (value === undefined) return [];
  if (Array.isArray(value)) return value;
  return [typeof value === 'boolean' ? String(value) : value];
}

/** An unsigned number written in hexadecimal with 0x, in decimal, or as a JSON number; NaN for anything else. */
export function unsigned(value: string | number): number {
  if (typeof value === 'number') return Number.isSafeInteger(value) && value >= 0 ? value : Number.NaN;
  return /^(0x[0-9a-f]{1,8}|\d{1,10})$/i.test(value) ? Number(value) : Number.NaN;
}
