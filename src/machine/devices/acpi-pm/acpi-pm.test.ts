import { expect, test } from 'vitest';
import { createManualClock, createProbe } from '../../testing.ts';
import { AcpiPm, PM_BLOCK, RESET_VALUE, SLEEP_TYPE_OFF } from './acpi-pm.ts';

function setUp() {
  const clock = createManualClock();
  const irq = createProbe();
  const events: string[] = [];
  const pm = new AcpiPm({ irq, clock, powerOff: () => events.push('off'), reset: () => events.push('reset') });
  return { clock, irq, events, pm };
}

test('SCI_EN is always set: the machine is in ACPI mode', () => {
  expect(setUp().pm.read(PM_BLOCK.control, 2)).toBe(1);
});

test('SLP_EN with the soft-off type powers off, with another type it does not', () => {
  const { pm, events } = setUp();
  pm.write(PM_BLOCK.control, 2, 0x2000 | (3 << 10));
  pm.write(PM_BLOCK.control, 2, SLEEP_TYPE_OFF << 10);
  expect(events).toEqual([]);
  pm.write(PM_BLOCK.control, 2, 0x2000 | (SLEEP_TYPE_OFF << 10));
  expect(events).toEqual(['off']);
});

test('the timer counts at 3.579545 MHz', () => {
  const { clock, pm } = setUp();
  clock.advance(2e9);
  expect(pm.read(PM_BLOCK.timer, 4)).toBe(7_159_090);
  pm.write(PM_BLOCK.timer, 4, 0);
  expect(pm.read(PM_BLOCK.timer, 4)).toBe(7_159_090);
  clock.advanceTo(1200e9);
  expect(pm.read(PM_BLOCK.timer, 4)).toBe((1200 * 3_579_545) % 2 ** 32);
});

test('the timer interrupts when its top bit changes', () => {
  const { clock, irq, pm } = setUp();
  pm.write(PM_BLOCK.enable, 2, 1);
  clock.advanceTo(599e9);
  expect(irq.level).toBe(false);
  clock.advanceTo(601e9);
  expect(irq.level).toBe(true);
  expect(pm.read(PM_BLOCK.status, 2)).toBe(1);
  pm.write(PM_BLOCK.status, 2, 1);
  expect(irq.level).toBe(false);
});

test('the power button raises SCI when enabled, and is cleared by writing a one', () => {
  const { irq, pm } = setUp();
  pm.pressPowerButton();
  expect(irq.level).toBe(false);
  pm.write(PM_BLOCK.enable, 2, 0x100);
  expect(irq.level).toBe(true);
  pm.write(PM_BLOCK.status, 2, 0x001);
  expect(irq.level).toBe(true);
  pm.write(PM_BLOCK.status + 1, 1, 0x01);
  expect(irq.level).toBe(false);
});

test('the reset register resets on the rise of bit 2', () => {
  const { pm, events } = setUp();
  pm.resetPort.write(0, 1, 0x02);
  expect(events).toEqual([]);
  pm.resetPort.write(0, 1, RESET_VALUE);
  expect(events).toEqual(['reset']);
  expect(pm.resetPort.read(0, 1)).toBe(RESET_VALUE);
});

test('state survives save and load', () => {
  const a = setUp();
  a.pm.write(PM_BLOCK.enable, 2, 0x100);
  a.pm.pressPowerButton();
  const b = setUp();
  b.pm.load(JSON.parse(JSON.stringify(a.pm.save())));
  expect(b.irq.level).toBe(true);
  expect(b.pm.read(PM_BLOCK.status, 4)).toBe(0x0100_0100);
  expect(() => b.pm.load({})).toThrow('acpi-pm: status');
});
