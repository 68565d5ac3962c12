/** "Did you mean": the known word that the fewest slips of the keyboard turn into the given one. */

/** Letters changed, added or left out between two words (Levenshtein distance). */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1));
    row = next;
  }
  return row[b.length];
}

/** The nearest of `words`, if it is near enough to be meant. Words are cut at 64 letters. */
export function nearest(given: string, words: readonly string[]): string | undefined {
  const word = given.slice(0, 64);
  let best: string | undefined;
  let least = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of words) {
    const slips = distance(word, candidate.slice(0, 64));
    if (slips < least) [best, least] = [candidate, slips];
  }
  return best;
}
