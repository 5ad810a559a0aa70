// What an answer was chosen from: the posterior over answers, all drafts with their weights, and how the numbers settled.

function drawPosterior(data, prompt) {
  if (data.posterior.length === 0 || picture(data.texts[data.chosen])) return null; // pictures have no answers to add up
  const [most, rest] = [data.posterior.slice(0, 8), data.posterior.slice(8)];
  const items = most.map(([answer, share]) => {
    const marks = [answer !== null && answer === data.answer && "chosen", answer !== null && answer === prompt.reference && "reference"].filter(Boolean);
    return el("li", { class: marks.includes("chosen") ? "chosen" : "" }, el("span", { class: "answer" }, answer ?? "(no answer)"), bar(share), el("span", { class: "share" }, part(share)), el("span", { class: "quiet" }, marks.join(", ")));
  });
  if (rest.length > 0) {
    const share = rest.reduce((sum, [, part]) => sum + part, 0);
    items.push(el("li", { class: "quiet" }, el("span", { class: "answer" }, `${rest.length} more`), bar(share), el("span", { class: "share" }, part(share)), el("span")));
  }
  return el("section", { class: "block" }, el("h3", {}, "Posterior over answers"), el("ol", { class: "posterior" }, items));
}

/** Where in the tree each row of the population was drawn, as "step · candidate". */
function origins(data) {
  const found = new Map();
  data.tree?.columns.forEach((column, place) => column.cards.forEach((card, number) => {
    const [first, count] = card.rollouts ?? [0, 0];
    for (let row = first; row < first + count; row += 1) found.set(row, `${place + 1}·${number + 1}`);
  }));
  return found;
}

/** The different drafts, each with the weight of all its rows. */
function gather(data) {
  const from = origins(data);
  const gathered = data.drafts.map(([text, answer, length, finish, chosen]) => ({ text, answer, length, finish, chosen, weight: 0, count: 0, reward: NaN, from: [] }));
  data.rows.forEach((draft, row) => {
    const into = gathered[draft];
    into.weight += data.weights[row];
    into.count += 1;
    into.reward = data.rewards[row];
    if (from.has(row)) into.from.push(from.get(row));
  });
  return gathered;
}

const COLUMNS = [["weight", "Weight"], ["reward", "Reward"], ["count", "Times"], ["length", "Tokens"]];

function drawDrafts(data) {
  if (!data.drafts) return null;
  const gathered = gather(data);
  const heaviest = Math.max(...gathered.map((draft) => draft.weight));
  const hasTree = gathered.some((draft) => draft.from.length > 0);
  const body = el("tbody");
  const more = el("button", { type: "button", class: "plain" });
  let [field, few] = ["weight", true];
  const head = el("tr", {}, COLUMNS.map(([code, name]) => el("th", { scope: "col", "data-field": code }, el("button", { type: "button", class: "plain", on: { click: () => fill((field = code)) } }, name))),
    el("th", { scope: "col" }, "Answer"), hasTree && el("th", { scope: "col" }, "From"), el("th", { scope: "col" }, "Text"));

  function fill() {
    const value = (draft) => (Number.isNaN(num(draft[field])) ? -Infinity : num(draft[field]));
    const sorted = [...gathered].sort((one, other) => value(other) - value(one) || other.weight - one.weight);
    const shown = few ? sorted.slice(0, 12) : sorted;
    for (const cell of head.querySelectorAll("[data-field]")) cell.setAttribute("aria-sort", cell.dataset.field === field ? "descending" : "none");
    body.replaceChildren(...shown.map((draft) => el("tr", { class: draft.chosen ? "chosen" : "" },
      el("td", {}, bar(draft.weight / heaviest), part(draft.weight)), cells("td", [show(draft.reward), draft.count, draft.length]),
      el("td", {}, draft.answer ?? "–"), hasTree && el("td", {}, draft.from.slice(0, 3).join(", ") + (draft.from.length > 3 ? "…" : "")),
      el("td", { class: "words" }, draft.chosen && el("span", { class: "tag" }, "chosen"), passage(draft.text === null ? null : data.texts[draft.text]), draft.finish === "length" && el("span", { class: "gone" }, "cut at the token cap")))));
    more.textContent = few ? `Show all ${sorted.length}` : "Show the first 12";
    more.hidden = sorted.length <= 12;
  }
  more.addEventListener("click", () => {
    few = !few;
    fill();
  });
  fill();
  const about = [data.proper ? "Weights are proper for the target." : "States of a Markov chain, or draws without a fixed target: each counts as often as it occurs.",
    hasTree && "From: step and candidate of the tree.", data.left_out > 0 && `The texts of the ${several(data.left_out, "lightest draft")} were left out of this page.`].filter(Boolean);
  return el("section", { class: "block" }, el("h3", {}, "Drafts"), el("p", { class: "about" }, about.join(" ")),
    el("div", { class: "scroll" }, el("table", { class: "drafts" }, el("thead", {}, head), body)), more);
}

function drawGrowth(data) {
  if (data.growth.length < 2) return null;
  return el("details", {}, el("summary", {}, `How the numbers settled, over ${several(data.growth.length, "population")}`),
    table("Growth", ["Tokens", "Drafts", "ESS", "log Ẑ", "Mean reward"], data.growth.map((entry) => el("tr", {}, cells("td", [entry.tokens, entry.n, entry.log_z === null ? null : entry.ess, entry.log_z, entry.mean_reward].map((value) => show(value)))))));
}
