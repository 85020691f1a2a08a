// Axes: from a value to its place in the drawing and back.

/** A scale from [low, high] to [from, to]; `base` makes it logarithmic. */
function scale(low, high, from, to, base = null) {
  const forth = base ? Math.log : (value) => value;
  const back = base ? Math.exp : (value) => value;
  const a = forth(low);
  const width = forth(high) - a || 1;
  return {
    low,
    high,
    at: (value) => from + ((forth(value) - a) / width) * (to - from),
    value: (place) => back(a + ((place - from) / (to - from)) * width),
    ticks: (wanted) => (base ? logTicks(low, high, base, wanted) : linearTicks(low, high, wanted)),
  };
}

/** Lowest and highest of the values, apart from null; null where there is none. */
function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value == null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : null;
}

/** Room around the values, so that a flat line stands in the middle. */
function padded([low, high], isLog) {
  if (isLog) return low === high ? [low / 2, high * 2] : [low / 1.1, high * 1.1];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

/** Whether a logarithmic axis says more: all values above zero, and the highest far above the lowest. */
function wantsLog([low, high]) {
  return low > 0 && high / low > 30;
}
