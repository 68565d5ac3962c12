/** The published JSON Schemas (docs/schema), made from the zod schemas so that the two cannot differ. */

import { z } from 'zod';
import { grantSchema, linkPolicySchema, manifestSchema, signedGrantSchema } from './schema.ts';

/** File name to JSON Schema (draft 2020-12). */
export function jsonSchemas(): Record<string, unknown> {
  const make = (schema: z.ZodType, title: string) => ({ title, ...z.toJSONSchema(schema) });
  return {
    'manifest.json': make(manifestSchema, 'Portcullis manifest'),
    'grant.json': make(grantSchema, 'Portcullis grant'),
    'signed-grant.json': make(signedGrantSchema, 'Portcullis signed grant'),
    'link-policy.json': make(linkPolicySchema, 'Portcullis link policy'),
  };
}

/** The text of one schema file. */
export function jsonSchemaText(schema: unknown): string {
  return `${JSON.stringify(schema, null, 2)}\n`;
}
