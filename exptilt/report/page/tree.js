// How an answer grew: columns of partial drafts with the path that was taken, or the path of a Markov chain.

const GAP = 8;
const WIRE = 44; // pixels between two columns

/** The whole tree, with a panel below for the card that is opened. */
function drawTree(data) {
  const { columns, kind } = data.tree;
  const most = Math.max(...columns.map((column) => column.cards.length));
  const longest = Math.max(...columns.flatMap((column, place) => column.cards.map((_, number) => ((at) => at.text.length - at.kept)(grown(data, place, number)))));
  const lines = Math.max(1, Math.min(most > 8 ? 2 : 3, Math.ceil(longest / 26))); // of about 26 characters
  const seen = columns.some((column) => column.cards.some((card) => picture(data.texts[card.text])));
  const height = seen ? 96 : 38 + 17 * lines; // a head, and a picture or lines
  const panel = el("div", { class: "panel", "aria-live": "polite" });
  const rewards = (data.rewards ?? []).map(num).filter(Number.isFinite);
  const scale = { low: Math.min(...rewards), high: Math.max(...rewards) };
  const parts = columns.map((column, place) => [
    place > 0 && wires(columns[place - 1], column, height),
    el("div", { class: "column", role: "group", "aria-label": column.title },
      el("div", { class: "column-head" }, el("b", {}, column.title), el("span", { class: "quiet" }, column.note)),
      column.cards.map((card, number) => drawCard(data, place, number, { height, panel, scale }))),
  ]);
  const tree = el("div", { class: "tree", style: { "--card": `${height}px`, "--gap": `${GAP}px`, "--wire": `${WIRE}px` } }, parts);
  tree.addEventListener("keydown", (event) => walk(event, tree));
  const about = kind === "candidates"
    ? "Each column holds the candidates of one step; bars are their shares of the energy Ê, the mean of exp(r/β) over their rollouts; the ticks are these rollouts, as high as their rewards. The marked path is the chain. Open a card for its rollouts."
    : "Each column holds the particles of one generation; bars are their shares of the weight. Lines lead from parents; the marked path leads to the chosen response. Open a card for its text.";
  return el("section", { class: "block" }, el("h3", {}, kind === "candidates" ? "Tree" : "Generations"), el("p", { class: "about" }, about), el("div", { class: "scroll" }, tree), panel);
}

/** Curves from every card of a column to its parent in the column before. */
function wires(before, column, height) {
  const middle = (place) => place * (height + GAP) + height / 2;
  const most = Math.max(before.cards.length, column.cards.length);
  const total = most * (height + GAP);
  const curve = (card, place) => {
    const [from, to] = [middle(card.parent), middle(place)];
    return svg("path", { d: `M0 ${from} C${WIRE / 2} ${from} ${WIRE / 2} ${to} ${WIRE} ${to}`, class: card.path ? "wire path" : "wire" });
  };
  const drawn = column.cards.map((card, place) => [card, place]).filter(([card]) => card.parent >= 0).sort(([one], [other]) => (one.path ?? false) - (other.path ?? false));
  return svg("svg", { class: "wires", width: WIRE, height: total, viewBox: `0 0 ${WIRE} ${total}`, "aria-hidden": "true" }, drawn.map(([card, place]) => curve(card, place)));
}

/** The text of a card and how much of it its parent had already. */
function grown(data, place, number) {
  const card = data.tree.columns[place].cards[number];
  const text = data.texts[card.text];
  const parent = place > 0 && card.parent >= 0 ? data.texts[data.tree.columns[place - 1].cards[card.parent].text] : "";
  return { card, text, kept: !picture(text) && text.startsWith(parent) ? parent.length : 0 };
}

