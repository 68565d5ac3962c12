/** Who the peer is: the addresses of QEMU's user network, which guests and people know. */

/** 52:55:0a:00:02:02, after the address. */
export const PEER_MAC = 0x5255_0a00_0202;
export const PEER_ADDRESS = 0x0a00_0202;
export const FIRST_CLIENT_ADDRESS = 0x0a00_020f;
export const PORTS = { echo: 7, discard: 9, flood: 19, http: 80 } as const;
