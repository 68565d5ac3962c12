/** Grants: what an administrator allows, and to what. The signed form and its verification stand in signing.ts. */

/** A privilege with its parameters. The set of kinds is open to `src/privileges`; each checks its own parameters. */
export interface PrivilegeGrant {
  kind: string;
  /** e.g. for pci-device: { device: "0000:00:03.0", vendor: "8086", product: "100e" } */
  parameters: Record<string, string | number | boolean | string[] | number[]>;
}

export interface Grant {
  format: 'portcullis-grant-1';
  /** SHA-256 of the manifest's canonical JSON, hex. */
  manifest: string;
  /** Names of the virtual machines it holds for (`--name`); exact match, at least one. */
  vms: string[];
  privileges: PrivilegeGrant[];
  /** ISO 8601 UTC. */
  notBefore: string;
  notAfter: string;
  /** Random, 16 bytes hex, so that two grants never have the same digest. */
  serial: string;
  onViolation: 'quarantine' | 'stop' | 'log';
}
