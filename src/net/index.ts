/** The `--net` option: what the text means, and the back end that it stands for. */
import { UserError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Clock, NetworkBackend } from './ports.ts';
import { hubNamed } from './hub.ts';
import { createPeer } from './peer/peer.ts';
import { connectStream, listenStream, type StreamAddress } from './stream.ts';
import { openTap } from './tap.ts';
import { openUser } from './user.ts';

export type NetSpec =
  | { kind: 'none' }
  | { kind: 'peer' }
  | { kind: 'user' }
  | { kind: 'stream'; listen: boolean; address: StreamAddress }
  | { kind: 'tap'; name: string }
  | { kind: 'hub'; name: string };

/** One line each for help texts. */
export const NET_FORMS: readonly (readonly [form: string, meaning: string])[] = [
  ['peer', 'built-in host at 10.0.2.2 with DHCP, ping and a web server (what the main job uses)'],
  ['user', "the host's network through passt, without root"],
  ['stream:unix:PATH', "connect to a unix socket in QEMU's stream framing"],
  ['stream:tcp:HOST:PORT', 'the same over TCP'],
  ['stream:listen:unix:PATH', 'listen instead of connecting; also stream:listen:tcp:HOST:PORT'],
  ['tap:NAME', 'a Linux TAP interface (root)'],
  ['hub:NAME', 'with the other virtual machines of this process that name the same hub'],
  ['none', 'no network'],
];

/** Throws UserError for anything that is not one of `NET_FORMS`. */
export function parseNet(text: string): NetSpec {
  const [kind] = text.split(':', 1);
  const rest = text.includes(':') ? text.slice(kind.length + 1) : undefined;
  switch (kind) {
    case 'none':
    case 'peer':
    case 'user':
      if (rest !== undefined) throw wrong(text, `"${kind}" takes nothing behind it`);
      return { kind };
    case 'stream': {
      const listen = rest?.startsWith('listen:') === true;
      return { kind, listen, address: parseAddress(text, (listen ? rest?.slice('listen:'.length) : rest) ?? '') };
    }
    case 'tap':
      if (rest === undefined || !/^[^\s/:]{1,15}$/.test(rest)) throw wrong(text, 'a TAP interface has a name of 1 to 15 characters');
      return { kind, name: rest };
    case 'hub':
      if (rest === undefined || !/^[\w.-]{1,64}$/.test(rest)) throw wrong(text, 'a hub name is 1 to 64 letters, digits, ".", "_", "-"');
      return { kind, name: rest };
    default:
      throw wrong(text, `there is no network "${kind}"`);
  }
}

function parseAddress(text: string, address: string): StreamAddress {
  const path = /^unix:(.+)$/s.exec(address)?.[1];
  if (path !== undefined) {
    // sun_path is 108 bytes with its terminator (unix(7)).
    if (Buffer.byteLength(path) > 107 || path.includes('\0')) throw wrong(text, 'a unix socket path has at most 107 bytes');
    return { path };
  }
  const tcp = /^tcp:(\[[0-9a-fA-F:.]+\]|[^:[\]\s]+):(\d{1,5})$/.exec(address);
  if (tcp === null) throw wrong(text, 'a stream needs unix:PATH or tcp:HOST:PORT');
  const port = Number(tcp[2]);
  if (port < 1 || port > 65535) throw wrong(text, `${port} is no TCP port`);
  return { host: tcp[1].replace(/^\[|\]$/g, ''), port };
}

function wrong(text: string, reason: string): UserError {
  return new UserError(`--net ${JSON.stringify(text)}: ${reason}`, `use one of ${NET_FORMS.map(([form]) => form).join(', ')}`);
}

export interface NetOptions {
  /** The machine's time, for the peer. */
  clock: Clock;
  log: Log;
  /** The passt program. */
  passt?: string;
}

/** Opens the back end. Rejects with UserError when the host lacks what it needs. `none` is a wire that leads nowhere. */
export async function openNet(spec: NetSpec, options: NetOptions): Promise<NetworkBackend> {
  switch (spec.kind) {
    case 'none':
      return { send: () => {}, receive: () => true, ready: () => {}, close: () => {} };
    case 'peer':
      return createPeer(options);
    case 'user':
      return openUser(options);
    case 'stream':
      return spec.listen ? listenStream(spec.address, options) : connectStream(spec.address, options);
    case 'tap':
      return openTap(spec.name, options);
    case 'hub':
      return hubNamed(spec.name).attach();
  }
}
