// Numbers as people read them, and the places of an axis that deserve a label.

/** Four digits at most, with an ordinary letter for thousands, millions…; powers of ten where it is tiny. */
function short(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e15) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  for (const [unit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= unit) return `${rounded(value / (letter === "k" ? 1e3 : unit))}${letter}`;
  }
  return rounded(value);
}

/** Four digits that count, without zeros at the end. */
function rounded(value) {
  return String(Number(value.toPrecision(4)));
}

/** The value as the table shows it: six digits that count. */
function exact(value) {
  return value == null ? "–" : String(Number(value.toPrecision(6)));
}

/** Round values in [low, high], about `wanted` of them. */
function linearTicks(low, high, wanted) {
  const step = roundStep((high - low) / wanted);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

/** 1, 2 or 5 times a power of ten, at least `step`. */
function roundStep(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  return [1, 2, 5, 10].find((factor) => factor * power >= step * (1 - 1e-9)) * power;
}

/** Powers of `base` in [low, high], thinned to about `wanted`; round values where that leaves fewer than two. */
function logTicks(low, high, base, wanted) {
  const exponent = (value) => Math.log(value) / Math.log(base);
  const first = Math.ceil(exponent(low) - 1e-9);
  const last = Math.floor(exponent(high) + 1e-9);
  const every = Math.max(1, Math.ceil((last - first + 1) / wanted));
  const ticks = [];
  for (let power = first; power <= last; power += every) ticks.push(base ** power);
  return ticks.length < 2 ? linearTicks(low, high, wanted).filter((tick) => tick > 0) : ticks;
}
