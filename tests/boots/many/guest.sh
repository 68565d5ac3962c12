# What the checks of stock modules have in common, run in the guest before them. DEPENDENCIES is set above: "module: what it needs, in order".
export PATH=/usr/bin:/bin
mkdir -p /run /var && mount -t tmpfs run /run
loaded() { [ -d /sys/module/$(echo $1 | tr - _) ]; }
# Loads modules, each after what it needs.
load() {
  for module in "$@"; do
    for one in $(echo "$DEPENDENCIES" | sed -n "s/^$module: //p") $module; do loaded $one || insmod /lib/modules/$one.ko; done
  done
}
# Unloads all that can be, as often as something goes: modules hold each other, and some are let go a moment late.
unload_all() {
  for round in $(seq 40); do
    grep -q . /proc/modules || return
    gone=no
    for module in $(awk '$3 == 0 {print $1}' /proc/modules); do rmmod $module 2>/dev/null && gone=yes; done
    [ $gone = yes ] || sleep 0.2
  done
}
# The command, until it succeeds, for a minute at most.
until_true() { for round in $(seq 60); do "$@" >/dev/null 2>&1 && return; sleep 0.5; done; echo "never: $*"; }
received() { grep -o '[0-9]* packets received'; }
pings() { ping -c 3 -i 0.1 -w 3 -q $1 | received; }
