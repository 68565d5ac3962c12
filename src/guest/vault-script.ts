/** What the guest does in the vault's demo. It reports as the main job's script does (demo-script.ts). */

/** Messages that are signed for the host to check, and how many more of 4096 bytes each, to be interrupted while they are. */
export const VAULT_MESSAGES = ['a', 'The quick brown fox jumps over the lazy dog', 'What do ya want for nothing?'] as const;
export const VAULT_LONG_MESSAGE = 'v'.repeat(4096);
const ROUNDS = 40;

export interface VaultScriptOptions {
  /** What to look for, masked (modules/attacks/search.h), 16 bytes each. */
  needles: readonly Uint8Array[];
  /** Bytes of guest memory. */
  memory: number;
  /** Bytes of the vault's .text. */
  text: number;
  /** Extra lines before the vault is loaded, for a guest with more in it. */
  before?: string;
  after?: string;
}

const words = (needle: Uint8Array) => {
  const view = new DataView(needle.buffer, needle.byteOffset, needle.byteLength);
  return [0, 8].map((offset) => `0x${view.getBigUint64(offset, true).toString(16)}`);
};

export function vaultScript({ needles, memory, text, before = '', after = '' }: VaultScriptOptions): string {
  const hexNeedles = needles.map((needle) => Buffer.from(needle).toString('hex')).join(' ');
  return `# Written by portcullis demo vault.
say() { echo "@@ $*"; }
probe() { say probe "$@"; }
say stage init
say value kernel $(uname -r)
S=/sys/module/search/parameters
searches() {
  say value search "$1: kernel code, all of RAM: $(cat $S/memory)"
  say value search "$1: user space, /proc/kcore: $(memory-search /proc/kcore 0 ${hexNeedles})"
  say value search "$1: user space, /dev/mem: $(memory-search /dev/mem ${memory} ${hexNeedles})"
}
signed() { head -c 32 <&3 | hexdump -v -e '1/1 "%02x"'; }

RAM=$(sed -n 's/^ *\\([0-9a-f]*\\)-\\([0-9a-f]*\\) : System RAM/\\1 \\2/p' /proc/iomem | while read from to; do printf '0x%x,0x%x,' $((0x$from)) $((0x$to + 1)); done)
insmod /lib/modules/search.ko needle=${needles.flatMap(words).join(',')} ram=\${RAM%,}
say stage plain
if insmod /lib/modules/vault-plain.ko; then
  say value plain loaded
  printf x 2>/dev/null >/dev/vault && got=signed || got=refused
  probe "the module on its own, without the VMM, signs" refused $got
  rmmod vault
fi
${before}
say stage load
insmod /lib/modules/vault.ko && say value loaded yes
TEXT=$(cat /sys/module/vault/sections/.text)
printf '%s,0x%x' $TEXT $((TEXT + ${text})) > $S/text
say stage sign
exec 3<>/dev/vault
${VAULT_MESSAGES.map((message) => `printf '%s' '${message}' >&3; say value signature $(signed)`).join('\n')}
head -c 4096 /dev/zero | tr '\\0' v > /tmp/long
round=0
while [ $round -lt ${ROUNDS} ]; do
  dd if=/tmp/long bs=4096 count=1 2>/dev/null >&3
  signed > /tmp/signature
  round=$((round + 1))
done
say value long $(cat /tmp/signature)
exec 3>&-
say stage search
searches loaded
for name in secret.key heap stack.crypto; do
  cat /sys/module/vault/sections/.portcullis.private.$name > $S/at
  say value bytes_at "$name $(cat $S/bytes_at)"
done
say value ticks $(cat $S/ticks)
say value inside $(cat $S/inside)
probe "an interrupt in the vault finds a register with something in it" 0 $(cat $S/registers)
probe "an interrupt in the vault finds the secret on the kernel stack" 0 $(cat $S/stack)
${after}
say stage unload
rmmod vault && say value unloaded yes
searches unloaded
say value bugs $(dmesg | grep -c -E 'BUG:|Oops|general protection|Call Trace')
say stage done
`;
}
