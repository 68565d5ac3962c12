// `npm test`: installs, builds, checks style, types and import directions, then runs the suites. Ends with `N passed, N failed` on a line of its own.
// --quick leaves out the suites that boot a kernel, link all its modules, or need minutes.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { build, install, root } from './lib.mjs';

const quick = process.argv.includes('--quick');
install();
build();

// The suites that link or boot stock modules need the kernel and busybox: fetched once into the cache. Without them they skip, and say so.
const fetched = spawnSync(process.execPath, ['dist/cli/main.js', 'doctor', '--fetch'], {
  cwd: root,
  stdio: ['ignore', 'ignore', 'inherit'],
});
if (fetched.status !== 0) console.error('the stock kernel or busybox could not be fetched: suites that need them will skip or fail');

let passed = 0;
let failed = 0;
let skipped = 0;
const check = spawnSync(process.execPath, ['tools/check.mjs'], { cwd: root, stdio: 'inherit' });
if (check.status === 0) passed += 1;
else failed += 1;

const report = join(root, 'build/vitest.json');
const args = ['node_modules/vitest/vitest.mjs', 'run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
const LONG = [
  'tests/boots/**',
  'tests/attacks/**',
  'tests/soak/**',
  'tests/linker/everything.test.ts',
  'tests/fuzz/mutations.test.ts',
  'tests/fuzz/files.test.ts',
];
if (quick) args.push(...LONG.flatMap((suite) => ['--exclude', suite]));
args.push(...process.argv.slice(2).filter((argument) => argument !== '--quick'));
const suites = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' });
try {
  const { numPassedTests, numFailedTests, numPendingTests, numFailedTestSuites, testResults } = JSON.parse(readFileSync(report, 'utf8'));
  passed += numPassedTests;
  skipped += numPendingTests;
  // A suite that could not even be loaded has no failed tests, but has failed.
  const broken = testResults.filter((suite) => suite.status === 'failed' && suite.assertionResults.length === 0).length;
  failed += numFailedTests + broken;
  if (failed === 0 && (suites.status !== 0 || numFailedTestSuites > 0)) failed = 1;
} catch (error) {
  console.error(`no test report: ${error.message}`);
  failed += 1;
}
console.log(`${skipped} skipped`);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
