/**
 * The thread of a core: executes one virtual CPU at a time for the machine's thread. It has executors and nothing else: what an exit means, and
 * everything that the machine consists of besides guest memory and CPU state, is the other thread's.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { SoftClock } from './clock.ts';
import { instantiate } from './core.ts';
import { EVENT_KICK, EVENTS } from './core/layout.ts';
import { EXIT_FAILED, Executor } from './executor.ts';
import { MACHINE, MAIL, MAIL_FAILURE, MAIL_UNTIL, STATE, type ThreadData } from './threads.ts';

const { memory, module, blocks, origin, mail, machine } = workerData as ThreadData;
const words = new Uint32Array(memory.buffer);
const mailWords = new Int32Array(mail);
const until = new Float64Array(mail, MAIL_UNTIL, 1);
const failure = new Uint8Array(mail, MAIL_FAILURE);
const machineWords = new Int32Array(machine);
const clock = new SoftClock('host', origin);
const executors = blocks.map((block) => {
  const core = instantiate(module, memory, () => clock.now());
  core.attach(block);
  return new Executor(core, words, block, clock);
});

/** Looks before the thread sleeps, about 20 us: waking it costs the other one more than that. */
const SPINS = 2000;

/** True: there is a CPU to execute, and it is this thread's from now on. */
function awaitOrder(): boolean {
  for (let spins = 0; ; spins++) {
    const state = Atomics.load(mailWords, MAIL.state);
    if (state === STATE.quit) return false;
    if (state === STATE.given) {
      // The machine's thread may have changed its mind.
      if (Atomics.compareExchange(mailWords, MAIL.state, STATE.given, STATE.runs) === STATE.given) return true;
    } else if (spins >= SPINS) {
      Atomics.store(mailWords, MAIL.sleeps, 1);
      Atomics.wait(mailWords, MAIL.state, state);
      Atomics.store(mailWords, MAIL.sleeps, 0);
      spins = 0;
    }
  }
}

parentPort?.postMessage('ready');
while (awaitOrder()) {
  const executor = executors[mailWords[MAIL.cpu] as number] as Executor;
  clock.now(); // the executor goes by this reading
  const code = executor.run(until[0] as number);
  if (code === EXIT_FAILED) new TextEncoder().encodeInto(executor.failure, failure.fill(0));
  mailWords[MAIL.code] = code;
  // The order to quit may have come meanwhile, and stays.
  if (Atomics.compareExchange(mailWords, MAIL.state, STATE.runs, STATE.returned) !== STATE.runs) continue;
  const current = Atomics.load(machineWords, MACHINE.current);
  if (current >= 0) Atomics.or(words, ((blocks[current] as number) + EVENTS) >>> 2, EVENT_KICK);
}
