/**
 * `secret`: bytes that the administrator provisions and only the module sees. They come sealed in the grant (policy/seal.ts), are opened
 * when an instance starts, written into its private memory and nowhere else, and wiped there when the instance ends or is quarantined.
 */
import { on } from '../base/defence-switch.ts';
import { UserError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Attachment, Privilege, PrivilegeTarget } from '../monitor/privilege.ts';
import type { ManifestSection } from '../policy/manifest.ts';
import { SECRET_HEADER, SECRET_SECTION } from '../policy/private-memory.ts';
import { openSecret, type SealContext } from '../policy/seal.ts';
import { badParameter, onlyParameters, type Parameters } from './parameters.ts';

export const SECRET = 'secret';

export interface SecretParameters {
  /** As in PORTCULLIS_SECRET(name, size) of the module. */
  name: string;
  /** Base64, from `sealSecret`. */
  sealed: string;
}

/** Throws UserError. */
export function secretParameters(parameters: Parameters): SecretParameters {
  onlyParameters(SECRET, parameters, ['name', 'sealed']);
  const { name, sealed } = parameters;
  if (typeof name !== 'string' || !/^\w{1,64}$/.test(name))
    throw badParameter(SECRET, `name ${JSON.stringify(name)}`, 'the name of a PORTCULLIS_SECRET in the module');
  if (typeof sealed !== 'string' || !/^[A-Za-z0-9+/]{44,}={0,2}$/.test(sealed))
    throw badParameter(SECRET, 'a sealed value that is none', 'base64 as made by portcullis grant');
  return { name, sealed };
}

/** What is known of the module when its grant is configured. */
export interface SecretModule {
  /** Digest of its manifest. */
  digest: string;
  sections: readonly Pick<ManifestSection, 'name' | 'role' | 'size'>[];
}

export class SecretPrivilege implements Privilege {
  readonly kind = SECRET;
  readonly description: string;
  private readonly section: string;
  private readonly context: SealContext;

  /** Throws UserError when the module has no place for the secret, or it cannot be opened with this VMM's key. */
  constructor(
    private readonly parameters: SecretParameters,
    module: SecretModule,
    private readonly vmmKey: string,
    private readonly log: Log,
  ) {
    const { name, sealed } = parameters;
    this.section = SECRET_SECTION + name;
    this.description = `secret ${name}`;
    this.context = { manifest: module.digest, name };
    const place = module.sections.find((section) => section.name === this.section && section.role === 'private');
    if (!place)
      throw new UserError(
        `privilege ${SECRET}: the module has no private section ${this.section}`,
        `the module must declare PORTCULLIS_SECRET(${name}, SIZE)`,
      );
    const secret = openSecret(sealed, vmmKey, this.context);
    const { length } = secret;
    secret.fill(0);
    if (length > place.size - SECRET_HEADER) {
      throw new UserError(
        `privilege ${SECRET}: secret ${name} has ${length} bytes; the module has room for ${place.size - SECRET_HEADER}`,
        'seal a shorter secret',
      );
    }
  }

  attach(target: PrivilegeTarget): Attachment {
    const place = target.privateSection(this.section);
    if (place) {
      const secret = openSecret(this.parameters.sealed, this.vmmKey, this.context);
      place.write(SECRET_HEADER, secret);
      place.writeWord(0, secret.length);
      secret.fill(0);
    } else
      this.log.warn('a secret has no use: the code of the module never reads it', { module: target.module, secret: this.parameters.name });
    return { passive: true, raise: () => {}, lower: () => {}, detach: () => on('secret-wipe') && place?.clear() };
  }
}
