/** `portcullis keygen`, `grant` and `verify`: what an administrator does. */
import { randomBytes } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import type { Command } from 'commander';
import { UserError } from '../base/errors.ts';
import { manifestDigest } from '../policy/canonical.ts';
import type { Grant, PrivilegeGrant } from '../policy/grant.ts';
import { parseJson, parseManifest } from '../policy/schema.ts';
import { SECRET_LIMIT } from '../policy/private-memory.ts';
import { generateVmmKeyPair, sealSecret } from '../policy/seal.ts';
import { checkPrivilege } from '../privileges/privileges.ts';
import { SECRET } from '../privileges/secret.ts';
import { generateKeyPair, signGrant, verifyGrant, writeKeyPair } from '../policy/signing.ts';
import { action, LIMITS, readInput } from './command.ts';
import { printJson } from './output.ts';

const DAY_MS = 86_400_000;

export function addKeyCommands(program: Command): void {
  const keygen = program
    .command('keygen')
    .argument('<base>', 'writes BASE.key (keep it secret) and BASE.pub')
    .description("make a key pair: an administrator's (Ed25519), or a VMM's (X25519)")
    .option('--vmm', "a VMM's: administrators seal secrets with its public key, run --vmm-key takes the private one")
    .addHelpText('after', '\nExamples:\n  portcullis keygen admin\n  portcullis keygen --vmm vmm\n');
  action(keygen, ({ json }, base: string, { vmm }: { vmm?: boolean }) => {
    const pair = vmm ? generateVmmKeyPair() : generateKeyPair();
    const files = writeKeyPair(pair, base);
    if (json) printJson({ ok: true, keyId: pair.keyId, ...files });
    else console.log(`key ${pair.keyId}: ${files.privateFile} (keep it secret), ${files.publicFile}`);
    return 0;
  });

  const grant = program
    .command('grant')
    .description('sign a grant: this module, in these machines, may have these privileges')
    .requiredOption('--manifest <file>', 'manifest of the guarded module')
    .requiredOption('--key <file>', 'private key of the administrator')
    .requiredOption('--vm <name...>', 'names of the virtual machines it holds for')
    .option('--privilege <spec...>', 'KIND,NAME=VALUE,...; without any the module is guarded, but has no privileges', [])
    .option('--days <n>', 'valid from now for so many days', '365')
    .option('--on-violation <what>', 'quarantine, stop or log', 'quarantine')
    .option('--output <file>', 'where to write it; default: standard output')
    .addHelpText(
      'after',
      '\nExample:\n  portcullis grant --manifest e1000.guarded.ko.manifest.json --key admin.key \\\n    --vm web --output e1000.grant.json \\\n    --privilege pci-device,device=0000:00:03.0,vendor=8086,product=100e\n\nPrivileges:\n  pci-device,device=0000:00:03.0,vendor=8086,product=100e\n  secret,name=key,file=key.bin,vmm=vmm.pub      sealed for the VMM with this key\n  msr,read=0x40000000+0x40000001,write=0x40000001\n  io-port,ports=0x70-0x71+0x3f8\n  mwait                                         MONITOR and MWAIT, on CPUs that are alone on their core\n',
    );
  action(
    grant,
    (
      { json },
      options: { manifest: string; key: string; vm: string[]; privilege: string[]; days: string; onViolation: string; output?: string },
    ) => {
      const days = Number(options.days);
      if (!(days > 0 && days <= 36500)) throw new UserError(`--days ${options.days}: expected a number from 1 to 36500`);
      const manifest = parseManifest(readInput(options.manifest, LIMITS.policy, 'manifest').toString('utf8'), options.manifest);
      const signed = signGrant(
        makeGrant({
          manifest: manifestDigest(manifest),
          vms: options.vm,
          privileges: options.privilege.map((text) => parsePrivilege(text, manifestDigest(manifest))),
          days,
          onViolation: options.onViolation as Grant['onViolation'],
        }),
        readInput(options.key, LIMITS.key, 'key').toString('utf8'),
      );
      const text = `${JSON.stringify(signed, null, 2)}\n`;
      if (options.output === undefined) process.stdout.write(json ? `${JSON.stringify(signed)}\n` : text);
      else {
        if (existsSync(options.output))
          throw new UserError(`${options.output} exists already`, 'choose another name, or move the old grant away');
        writeFileSync(options.output, text, { flag: 'wx' });
        if (json) printJson({ ok: true, output: options.output, serial: signed.grant.serial, keyId: signed.keyId });
        else
          console.log(
            `${options.output}: ${manifest.module} may have ${signed.grant.privileges.map((privilege) => privilege.kind).join(', ') || 'no privileges'} in ${options.vm.join(', ')} until ${signed.grant.notAfter}; serial ${signed.grant.serial}`,
          );
      }
      return 0;
    },
  );

  const verify = program
    .command('verify')
    .argument('<grant>', 'signed grant')
    .description('check a grant as the VMM would')
    .requiredOption('--manifest <file>', 'manifest of the guarded module')
    .requiredOption('--trust <file...>', 'public keys of administrators')
    .requiredOption('--vm <name>', 'name of the virtual machine')
    .option('--revoked <serial...>', 'serials of grants that were withdrawn', [])
    .addHelpText(
      'after',
      '\nExample:\n  portcullis verify e1000.grant.json --manifest e1000.guarded.ko.manifest.json \\\n    --trust admin.pub --vm web\nExit code: 0 it holds, 41 it does not.\n',
    );
  action(verify, ({ json }, file: string, options: { manifest: string; trust: string[]; vm: string; revoked: string[] }) => {
    const signed = parseJson(readInput(file, LIMITS.policy, 'grant').toString('utf8'), file);
    const manifest = parseManifest(readInput(options.manifest, LIMITS.policy, 'manifest').toString('utf8'), options.manifest);
    const keys = options.trust.map((path) => readInput(path, LIMITS.key, 'key').toString('utf8'));
    const verdict = verifyGrant(signed, keys, {
      manifestDigest: manifestDigest(manifest),
      vm: options.vm,
      now: new Date(),
      spent: new Set(options.revoked),
    });
    if (json) printJson(verdict);
    else if (verdict.ok)
      console.log(
        `the grant holds: ${manifest.module} may have ${verdict.grant.privileges.map((privilege) => privilege.kind).join(', ') || 'no privileges'} in ${options.vm}`,
      );
    else console.log(`the grant does not hold: ${verdict.detail} [${verdict.reason}]`);
    return verdict.ok ? 0 : 41;
  });
}

