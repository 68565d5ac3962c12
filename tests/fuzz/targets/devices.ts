/**
 * The guest against the devices: any access of any size anywhere, time that goes on, frames that arrive, rings of descriptors that point anywhere. No
 * exception, a bounded number of DMA accesses for each access, no write outside RAM, and after a reset the machine is what it was at power-up.
 */
import { silentLog } from '../../../src/base/log.ts';
import { createBoard, type Board, type PciDevice, type PciFunctionPorts } from '../../../src/machine/board.ts';
import { createE1000 } from '../../../src/machine/devices/e1000/e1000.ts';
import { OFFSET as E1000 } from '../../../src/machine/devices/e1000/registers.ts';
import { OFFSET as RTL8139 } from '../../../src/machine/devices/rtl8139/registers.ts';
import { createRtl8139 } from '../../../src/machine/devices/rtl8139/rtl8139.ts';
import { MEMORY, PORTS } from '../../../src/machine/memory-map.ts';
import type { NetworkBackend } from '../../../src/machine/ports.ts';
import type { Random } from '../random.ts';
import { places, type Target } from '../target.ts';

const RAM = 1 << 20;
/** What stands behind RAM, to notice a write there. */
const FENCE = 4096;
const FENCE_BYTE = 0x5a;
const STEPS = 300;
/** DMA accesses that one access, one frame or one advance of time may cause: a card's work limit, with what a descriptor of each needs. */
const DMA_LIMIT = 1024 * 80;
const CPUS = 2;
const SIZES = [1, 2, 4, 4] as const;

type Net = PciDevice & { setLink(up: boolean): void };

/** Every device that a machine can have on its PCI bus, by slot. */
const CARDS: readonly {
  readonly slot: number;
  /** Where its registers are, and which of them set its rings going. */
  readonly offsets: readonly number[];
  readonly bells: readonly number[];
  make(ports: PciFunctionPorts, mac: Uint8Array, backend: NetworkBackend): Net;
}[] = [
  {
    slot: 3,
    offsets: Object.values(E1000),
    bells: [E1000.TDT, E1000.RDT, E1000.TDT, E1000.TDH],
    make: (ports, mac, backend) => createE1000(ports, { mac, backend }),
  },
  ...[4, 5].map((slot) => ({
    slot,
    offsets: Object.values(RTL8139),
    bells: [RTL8139.TPPOLL, RTL8139.TSD0, RTL8139.TSD1, RTL8139.CAPR],
    make: (ports: PciFunctionPorts, mac: Uint8Array, backend: NetworkBackend) =>
      createRtl8139(ports, { mac, backend, chip: slot === 4 ? 'c+' : 'c' }),
  })),
];
const MAC = Uint8Array.of(0x52, 0x54, 0, 0x12, 0x34, 0x56);

class Machine {
  readonly memory = new Uint8Array(RAM + FENCE).fill(FENCE_BYTE, RAM);
  readonly ram = this.memory.subarray(0, RAM);
  readonly board: Board;
  readonly cards: { slot: number; card: Net; backend: NetworkBackend }[] = [];
  /** By card: the cable is in. */
  readonly cables = CARDS.map(() => true);
  now = 0;
  dma = 0;
  output = 0;
  power = 0;

  constructor() {
    const { ram } = this;
    this.board = createBoard({
      memory: {
        get size() {
          return RAM;
        },
        bytes: ram,
        words: new Uint32Array(ram.buffer, 0, RAM / 4),
        written: () => {
          this.dma++;
        },
      },
      now: () => this.now,
      cpus: CPUS,
      tscFrequency: 1e9,
      serial: {
        write: (bytes) => {
          this.output += bytes.length;
        },
      },
      wallClock: () => Date.UTC(2026, 0, 1),
      log: silentLog,
      debugExit: 0xf4,
      onPower: () => {
        this.power++;
      },
    });
    for (const { slot, make } of CARDS) {
      const backend: NetworkBackend = { send: () => {}, receive: () => true, ready: () => {}, close: () => {} };
      const card = this.board.addPci(slot, (ports) => {
        const { dma } = ports;
        const counting = {
          read: (gpa: number, into: Uint8Array) => {
            this.dma++;
            return dma.read(gpa, into);
          },
          write: (gpa: number, from: Uint8Array) => dma.write(gpa, from),
        };
        return make({ ...ports, dma: counting }, MAC, backend);
      });
      this.cards.push({ slot, card, backend });
    }
  }

