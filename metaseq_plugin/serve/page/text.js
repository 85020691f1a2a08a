// How probabilities and texts are spelled.

// What a reader cannot see, or what turns the order of a line around.
const UNSEEN = /[\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const MARKS = { "\n": "↵", "\t": "⇥", "\r": "␍" };

/** `text` with what cannot be seen as \uXXXX, which JSON and Python read as the same character. */
export function spelled(text) {
  return text.replace(
    UNSEEN,
    (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** A token's text with what cannot be seen made visible. */
export function visible(text) {
  return spelled(text.replace(/[\n\t\r]/g, (found) => MARKS[found]).replaceAll(" ", "␣"));
}

/** A probability as people read it. */
export function percent(probability) {
  const value = probability * 100;
  if (value > 0 && value < 0.01) return "< 0.01 %";
  return `${value.toFixed(value >= 9.95 ? 0 : value >= 0.995 ? 1 : 2)} %`;
}

/** A length of time as people read it. */
export function duration(milliseconds) {
  const seconds = milliseconds / 1000;
  return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
}
