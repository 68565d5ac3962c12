/** Errors that a person can act on. Anything else that escapes is a defect of ours. */

/** Exit codes of the command line, in one place: the table in docs and `--help` is made from it. */
export const EXIT_CODES = {
  ok: { code: 0, meaning: 'done; for a VM: the guest powered off' },
  failed: { code: 1, meaning: 'an operation failed (file, socket, download, a check that did not hold)' },
  usage: { code: 2, meaning: 'wrong usage, configuration or input file' },
  reset: { code: 32, meaning: 'the guest asked for a reset' },
  crash: { code: 33, meaning: 'the guest crashed (triple fault)' },
  panic: { code: 34, meaning: 'the guest kernel panicked' },
  watchdog: { code: 36, meaning: 'a time limit ended the run' },
  violation: { code: 40, meaning: 'a guarded module broke a border rule and the policy says stop' },
  refused: { code: 41, meaning: 'a guarded module was refused; for a VM: it ended by itself' },
  unaudited: { code: 42, meaning: 'events were lost: the event log could not be written' },
  quarantined: { code: 43, meaning: 'a guarded module broke a border rule and lost its privileges; the VM ended by itself' },
  interrupted: { code: 130, meaning: 'ended by SIGINT' },
  terminated: { code: 143, meaning: 'ended by SIGTERM' },
} as const;
export type ExitName = keyof typeof EXIT_CODES;

/**
 * An error in the user's input or surroundings. The message says what was found and what was expected;
 * `fix` says what to do next. Printed without a stack trace.
 */
export class UserError extends Error {
  override readonly name = 'UserError';
  constructor(
    message: string,
    readonly fix?: string,
    readonly exit: ExitName = 'usage',
  ) {
    super(message);
  }
}

/** For the default branch of an exhaustive switch. */
export function unreachable(value: never): never {
  throw new Error(`unreachable: ${JSON.stringify(value)}`);
}
