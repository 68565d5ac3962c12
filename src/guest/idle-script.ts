/** What the guest does in the idle module's demo. It reports as the main job's script does (demo-script.ts). */

/** The virtual CPU that is watched, and the one that comes to its core. */
export const IDLE_CPU = 1;
export const IDLE_VISITOR = 2;
export const IDLE_CPUS = 3;
/** Samples of one measurement, and how often each is taken; the first time warms the engine up and does not count. */
const SAMPLES = 100;
const ROUNDS = 4;
/** Samples that count. */
export const IDLE_SAMPLES = SAMPLES * (ROUNDS - 1);
/** How a CPU is woken (modules/idle/wake.c), and what it waits with: the kernel's own HLT, the module's HLT, its MWAIT. */
export const WAKE_KINDS = ['store', 'ipi', 'thread'] as const;
export const WAITS = ['unguarded', 'hlt', 'mwait'] as const;
/** Times that all is probed, and how many probes that makes. */
export const IDLE_PROBES = 5 * 7;

export function idleScript({ before = '', after = '' }: { before?: string; after?: string } = {}): string {
  return `# Written by portcullis demo idle.
say() { echo "@@ $*"; }
probe() { say probe "$@"; }
C=/sys/devices/system/cpu/cpu${IDLE_CPU}/cpuidle
W=/sys/module/wake/parameters
M=/sys/module/mwait/parameters
user() { sh -c "mwait-user $1" >/dev/null 2>&1; }
probes() { # when
  probe "$1: kernel code executes MONITOR" 6 $(cat $M/monitor)
  probe "$1: kernel code executes MWAIT" 6 $(cat $M/mwait)
  probe "$1: CPUID says that they exist" 0 $(cat $M/cpuid)
  probe "$1: IA32_MISC_ENABLE says so" 0 $(cat $M/enabled)
  probe "$1: kernel code can switch them on there" 0 $(cat $M/enable)
  user; probe "$1: user space executes MONITOR" 132 $?
  user mwait; probe "$1: user space executes MWAIT" 132 $?
}
measure() { # what it waits with, round
  for kind in ${WAKE_KINDS.join(' ')}; do say value latency $1 $2 $kind $(cat $W/$kind); done
}
rounds() { # command to be given the round
  round=0
  while [ $round -lt ${ROUNDS} ]; do "$@" $round; round=$((round + 1)); done
}
both() {
  echo 1 > $C/state1/disable
  measure hlt $1
  echo 0 > $C/state1/disable
  measure mwait $1
}
settle() { # when, how the CPU should idle: until it does, for 50 interrupts or more
  tries=0
  while :; do
    hlt=$(cat $C/state0/usage); mwait=$(cat $C/state1/usage)
    echo 50 > $W/count; cat $W/ipi > /dev/null
    hlt=$(($(cat $C/state0/usage) - hlt)); mwait=$(($(cat $C/state1/usage) - mwait))
    [ $2 = hlt ] && [ $mwait = 0 ] && [ $hlt -ge 50 ] && break
    [ $2 = mwait ] && [ $hlt = 0 ] && [ $mwait -ge 50 ] && break
    tries=$((tries + 1)); [ $tries -lt 50 ] || break
  done
  say value switch $1 $hlt $mwait
}

say stage init
say value kernel $(uname -r)
insmod /lib/modules/mwait.ko
insmod /lib/modules/wake.ko cpu=${IDLE_CPU} count=${SAMPLES}
${before}
say stage before
probes before
rounds measure unguarded
if insmod /lib/modules/idle-plain.ko; then
  [ "$(cat $C/state1/usage)" = 0 ] && say value plain loaded
  rmmod idle
fi
say stage load
insmod /lib/modules/idle.ko && say value loaded yes
say value driver $(cat /sys/devices/system/cpu/cpuidle/current_driver)
settle alone mwait
probes "CPU ${IDLE_CPU} alone"
say stage latency
echo ${SAMPLES} > $W/count
rounds both
say stage share
settle shared hlt
probes "CPU ${IDLE_CPU} shares its core"
say stage stale
echo 1 > /sys/module/idle/parameters/stale
settle stale hlt
echo 0 > /sys/module/idle/parameters/stale
say stage alone
settle again mwait
probes "CPU ${IDLE_CPU} alone again"
say value tried $(cat $W/tried)
probe "an interrupt in the idle module executes one of them" 0 $(cat $W/leaks)
${after}
say stage unload
rmmod idle && say value unloaded yes
probes after
rmmod wake && rmmod mwait
say value bugs $(dmesg | grep -c -E 'BUG:|Oops|general protection|Call Trace')
say stage done
`;
}
