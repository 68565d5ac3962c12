/** What the hostile guest runs: it takes one order a line on its console, tries it on a freshly loaded victim, and says what came of it. */
export const READY = '@@ ready';
export const RESULT = '@@ result ';
export const QUIT = 'quit';

/** `text`: bytes of the victim's .text, and where in it the gadget is. */
export const guestScript = (text: { size: number; gadget: number }): string => `# Written by portcullis attack.
H=/sys/module/hostile/parameters
V=/sys/module/victim
C=/sys/module/cpus/parameters
# Where the victim is, for the module with the parameters $1.
aim() {
  start=$(cat $V/sections/.text)
  cat $V/parameters/entries > $1/victim
  printf '0x%x' $((start + ${text.gadget})) > $1/gadget
}
prepare() {
  aim $H
  cat $V/sections/.portcullis.private.data > $H/private
  printf '0x%x,0x%x' $((start)) $((start + ${text.size})) > $H/text
}
# A kernel thread is interrupted wherever it is, or gives its CPU up itself.
preemption() {
  mount -t debugfs none /sys/kernel/debug 2>/dev/null
  echo $1 > /sys/kernel/debug/sched/preempt
}
cpus() {
  insmod /lib/modules/cpus.ko && aim $C && echo $1 > $C/attack && cat $C/result || echo "dead cpus.ko cannot be used"
}
another_kernel() {
  case "$(cpus $1)" in
    dead*) cat $C/result ;;
    *) /bin/kexec $(cat $C/handover) && echo "dead" || echo "dead kexec ended with $?" ;;
  esac
}
try() {
  insmod /lib/modules/hostile.ko loader=$([ "$1" = loader ] && echo $2 || echo none) || { echo "dead hostile.ko cannot be loaded"; return; }
  insmod /lib/modules/victim.ko 2>/dev/null
  loaded=$?
  case $1 in
    loader)
      case "$(cat $H/result)" in
        dead*) cat $H/result ;;
        *) [ $loaded = 0 ] && echo "gained the changed module is loaded with its privileges" || echo "nothing insmod failed" ;;
      esac ;;
    cpus)
      preemption full
      cpus $2
      preemption voluntary ;;
    root-kexec) another_kernel $2 ;;
    root)
      byte=$(dd if=/dev/port bs=1 count=1 skip=244 2>/dev/null | hexdump -v -e '1/1 "%02x"')
      [ "$byte" = ff ] && echo "nothing all ones" || echo "gained the port answers $byte" ;;
    kernel)
      if [ $loaded = 0 ] && prepare && echo $2 > $H/attack; then cat $H/result; else echo "dead the victim cannot be loaded"; fi ;;
  esac
}
stty -echo 2>/dev/null
dmesg -n 1
echo "${READY}"
while read -r by action; do
  [ "$by" = ${QUIT} ] && break
  outcome=$(try $by $action)
  rmmod victim 2>/dev/null
  rmmod hostile 2>/dev/null
  rmmod cpus 2>/dev/null
  [ -d $V ] && outcome="dead the victim cannot be unloaded"
  echo "${RESULT}$outcome"
done
`;
