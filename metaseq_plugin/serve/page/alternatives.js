// The tooltip of a token: its probability, and what else was likely there. By pointer and by keyboard.

import { percent, visible } from "./text.js";

/** Shows the tooltip for the tokens inside `area`; `sampleOf(span)` is the sample that holds a span. */
export function showAlternatives(area, tooltip, sampleOf) {
  let shown = null;

  function hide() {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    tooltip.hidden = true;
  }

  function show(span) {
    if (span === shown) return;
    hide();
    shown = span;
    tooltip.replaceChildren(...sampleOf(span).tokensOf(span).map(likely));
    tooltip.hidden = false;
    span.setAttribute("aria-describedby", tooltip.id);
    place(tooltip, span);
  }

  function hideUnlessInside(event) {
    const to = event.relatedTarget;
    if (to && (tooltip.contains(to) || to === shown)) return;
    const focused = document.activeElement;
    if (event.type === "mouseout" && focused !== shown && focused?.matches(".token")) show(focused);
    else if (event.type === "focusout" || focused !== shown) hide();
  }

  area.addEventListener("mouseover", (event) => {
    if (event.target.matches(".token")) show(event.target);
  });
  area.addEventListener("focusin", (event) => {
    if (event.target.matches(".token")) show(event.target);
    else hide();
  });
  area.addEventListener("mouseout", hideUnlessInside);
  area.addEventListener("focusout", hideUnlessInside);
  tooltip.addEventListener("mouseleave", hideUnlessInside);
  area.addEventListener("click", (event) => {
    if (event.target.matches(".token")) moveTo(event.target, event.target);
  });
  area.addEventListener("keydown", (event) => {
    if (!event.target.matches(".token")) return;
    const next = neighbour(event.target, event.key);
    if (!next) return;
    event.preventDefault();
    moveTo(event.target, next);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
  });
  return hide;
}

/** Gives `next` the focus, and the one stop of Tab that its text has. */
function moveTo(from, next) {
  for (const span of next.parentElement.querySelectorAll("[tabindex='0']")) span.tabIndex = -1;
  next.tabIndex = 0;
  from.blur();
  next.focus();
}

/** The token that an arrow key, Home or End leads to, or null. */
function neighbour(span, key) {
  const tokens = span.parentElement.children;
  if (key === "ArrowRight") return span.nextElementSibling;
  if (key === "ArrowLeft") return span.previousElementSibling;
  if (key === "Home") return tokens[0];
  if (key === "End") return tokens[tokens.length - 1];
  if (key === "ArrowDown") return lineNeighbour(span, "nextElementSibling");
  if (key === "ArrowUp") return lineNeighbour(span, "previousElementSibling");
  return null;
}

/** The nearest token of the next or previous line. */
function lineNeighbour(span, direction) {
  let other = span[direction];
  while (other && other.offsetTop === span.offsetTop) other = other[direction];
  if (!other) return null;
  const line = other.offsetTop;
  const away = (token) => Math.abs(token.offsetLeft - span.offsetLeft);
  let nearest = other;
  for (; other && other.offsetTop === line; other = other[direction]) {
    if (away(other) < away(nearest)) nearest = other;
  }
  return nearest;
}

/** One token: what was likely in its place, each with its probability as a bar and a number. */
function likely({ text: chosen, logprob, alternatives }) {
  const isListed = alternatives.some(([text]) => text === chosen);
  const rows = isListed ? alternatives : [...alternatives, [chosen, logprob]];
  const list = document.createElement("ol");
  for (const [text, score] of rows) {
    const row = list.appendChild(document.createElement("li"));
    row.classList.toggle("chosen", text === chosen);
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.style.width = `${Math.exp(score) * 100}%`;
    row.append(isolated(text), chance(score), bar);
  }
  return list;
}

/** A token's text, which cannot turn the text around it to the other direction. */
function isolated(text) {
  const made = document.createElement("bdi");
  made.textContent = visible(text);
  return made;
}

function chance(logprob) {
  const made = document.createElement("span");
  made.className = "chance";
  made.textContent = percent(Math.exp(logprob));
  return made;
}

/** Below the token, or above it where there is no room below; inside the window. */
function place(tooltip, span) {
  // A token may be broken over two lines, its space at the end of the first.
  const boxes = [...span.getClientRects()].sort((a, b) => b.width - a.width);
  const box = boxes[0] ?? span.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = tooltip;
  const view = document.documentElement;
  const left = Math.max(8, Math.min(box.left, view.clientWidth - width - 8));
  const isBelow = box.bottom + height + 4 < view.clientHeight || box.top < height + 4;
  const top = isBelow ? box.bottom + 4 : box.top - height - 4;
  tooltip.style.left = `${left + scrollX}px`;
  tooltip.style.top = `${top + scrollY}px`;
}
