/** The hostile loader: it patches, misplaces, overlaps and lies about addresses (P9), and reaches for init in the wrong way. */
import { UserError } from '../base/errors.ts';
import { GATE_PORT, GATE_SIZE } from '../policy/manifest.ts';
import { parseManifest } from '../policy/schema.ts';
import { CORE, FAR, G, INIT, type LoadOptions, registered, T, tinyImage } from '../privileges/testing.ts';
import type { About, ContractAttack } from './attack.ts';
import { PRIVATE, SECOND_FRAMES, SHIFT, Stage } from './scenario.ts';

/** Loads the victim in a hostile way and calls its init; what is gained is that it runs. */
function loader(
  about: Omit<About, 'promises'> & { gained: string; promises?: About['promises'] },
  tamper: (stage: Stage) => void,
  options: LoadOptions = {},
): ContractAttack {
  const { gained, ...rest } = about;
  return {
    promises: ['P9'],
    ...rest,
    run() {
      const image = tinyImage();
      const stage = new Stage([registered(image)]);
      stage.load(image, options);
      tamper(stage);
      stage.call(G.init);
      return stage.outcome(stage.inside() && gained);
    },
  };
}
const nothing = () => {};
const accepted = 'the module is loaded with its privileges, and nobody is told';

export const loadingAttacks: readonly ContractAttack[] = [
  loader(
    { name: 'patched-text', what: 'the loader changes an instruction of the module', defences: ['text-comparison'], gained: accepted },
    (stage) => stage.poke(CORE + T.cleanup, 0x90),
  ),
  loader(
    { name: 'patched-gate', what: 'the loader changes where an entry gate leads', defences: ['text-comparison'], gained: accepted },
    (stage) => stage.poke(CORE + 0x1000 + GATE_SIZE * G.probe + 8, T.fixup),
  ),
  loader({ name: 'patched-init', what: 'the loader changes the init function', defences: ['text-comparison'], gained: accepted }, (stage) =>
    stage.poke(INIT + 5, 0x90),
  ),
  loader(
    { name: 'patched-constants', what: 'the loader changes a table of constants', defences: ['constants-comparison'], gained: accepted },
    (stage) => stage.poke(CORE + 0x2000 + 40, 0x66),
  ),
  loader(
    {
      name: 'code-in-the-gap',
      what: 'the loader hides code between two sections of a text page',
      defences: ['gap-comparison'],
      gained: accepted,
    },
    (stage) => stage.poke(CORE + 0x800, 0xc3),
  ),
  loader(
    {
      name: 'permuted-pages',
      what: 'the loader exchanges two pages of text',
      defences: 'where the sections lie is solved from the words that relocation wrote; in the wrong page they lead nowhere',
      gained: accepted,
    },
    (stage) => {
      const [text, init] = [stage.cpu.translate(CORE, false), stage.cpu.translate(INIT, false)];
      stage.tables.map(CORE, init);
      stage.tables.map(INIT, text);
    },
  ),
  loader(
    {
      name: 'one-frame-for-two-pages',
      what: 'the loader maps one frame behind two text pages',
      defences: ['frame-unshared', 'text-comparison', 'gap-comparison'],
      gained: accepted,
    },
    (stage) => stage.tables.map(INIT, stage.cpu.translate(CORE, false)),
  ),
  loader(
    {
      name: 'import-in-private-memory',
      what: "the loader says that a kernel variable lies in the module's private memory",
      promises: ['P7', 'P9'],
      defences: ['import-outside'],
      gained: 'the module takes its private memory for a variable of the kernel',
    },
    nothing,
    { imports: { jiffies: PRIVATE + 0x10 } },
  ),
  loader(
    {
      name: 'import-in-front-of-private-memory',
      what: "the loader says that a kernel variable lies so far below the module's private memory that a field of it lies inside",
      promises: ['P7', 'P9'],
      defences: ['import-outside'],
      gained: 'the module takes its private memory for a field of a variable of the kernel',
    },
    nothing,
    { imports: { jiffies: PRIVATE + 0x10 - FAR } },
  ),
  loader(
    {
      name: 'import-in-the-text',
      what: "the loader says that a kernel function lies in the module's text",
      defences: ['import-outside'],
      gained: "a call of the kernel stays in the module, at an instruction of the loader's choice",
    },
    nothing,
    { imports: { kfunc: CORE + T.fixup } },
  ),
  loader(
    {
      name: 'data-over-private-memory',
      what: 'the loader puts the data of the module, which the kernel writes, into its private memory',
      promises: ['P7', 'P9'],
      defences: ['sections-apart'],
      gained: 'the module keeps its shared variables in its private memory',
    },
    nothing,
    { bases: { data: PRIVATE + 0x800 } },
  ),
  loader(
    {
      name: 'data-in-the-text-page',
      what: "the loader puts the module's data into the page of its text",
      defences: ['sections-apart', 'gap-comparison'],
      gained: accepted,
    },
    nothing,
    { bases: { data: CORE + 0x800 } },
  ),
  loader(
    {
      name: 'text-in-user-space',
      what: 'the loader puts the init text into user memory',
      promises: ['P9', 'P11'],
      defences: ['section-addresses'],
      gained: accepted,
    },
    (stage) => stage.tables.map(0x40_0000, 0xb0_0000),
    { bases: { init: 0x40_0000 } },
  ),
  loader(
    {
      name: 'misaligned-private-memory',
      what: 'the loader puts private memory where it shares a page with what the kernel writes',
      promises: ['P7', 'P9'],
      defences: ['section-addresses', 'sections-apart'],
      gained: 'private memory begins in the middle of a page',
    },
    nothing,
    { bases: { private: PRIVATE + 0x10, data: CORE + 0x4100 } },
  ),
  loader(
    {
      name: 'text-at-the-end-of-the-address-space',
      what: 'the loader puts the init text where addresses wrap',
      promises: ['P9', 'P11'],
      defences: 'pages there are not mapped whole, and an address that is none cannot be reached by a relocation',
      gained: accepted,
    },
    nothing,
    { bases: { init: -0x800 } },
  ),
  {
    name: 'module-of-another-version',
    what: 'the guest loads another version of the granted module, with gates at the same places',
    promises: ['P9'],
    defences: ['text-comparison'],
    run() {
      const stage = new Stage([registered(tinyImage())]);
      stage.load(tinyImage({ version: 2 }));
      stage.call(G.init);
      return stage.outcome(stage.inside() && accepted);
    },
  },
  {
    name: 'module-of-nobody',
    what: 'the guest loads a guarded module that nobody has registered',
    promises: ['P9'],
    defences: 'the code of a view comes from a registered image; without one there is nothing to run',
    run() {
      const stage = new Stage([]);
      stage.load(tinyImage());
      stage.call(G.init);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'module-without-a-grant',
    what: 'the guest loads a registered module that no grant names',
    promises: ['P10'],
    defences: 'without a grant there are no privileges to attach, and no view is made',
    run() {
      const image = tinyImage();
      const stage = new Stage([registered(image, { granted: false, reason: 'no grant was given' })]);
      stage.load(image);
      stage.call(G.init);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'entry-before-init',
    what: 'the kernel calls an entry of a module whose init has not run',
    promises: ['P2', 'P9'],
    defences: ['init-first'],
    run() {
      const image = tinyImage();
      const stage = new Stage([registered(image)]);
      stage.load(image);
      stage.call(G.probe);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'init-twice',
    what: 'the kernel calls init again while it is away in the kernel',
    promises: ['P2'],
    defences: ['init-once'],
    run() {
      const image = tinyImage();
      const stage = new Stage([registered(image)]);
      stage.load(image);
      stage.call(G.init);
      stage.callOut(INIT + T.initAfterCall);
      stage.call(G.init, stage.rsp() - 0x40);
      return stage.outcome(stage.inView());
    },
  },
  {
    name: 'frames-of-a-live-module',
    what: 'the loader puts a second module into the guest frames of a live one',
    promises: ['P9', 'P12'],
    defences: ['frame-unshared'],
    run() {
      const [a, b] = [tinyImage({ module: 'a' }), tinyImage({ module: 'b', version: 2 })];
      const stage = new Stage([registered(a), registered(b)]);
      stage.start(a);
      const text = stage.cpu.translate(CORE, false);
      stage.tables.map(CORE + SHIFT, text);
      stage.load(b, { shift: SHIFT, frames: SECOND_FRAMES });
      stage.call(G.init, undefined, stage.cpu, SHIFT);
      return stage.outcome(stage.inside() && 'two modules own one guest frame');
    },
  },
  {
    name: 'addresses-of-a-live-module',
    what: "the loader puts a section of a second module where a live one's private memory is",
    promises: ['P7', 'P9'],
    defences: ['modules-apart'],
    run() {
      const [a, b] = [tinyImage({ module: 'a' }), tinyImage({ module: 'b', version: 2 })];
      const stage = new Stage([registered(a), registered(b)]);
      stage.start(a);
      stage.load(b, { shift: SHIFT, frames: SECOND_FRAMES, bases: { rodata: PRIVATE } });
      stage.call(G.init, undefined, stage.cpu, SHIFT);
      return stage.outcome(stage.inside() && 'two modules have the same addresses');
    },
  },
  {
    name: 'more-modules-than-pages',
    what: 'the guest loads modules until the host pages are used up',
    promises: ['P11'],
    defences: 'the pool of host pages has a size; a module that does not fit is refused whole',
    run() {
      const image = tinyImage();
      const stage = new Stage([registered(image)], { hostPages: 12 });
      let loaded = 0;
      for (let turn = 0; turn < 8; turn++) {
        const shift = SHIFT + turn * 0x10_0000;
        stage.load(image, { shift, frames: 0xe0_0000 - turn * 0x8000 });
        stage.call(G.init, undefined, stage.cpu, shift);
        if (stage.inside()) {
          loaded += 1;
          stage.ret();
        }
      }
      const { allocated } = stage.engine;
      stage.monitor.end();
      return stage.outcome((loaded > 3 || allocated > 12) && `${loaded} modules with ${allocated} pages`);
    },
  },
  {
    name: 'malformed-manifests',
    what: 'a thousand manifests with one field each changed to something absurd',
    promises: ['P11'],
    defences: 'every field has a schema with a range, and what does not fit is an error that names it',
    run() {
      const good = {
        format: 'portcullis-manifest-1',
        module: 'tiny',
        vermagic: 'x',
        image: 'a'.repeat(64),
        source: 'b'.repeat(64),
        linker: 'x',
        gatePort: GATE_PORT,
        sections: [{ index: 1, name: '.text', role: 'text', size: 16, align: 16, init: false }],
        gates: [
          { kind: 'return', offset: 0, symbol: '' },
          { kind: 're-entry', offset: 16, symbol: '' },
        ],
        initGate: -1,
        cleanupGate: -1,
        imports: ['printk'],
        vector: false,
        privileges: [],
      };
      parseManifest(JSON.stringify(good), 'good');
      const absurd = [null, -2, 1.5, 2 ** 60, 'x'.repeat(5000), [], {}, { __proto__: 1, x: 1 }, [null], '\0', true];
      const stage = new Stage([]);
      const problems: string[] = [];
      const attempt = (value: unknown) => {
        try {
          parseManifest(JSON.stringify(value), 'bad');
        } catch (error) {
          if (!(error instanceof UserError)) problems.push(String(error));
        }
      };
      const visit = (node: unknown, put: (value: unknown) => void) => {
        for (const value of absurd) {
          put(value);
          attempt(good);
        }
        put(node);
        if (typeof node !== 'object' || node === null) return;
        const record = node as Record<string, unknown>;
        for (const key of Object.keys(record)) visit(record[key], (value) => (record[key] = value));
      };
      for (const key of Object.keys(good) as (keyof typeof good)[]) visit(good[key], (value) => Object.assign(good, { [key]: value }));
      return stage.outcome(problems.length > 0 && `${problems.length} manifests were not answered by a clear error: ${problems[0]}`);
    },
  },
];
