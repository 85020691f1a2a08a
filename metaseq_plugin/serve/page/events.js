// Server-sent events from a stream of bytes that may be cut anywhere: in a character, in a line end.

/** Lines of text in, in any pieces; the data of each finished event out. */
export class EventParser {
  #line = "";
  #data = [];
  #endedInReturn = false;

  /** The data of the events that `text` finishes, in order. */
  push(text) {
    if (text === "") return [];
    // A line end of two characters that was cut between them.
    if (this.#endedInReturn && text.startsWith("\n")) text = text.slice(1);
    const lines = (this.#line + text).split(/\r\n|\n|\r/);
    this.#endedInReturn = text.endsWith("\r");
    this.#line = lines.pop();
    return lines.flatMap((line) => this.#take(line));
  }

  #take(line) {
    if (line === "") {
      const data = this.#data;
      this.#data = [];
      return data.length ? [data.join("\n")] : [];
    }
    const [, field, value] = /^([^:]*)(?::[ ]?(.*))?$/su.exec(line);
    if (field === "data") this.#data.push(value ?? "");
    return []; // comments and the other fields say nothing here
  }
}

/** The data of each event of a response's body, as it comes. */
export async function* eventsOf(body) {
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    // Who stops listening early lets go of the connection: the server frees its place.
    reader.cancel().catch(() => undefined);
  }
}
