// The command line of an attack build (tools/attacks.mjs) with one defence off from start to end: `node tools/without.mjs MAIN DEFENCE ARGUMENTS...`, where MAIN is
// what `attackBuild` gave. For tests and measures that show what the defence is good for, and what it costs.
import { pathToFileURL } from 'node:url';

const [, , main, defence, ...words] = process.argv;
const { withoutDefences } = await import(new URL('../base/defence-switch.js', pathToFileURL(main)));
void withoutDefences([defence], () => new Promise(() => {}));
process.argv = [process.execPath, main, ...words];
await import(pathToFileURL(main));
