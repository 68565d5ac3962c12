/**
 * The keyboard controller of a PC AT (Intel 8042; IBM PC AT Technical Reference, "Keyboard Controller") with nothing plugged in. It is
 * here for its reset line, which operating systems use to reboot, and so that probing it gets answers instead of time-outs.
 */
import type { RegisterBlock, Stateful } from '../../ports.ts';
import { readState } from '../../state.ts';

const STATUS = { output: 0x01, system: 0x04, unlocked: 0x10, auxiliary: 0x20, timeout: 0x40 } as const;
const COMMAND = {
  readConfiguration: 0x20,
  writeConfiguration: 0x60,
  disableAux: 0xa7,
  enableAux: 0xa8,
  testAux: 0xa9,
  selfTest: 0xaa,
  testKeyboard: 0xab,
  disableKeyboard: 0xad,
  enableKeyboard: 0xae,
  readOutputPort: 0xd0,
  writeOutputPort: 0xd1,
  toKeyboard: 0xd2,
  toAuxOutput: 0xd3,
  toAux: 0xd4,
} as const;
/** Configuration bits that switch the two clocks off. */
const CONFIGURATION = { system: 0x04, keyboardOff: 0x10, auxOff: 0x20 } as const;
/** Output port: bit 0 low pulls the CPU's reset line, bit 1 is the A20 gate. */
const OUTPUT_PORT = 0x03;
/** What the controller reads when a device does not answer. */
const NO_ANSWER = 0xfe;

export class I8042 implements Stateful {
  private output = -1;
  private status = 0;
  private configuration: number = CONFIGURATION.system | CONFIGURATION.keyboardOff | CONFIGURATION.auxOff;
  /** Command that waits for its data byte, 0 if none. */
  private waiting = 0;

  constructor(private readonly resetLine: () => void) {}

  reset(): void {
    this.output = -1;
    this.status = 0;
    this.configuration = CONFIGURATION.system | CONFIGURATION.keyboardOff | CONFIGURATION.auxOff;
    this.waiting = 0;
  }

  /** Port 0x60. */
  readonly dataPort: RegisterBlock = {
    read: () => {
      const value = Math.max(this.output, 0);
      this.output = -1;
      this.status = 0;
      return value;
    },
    write: (_offset, _size, value) => this.writeData(value),
  };

  /** Port 0x64: status, command. */
  readonly commandPort: RegisterBlock = {
    read: () => STATUS.system | STATUS.unlocked | this.status | (this.output >= 0 ? STATUS.output : 0),
    write: (_offset, _size, value) => this.command(value),
  };

  private answer(value: number, status = 0): void {
    this.output = value;
    this.status = status;
  }

  private command(value: number): void {
    this.waiting = 0;
    switch (value) {
      case COMMAND.readConfiguration:
        this.answer(this.configuration);
        break;
      case COMMAND.selfTest:
        this.answer(0x55);
        break;
      case COMMAND.testKeyboard:
      case COMMAND.testAux:
        this.answer(0x00);
        break;
      case COMMAND.readOutputPort:
        this.answer(OUTPUT_PORT);
        break;
      case COMMAND.disableKeyboard:
        this.configuration |= CONFIGURATION.keyboardOff;
        break;
      case COMMAND.enableKeyboard:
        this.configuration &= ~CONFIGURATION.keyboardOff;
        break;
      case COMMAND.disableAux:
        this.configuration |= CONFIGURATION.auxOff;
        break;
      case COMMAND.enableAux:
        this.configuration &= ~CONFIGURATION.auxOff;
        break;
      case COMMAND.writeConfiguration:
      case COMMAND.writeOutputPort:
      case COMMAND.toKeyboard:
      case COMMAND.toAuxOutput:
      case COMMAND.toAux:
        this.waiting = value;
        break;
      default:
        // 0xf0..0xff pulse output port lines, named by zero bits; line 0 resets the CPU.
        if (value >= 0xf0 && !(value & 1)) this.resetLine();
        break;
    }
  }

  private writeData(value: number): void {
    const command = this.waiting;
    this.waiting = 0;
    switch (command) {
      case COMMAND.writeConfiguration:
        this.configuration = value;
        break;
      case COMMAND.writeOutputPort:
        if (!(value & 1)) this.resetLine();
        break;
      case COMMAND.toKeyboard:
        this.answer(value);
        break;
      case COMMAND.toAuxOutput:
        this.answer(value, STATUS.auxiliary);
        break;
      case COMMAND.toAux:
        this.answer(NO_ANSWER, STATUS.auxiliary | STATUS.timeout);
        break;
      default: // for the keyboard
        this.answer(NO_ANSWER, STATUS.timeout);
        break;
    }
  }

  save(): unknown {
    return { output: this.output, status: this.status, configuration: this.configuration, waiting: this.waiting };
  }

  load(state: unknown): void {
    const from = readState('i8042', state);
    this.output = from.number('output', -1, 0xff);
    this.status = from.number('status', 0, 0xff);
    this.configuration = from.number('configuration', 0, 0xff);
    this.waiting = from.number('waiting', 0, 0xff);
  }
}