  advance(by: number): void {
    const end = this.now + by;
    for (let runs = 0; this.board.nextDeadline() <= end; runs++) {
      if (runs > 100_000) throw new Error(`timers without end within ${by} ns`);
      this.now = Math.max(this.now, this.board.nextDeadline());
      this.board.runDue();
    }
    this.now = end;
  }

  config(slot: number, register: number): void {
    this.board.io(0xcf8, 4, true, (0x8000_0000 | (slot << 11) | (register & 0xfc)) >>> 0);
  }
}

/** Ports of everything on the board, each with a few beside it. */
const PORT_BLOCKS = Object.values(PORTS).filter(({ size }) => size < 0x1000);

function anyPort(random: Random): number {
  if (random.once(16)) return random.below(0x1_0000);
  const { start, size } = random.pick(PORT_BLOCKS);
  return Math.max(0, Math.min(0xffff, start - 3 + random.below(size + 6)));
}

/** An address in one of the windows, or at the edges of RAM and of the fixed blocks. */
function anyAddress(random: Random, machine: Machine): number {
  const bars = machine.board.pci.barsOf(random.pick(CARDS).slot).filter(({ kind }) => kind === 'memory');
  switch (random.below(8)) {
    case 0:
      return MEMORY.ioapic.start + random.pick([0, 0x10, 0x40, random.below(0x1000)]);
    case 1:
      return random.pick([RAM, 0xa_0000, 0xfec0_0fff, 0xfee0_0000, 0xffff_ffff, 2 ** 40, 2 ** 52 - 1]) + random.below(8);
    case 2:
    case 3:
    case 4: {
      const { slot, offsets } = random.pick(CARDS);
      const bar = machine.board.pci.barsOf(slot).find(({ kind }) => kind === 'memory');
      return (bar?.start ?? RAM) + random.pick(offsets) + (random.once(8) ? random.below(4) : 0);
    }
    default: {
      const bar = random.pick(bars);
      return bar === undefined ? RAM : bar.start + (random.once(8) ? bar.size - random.below(8) : random.below(Math.min(bar.size, 0x6000)));
    }
  }
}

/** A pointer that a guest would give to a card: into RAM, its ends, devices, or nowhere. */
function anyPointer(random: Random): number {
  switch (random.below(8)) {
    case 0:
      return random.pick([0, RAM - 16, RAM - 1, RAM, 0xe000_0000, 0xfec0_0000, 0xffff_fff0]);
    case 1:
      return random.word();
    default:
      return random.below(RAM / 256) * 16;
  }
}

