/** Every kind of file that the product reads. */
import { shareOf } from './share.ts';
import { FILE_TARGETS } from './targets/files.ts';

shareOf(FILE_TARGETS);
