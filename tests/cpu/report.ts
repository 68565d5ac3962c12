/** A failed case in words: the instruction as a disassembler sees it, what went in, and every difference. */
import { type Case, formatCase } from './fixture.ts';
import { iced } from './iced.ts';

export function disassemble(test: Case): string {
  const decoder = new iced.Decoder(test.bits, test.code, iced.DecoderOptions.None);
  const formatter = new iced.Formatter(iced.FormatterSyntax.Nasm);
  decoder.ip = BigInt(test.at);
  const parts: string[] = [];
  while (decoder.canDecode && parts.length < 12) {
    const instruction = decoder.decode();
    parts.push(formatter.format(instruction));
    instruction.free();
  }
  decoder.free();
  formatter.free();
  return parts.join('; ');
}

export function report(title: string, test: Case, found: readonly string[]): string {
  return `${title.slice(2)}\n    ${disassemble(test)}\n    ${formatCase(test)}\n${found.map((line) => `      ${line}`).join('\n')}`;
}