function step(random: Random, machine: Machine): string {
  const { board } = machine;
  const size = random.pick(SIZES);
  switch (random.below(16)) {
    case 0:
    case 1: {
      board.io(anyPort(random), size, random.once(2) === false, random.word());
      return 'port';
    }
    case 2: {
      const io = random.pick(CARDS.flatMap(({ slot }) => board.pci.barsOf(slot).filter(({ kind }) => kind === 'io')));
      if (io) board.io((io.start + random.below(Math.min(io.size, 0x100))) & 0xffff, size, !random.once(3), random.word());
      return 'port window';
    }
    case 3: {
      machine.config(random.once(8) ? random.below(32) : random.pick(CARDS).slot, random.below(256));
      if (random.once(3)) board.io(0xcfc + random.below(4), size, false, 0);
      else board.io(0xcfc + random.below(4), size, true, random.word());
      return 'config space';
    }
    case 4: {
      // as a driver would begin: memory, ports and bus mastering on
      machine.config(random.pick(CARDS).slot, 4);
      board.io(0xcfc, 2, true, random.once(8) ? random.below(0x800) : 7);
      return 'bus mastering';
    }
    case 5: {
      const lapic = board.lapic(random.below(CPUS));
      const offset = random.below(0x400) & (random.once(8) ? 0xfff : 0xff0);
      if (random.once(3)) lapic.readRegister(offset);
      else lapic.writeRegister(offset, random.word());
      return 'lapic';
    }
    case 6: {
      const cpu = random.below(CPUS);
      if (board.interruptFor(cpu) >= 0) {
        const vector = board.acknowledgeInterrupt(cpu);
        if (!(vector >= 0 && vector <= 255)) throw new Error(`vector ${vector} is acknowledged`);
        if (!random.once(4)) board.lapic(cpu).writeRegister(0xb0, 0);
        return 'interrupt';
      }
      return 'no interrupt';
    }
    case 7:
      machine.advance(random.pick([0, 1, 1000, 50_000, 1_000_000, 20_000_000]) * random.below(4));
      return 'time';
    case 8: {
      const { backend } = random.pick(machine.cards);
      const frame = random.bytes(random.pick([14, 60, 64, 1514, 1518, 1522, 9000, 65535, 14 + random.below(1600)]));
      if (random.once(2)) frame.set(MAC);
      backend.receive(frame);
      return 'frame';
    }
    case 9: {
      // descriptors: pointers, lengths and command bits anywhere in RAM
      const view = new DataView(machine.ram.buffer);
      const at = random.below(64) * 0x100 + random.below(16) * 16;
      for (let word = 0; word < 4; word++) view.setUint32(at + 4 * word, random.once(2) ? anyPointer(random) : random.word(), true);
      return 'descriptor';
    }
    case 10: {
      const index = random.below(machine.cards.length);
      if (random.once(8)) {
        machine.cables[index] = random.once(2);
        machine.cards[index].card.setLink(machine.cables[index]);
      } else board.serialInput(random.bytes(random.below(40)));
      return 'outside';
    }
    case 12: {
      // the word that sets a ring going
      const { slot, bells } = random.pick(CARDS);
      const bar = machine.board.pci.barsOf(slot).find(({ kind }) => kind === 'memory');
      if (!bar) return 'no bell';
      const value = random.pick([0x80, 0x40, 1, random.below(300), random.word(), 60 + random.below(0x700)]);
      board.mmio(bar.start + random.pick(bells), random.pick([4, 4, 1]), true, value);
      return 'bell';
    }
    case 11: {
      // a ring's base or length: registers of the cards that hold pointers
      const address = anyAddress(random, machine) & ~3;
      if (address < 2 ** 32) board.mmio(address, 4, true, anyPointer(random));
      return 'pointer';
    }
    default: {
      const address = anyAddress(random, machine);
      const value = board.mmio(address, size, !random.once(4), random.word());
      if (!(value >= 0 && value < 2 ** (8 * size))) throw new Error(`a read of ${size} bytes at ${address} gives ${value}`);
      return 'memory window';
    }
  }
}

function check(machine: Machine, before: number, what: string): void {
  if (machine.dma - before > DMA_LIMIT) throw new Error(`one ${what} caused ${machine.dma - before} DMA accesses`);
}

const stateOf = (board: Board): string => JSON.stringify(board.save());

/** The saved state as `path value` lines. */
function fields(value: unknown, path = ''): Map<string, string> {
  if (typeof value !== 'object' || value === null) return new Map([[path, String(value)]]);
  return new Map(Object.entries(value).flatMap(([name, entry]) => [...fields(entry, `${path}.${name}`)]));
}

/** What outlives a reset: time and what hangs on it, non-volatile memory, what is typed ahead, the cable and its history. */
const KEPT =
  /^\.(cmos\.(epoch|periodSeen|secondSeen|ram)|uart\.(fifo|waiting)|lapics\.\d+\.timer\.start|functions\.\d+\.state\.phy\.(cable|lost|changed)|acpiPm\.halvesSeen)$/;

function checkReset(fresh: ReadonlyMap<string, string>, board: Board, cables: readonly boolean[]): void {
  for (const [path, value] of fields(board.save())) {
    if (fresh.get(path) === value || KEPT.test(path)) continue;
    if (!cables[0] && path === '.functions.0.state.registers.1.1') continue; // e1000 STATUS shows that the cable is out
    throw new Error(`a reset leaves ${path} at ${value}, at power-up it is ${fresh.get(path)}`);
  }
}

