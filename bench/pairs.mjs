// Pairs of border crossings, in a process of its own: prints {pair: ns}. Usage: node bench/pairs.mjs '{"watch": true, "without": ["shadow-stack"], "policy": {}}';
// defences can be off in an attack build only (tools/attacks.mjs).
import { withoutDefences } from '../dist/base/defence-switch.js';
import { pairs } from './crossing.mjs';

const { watch = false, without = [], policy = {} } = JSON.parse(process.argv[2]);
const work = () => pairs({ watch, policy });
console.log(JSON.stringify(without.length > 0 ? await withoutDefences(without, work) : work()));
