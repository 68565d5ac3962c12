/**
 * The peer's web server, as one exchange on one connection: GET /file?bytes=N&seed=S sends pseudo-random content, POST to any path takes a
 * body and answers with its length and digest. One request for each connection ("Connection: close"), which is what wget asks for.
 */
import { createHash, type Hash } from 'node:crypto';
import { fillContent } from './content.ts';
import type { Application } from './tcp.ts';

const MAXIMUM_HEAD = 8192;
/** One TiB: larger than any test, exact in a double, and within what Content-Length parsers take. */
const MAXIMUM_BYTES = 2 ** 40;

interface Body {
  length: number;
  seed: number;
}

function isWhole(value: number, maximum: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= maximum;
}

export class HttpExchange implements Application {
  private head = '';
  private state: 'head' | 'upload' | 'answer' = 'head';
  private answer = new Uint8Array(0);
  private body: Body = { length: 0, seed: 0 };
  private expected = 0;
  private got = 0;
  private hash: Hash | undefined;

  /** `uploaded` learns of each finished upload. */
  constructor(private readonly uploaded: (bytes: number, sha256: string) => void) {}

  /** Bytes of the answer, known only once the request is complete. */
  get length(): number {
    return this.answer.length + this.body.length;
  }

  get finished(): boolean {
    return this.state === 'answer';
  }

  /** The next bytes from the client, in order. What follows a complete request is ignored. */
  receive(data: Uint8Array): void {
    if (this.state === 'head') {
      this.head += Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('latin1');
      const end = this.head.indexOf('\r\n\r\n');
      if (end >= 0) this.request(this.head.slice(0, end), Buffer.from(this.head.slice(end + 4), 'latin1'));
      else if (this.head.length > MAXIMUM_HEAD) this.reply('431 Request Header Fields Too Large', 'the head is larger than 8 KiB\n');
    } else if (this.state === 'upload') {
      this.upload(data);
    }
  }

  /** Writes answer bytes [position, position + length) into `target` at `at`; may be asked again for the same bytes. */
  fill(target: Uint8Array, at: number, position: number, length: number): void {
    let done = 0;
    if (position < this.answer.length) {
      done = Math.min(length, this.answer.length - position);
      target.set(this.answer.subarray(position, position + done), at);
    }
    if (done < length) fillContent(target, at + done, this.body.seed, position + done - this.answer.length, length - done);
  }

  private request(head: string, rest: Uint8Array): void {
    this.head = '';
    const [line, ...headers] = head.split('\r\n');
    const [method, target, version] = line.split(' ');
    if (target === undefined || version?.startsWith('HTTP/1.') !== true) this.reply('400 Bad Request', 'no HTTP/1 request line\n');
    else if (method === 'GET' || method === 'HEAD') this.get(target, method === 'HEAD');
    else if (method === 'POST' || method === 'PUT') this.startUpload(headers, rest);
    else this.reply('405 Method Not Allowed', 'GET, HEAD, POST and PUT are served here\n');
  }

  private get(target: string, headOnly: boolean): void {
    const [path, query = ''] = target.split('?', 2);
    if (path === '/') {
      this.reply('200 OK', 'Portcullis peer: GET /file?bytes=N&seed=S, POST /upload\n');
      return;
    }
    const parameters = new URLSearchParams(query);
    const length = Number(parameters.get('bytes') ?? '0');
    const seed = Number(parameters.get('seed') ?? '0');
    if (path !== '/file') this.reply('404 Not Found', 'only /file is here\n');
    else if (!isWhole(length, MAXIMUM_BYTES) || !isWhole(seed, 0x7fff_ffff)) {
      this.reply('400 Bad Request', 'bytes must be 0 to 2^40 and seed 0 to 2^31-1\n');
    } else {
      this.reply('200 OK', '', length, 'application/octet-stream');
      this.body = { length: headOnly ? 0 : length, seed };
    }
  }

  private startUpload(headers: readonly string[], rest: Uint8Array): void {
    const field = headers.find((header) => header.toLowerCase().startsWith('content-length:'));
    const length = field === undefined ? Number.NaN : Number(field.slice(field.indexOf(':') + 1).trim());
    if (!isWhole(length, MAXIMUM_BYTES)) {
      this.reply('411 Length Required', 'an upload needs Content-Length\n');
      return;
    }
    this.expected = length;
    this.hash = createHash('sha256');
    this.state = 'upload';
    this.upload(rest);
  }

  private upload(data: Uint8Array): void {
    const part = data.subarray(0, this.expected - this.got);
    this.hash?.update(part);
    this.got += part.length;
    if (this.got < this.expected || this.hash === undefined) return;
    const sha256 = this.hash.digest('hex');
    this.hash = undefined;
    this.uploaded(this.got, sha256);
    this.reply('200 OK', `${JSON.stringify({ bytes: this.got, sha256 })}\n`);
  }

  /** `length` is that of the content if it is not `text`. */
  private reply(status: string, text: string, length = text.length, type = 'text/plain'): void {
    this.state = 'answer';
    this.head = '';
    const head = `HTTP/1.1 ${status}\r\nContent-Type: ${type}\r\nContent-Length: ${length}\r\nConnection: close\r\n\r\n`;
    this.answer = new TextEncoder().encode(head + text);
  }
}
