/** The initramfs: a static busybox, an init, and what a run adds. */
import { buildCpio, type CpioEntry } from './cpio.ts';

/** First process. Runs /etc/portcullis/start when there is one, else a shell on the console; powers off after it. */
const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ TERM=vt100 PS1='guest# '
mount -t devtmpfs none /dev 2>/dev/null
mount -t proc none /proc
mount -t sysfs none /sys
mkdir -p /dev/pts && mount -t devpts none /dev/pts
mount -t tmpfs none /tmp
hostname guest
ip link set lo up
if [ -f /etc/portcullis/start ]; then
  sh /etc/portcullis/start
else
  echo "Modules are in /lib/modules; 'insmod' loads them, 'poweroff -f' ends the machine."
  # The kernel hands words of its command line that it does not know to its init.
  [ -n "$COLUMNS" ] && stty rows "$LINES" cols "$COLUMNS"
  unset LINES COLUMNS
  setsid cttyhack sh
fi
sync
# What was written comes out before the kernel's own last words: setting the terminal to what it is waits for that.
stty $(stty -g) 2>/dev/null
poweroff -f
`;

/** What udhcpc calls (busybox udhcpc: the environment holds the lease). */
const DHCP_SCRIPT = `#!/bin/sh
case "$1" in
  deconfig) ip addr flush dev $interface; ip link set $interface up ;;
  bound|renew)
    ip addr flush dev $interface
    ip addr add $ip/$mask dev $interface
    [ -n "$router" ] && ip route add default via $router dev $interface
    : > /etc/resolv.conf
    for server in $dns; do echo "nameserver $server" >> /etc/resolv.conf; done ;;
esac
`;

/** The base files and `extra`, as a newc archive. Entries of `extra` with the same path win. */
export function buildInitramfs(busybox: Uint8Array, extra: readonly CpioEntry[] = []): Uint8Array {
  const base: CpioEntry[] = [
    { kind: 'folder', path: 'dev' },
    { kind: 'folder', path: 'proc' },
    { kind: 'folder', path: 'sys' },
    { kind: 'folder', path: 'tmp', mode: 0o1777 },
    { kind: 'folder', path: 'lib/modules' },
    { kind: 'device', path: 'dev/console', character: true, major: 5, minor: 1 },
    { kind: 'device', path: 'dev/null', character: true, major: 1, minor: 3, mode: 0o666 },
    { kind: 'file', path: 'bin/busybox', mode: 0o755, data: busybox },
    { kind: 'link', path: 'bin/sh', target: 'busybox' },
    { kind: 'file', path: 'init', mode: 0o755, data: Buffer.from(INIT) },
    { kind: 'file', path: 'etc/udhcpc/default.script', mode: 0o755, data: Buffer.from(DHCP_SCRIPT) },
    { kind: 'file', path: 'etc/resolv.conf', data: new Uint8Array(0) },
  ];
  const replaced = new Set(extra.map((entry) => entry.path));
  return buildCpio([...base.filter((entry) => !replaced.has(entry.path)), ...extra]);
}
