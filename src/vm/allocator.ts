/**
 * Gives back to the host what the C library's allocator keeps. V8 compiles the CPU core in threads of its own, each with an arena that grows by some
 * 50 MiB and is empty a moment later; glibc returns only the end of an arena by itself. Measured: 150 MiB of a machine's 300 beside the guest.
 */
import koffi from 'koffi';

/** The core is compiled in the first seconds, and parts of it again when they turn out to be busy. ms after the start. */
const TIMES = [3_000, 10_000, 30_000];
/** Later, what a burst of frames or messages left behind: 26 MiB stayed after one in a soak of 36 minutes (npm run soak). ms. */
const PERIOD = 60_000;

/** Trims a few times after the start, and now and then. Does nothing where the C library is not glibc. The result ends it. */
export function trimAllocator(): () => void {
  let trim: (() => void) | undefined;
  try {
    // malloc_trim(3): releases free memory of all arenas; `pad` bytes stay at the top of the main one.
    const call = koffi.load('libc.so.6').func('int malloc_trim(size_t pad)');
    trim = () => call(0);
  } catch {
    return () => {};
  }
  const timers = TIMES.map((time) => setTimeout(trim, time).unref());
  const period = setInterval(trim, PERIOD).unref();
  return () => {
    timers.forEach(clearTimeout);
    clearInterval(period);
  };
}
