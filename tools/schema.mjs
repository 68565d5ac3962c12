// Writes docs/schema/*.json from the schemas in src/policy. Run after the build: node tools/schema.mjs
import { mkdirSync, writeFileSync } from 'node:fs';
import { jsonSchemas, jsonSchemaText } from '../dist/policy/json-schema.js';

const folder = new URL('../docs/schema/', import.meta.url);
mkdirSync(folder, { recursive: true });
for (const [name, schema] of Object.entries(jsonSchemas())) writeFileSync(new URL(name, folder), jsonSchemaText(schema));
