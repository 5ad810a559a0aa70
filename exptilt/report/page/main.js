// Views, addresses and keys.

const views = { overview: byId("overview-view"), prompts: byId("prompts-view") };
const buttons = { overview: byId("to-overview"), prompts: byId("to-prompts") };
let view = "overview";

function turn(name) {
  view = name;
  for (const [other, node] of Object.entries(views)) {
    node.hidden = other !== name;
    buttons[other].setAttribute("aria-current", other === name ? "page" : "false");
  }
  if (name === "prompts") {
    reveal();
    drawRows();
  }
  remember();
}

/** The address names what is shown, so that it can be kept and passed on. */
function remember() {
  const address = view === "overview" ? "#overview" : `#prompt=${encodeURIComponent(prompts[state.prompt]?.id ?? "")}&method=${state.method}`;
  if (location.hash !== address) history.replaceState(null, "", address);
}

/** Follow the address; one that names nothing here leads to the overview. */
function follow() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const row = prompts.findIndex((prompt) => prompt.id === wanted.get("prompt"));
  const method = Number(wanted.get("method"));
  visit(Math.max(0, row), methods[method] ? method : 0);
  turn(row < 0 ? "overview" : "prompts");
}

/** The prompts of one method that have a warning. */
function showWarned(method, kind) {
  Object.assign(state, { method, warning: String(kind), query: "", result: "all", ended: "all" });
  drawFilters();
  refresh();
  turn("prompts");
  list.focus();
}

// ---------------------------------------------------------------------------------------------------------------- keys

const otherMethod = (by) => {
  const choices = methods.map((_, number) => number).filter((number) => prompts[state.prompt]?.by[number]);
  if (choices.length > 0) visit(state.prompt, choices[(choices.indexOf(state.method) + by + choices.length) % choices.length]);
};

function toSearch() {
  turn("prompts");
  byId("filters").elements.query.focus();
  byId("filters").elements.query.select();
}

const KEYS = {
  o: () => turn("overview"),
  p: () => { turn("prompts"); list.focus(); },
  j: () => { turn("prompts"); step(1); },
  k: () => { turn("prompts"); step(-1); },
  t: nextTheme,
  "/": toSearch,
  "?": () => byId("help").showModal(),
  "[": () => otherMethod(-1),
  "]": () => otherMethod(1),
};
const IN_LIST = {
  ArrowDown: () => step(1),
  ArrowUp: () => step(-1),
  PageDown: () => step(8),
  PageUp: () => step(-8),
  Home: () => step(-rows.length),
  End: () => step(rows.length),
  Enter: () => byId("detail").focus(),
};

function leave() {
  const query = byId("filters").elements.query;
  if (document.activeElement === query && query.value !== "") {
    query.value = "";
    heard();
  } else if (view === "prompts") list.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const { target, key } = event;
  const writes = target.matches("input[type=search], select, textarea");
  let act = null;
  if (key === "Escape") act = leave;
  else if (writes) act = key === "Enter" && target.matches("input") ? () => (rows.length > 0 ? byId("detail").focus() : null) : null;
  else act = (target === list ? IN_LIST[key] : undefined) ?? KEYS[key] ?? null;
  if (act === null) return;
  event.preventDefault();
  act();
});

byId("filters").addEventListener("submit", (event) => event.preventDefault());
buttons.overview.addEventListener("click", () => turn("overview"));
buttons.prompts.addEventListener("click", () => turn("prompts"));
byId("keys").addEventListener("click", () => byId("help").showModal());
window.addEventListener("hashchange", follow);

byId("title").textContent = report.title;
byId("to-prompts").textContent = `Prompts (${prompts.length.toLocaleString("en")})`;
drawOverview();
follow();
document.documentElement.dataset.ready = "true";
