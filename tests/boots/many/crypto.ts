/**
 * Crypto modules: the kernel's own known-answer tests, which run when an algorithm is registered (`cryptomgr.notests=0`), and digests and
 * ciphertexts made for user space by AF_ALG.
 */
import type { Boot, Check } from './check.ts';

/** The kernel has tested all algorithms of a module: /proc/crypto says for each "passed", or "unknown" where it has no test. */
const tested = (module: string, algorithms: number): Check => ({
  name: module,
  kind: 'crypto',
  modules: [module],
  script: `tests ${module.replaceAll('-', '_')}`,
  proof: [`${algorithms} passed`],
});

/** `seq 1 1000 | sha512sum` */
const SHA512 =
  '33d2768487a466e69c6399cdadc8c4dbfb0999073c356be48e1b6031f0f8fdbe57c567d9f08a1d46a892efc5a670fb16fd699b4bf74d3cca120d39b1e8bfb4e3';

const PREPARE = `
tests() { awk -v wanted=$1 '/^module/ {m = $3} /^selftest/ && m == wanted {n[$3]++} END {for (s in n) print n[s], s}' /proc/crypto; }
seq 1 1000 > /tmp/n
digest() { /usr/bin/kcapi-dgst -c $1 --hex < /tmp/n 2>/dev/null; echo; }
`;

export const CRYPTO: Boot = {
  title: 'crypto',
  cpus: 1,
  memory: '256M',
  append: 'cryptomgr.notests=0',
  programs: ['kcapi-dgst'],
  helpers: ['cryptd', 'crypto_simd', 'ecb', 'ctr', 'xts'],
  prepare: PREPARE,
  always: true,
  chains: [
    ['algif_hash', 'af_alg'],
    ['chacha_generic', 'libchacha'],
  ],
  checks: [
    tested('sha512_generic', 2),
    tested('sha512-ssse3', 2),
    tested('blowfish_generic', 1),
    tested('twofish_generic', 1),
    tested('serpent_generic', 1),
    tested('camellia_generic', 1),
    tested('cast5_generic', 1),
    tested('des_generic', 2),
    tested('chacha_generic', 3),
    tested('poly1305_generic', 1),
    tested('xxhash_generic', 1),
    tested('crc32c_generic', 1),
    tested('sha3_generic', 4),
    tested('twofish-x86_64', 1),
    tested('lz4', 2),
    {
      name: 'algif_hash',
      kind: 'crypto',
      modules: ['af_alg', 'algif_hash', 'crypto_user'],
      script: 'for d in sha512-generic sha512-ssse3 sha3-256; do digest $d; done',
      proof: [SHA512, SHA512, 'ea36b371a3e0e787f17d9ba4adee7ab799c1994fe48f7576def40a38989fd81b'],
    },
  ],
};
