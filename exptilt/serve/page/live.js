// An answer as it comes about: drawn anew with every population, and kept where a person was looking.

const NO_REFERENCE = { reference: null };

/** Put other nodes into a place; the card that was open, the keyboard's place and what was scrolled stay as they were. */
function redraw(place, nodes) {
  const card = (node) => node?.dataset?.place ?? null;
  const focused = place.contains(document.activeElement) ? card(document.activeElement) : null;
  const opened = card(place.querySelector(".card[aria-expanded=true]"));
  const tree = place.querySelector(".tree")?.parentElement;
  const atEnd = !tree || tree.scrollLeft + tree.clientWidth >= tree.scrollWidth - 8;
  const scrolled = tree?.scrollLeft ?? 0;
  const columns = place.querySelectorAll(".column").length;
  const unfolded = new Map([...place.querySelectorAll("details")].map((node) => [node.querySelector("summary").textContent.split(/[:,]/)[0], node.open]));
  place.replaceChildren(...nodes);
  for (const node of place.querySelectorAll("details")) node.open = unfolded.get(node.querySelector("summary").textContent.split(/[:,]/)[0]) ?? node.open;
  const find = (name) => name !== null && place.querySelector(`.card[data-place="${name}"]`);
  (find(opened) || null)?.click();
  (find(focused) || null)?.focus({ preventScroll: true });
  [...place.querySelectorAll(".column")].slice(columns).forEach((node) => node.classList.add("fresh"));
  const now = place.querySelector(".tree")?.parentElement;
  if (now) now.scrollLeft = atEnd ? now.scrollWidth : scrolled;
}

/** What runs cost so far, while they go on. */
function drawCost(run) {
  const seconds = ((run.ended ?? performance.now()) - run.began) / 1000;
  const facts = [
    several(run.populations, "population"),
    several(run.tokens, "token"),
    several(run.calls, "reward call"),
    `${seconds.toFixed(1)} s`,
    run.seed !== null && `seed ${run.seed}`,
  ].filter(Boolean);
  byId("cost").replaceChildren(el("p", { class: `facts state ${run.state}` }, el("span", { class: "phase" }, run.words), facts.map((fact) => el("span", {}, fact))));
}

/** The text of an answer of which only the beginning is known; nothing where it ended before it began. */
function drawBegun({ text, state }, title) {
  if (state !== "running" && text === "") return [];
  const caret = state === "running" && el("span", { class: "caret", "aria-hidden": "true" });
  return [el("h2", {}, title), el("section", { class: "block answer-block" }, el("p", { class: "passage" }, text, caret))];
}

/** The answer so far, with the tree, the chain or the drafts that it comes from. */
function drawRun(run) {
  const title = run.state === "done" ? "Chosen" : run.state === "running" ? "Chosen so far" : "Chosen until then";
  if (run.latest === null) {
    byId("chosen").replaceChildren(...drawBegun(run, title));
    if (run.grown !== null) redraw(byId("origin"), [drawTree(run.grown)]);
    return;
  }
  const { detail, glance } = run.latest;
  byId("chosen").replaceChildren(el("h2", {}, title), drawFinal(detail, NO_REFERENCE, glance, glance.answer));
  const request = el("details", {}, el("summary", {}, "The request"), el("p", { class: "about" }, "What was sent; ", el("code", {}, "/v1/chat/completions"), " takes the same."), el("pre", { tabindex: "0" }, JSON.stringify(run.body, null, 2)));
  redraw(byId("origin"), [...drawOrigin(detail, NO_REFERENCE), request]);
}

function drawPlain(run) {
  const title = "A plain draw";
  if (run.error !== null) byId("plain").replaceChildren(el("h2", {}, title), el("p", { class: "note bad" }, run.error.message));
  else if (run.latest === null || run.state === "running") byId("plain").replaceChildren(...drawBegun(run, title));
  else byId("plain").replaceChildren(el("h2", {}, title), plainAnswer(run.latest));
}

function plainAnswer({ detail, glance }) {
  const facts = [["reward", show(glance.reward)], ["tokens", show(glance.tokens)]];
  return el("section", { class: "block answer-block" }, glance.answer !== null && el("h3", { class: "final" }, glance.answer), passage(detail.texts[detail.chosen]), el("p", { class: "facts" }, facts.map(([name, given]) => el("span", {}, `${name} `, el("b", {}, given)))));
}
