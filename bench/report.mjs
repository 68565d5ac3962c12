// How measures are summed up and shown. A row: { what, value, unit, beside: { name, value }, ratio, aim, note }; all but `what` may be absent.

export const minimum = (values) => Math.min(...values);

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Three figures are as many as a shared machine gives. */
function figure(value, unit = '') {
  if (value === undefined) return '';
  const digits = value === 0 || Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return `${value.toFixed(digits)}${unit && ` ${unit}`}`;
}

export function table(rows) {
  const lines = [
    ['', 'here', 'beside', '', 'ratio', 'aim'],
    ...rows.map(({ what, value, unit, beside, ratio, aim }) => [
      what,
      figure(value, unit),
      figure(beside?.value, unit),
      beside?.name ?? '',
      figure(ratio),
      aim ?? '',
    ]),
  ];
  const widths = lines[0].map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  const right = new Set([1, 2, 4]);
  return lines
    .map(
      (line) =>
        `  ${line
          .map((cell, column) => (right.has(column) ? cell.padStart(widths[column]) : cell.padEnd(widths[column])))
          .join('  ')
          .trimEnd()}`,
    )
    .join('\n');
}
