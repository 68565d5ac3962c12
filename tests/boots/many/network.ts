/** Network modules: virtual links between two network namespaces, `near` by default and `far`, with traffic through each. */
import type { Boot } from './check.ts';

/** `link NAME ADDRESS`: an address and "up" at both ends of a link of this name. */
const PREPARE = `
load veth
ip netns add far; ip -n far link set lo up
pair() { ip link add $1 type veth peer name $2; ip link set $2 netns far; }
near() { ip addr add $2/24 dev $1; ip link set $1 up; }
far() { ip -n far addr add $2/24 dev $1; ip -n far link set $1 up; }
pair v0 v1; near v0 10.1.0.1; far v1 10.1.0.2
`;

export const LINKS: Boot = {
  title: 'network links',
  cpus: 1,
  memory: '256M',
  programs: ['ip', 'wg', 'socat'],
  prepare: PREPARE,
  always: true,
  chains: [
    ['vxlan', 'udp_tunnel'],
    ['bridge', 'stp'],
    ['stp', 'llc'],
    ['wireguard', 'udp_tunnel'],
  ],
  checks: [
    { name: 'veth', kind: 'network', modules: ['veth'], script: 'pings 10.1.0.2', proof: ['3 packets received'] },
    {
      name: 'dummy',
      kind: 'network',
      modules: ['dummy'],
      script: `
ip link add d0 type dummy; sysctl -qw net.ipv6.conf.d0.disable_ipv6=1; near d0 10.2.0.1
ping -c 2 -i 0.1 -w 2 -q 10.2.0.9 >/dev/null; cat /sys/class/net/d0/statistics/tx_packets; ip link del d0`,
      proof: ['2'],
    },
    {
      name: '8021q',
      kind: 'network',
      modules: ['8021q'],
      script: `
ip link add link v0 name v0.7 type vlan id 7; ip -n far link add link v1 name v1.7 type vlan id 7
near v0.7 10.3.0.1; far v1.7 10.3.0.2; pings 10.3.0.2; ip link del v0.7`,
      proof: ['3 packets received'],
    },
    {
      name: 'macvlan',
      kind: 'network',
      modules: ['macvlan'],
      script:
        'ip link add link v0 name m0 type macvlan mode bridge; near m0 10.4.0.1; ip -n far addr add 10.4.0.2/24 dev v1; pings 10.4.0.2; ip link del m0',
      proof: ['3 packets received'],
    },
    {
      name: 'ipvlan',
      kind: 'network',
      modules: ['ipvlan'],
      script:
        'ip link add link v0 name i0 type ipvlan mode l2; near i0 10.5.0.1; ip -n far addr add 10.5.0.2/24 dev v1; pings 10.5.0.2; ip link del i0',
      proof: ['3 packets received'],
    },
    {
      name: 'bridge',
      kind: 'network',
      modules: ['llc', 'stp', 'bridge'],
      script: `
ip link add br0 type bridge stp_state 0 forward_delay 0; pair b0 b1; ip link set b0 master br0; ip link set b0 up
near br0 10.6.0.1; far b1 10.6.0.2; pings 10.6.0.2
ip link set br0 type bridge stp_state 1; cat /sys/class/net/br0/bridge/stp_state; ip link del br0; ip link del b0`,
      proof: ['3 packets received', '1'],
    },
    {
      name: 'vxlan',
      kind: 'network',
      modules: ['vxlan', 'udp_tunnel', 'ip6_udp_tunnel'],
      script: `
ip link add x0 type vxlan id 42 local 10.1.0.1 remote 10.1.0.2 dstport 4789 dev v0
ip -n far link add x0 type vxlan id 42 local 10.1.0.2 remote 10.1.0.1 dstport 4789 dev v1
near x0 10.7.0.1; far x0 10.7.0.2; pings 10.7.0.2; ip link del x0; ip -n far link del x0`,
      proof: ['3 packets received'],
    },
    {
      name: 'geneve',
      kind: 'network',
      modules: ['geneve'],
      script: `
ip link add g0 type geneve id 42 remote 10.1.0.2; ip -n far link add g0 type geneve id 42 remote 10.1.0.1
near g0 10.8.0.1; far g0 10.8.0.2; pings 10.8.0.2; ip link del g0; ip -n far link del g0`,
      proof: ['3 packets received'],
    },
    {
      name: 'ip_gre',
      kind: 'network',
      modules: ['ip_gre', 'gre', 'ip_tunnel'],
      script: `
ip link add r0 type gre local 10.1.0.1 remote 10.1.0.2; ip -n far link add r0 type gre local 10.1.0.2 remote 10.1.0.1
near r0 10.9.0.1; far r0 10.9.0.2; pings 10.9.0.2; ip link del r0; ip -n far link del r0`,
      proof: ['3 packets received'],
    },
    {
      name: 'bonding',
      kind: 'network',
      modules: ['bonding'],
      script: `
ip link add bo type bond mode active-backup miimon 100; pair s0 p0; pair s1 p1
for i in 0 1; do ip link set s$i master bo; done
ip -n far link add pb type bridge forward_delay 0; for i in 0 1; do ip -n far link set p$i up; ip -n far link set p$i master pb; done
near bo 10.10.0.1; far pb 10.10.0.2; until_true ping -c 1 -W 1 -q 10.10.0.2; pings 10.10.0.2
ip link set s0 down; until_true grep -q 'Active Slave: s1' /proc/net/bonding/bo; pings 10.10.0.2
ip link del bo; ip -n far link del pb; ip link del s0; ip link del s1`,
      proof: ['3 packets received', '3 packets received'],
    },
    {
      name: 'macsec',
      kind: 'network',
      modules: ['ghash-generic', 'ctr', 'gcm', 'macsec'],
      script: `
ip link add link v0 c0 type macsec encrypt on; ip -n far link add link v1 c0 type macsec encrypt on
A=$(cat /sys/class/net/v0/address); B=$(ip netns exec far cat /sys/class/net/v1/address)
ONE=11111111111111111111111111111111; TWO=22222222222222222222222222222222
ip macsec add c0 tx sa 0 pn 1 on key 01 $ONE; ip macsec add c0 rx address $B port 1; ip macsec add c0 rx address $B port 1 sa 0 pn 1 on key 02 $TWO
ip -n far macsec add c0 tx sa 0 pn 1 on key 02 $TWO; ip -n far macsec add c0 rx address $A port 1
ip -n far macsec add c0 rx address $A port 1 sa 0 pn 1 on key 01 $ONE
near c0 10.11.0.1; far c0 10.11.0.2; pings 10.11.0.2; ip link del c0; ip -n far link del c0`,
      proof: ['3 packets received'],
    },
    {
      name: 'wireguard',
      kind: 'network',
      modules: ['wireguard', 'libchacha20poly1305', 'libcurve25519-generic', 'curve25519-x86_64', 'chacha-x86_64', 'poly1305-x86_64'],
      script: `
umask 077; wg genkey > /tmp/a; wg genkey > /tmp/b; ip link add w0 type wireguard; ip -n far link add w0 type wireguard
wg set w0 private-key /tmp/a listen-port 5000 peer $(wg pubkey < /tmp/b) allowed-ips 10.12.0.2/32 endpoint 10.1.0.2:5000
ip netns exec far /usr/bin/wg set w0 private-key /tmp/b listen-port 5000 peer $(wg pubkey < /tmp/a) allowed-ips 10.12.0.1/32 endpoint 10.1.0.1:5000
near w0 10.12.0.1; far w0 10.12.0.2; until_true ping -c 1 -W 1 -q 10.12.0.2; pings 10.12.0.2; wg show w0 latest-handshakes | wc -l
ip link del w0; ip -n far link del w0`,
      proof: ['3 packets received', '1'],
    },
    {
      name: 'tun',
      kind: 'network',
      modules: ['tun'],
      script: `
(timeout 10 socat -u TUN:10.13.0.1/24,up,tun-type=tap STDOUT > /tmp/tapped) & until_true ip link show tap0
arping -c 1 -w 2 -I tap0 10.13.0.2 >/dev/null; until_true test -s /tmp/tapped; test -s /tmp/tapped && echo frames; wait`,
      proof: ['frames'],
    },
  ],
};

