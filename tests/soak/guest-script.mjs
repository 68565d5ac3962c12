// What the guest of a soak does, round after round: one action at random, drawn from the seed. It reports in lines "@@ NAME WORDS...".

/** The second card lives in a network namespace of its own, since both far ends are 10.0.2.2. */
const FUNCTIONS = `
PCI=/sys/bus/pci/devices
SEED=SEED_VALUE
loads=0
random() { SEED=$(( (SEED * 1103515245 + 12345) & 0x7fffffff )); R=$(( (SEED >> 8) % $1 )); }
unshare -n sh -c 'echo $$ > /tmp/space; exec sleep 10000000' &
until [ -s /tmp/space ]; do usleep 10000; done
SPACE=$(cat /tmp/space)
apart() { nsenter -t $SPACE -n "$@"; }

load() {
  insmod /lib/modules/e1000.ko || echo "@@ bad insmod"
  A=$(ls $PCI/0000:00:03.0/net)
  B=$(ls $PCI/0000:00:04.0/net)
  ip link set $B netns $SPACE
  ip link set $A up && ip addr add 10.0.2.15/24 dev $A || echo "@@ bad first card"
  apart ip link set $B up && apart ip addr add 10.0.2.16/24 dev $B || echo "@@ bad second card"
  loads=$((loads + 1))
}
unload() { rmmod e1000 || echo "@@ bad rmmod"; }

# A CPU that is there now.
processor() {
  random 4
  [ $R = 0 ] || [ "$(cat /sys/devices/system/cpu/cpu$R/online)" = 1 ] || R=0
  MASK=$((1 << R))
}
# A download whose bytes are known: the first card's must arrive whole, whatever happens to its cable. While that is out there may be no route yet: then
# once more. (busybox: wget -T crashes, so timeout.)
fetch() {
  random LARGEST; bytes=$(( (R + 1) * 50000 )); random 1000; number=$R; processor
  for try in 1 2 3 4 5; do
    taskset $MASK timeout 120 wget -q -O /tmp/fetched "http://10.0.2.2/file?bytes=$bytes&seed=$number" 2> /tmp/why && break
    echo "@@ retry $(tail -n 1 /tmp/why)"
    rm -f /tmp/fetched
    sleep 1
  done
  echo "@@ sum $bytes $number $(sha256sum < /tmp/fetched | cut -d' ' -f1)"
}
# The second card's far end may be killed meanwhile.
fetch_apart() {
  random LARGEST; bytes=$(( (R + 1) * 50000 )); random 1000; number=$R; processor
  rm -f /tmp/apart
  if apart taskset $MASK timeout 8 wget -q -O /tmp/apart "http://10.0.2.2/file?bytes=$bytes&seed=$number" 2>/dev/null
  then echo "@@ apart $bytes $number $(wc -c < /tmp/apart) $(sha256sum < /tmp/apart | cut -d' ' -f1)"
  else echo "@@ cut $bytes"
  fi
}
interrupt() { grep "$1\\$" /proc/interrupts | cut -d: -f1 | tr -d ' '; }

action() {
  case $1 in
    0|1|2) echo "@@ do fetch"; fetch ;;
    3) echo "@@ do together"; fetch_apart & fetch; wait $! ;;
    4) echo "@@ do apart"; fetch_apart ;;
    5|6) echo "@@ do reload"; unload; load ;;
    7) echo "@@ do reload-in-traffic"; (timeout 3 wget -q -O /dev/null "http://10.0.2.2/file?bytes=4000000&seed=1" 2>/dev/null &); usleep 100000; unload; load ;;
    8) random 3; cpu=$((R + 1)); echo "@@ do unplug $cpu"; echo 0 > /sys/devices/system/cpu/cpu$cpu/online; fetch; echo 1 > /sys/devices/system/cpu/cpu$cpu/online ;;
    9) random 15; mask=$((R + 1)); irq=$(interrupt $A); echo "@@ do affinity $mask"; printf %x $mask > /proc/irq/$irq/smp_affinity ;;
    10) echo "@@ do down-up"; ip link set $A down; ip link set $A up ;;
    11) echo "@@ do ping"; ping -c 5 -i 0.2 -W 1 -q 10.0.2.2 | grep received | sed 's/^/@@ ping /'; apart ping -c 2 -W 1 -q 10.0.2.2 > /dev/null ;;
  esac
}
`;

/** `seconds`: of the guest's own time. `seed`: of its choices. `largest`: of a download, in steps of 50,000 bytes. */
export function soakScript({ seconds, seed, largest }) {
  return `${FUNCTIONS.replace('SEED_VALUE', String(seed)).replaceAll('LARGEST', String(largest))}
uptime() { cut -d. -f1 /proc/uptime; }
complaints() { dmesg -c | grep -E "BUG:|Oops|WARNING|Call Trace|stall|lockup|hung task|Tx Unit Hang|timed out" | sed "s/^/@@ kernel /"; }
load
START=$(uptime)
rounds=0
while [ $(( $(uptime) - START )) -lt ${seconds} ]; do
  random 12
  action $R
  rounds=$((rounds + 1))
  complaints
  echo "@@ round $rounds"
done
unload
complaints
echo "@@ done $rounds $loads $(free | grep Mem | sed 's/ \\+/ /g' | cut -d' ' -f4)"
`;
}