function drawCard(data, place, number, { height, panel, scale }) {
  const { card, text, kept } = grown(data, place, number);
  const added = picture(text) ? "a picture" : text.slice(kept);
  const name = `${data.tree.columns[place].title}, number ${number + 1}${card.path ? ", on the path" : ""}, ${percent(card.share)}: ${added}`;
  const node = el("button", { type: "button", class: `card${card.path ? " path" : ""}`, style: { height: `${height}px` }, "aria-expanded": "false", "aria-label": name, "data-place": `${place}-${number}` },
    el("span", { class: "card-head" }, el("span", { class: "number" }, number + 1), bar(card.share), el("span", { class: "share" }, part(card.share)), ticksOf(data, card, scale)),
    picture(text) ?? el("span", { class: "card-text" }, added === "" ? el("span", { class: "gone" }, "(ended before)") : [kept > 0 && el("span", { class: "kept" }, "…"), added.replaceAll("\n", " ⏎ ")]));
  node.addEventListener("click", () => {
    const opened = node.getAttribute("aria-expanded") === "true";
    for (const other of node.closest(".tree").querySelectorAll(".card")) other.setAttribute("aria-expanded", "false");
    node.setAttribute("aria-expanded", String(!opened));
    panel.replaceChildren(...(opened ? [] : [drawPanel(data, place, number)]));
  });
  return node;
}

/** One tick for each rollout, as high as its reward among those of the prompt. */
function ticksOf(data, card, { low, high }) {
  if (!card.rollouts || card.rollouts[1] === 0) return null;
  const [first, count] = card.rollouts;
  const heights = data.rewards.slice(first, first + Math.min(count, 24)).map(num).map((reward) => (Number.isFinite(reward) ? 3 + (high > low ? (reward - low) / (high - low) : 1) * 11 : 1));
  return svg("svg", { class: "ticks-of", width: heights.length * 4, height: 15, "aria-hidden": "true" }, heights.map((tall, place) => svg("rect", { x: place * 4, y: 15 - tall, width: 3, height: tall })));
}

function drawPanel(data, place, number) {
  const { card, text, kept } = grown(data, place, number);
  const column = data.tree.columns[place];
  const logName = data.tree.kind === "candidates" ? "log Ê" : "log weight";
  const facts = [`${logName} ${signed(card.log)}`, `${percent(card.share, 1)} of the column`, card.path && "on the path"].filter(Boolean);
  return el("div", { class: "opened" },
    el("h4", {}, `${column.title}, ${data.tree.kind === "candidates" ? "candidate" : "particle"} ${number + 1}`), el("p", { class: "quiet" }, facts.join(" · ")),
    passage(text, kept),
    card.rollouts && card.rollouts[1] > 0 && drawRollouts(data, card, text));
}

function drawRollouts(data, card, text) {
  const [first, count] = card.rollouts;
  const numbers = Array.from({ length: count }, (_, place) => first + place);
  return el("ol", { class: "rollouts", "aria-label": "Rollouts" }, numbers.map((row) => {
    const [place, answer] = data.drafts[data.rows[row]];
    const whole = place === null ? null : data.texts[place];
    return el("li", {}, el("span", { class: "facts" }, el("span", {}, "reward ", el("b", {}, show(data.rewards[row]))), el("span", {}, "weight ", el("b", {}, percent(data.weights[row], 1))), el("span", {}, "answer ", el("b", {}, answer ?? "none"))),
      passage(whole, whole?.startsWith(text) ? text.length : 0, 40));
  }));
}

/** Arrow keys move among the cards: up and down in a column, left and right along the columns. */
function walk(event, tree) {
  const move = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
  const here = event.target.dataset?.place;
  if (!move || here === undefined) return;
  const [place, number] = here.split("-").map(Number);
  const column = [...tree.querySelectorAll(`[data-place^="${place + move[0]}-"]`)];
  const next = column[Math.min(column.length - 1, number + move[1])];
  event.preventDefault();
  event.stopPropagation();
  next?.focus();
}

// ------------------------------------------------------------------------------------------------------ Markov chains

