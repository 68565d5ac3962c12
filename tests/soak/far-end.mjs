// The far end of a card's socket, in a process of its own that is killed and stopped at will: the built-in peer behind the stream framing.
import { setTimeout as sleep } from 'node:timers/promises';
import { silentLog } from '../../dist/base/log.js';
import { createPeer } from '../../dist/net/peer/peer.js';
import { connectStream } from '../../dist/net/stream.js';

const [path] = process.argv.slice(2);
const RETRY_MS = 50;
const clock = {
  now: () => performance.now() * 1e6,
  timer(fire) {
    let timer;
    return {
      arm(at) {
        clearTimeout(timer);
        if (Number.isFinite(at)) timer = setTimeout(fire, Math.max(0, at / 1e6 - performance.now()));
      },
    };
  },
};

let wire;
while (wire === undefined) {
  try {
    wire = await connectStream({ path }, { log: silentLog });
  } catch {
    await sleep(RETRY_MS);
  }
}
const peer = createPeer({ clock, log: silentLog });
const join = (from, to) => {
  from.receive = (frame) => {
    to.send(frame);
    return true;
  };
};
join(wire, peer);
join(peer, wire);
