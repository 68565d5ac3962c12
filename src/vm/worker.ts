/** The machine's thread: runs one Vm to its end. Messages from the main thread are taken between slices of guest execution. */
import { type MessagePort, parentPort, receiveMessageOnPort, workerData } from 'node:worker_threads';
import { UserError } from '../base/errors.ts';
import type { VmCommand, VmMessage } from './config.ts';
import { BELL, type WorkerData } from './host.ts';
import { Vm } from './vm.ts';

const { config, bell, links, port } = workerData as WorkerData & { port: MessagePort };
const bellWords = new Int32Array(bell);
/** Messages that may wait for the main thread. */
const MESSAGES = 4096;

function send(message: VmMessage): void {
  let waiting = Atomics.add(bellWords, BELL.messages, 1) + 1;
  parentPort?.postMessage(message);
  while (waiting > MESSAGES && Atomics.load(bellWords, BELL.stopping) === 0) {
    // Not for ever: the order to stop may come between the look and the wait.
    Atomics.wait(bellWords, BELL.messages, waiting, 100);
    waiting = Atomics.load(bellWords, BELL.messages);
  }
}

let seen = 0;
try {
  const vm = await Vm.create(config, links, {
    console: (bytes) => send({ kind: 'console', bytes }),
    event: (event) => send({ kind: 'event', event }),
    log: (record) => send({ kind: 'log', record }),
    poll() {
      if (Atomics.load(bellWords, BELL.held) !== 0) vm.quiet();
      while (Atomics.load(bellWords, BELL.held) !== 0 && Atomics.load(bellWords, BELL.stopping) === 0) {
        Atomics.wait(bellWords, BELL.held, 1, 100);
      }
      const rung = Atomics.load(bellWords, BELL.rung);
      if (rung === seen) return;
      seen = rung;
      for (let message = receiveMessageOnPort(port); message; message = receiveMessageOnPort(port)) {
        const command = message.message as VmCommand;
        if (command.kind === 'input') vm.input(command.bytes);
        else if (command.kind === 'search') send({ kind: 'searched', id: command.id, search: vm.search(command.needles) });
        else if (command.kind === 'link') vm.setLink(command.card, command.up);
        else if (command.kind === 'pin') vm.pin(command.cpu, command.core);
        else vm.stop();
      }
      vm.pollLinks();
    },
    sleep(milliseconds) {
      Atomics.wait(bellWords, BELL.rung, seen, milliseconds);
    },
    inputTaken: (bytes) => {
      Atomics.sub(bellWords, BELL.input, bytes);
    },
  });
  const outcome = vm.run();
  send({ kind: 'ended', outcome, report: vm.report() });
} catch (error) {
  if (error instanceof UserError) send({ kind: 'error', message: error.message, fix: error.fix, exit: error.exit });
  else send({ kind: 'error', message: String(error), defect: (error as Error)?.stack ?? '' });
}
