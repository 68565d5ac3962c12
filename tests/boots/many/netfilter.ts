/** Netfilter: the same packets through nf_tables and through iptables with sets, connection tracking and address translation. */
import type { Boot } from './check.ts';

export const NETFILTER: Boot = {
  title: 'netfilter',
  cpus: 1,
  memory: '256M',
  programs: ['ip', 'nft', 'xtables-legacy-multi', 'ipset'],
  helpers: ['crc32c_generic', 'veth'],
  always: true,
  prepare: `
load veth
ip netns add far; ip link add v0 type veth peer name v1; ip link set v1 netns far
ip addr add 10.1.0.1/24 dev v0; ip link set v0 up; ip -n far addr add 10.1.0.2/24 dev v1; ip -n far link set v1 up
iptables() { /usr/bin/xtables-legacy-multi iptables "$@"; }
`,
  chains: [
    ['nft_ct', 'nf_conntrack'],
    ['nft_chain_nat', 'nf_tables'],
    ['nf_nat', 'nf_conntrack'],
    ['nf_conntrack', 'nf_defrag_ipv4'],
    ['iptable_filter', 'ip_tables'],
    ['ip_tables', 'x_tables'],
    ['xt_set', 'ip_set'],
    ['ip_set_hash_ip', 'ip_set'],
  ],
  checks: [
    {
      name: 'nf_tables',
      kind: 'netfilter',
      modules: [
        'nf_tables',
        'nfnetlink',
        'nft_ct',
        'nft_objref',
        'nf_conntrack',
        'nft_chain_nat',
        'nft_masq',
        'nf_nat',
        'nft_reject_inet',
        'nft_limit',
        'nft_numgen',
        'nft_hash',
      ],
      script: `
nft -f - <<X
table inet t {
 counter c { }
 set s {
  type ipv4_addr
  flags interval
  elements = { 10.1.0.2, 10.9.0.0/16 }
 }
 chain i {
  type filter hook input priority 0
  ct state established counter name c
  icmp type echo-request limit rate 100/second accept
  ip saddr @s tcp dport 80 reject with tcp reset
  icmp type echo-reply numgen inc mod 2 vmap { 0 : accept, 1 : drop }
 }
 chain n {
  type nat hook postrouting priority 100
  oifname "v0" masquerade
 }
}
X
ping -c 4 -i 0.1 -w 3 -q 10.1.0.2 | received
nft list counter inet t c | grep -o 'packets [0-9]*'
grep -c 10.1.0.2 /proc/net/nf_conntrack
ip netns exec far nc -w 9 10.1.0.1 80 </dev/null 2>&1 | grep -o refused
nft flush ruleset; nft list ruleset | wc -l`,
      proof: ['2 packets received', 'packets 4', '1', 'refused', '0'],
    },
    {
      name: 'iptables',
      kind: 'netfilter',
      modules: [
        'x_tables',
        'ip_tables',
        'iptable_filter',
        'iptable_nat',
        'xt_conntrack',
        'xt_MASQUERADE',
        'ipt_REJECT',
        'xt_tcpudp',
        'nf_conntrack',
      ],
      script: `
iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables -A INPUT -p tcp --dport 80 -j REJECT --reject-with tcp-reset
iptables -t nat -A POSTROUTING -o v0 -j MASQUERADE; pings 10.1.0.2
iptables -L INPUT -v -n -x | awk '/ESTABLISHED/ {print $1}'; ip netns exec far nc -w 9 10.1.0.1 80 </dev/null 2>&1 | grep -o refused
iptables -F; iptables -t nat -F`,
      proof: ['3 packets received', '3', 'refused'],
    },
    {
      name: 'ipset',
      kind: 'netfilter',
      modules: ['ip_set', 'ip_set_hash_ip', 'ip_set_hash_net', 'xt_set'],
      script: `
ipset create h hash:ip; ipset add h 10.1.0.2; ipset add h 10.1.0.77; ipset create g hash:net; ipset add g 192.168.0.0/16
ipset -q test g 192.168.3.4 && echo inside; ipset -q test g 193.168.3.4 || echo outside; ipset list h | grep -c '^10'
iptables -I INPUT -m set --match-set h src -p icmp -j DROP; pings 10.1.0.2; iptables -F; pings 10.1.0.2; ipset destroy h; ipset destroy g`,
      proof: ['inside', 'outside', '2', '0 packets received', '3 packets received'],
    },
  ],
};
