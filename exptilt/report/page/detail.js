// One prompt by one method.

function drawDetail() {
  const place = byId("detail");
  if (rows.length === 0) {
    place.replaceChildren(el("p", { class: "about" }, "No prompt passes these filters."));
    return;
  }
  const prompt = prompts[state.prompt];
  const data = detailOf(state.prompt, state.method);
  const body = data === null ? [el("p", { class: "note" }, "This method has no line for this prompt.")] : data.error !== undefined ? drawFailure(data) : [drawFinal(data, prompt, prompt.by[state.method]), ...drawOrigin(data, prompt)];
  place.replaceChildren(drawAsked(prompt), drawMethods(prompt), ...body);
  place.scrollTop = 0;
}

/** One tab for each method, with its answer. */
function drawMethods(prompt) {
  if (methods.length === 1) return "";
  return el("div", { class: "methods", role: "group", "aria-label": "Methods" }, methods.map((method, number) => {
    const entry = prompt.by[number];
    return el("button", { type: "button", "aria-pressed": String(number === state.method), disabled: !entry, on: { click: () => visit(state.prompt, number) } },
      swatch(number), method.name, entry && el("span", {}, sign(entry), entry.error ?? entry.answer ?? picture(entry.picture) ?? "no answer"));
  }));
}

/** Show a prompt by a method; where the filters leave it out, they are taken back. */
function visit(prompt, method) {
  Object.assign(state, { prompt, method });
  if (!found().includes(prompt)) Object.assign(state, { query: "", result: "all", warning: "all", ended: "all" });
  drawFilters();
  refresh();
}
