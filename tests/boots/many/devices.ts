/** Sound, wireless, Bluetooth, character devices and virtio. */
import type { Boot } from './check.ts';

export const DEVICES: Boot = {
  title: 'devices',
  cpus: 2,
  memory: '256M',
  programs: ['ip', 'iw'],
  always: true,
  helpers: ['rfkill'],
  chains: [
    ['mac80211_hwsim', 'mac80211'],
    ['mac80211', 'cfg80211'],
    ['snd_dummy', 'snd_pcm'],
    ['snd_pcm', 'snd'],
    ['virtio_net', 'virtio'],
    ['hci_vhci', 'bluetooth'],
  ],
  checks: [
    {
      name: 'snd-dummy',
      kind: 'sound',
      modules: ['snd', 'snd-timer', 'snd-pcm', 'snd-dummy', 'snd-mixer-oss', 'snd-pcm-oss'],
      script: `
dd if=/dev/zero bs=8000 count=2 2>/dev/null > /dev/dsp && echo played; dd if=/dev/dsp bs=4000 count=1 2>/dev/null | wc -c
grep -o 'Dummy - Dummy' /proc/asound/cards`,
      proof: ['played', '4000', 'Dummy - Dummy'],
    },
    {
      name: 'snd-aloop',
      kind: 'sound',
      modules: ['snd-aloop'],
      script: `
(dd if=/dev/dsp1 bs=4000 count=4 2>/dev/null | tr -d '\\000\\200' | wc -c) & dd if=/dev/zero bs=8000 count=8 2>/dev/null > /dev/dsp1 && echo played; wait
grep -o 'Loopback - Loopback' /proc/asound/cards`,
      proof: ['0', 'played', 'Loopback - Loopback'],
    },
    {
      name: 'mac80211_hwsim',
      kind: 'wireless',
      modules: ['cfg80211', 'mac80211', 'mac80211_hwsim'],
      script: `
ip netns add far; iw phy phy1 set netns name far
iw dev wlan0 set type ibss; ip link set wlan0 up; iw dev wlan0 ibss join cell 2412 fixed-freq 02:11:22:33:44:55; ip addr add 10.20.0.1/24 dev wlan0
ip netns exec far /usr/bin/iw dev wlan1 set type ibss; ip -n far link set wlan1 up
ip netns exec far /usr/bin/iw dev wlan1 ibss join cell 2412 fixed-freq 02:11:22:33:44:55; ip -n far addr add 10.20.0.2/24 dev wlan1
until_true ping -c 1 -W 1 -q 10.20.0.2; pings 10.20.0.2; iw dev wlan0 station dump | grep -c Station
ip link set wlan0 down; ip netns del far; sleep 1`,
      proof: ['3 packets received', '1'],
    },
    {
      name: 'hci_vhci',
      kind: 'wireless',
      modules: ['bluetooth', 'hci_vhci'],
      script: `exec 3<>/dev/vhci; printf '\\377\\000' >&3; until_true test -d /sys/class/bluetooth/hci0; ls /sys/class/bluetooth; exec 3>&-`,
      proof: ['hci0'],
    },
    {
      name: 'virtio',
      kind: 'virtio',
      modules: ['virtio', 'virtio_pci', 'virtio_net', 'virtio_balloon'],
      script: 'ls /sys/bus/virtio/drivers',
      proof: ['mac80211_hwsim', 'virtio_balloon', 'virtio_net'],
    },
    {
      name: 'softdog',
      kind: 'character',
      modules: ['softdog'],
      script:
        'exec 3>/dev/watchdog; echo x >&3; printf V >&3; exec 3>&-; cat /sys/class/watchdog/watchdog0/identity /sys/class/watchdog/watchdog0/state 2>/dev/null',
      proof: ['Software Watchdog', 'inactive'],
    },
    {
      name: 'binfmt_misc',
      kind: 'file system',
      modules: ['binfmt_misc'],
      script: `
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc; echo ':x:M::XYZ1::/bin/cat:' > /proc/sys/fs/binfmt_misc/register
printf 'XYZ1 by cat\\n' > /tmp/x; chmod +x /tmp/x; /tmp/x; umount /proc/sys/fs/binfmt_misc`,
      proof: ['XYZ1 by cat'],
    },
    {
      name: 'cpuid',
      kind: 'character',
      modules: ['cpuid'],
      script: 'dd if=/dev/cpu/0/cpuid bs=16 count=1 2>/dev/null | dd bs=4 skip=1 count=1 2>/dev/null; echo',
      proof: ['Genu'],
    },
    {
      name: 'uinput',
      kind: 'input',
      modules: ['uinput', 'evdev', 'pcspkr'],
      script: 'until_true test -c /dev/uinput; grep -c "PC Speaker" /proc/bus/input/devices',
      proof: ['1'],
    },
  ],
};