export interface GrantInput {
  manifest: string;
  vms: string[];
  privileges: PrivilegeGrant[];
  days: number;
  onViolation: Grant['onViolation'];
}

/** A grant valid from now on. */
export function makeGrant({ manifest, vms, privileges, days, onViolation }: GrantInput): Grant {
  const now = Date.now();
  return {
    format: 'portcullis-grant-1',
    manifest,
    vms,
    privileges,
    onViolation,
    notBefore: new Date(now - 60_000).toISOString(),
    notAfter: new Date(now + days * DAY_MS).toISOString(),
    serial: randomBytes(16).toString('hex'),
  };
}

/**
 * "KIND,NAME=VALUE,...": values are text; a value with '+' between parts is a list. `secret` names a file and the public key of a VMM, and comes back
 * sealed for the module whose manifest has this digest.
 */
export function parsePrivilege(text: string, digest: string): PrivilegeGrant {
  const [kind, ...pairs] = text.split(',');
  const texts = pairs.map((pair): [string, string] => {
    const equals = pair.indexOf('=');
    if (equals < 1)
      throw new UserError(
        `privilege "${text}": "${pair}" is not NAME=VALUE`,
        'e.g. pci-device,device=0000:00:03.0,vendor=8086,product=100e',
      );
    return [pair.slice(0, equals), pair.slice(equals + 1)];
  });
  const parameters =
    kind === SECRET
      ? sealed(text, texts, digest)
      : Object.fromEntries(texts.map(([name, value]) => [name, value.includes('+') ? value.split('+') : value]));
  const privilege = { kind, parameters };
  checkPrivilege(privilege);
  return privilege;
}

function sealed(text: string, texts: readonly [string, string][], digest: string): PrivilegeGrant['parameters'] {
  const { name, file, vmm, ...rest } = Object.fromEntries(texts);
  if (!name || !file || !vmm || Object.keys(rest).length > 0) {
    throw new UserError(`privilege "${text}": expected name, file and vmm`, 'e.g. secret,name=key,file=key.bin,vmm=vmm.pub');
  }
  const secret = readInput(file, SECRET_LIMIT, 'secret');
  try {
    return { name, sealed: sealSecret(secret, readInput(vmm, LIMITS.key, 'key').toString('utf8'), { manifest: digest, name }) };
  } finally {
    secret.fill(0);
  }
}