const board: Target = {
  name: 'devices',
  about: 'a board with every device: any access anywhere, hostile rings, frames and time: no exception, bounded work, nothing outside RAM',
  unit: 'access',
  share: 150_000,
  reaches: ['port', 'config space', 'memory window', 'interrupt', 'lapic', 'frame', 'DMA', 'sent', 'restored'],
  prepare() {
    const { reached, at } = places();
    return {
      reached,
      run(random) {
        const machine = new Machine();
        const fresh = fields(machine.board.save());
        for (const { backend } of machine.cards) backend.send = () => at('sent');
        if (!random.once(4))
          for (const { slot } of CARDS) {
            machine.config(slot, 4);
            machine.board.io(0xcfc, 2, true, 7);
          }
        if (!random.once(3)) startCards(random, machine);
        let done = 0;
        for (const _ of random.steps(STEPS)) {
          const before = machine.dma;
          const what = step(random, machine);
          check(machine, before, what);
          at(what);
          done++;
        }
        at('DMA', machine.dma);
        for (let index = RAM; index < RAM + FENCE; index++) if (machine.memory[index] !== FENCE_BYTE) throw new Error('a write behind RAM');
        // What is saved loads again, and says the same.
        const saved = machine.board.save();
        const text = JSON.stringify(saved);
        machine.board.load(JSON.parse(text));
        const again = stateOf(machine.board);
        machine.board.load(JSON.parse(again));
        if (stateOf(machine.board) !== again) throw new Error('a state that was saved and loaded twice is another one');
        at('restored');
        machine.board.reset();
        checkReset(fresh, machine.board, machine.cables);
        return done;
      },
    };
  },
};

/** Rings where a driver would put them, so that descriptors are really read. Registers: 8254x manual 13.4, RTL8139C(+) data sheet 5. */
function startCards(random: Random, machine: Machine): void {
  const base = (slot: number) => machine.board.pci.barsOf(slot).find(({ kind }) => kind === 'memory')?.start ?? RAM;
  const put = (address: number, value: number, size: 1 | 2 | 4 = 4) => machine.board.mmio(address, size, true, value);
  machine.ram.set(random.bytes(0x4000));
  // Interrupts: local APICs on, every pin of the I/O APIC to a vector of its own, level or edge.
  for (let cpu = 0; cpu < CPUS; cpu++) machine.board.lapic(cpu).writeRegister(0xf0, 0x1ff);
  for (let pin = 0; pin < 24; pin++) {
    for (const [index, value] of [
      [0x10, (0x20 + pin) | (random.once(2) ? 0x8000 : 0)],
      [0x11, random.below(2) << 24],
    ]) {
      put(MEMORY.ioapic.start, index + 2 * pin);
      put(MEMORY.ioapic.start + 0x10, value);
    }
  }
  const e1000 = base(3);
  const length = random.pick([16, 128, 4096, 0x8_0000]);
  for (const [ring, head] of [
    [0x2800, 0],
    [0x3800, 0],
  ]) {
    put(e1000 + ring, anyPointer(random) & ~15);
    put(e1000 + ring + 4, random.once(8) ? random.word() : 0);
    put(e1000 + ring + 8, length);
    put(e1000 + ring + 0x10, head);
  }
  put(e1000 + 0x100, 0x1_8002 | (random.next() & 0x0200_0000)); // RCTL: on, all frames
  put(e1000 + 0x400, 0x2 | 0x8); // TCTL
  put(e1000 + 0xd0, 0xffff_ffff); // IMS
  for (const slot of [4, 5]) {
    const card = base(slot);
    put(card + 0x37, 0x0c, 1);
    put(card + 0xe0, 0x03 | (random.next() & 0x60), 2); // C+ command
    put(card + 0x30, anyPointer(random)); // RBSTART
    put(card + 0x44, 0xf | (random.next() & 0xffff_ff80)); // RCR
    put(card + 0x20, anyPointer(random)); // TSAD0
    put(card + 0xe4, anyPointer(random) & ~255); // RDSAR
    put(card + 0x3c, 0xffff, 2);
  }
}

export const DEVICE_TARGETS: readonly Target[] = [board];
