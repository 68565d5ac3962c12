/**
 * `portcullis demo idle`: a cpuidle driver that waits by MONITOR/MWAIT while its virtual CPU is alone on a core, and by HLT otherwise. Measures how fast a
 * CPU wakes with either, has another virtual CPU come to the core and go, and tries both instructions everywhere else in the guest.
 */
import { buildCModule } from '../guest/c-module.ts';
import { stockExportVersion } from '../guest/export-versions.ts';
import { IDLE_CPU, IDLE_CPUS, IDLE_VISITOR, idleScript } from '../guest/idle-script.ts';
import type { Progress } from '../guest/packages.ts';
import { buildProgram } from '../guest/program.ts';
import { linkModule } from '../linker/link.ts';
import type { VmConfig } from '../vm/config.ts';
import type { Context } from './command.ts';
import { demoConfig, demoGrant, demoKernel, moduleFile, moduleSource, runDemo } from './demo-guest.ts';
import { idleSummary, judgeIdle } from './idle-report.ts';
import type { RunOptions } from './run-options.ts';

export async function idleDemo(context: Context, options: RunOptions, verbose: boolean): Promise<number> {
  const { config, release } = await prepareIdle(options, (what) => context.progress.step(what));
  return runDemo(context, options, verbose, {
    config,
    release,
    stage(name, vm) {
      if (name === 'share') vm?.pin(IDLE_VISITOR, IDLE_CPU); // cores are numbered as the CPUs that begin on them
      if (name === 'alone') vm?.pin(IDLE_VISITOR, IDLE_VISITOR);
    },
    judge: (transcript, ended) => judgeIdle({ release, transcript, ended }),
    summary: idleSummary,
  });
}

/** Builds, links and signs. Throws UserError where gcc, make or the kernel's headers are missing. */
async function prepareIdle(options: RunOptions, step: Progress): Promise<{ config: VmConfig; release: string }> {
  const stock = await demoKernel(step);
  const { release } = stock.kernel;
  const built = async (path: string) => (await buildCModule(moduleSource(path), release, step)).image;
  const plain = await built('idle/idle.c');
  const wake = await built('idle/wake.c');
  const attack = await built('attacks/mwait.c');
  const program = buildProgram(moduleSource('attacks/mwait-user.c'));
  step({ text: 'linking and signing' });
  const guarded = linkModule(plain, 'idle.ko', {}, stockExportVersion);
  const files = [
    { kind: 'file', path: 'bin/mwait-user', mode: 0o755, data: program } as const,
    moduleFile('idle', guarded.image),
    moduleFile('idle-plain', plain),
    moduleFile('wake', wake),
    moduleFile('mwait', attack),
  ];
  const cpus = Math.max(IDLE_CPUS, options.cpus);
  const pins = Array.from({ length: cpus }, (_, cpu): [number, number] => [cpu, cpu]);
  const config = demoConfig(
    options,
    stock,
    { script: idleScript(), files },
    { ...demoGrant(guarded, [{ kind: 'mwait', parameters: {} }]), cpus, cores: cpus, pins },
  );
  return { config, release };
}
