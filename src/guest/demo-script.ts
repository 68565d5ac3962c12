/**
 * What the guest does in the main job. It reports on the console in lines that begin with `@@`, which the host reads:
 *
 *   @@ stage NAME             a step begins
 *   @@ value NAME TEXT        a measured value
 *   @@ probe NAME EXPECTED GOT
 *
 * The host decides what the values mean; the script only tells what it saw.
 */

/** Probes that a script which runs to its end reports: one that stops early must not pass. */
export const DEMO_PROBES = 13;

export interface DemoScriptOptions {
  /** PCI address of the card, e.g. 0000:00:03.0. */
  device: string;
  url: string;
  peer: string;
  probeModule: string;
}

export function demoScript({ device, url, peer, probeModule }: DemoScriptOptions): string {
  return `# Written by portcullis demo.
say() { echo "@@ $*"; }
probe() { say probe "$@"; }
first() { head -n 1 "$1" | cut -d' ' -f"$2"; }
say stage init
say value kernel $(uname -r)
say value uptime $(cut -d' ' -f1 /proc/uptime)
PCI=/sys/bus/pci/devices/${device}
BAR=$(first $PCI/resource 1)
PORT=$(sed -n 2p $PCI/resource | cut -d' ' -f1)
PROBE=/sys/module/${probeModule}/parameters
STATUS=$(printf '0x%x' $((BAR + 8)))
CTRL=$(printf '0x%x' $((BAR + 0)))
ONES=0xFFFFFFFF
# The card answers only while memory decoding is on, which a driver would do: the guest may do it for itself.
echo 1 > $PCI/enable

user_probes() { # from user space, by mapping /dev/mem and by port input and output
  probe "$1: user space reads the status register" $ONES $(devmem $STATUS 32 2>&1 | tail -n 1)
  devmem $CTRL 32 0x04000000
  probe "$1: user space reads a port of the card" ffffffff $(dd if=/dev/port bs=4 count=1 skip=$((PORT / 4)) 2>/dev/null | hexdump -v -e '1/4 "%08x"')
}
kernel_probes() { # from a kernel module, in its init and from a timer interrupt
  probe "$1: kernel code reads the status register" 4294967295 $(cat $PROBE/value)
  probe "$1: kernel code reads the station address" 4294967295 $(cat $PROBE/ral)
}
refused() { # name, file, module
  if insmod /lib/modules/$2 2>/tmp/error; then got=loaded; rmmod $3; else got=refused; fi
  probe "$1" refused $got
}
unguarded() { # an ordinary kernel driver loads, and finds no card
  insmod /lib/modules/$2
  if ip link set eth0 up 2>/dev/null && udhcpc -i eth0 -n -q -t 2 -T 1 >/dev/null 2>&1; then got=card; else got=nothing; fi
  rmmod $3
  probe "$1" nothing $got
}
bring_up() {
  ip link set eth0 up
  udhcpc -i eth0 -n -q -t 5 -T 1 >/tmp/dhcp 2>&1
  say value address $(ip -4 -o addr show eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/')
  say value ping "$(ping -c 5 -i 0.2 -q ${peer} | grep 'packets transmitted')"
}

say stage before
user_probes before
insmod /lib/modules/${probeModule}.ko address=$((BAR))
kernel_probes before
refused "a guarded module without a grant" e1000e.ko e1000e
refused "a guarded module with a byte changed" e1000-changed.ko e1000
unguarded "the stock driver, not guarded, uses its card" e1000-stock.ko e1000

say stage load
insmod /lib/modules/e1000.ko && say value loaded yes
bring_up
user_probes during
say stage download
TICKS=$(cat $PROBE/ticks)
wget -q -O - "${url}" | sha256sum | sed 's/^/@@ value sha256 /'
probe "an interrupt handler reads the status register, every millisecond" 0 $(cat $PROBE/leaks)
say value ticks $(($(cat $PROBE/ticks) - TICKS))
say value rx_packets $(cat /sys/class/net/eth0/statistics/rx_packets)
say value tx_packets $(cat /sys/class/net/eth0/statistics/tx_packets)
say stage unload
rmmod e1000 && say value unloaded yes
user_probes after
say stage reload
insmod /lib/modules/e1000.ko && say value reloaded yes
bring_up
rmmod e1000
probe "kernel code, over the whole run" 0 $(cat $PROBE/leaks)
rmmod ${probeModule}
kernel_taint=$(cat /proc/sys/kernel/tainted)
say value tainted $kernel_taint
say value bugs $(dmesg | grep -c -E 'BUG:|Oops|general protection|Call Trace')
say stage done
`;
}
