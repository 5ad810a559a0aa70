// Finding prompts: search, filters, order, and a list that draws only the rows in sight.

const ROW = 62; // pixels, as in the style sheet
const list = byId("list");
let rows = [];

const choose = (name, value, options, key) => el("label", {}, name, el("select", { name: key, on: { change: heard } }, options.map(([code, text]) => el("option", { value: code, selected: code === value }, text))));

function drawFilters() {
  const named = (choices, hidden = []) => Object.entries(choices).filter(([code]) => !hidden.includes(code)).map(([code, [text]]) => [code, text]);
  const hidden = [...(judged ? [] : ["right", "wrong", "differ"]), ...(methods.length > 1 ? [] : ["differ", "unlike"])];
  const kinds = [["all", "all"], ["any", "with any"], ["none", "without"], ...report.warnings.map((text, kind) => [String(kind), text.length > 60 ? `${text.slice(0, 58)}…` : text])];
  byId("filters").replaceChildren(
    el("label", { class: "search" }, "Search", el("input", { type: "search", name: "query", value: state.query, placeholder: "prompt or answer", autocomplete: "off", spellcheck: "false", on: { input: heard } })),
    methods.length > 1 && choose("Method", String(state.method), methods.map((method, number) => [String(number), method.name]), "method"),
    choose("Result", state.result, named(RESULTS, hidden), "result"),
    choose("Warnings", state.warning, kinds, "warning"),
    choose("State", state.ended, named(ENDED), "ended"),
    choose("Order", state.sort, named(SORTS), "sort"),
    el("span", { class: "ticks" },
      el("label", {}, el("input", { type: "checkbox", name: "texts", checked: state.texts, on: { change: heard } }), "search all drafts"),
      el("label", {}, el("input", { type: "checkbox", name: "falling", checked: state.falling, on: { change: heard } }), "falling")),
  );
}

/** Take the filters over into the state. */
function heard() {
  const form = byId("filters").elements;
  for (const name of ["query", "result", "warning", "ended", "sort"]) state[name] = form[name].value;
  for (const name of ["texts", "falling"]) state[name] = form[name].checked;
  if (form.method) state.method = Number(form.method.value);
  refresh();
}

/** Look for the prompts again; the opened one stays if it is still among them. */
function refresh() {
  rows = found();
  const of = rows.length === prompts.length ? several(prompts.length, "prompt") : `${rows.length.toLocaleString("en")} of ${several(prompts.length, "prompt")}`;
  byId("found").textContent = of;
  byId("list-space").style.setProperty("height", `${rows.length * ROW}px`);
  if (rows.length > 0 && !rows.includes(state.prompt)) state.prompt = rows[0];
  reveal();
  drawRows();
  drawDetail();
  remember();
}

/** The rows in sight and a few around them. */
function drawRows() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
  const last = Math.min(rows.length, Math.ceil((list.scrollTop + (list.clientHeight || 800)) / ROW) + 6);
  byId("list-space").replaceChildren(...rows.slice(first, last).map((row, place) => drawRow(row, first + place)));
  list.setAttribute("aria-activedescendant", rows.includes(state.prompt) ? `row-${state.prompt}` : "");
}

function drawRow(row, place) {
  const prompt = prompts[row];
  const entry = prompt.by[state.method];
  const others = methods.length > 1 && judged && el("span", { class: "others", "aria-hidden": "true" }, prompt.by.map((other, number) =>
    el("i", { class: !other || other.right === null ? "" : other.right ? "full" : "empty", style: { color: ink(number) } })));
  return el("div", {
    class: "row", role: "option", id: `row-${row}`, "aria-selected": String(row === state.prompt), "aria-posinset": place + 1, "aria-setsize": rows.length,
    style: { top: `${place * ROW}px` }, on: { click: () => open(row) },
  },
    el("span", { class: "row-head" }, sign(entry), el("b", {}, entry.error ?? entry.answer ?? picture(entry.picture) ?? "no answer"), !entry.picture && entry.share !== null && entry.share !== undefined && el("span", { class: "quiet" }, percent(entry.share)),
      entry.warnings?.length > 0 && el("span", { class: "warn", title: several(entry.warnings.length, "warning"), role: "img", "aria-label": several(entry.warnings.length, "warning") }, "△".repeat(Math.min(3, entry.warnings.length))),
      entry.stopped && el("span", { class: "quiet" }, "stopped"), others),
    el("span", { class: "row-text" }, prompt.prompt));
}

/** Scroll the list as little as shows the opened prompt. */
function reveal() {
  const place = rows.indexOf(state.prompt);
  if (place < 0) return;
  const [top, bottom] = [place * ROW, (place + 1) * ROW];
  if (top < list.scrollTop) list.scrollTop = top;
  else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight;
}

function open(row) {
  state.prompt = row;
  reveal();
  drawRows();
  drawDetail();
  remember();
}

/** To the next prompt that passes the filters, or back. */
function step(by) {
  if (rows.length === 0) return;
  const place = rows.indexOf(state.prompt);
  open(rows[Math.max(0, Math.min(rows.length - 1, place + by))]);
}

list.addEventListener("scroll", drawRows, { passive: true });
window.addEventListener("resize", drawRows);
