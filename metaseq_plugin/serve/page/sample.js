// One continuation: its text as it comes, divided into its tokens, and why it ended.

import { percent } from "./text.js";

const END = "</s>";

// The least probability of each step of the colour scale, the likeliest first.
const STEPS = [0.5, 0.2, 0.05, 0.01, 0];

/**
 * Text and tokens that arrive in pieces, divided into groups: the tokens that begin at one place, and
 * the text from there to the next group. Most groups are one token; a character of several tokens is
 * one group. Offsets count code points, as the server does.
 */
export class TokenText {
  #points = [];
  groups = []; // {start, tokens: [{text, logprob, alternatives: [[text, logprob]]}]}

  add(text, logprobs) {
    for (const point of text) this.#points.push(point);
    const tokens = logprobs?.tokens ?? [];
    tokens.forEach((token, index) => {
      const start = logprobs.text_offset[index];
      const last = this.groups.at(-1);
      const made = {
        text: token,
        logprob: logprobs.token_logprobs[index],
        alternatives: Object.entries(logprobs.top_logprobs?.[index] ?? {}).sort((a, b) => b[1] - a[1]),
      };
      if (last && start <= last.start) last.tokens.push(made);
      else this.groups.push({ start, tokens: [made] });
    });
  }

  get text() {
    return this.#points.join("");
  }

  /** The text of a group; of the last one, all that is there yet. */
  textOf(number) {
    const start = number === 0 ? 0 : this.groups[number].start;
    return this.#points.slice(start, this.groups[number + 1]?.start).join("");
  }
}

/** A continuation on the page. */
export class Sample {
  #content = new TokenText();
  #output;
  #ending;
  #painted = 0; // groups that are shown
  isEnded = false;

  constructor(template, number, count) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.#output = this.element.querySelector(".text");
    this.#ending = this.element.querySelector(".ending");
    const name = count > 1 ? `Sample ${number + 1}` : "Continuation";
    this.element.querySelector("h3").textContent = name;
    this.#output.setAttribute("aria-label", name);
  }

  get text() {
    return this.#content.text;
  }

  /** Takes one choice of a chunk; `paint` shows it. */
  add(choice) {
    this.#content.add(choice.text ?? "", choice.logprobs);
    if (choice.finish_reason) this.end(choice.finish_reason, this.#meaningOf(choice.finish_reason));
  }

  #meaningOf(reason) {
    if (reason === "length") return "as many new tokens as were asked for";
    if (reason !== "stop") return "";
    const last = this.#content.groups.at(-1)?.tokens.at(-1);
    if (!last) return "the model ended its text, or came to a stop text";
    return last.text === END ? "the model ended its text" : "a stop text came up";
  }

  end(reason, sentence = "") {
    this.isEnded = true;
    this.element.classList.remove("running");
    const mark = document.createElement("strong");
    mark.textContent = reason;
    this.#ending.replaceChildren(mark, sentence ? ` — ${sentence}` : "");
  }

  /** Shows what came since the last time. */
  paint() {
    const { groups } = this.#content;
    if (!groups.length) {
      this.#output.textContent = this.text;
      return;
    }
    // The last group that was shown may have grown.
    for (let number = Math.max(0, this.#painted - 1); number < groups.length; number++) {
      this.#paintGroup(number);
    }
    this.#painted = groups.length;
  }

  #paintGroup(number) {
    const { tokens } = this.#content.groups[number];
    const span = this.#output.children[number] ?? this.#output.appendChild(newToken(number));
    const logprob = tokens.reduce((sum, token) => sum + token.logprob, 0);
    const text = this.#content.textOf(number);
    span.textContent = text;
    span.dataset.step = STEPS.findIndex((least) => Math.exp(logprob) >= least);
    span.dataset.percent = percent(Math.exp(logprob));
    span.classList.toggle("break", text.startsWith("\n"));
    // The </s> that ended the text is no part of it, but its probability is of interest.
    const isEnd = text === "" && tokens[0].text === END;
    span.classList.toggle("end", isEnd);
    span.classList.toggle("unwritten", text === "" && !isEnd);
  }

  /** The tokens that `span` of this sample shows. */
  tokensOf(span) {
    return this.#content.groups[Number(span.dataset.number)].tokens;
  }
}

function newToken(number) {
  const span = document.createElement("span");
  span.className = "token";
  span.dataset.number = number;
  span.tabIndex = number === 0 ? 0 : -1; // one stop of Tab; the arrow keys go on from there
  return span;
}