/** The states of each chain as [row of the population, first step, steps held], repeats joined. */
function stays(data, chain) {
  const { chains, burn_in: start, steps } = data.chain;
  const found = [];
  for (let number = 0; number < steps; number += 1) {
    const row = number * chains + chain;
    const last = found.at(-1);
    if (last && data.rows[last.row] === data.rows[row]) last.held += 1;
    else found.push({ row, step: start + number, held: 1 });
  }
  return found;
}

function drawChain(data) {
  const paths = Array.from({ length: data.chain.chains }, (_, chain) => stays(data, chain));
  return el("section", { class: "block" }, el("h3", {}, data.chain.chains > 1 ? "Chains" : "Chain"),
    el("p", { class: "about" }, "The reward of each state; a dot is a move to another text, a flat line a state that was held. Below, what each move kept is grey."),
    chainPlot(data, paths),
    paths.map((path, chain) => el("details", { open: paths.length === 1 }, el("summary", {}, `${paths.length > 1 ? `Chain ${chain + 1}: ` : ""}${several(path.length, "state")}`), drawStates(data, path))));
}

function drawStates(data, path) {
  const most = 40;
  const textOf = (stay) => (data.drafts[data.rows[stay.row]][0] === null ? null : data.texts[data.drafts[data.rows[stay.row]][0]]);
  const item = (stay, place) => {
    const [text, before] = [textOf(stay), place > 0 ? textOf(path[place - 1]) : ""];
    const steps = stay.held > 1 ? `steps ${stay.step} – ${stay.step + stay.held - 1}` : `step ${stay.step}`;
    return el("li", {}, el("span", { class: "facts" }, el("span", {}, steps), el("span", {}, "reward ", el("b", {}, show(data.rewards[stay.row]))), el("span", {}, "answer ", el("b", {}, data.drafts[data.rows[stay.row]][1] ?? "none"))),
      passage(text, text === null || before === null ? 0 : common(text, before)));
  };
  const listed = el("ol", { class: "rollouts" }, path.slice(0, most).map(item));
  if (path.length <= most) return listed;
  const more = el("button", { type: "button", class: "plain" }, `Show ${path.length - most} more`);
  more.addEventListener("click", () => {
    listed.append(...path.slice(most).map((stay, place) => item(stay, place + most)));
    more.remove();
  });
  return el("div", {}, listed, more);
}

function chainPlot(data, paths) {
  const [width, height, left, bottom] = [760, 150, 48, 26];
  const values = data.rewards.map(num).filter(Number.isFinite);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [start, end] = [data.chain.burn_in, data.chain.burn_in + Math.max(1, data.chain.steps - 1)];
  const x = (step) => left + ((step - start) / (end - start)) * (width - left - 10);
  const y = (value) => (high === low ? height / 2 : 10 + (1 - (Math.max(low, num(value)) - low) / (high - low)) * (height - bottom - 18));
  const path = (stays) => stays.map((stay, place) => `${place ? "L" : "M"}${x(stay.step).toFixed(1)} ${y(data.rewards[stay.row]).toFixed(1)}H${x(Math.min(end, stay.step + stay.held)).toFixed(1)}`).join("");
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", class: "plot", "aria-label": `Rewards along ${several(paths.length, "chain")} from step ${start} to ${end}, between ${show(low)} and ${show(high)}` },
    [...new Set([low, high])].map((value) => [line(left, y(value), width - 10, y(value), "grid"), label(left - 8, y(value) + 4, show(value), "end")]),
    [start, end].map((step, place) => label(x(step), height - 6, `step ${step}`, place ? "end" : "start")),
    paths.map((stays, chain) => svg("g", { style: { color: ink(chain) } }, svg("path", { d: path(stays), class: "curve" }),
      stays.length <= 200 && stays.slice(1).map((stay) => svg("circle", { cx: x(stay.step), cy: y(data.rewards[stay.row]), r: 2.5, class: "dot" })))));
}
