import { expect, test } from 'vitest';
import { FakeEngine } from '../engine/fake/engine.ts';
import { searchMemory } from './search.ts';

test('what lies in RAM is found at any byte, across pieces and at both ends, from the host and by DMA', () => {
  const { memory } = new FakeEngine();
  const needle = Buffer.from('sixteen bytes it');
  const other = Buffer.from('not to be found!');
  const places = [0, 4099, (1 << 20) - 7, memory.size - needle.length];
  for (const at of places) memory.bytes.set(needle, at);
  expect(searchMemory(memory, [needle, other])).toEqual({ bytes: memory.size, memory: [4, 0], dmaBytes: memory.size, dma: [4, 0] });
});