export const PROTOCOLS: Boot = {
  title: 'protocols and traffic control',
  cpus: 2,
  memory: '256M',
  programs: ['ip', 'tc', 'tipc', 'socat'],
  prepare: PREPARE,
  helpers: ['crc32c_generic', 'veth'],
  always: false,
  chains: [
    ['batman_adv', 'libcrc32c'],
    ['can_raw', 'can'],
  ],
  checks: [
    {
      name: 'ifb',
      kind: 'traffic control',
      modules: ['ifb', 'sch_ingress', 'act_mirred', 'cls_u32'],
      script: `
ip link set ifb0 up; tc qdisc add dev v0 ingress
tc filter add dev v0 parent ffff: protocol ip u32 match u32 0 0 action mirred egress redirect dev ifb0
pings 10.1.0.2; test $(cat /sys/class/net/ifb0/statistics/rx_packets) -ge 3 && echo redirected; tc qdisc del dev v0 ingress`,
      proof: ['3 packets received', 'redirected'],
    },
    {
      name: 'netem',
      kind: 'traffic control',
      modules: ['sch_netem'],
      script: 'tc qdisc add dev v0 root netem loss 100%; pings 10.1.0.2; tc qdisc del dev v0 root; pings 10.1.0.2',
      proof: ['0 packets received', '3 packets received'],
    },
    {
      name: 'htb',
      kind: 'traffic control',
      modules: ['sch_htb', 'sch_tbf'],
      script: `
tc qdisc add dev v0 root handle 1: htb default 10; tc class add dev v0 parent 1: classid 1:10 htb rate 10mbit
tc qdisc add dev v0 parent 1:10 tbf rate 5mbit burst 5kb latency 70ms; pings 10.1.0.2
tc -s qdisc show dev v0 | grep -c 'Sent [1-9]'; tc qdisc del dev v0 root`,
      proof: ['3 packets received', '2'],
    },
    {
      name: 'nlmon',
      kind: 'network',
      modules: ['nlmon'],
      script:
        'ip link add n0 type nlmon; ip link set n0 up; ip link show > /dev/null; test $(cat /sys/class/net/n0/statistics/rx_packets) -gt 0 && echo seen; ip link del n0',
      proof: ['seen'],
    },
    {
      name: 'can',
      kind: 'protocol',
      modules: ['can', 'can-raw', 'vcan'],
      script: `
ip link add c0 type vcan; ip link set c0 up
(timeout 20 socat -u INTERFACE:c0,pf=29,type=3,prototype=1 STDOUT | head -c 16 | xxd -p) & sleep 2
printf '\\043\\001\\0\\0\\004\\0\\0\\0abcd\\0\\0\\0\\0' | timeout 20 socat -u STDIN INTERFACE:c0,pf=29,type=3,prototype=1; wait; ip link del c0`,
      proof: ['23010000040000006162636400000000'],
    },
    {
      name: 'vsock',
      kind: 'protocol',
      modules: ['vsock', 'vsock_loopback', 'vmw_vsock_virtio_transport_common'],
      script: '(timeout 60 socat -u VSOCK-LISTEN:1234 STDOUT) & sleep 2; echo hello | timeout 60 socat -u STDIN VSOCK-CONNECT:1:1234; wait',
      proof: ['hello'],
    },
    {
      name: 'l2tp',
      kind: 'protocol',
      modules: ['l2tp_core', 'l2tp_netlink', 'l2tp_eth'],
      script: `
ip l2tp add tunnel tunnel_id 1 peer_tunnel_id 1 encap udp local 10.1.0.1 remote 10.1.0.2 udp_sport 6000 udp_dport 6000
ip l2tp add session tunnel_id 1 session_id 1 peer_session_id 1
ip -n far l2tp add tunnel tunnel_id 1 peer_tunnel_id 1 encap udp local 10.1.0.2 remote 10.1.0.1 udp_sport 6000 udp_dport 6000
ip -n far l2tp add session tunnel_id 1 session_id 1 peer_session_id 1
near l2tpeth0 10.14.0.1; far l2tpeth0 10.14.0.2; pings 10.14.0.2; ip l2tp del tunnel tunnel_id 1; ip -n far l2tp del tunnel tunnel_id 1`,
      proof: ['3 packets received'],
    },
    {
      name: 'batman-adv',
      kind: 'protocol',
      modules: ['batman-adv'],
      script: `
ip link add bat0 type batadv; ip -n far link add bat0 type batadv; pair e0 e1; ip link set e0 up; ip -n far link set e1 up
ip link set e0 master bat0; ip -n far link set e1 master bat0; near bat0 10.15.0.1; far bat0 10.15.0.2
until_true ping -c 1 -W 1 -q 10.15.0.2; pings 10.15.0.2; ip link del bat0; ip -n far link del bat0; ip link del e0`,
      proof: ['3 packets received'],
    },
    {
      name: 'tipc',
      kind: 'protocol',
      modules: ['tipc'],
      script: `
tipc bearer enable media eth dev v0; ip netns exec far /usr/bin/tipc bearer enable media eth dev v1
up() { [ $(tipc link list | grep -c ': up') = 2 ]; }; until_true up; tipc link list | grep -c ': up'
tipc bearer disable media eth dev v0; ip netns exec far /usr/bin/tipc bearer disable media eth dev v1`,
      proof: ['2'],
    },
  ],
};
