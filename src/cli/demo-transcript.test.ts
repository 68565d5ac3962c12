import { expect, test } from 'vitest';
import { DemoTranscript } from './demo-transcript.ts';

const feed = (text: string) => {
  const stages: string[] = [];
  const transcript = new DemoTranscript(
    (name) => stages.push(name),
    () => 0,
  );
  for (const byte of Buffer.from(text)) transcript.add(Uint8Array.of(byte));
  return { transcript, stages };
};

test('stages, values and probes, whatever the pieces and line ends', () => {
  const { transcript, stages } = feed(
    'noise\r\n@@ stage init\r\n@@ value kernel 6.1\n@@ value kernel again\n@@ probe reads a register 0xFF 0xff\n',
  );
  expect(stages).toEqual(['init']);
  expect(transcript.values.get('kernel')).toEqual(['6.1', 'again']);
  expect(transcript.probes).toEqual([{ name: 'reads a register', expected: '0xFF', got: '0xff', ok: true }]);
});

test('a probe that found something else, or failed, is not ok', () => {
  const { transcript } = feed('@@ probe one 0xff 0x80\n@@ probe two words ones \n');
  expect(transcript.probes.map(({ ok }) => ok)).toEqual([false, false]);
});

test('a guest that floods the console does not fill memory', () => {
  const { transcript } = feed(`${'@@ value x y\n'.repeat(3000)}${'@@ probe a b c\n'.repeat(3000)}${'z'.repeat(10000)}`);
  expect(transcript.values.get('x')?.length).toBe(1000);
  expect(transcript.probes.length).toBe(1000);
  expect(transcript.tail().length).toBeLessThan(10000);
});
