// Making elements, and writing numbers. Texts become text nodes only; nothing here or elsewhere parses markup.

const SVG = "http://www.w3.org/2000/svg";

/** Set attributes; `on` holds listeners, `style` CSS properties, and a value of null or false leaves its attribute out. */
function dress(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, heard] of Object.entries(value)) node.addEventListener(event, heard);
    else if (name === "style") for (const [property, set] of Object.entries(value)) node.style.setProperty(property, set);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const el = (tag, attributes = {}, ...children) => dress(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => dress(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);

/** A number as the data hold it: infinities come as words, what is missing as null. */
function num(value) {
  if (value === "inf") return Infinity;
  if (value === "-inf") return -Infinity;
  return typeof value === "number" ? value : NaN;
}

/** Three significant digits, as people write them. */
function show(value, digits = 3) {
  const number = num(value);
  if (Number.isNaN(number)) return "–";
  if (!Number.isFinite(number)) return number > 0 ? "∞" : "−∞";
  const size = Math.abs(number);
  if (size >= 1000) return Math.round(number).toLocaleString("en").replace("-", "−");
  const text = size !== 0 && size < 0.001 ? number.toExponential(1) : String(Number(number.toPrecision(digits)));
  return text.replace("-", "−");
}

const signed = (value) => (num(value) > 0 ? "+" : "") + show(value);
const percent = (value, digits = 0) => (Number.isNaN(num(value)) ? "–" : `${(100 * num(value)).toFixed(digits)}%`);
/** A share of a whole, with a decimal where it is small. */
const part = (value) => (value > 0 && value < 0.001 ? "<0.1%" : percent(value, value > 0 && value < 0.1 ? 1 : 0));
const several = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const ink = (method) => `var(--m${method % 8})`;

/** The value below which a share of sorted values lies. */
function quantile(sorted, share) {
  const place = (sorted.length - 1) * share;
  const below = Math.floor(place);
  const above = Math.min(sorted.length - 1, below + 1);
  return sorted[below] === sorted[above] ? sorted[below] : sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

/** A bar from 0 to `share` of its width. */
const bar = (share, attributes = {}) =>
  el("span", { class: "bar", "aria-hidden": "true", ...attributes }, el("i", { style: { width: `${100 * Math.max(0, Math.min(1, num(share) || 0))}%` } }));

const PICTURE = /^data:image\/png;base64,[A-Za-z0-9+/]+=*$/;
/** What stands for a draft may be the address of a small picture, which is in the page itself; null for a text. */
const picture = (text) => (PICTURE.test(text ?? "") ? el("img", { class: "picture", src: text, alt: "the picture that was drawn" }) : null);

/** A text with its first `kept` characters in grey, of which `tail` are shown; behind a button where it is long. */
function passage(text, kept = 0, tail = Infinity) {
  if (text === null || text === undefined) return el("p", { class: "gone" }, "text left out of the page");
  if (picture(text)) return el("p", { class: "passage" }, picture(text));
  const grey = kept > tail ? `… ${text.slice(kept - tail, kept).trimStart()}` : text.slice(0, kept);
  const node = el("p", { class: "passage" }, kept > 0 && el("span", { class: "kept" }, grey), text.slice(kept));
  if (text === "") node.append(el("span", { class: "gone" }, "(empty)"));
  if (text.length <= 600 && text.split("\n").length <= 10) return node;
  node.classList.add("short");
  const more = el("button", { type: "button", class: "plain", "aria-expanded": "false" }, "Show all of it");
  more.addEventListener("click", () => {
    const short = node.classList.toggle("short");
    more.textContent = short ? "Show all of it" : "Show less";
    more.setAttribute("aria-expanded", String(!short));
  });
  return el("div", {}, node, more);
}

/** How many characters two texts share at their start. */
function common(one, other) {
  let length = 0;
  while (length < one.length && one[length] === other[length]) length += 1;
  return length;
}

// ------------------------------------------------------------------------------------------------- tables and lines

const cells = (tag, values) => values.map((value) => el(tag, tag === "th" ? { scope: "col" } : {}, value));
const table = (kind, head, rows) => el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": kind },
  el("table", { class: kind.split(" ")[0].toLowerCase() }, el("thead", {}, el("tr", {}, cells("th", head))), el("tbody", {}, rows)));
const line = (x1, y1, x2, y2, kind) => svg("line", { x1, y1, x2, y2, class: kind });
const label = (x, y, text, anchor, kind = "tick") => svg("text", { x, y, "text-anchor": anchor, class: kind }, text);
