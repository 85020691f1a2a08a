// Making elements: every text goes in as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; what is null or undefined is left out. */
function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value != null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

/** A table in a frame that scrolls by itself, also by keyboard, so that the page never does. */
function table(caption, heads, rows, classes = "") {
  const body = rows.map((row) =>
    make("tr", {}, row.map((cell, column) => (column ? make("td", {}, cell) : make("th", { scope: "row" }, cell))))
  );
  return make(
    "div",
    { class: `frame ${classes}`, tabindex: 0, role: "region", "aria-label": caption },
    make(
      "table",
      {},
      make("caption", {}, caption),
      make("thead", {}, make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, body)
    )
  );
}
