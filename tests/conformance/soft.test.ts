import { createSoftEngine } from '../../src/engine/soft/engine.ts';
import { conformance } from './suite.ts';

conformance('soft', (options) => createSoftEngine(options), process.arch === 'x64');
