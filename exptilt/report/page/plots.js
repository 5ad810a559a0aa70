// Figures as SVG: what a method costs against how well it does, whether its posterior means what it says, histograms.

const NICE = [1, 2, 2.5, 5, 10];

/** Round numbers that divide [low, high] into about `count` parts. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const scale = 10 ** Math.floor(Math.log10(rough));
  const step = NICE.map((factor) => factor * scale).find((candidate) => candidate >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, place) => (first + place) * step);
}

/** 1, 2 and 5 times powers of ten within [low, high]. */
function logTicks(low, high) {
  const powers = Array.from({ length: 16 }, (_, power) => 10 ** (power - 2));
  const all = powers.flatMap((power) => [power, 2 * power, 5 * power]);
  return all.filter((value) => value >= low && value <= high);
}

/** Move labels apart to at least `gap`, keeping their order; returns their new places. */
function spread(places, gap, low, high) {
  const order = places.map((_, number) => number).sort((a, b) => places[a] - places[b]);
  const moved = [...places];
  order.forEach((number, rank) => {
    if (rank > 0) moved[number] = Math.max(moved[number], moved[order[rank - 1]] + gap);
  });
  let limit = high;
  for (const number of [...order].reverse()) {
    moved[number] = Math.max(low, Math.min(moved[number], limit));
    limit = moved[number] - gap;
  }
  return moved;
}

/** Accuracy (or the mean reward, where nothing tells right from wrong) against tokens, with 95 % intervals. */
function computePlot() {
  const field = judged ? "accuracy" : "reward";
  const shown = methods.map((method, number) => ({ method, number, y: method[field] })).filter(({ method, y }) => y && method.cost.tokens > 0);
  if (shown.length === 0) return null;
  const [width, height, left, right, top, bottom] = [760, 400, 56, 176, 14, 46];
  const curves = judged ? shown.map(({ method }) => method.curve) : [];
  const xs = [...shown.map(({ method }) => method.cost.tokens), ...curves.flat().map(([tokens]) => tokens)].filter((tokens) => tokens > 0);
  const ys = [...shown.flatMap(({ y }) => [y.low, y.high]), ...curves.flat().map(([, value]) => value)];
  const [lowX, highX] = [Math.min(...xs) / 1.25, Math.max(...xs) * 1.25];
  const margin = 0.06 * (Math.max(...ys) - Math.min(...ys) || 1);
  const bound = (value) => (judged ? Math.max(0, Math.min(1, value)) : value);
  const [lowY, highY] = [bound(Math.min(...ys) - margin), bound(Math.max(...ys) + margin)];
  const x = (value) => left + ((Math.log(value) - Math.log(lowX)) / (Math.log(highX) - Math.log(lowX))) * (width - left - right);
  const y = (value) => height - bottom - ((value - lowY) / (highY - lowY)) * (height - top - bottom);
  const write = judged ? percent : show;
  const names = shown.map(({ method, y: at }) => `${method.name} ${write(at.value)} at ${show(method.cost.tokens)} tokens`);
  const marks = spread(shown.map(({ y: at }) => y(at.value)), 17, top + 8, height - bottom - 4);
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", class: "plot", "aria-label": `${judged ? "Accuracy" : "Mean reward"} against tokens: ${names.join("; ")}` },
    ticks(lowY, highY, 5).map((value) => [line(left, y(value), width - right, y(value), "grid"), label(left - 8, y(value) + 4, write(value), "end")]),
    logTicks(lowX, highX).map((value) => [line(x(value), height - bottom, x(value), height - bottom + 4, "axis"), label(x(value), height - bottom + 18, show(value), "middle")]),
    line(left, height - bottom, width - right, height - bottom, "axis"),
    label((left + width - right) / 2, height - 6, "tokens per prompt, generated and scored (log scale)", "middle", "name"),
    shown.map(({ method, number, y: at }, place) => mark(method, number, at, { x, y, edge: width - right, labelY: marks[place], write })),
  );
}

function mark(method, number, at, { x, y, edge, labelY, write }) {
  const [cx, cy] = [x(method.cost.tokens), y(at.value)];
  const path = judged ? method.curve.filter(([tokens]) => tokens > 0).map(([tokens, value]) => `${x(tokens).toFixed(1)},${y(value).toFixed(1)}`) : [];
  return svg(
    "g",
    { style: { color: ink(number) } },
    svg("title", {}, `${method.label}: ${write(at.value)} [${write(at.low)}, ${write(at.high)}], ${show(method.cost.tokens)} tokens per prompt`),
    path.length > 1 && svg("polyline", { points: path.join(" "), class: "curve" }),
    svg("polyline", { points: `${cx + 7},${cy} ${edge + 2},${labelY} ${edge + 8},${labelY}`, class: "leader" }),
    line(cx, y(at.low), cx, y(at.high), "range"),
    line(cx - 4, y(at.low), cx + 4, y(at.low), "range"),
    line(cx - 4, y(at.high), cx + 4, y(at.high), "range"),
    svg("circle", { cx, cy, r: 5, class: "dot" }),
    label(edge + 12, labelY + 4, method.name.length > 22 ? `${method.name.slice(0, 21)}…` : method.name, "start", "mark"),
  );
}

/** The share of right answers against their probability; on the diagonal the posterior means what it says. */
function calibrationPlot(method, number) {
  const [size, edge] = [230, 34];
  const at = (value) => edge + value * (size - edge - 10);
  const up = (value) => size - at(value);
  const said = method.calibration.bins.map((bin) => `${percent(bin.share)} says ${percent(bin.accuracy)} of ${bin.n}`);
  const most = Math.max(...method.calibration.bins.map((bin) => bin.n));
  return svg(
    "svg",
    { viewBox: `0 0 ${size} ${size}`, role: "img", class: "plot square", "aria-label": `Calibration of ${method.name}: ${said.join("; ")}`, style: { color: ink(number) } },
    [0, 0.5, 1].map((value) => [line(at(0), up(value), at(1), up(value), "grid"), label(edge - 6, up(value) + 4, percent(value), "end"), label(at(value), size - edge + 18, percent(value), "middle")]),
    line(at(0), up(0), at(1), up(1), "diagonal"),
    method.calibration.bins.map((bin) =>
      svg("g", {}, svg("title", {}, `${several(bin.n, "prompt")}: weight ${percent(bin.share)}, right ${percent(bin.accuracy)} [${percent(bin.low)}, ${percent(bin.high)}]`),
        line(at(bin.share), up(bin.low), at(bin.share), up(bin.high), "range"),
        svg("circle", { cx: at(bin.share), cy: up(bin.accuracy), r: 3 + 5 * Math.sqrt(bin.n / most), class: "dot" }))),
  );
}

/** A histogram without axes; the words beside it give the numbers. */
function histogram(values, number, [low, high]) {
  const [width, height, bins] = [132, 30, 22];
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.max(0, Math.floor(((value - low) / (high - low || 1)) * bins)))] += 1;
  const most = Math.max(...counts);
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, class: "histogram", "aria-hidden": "true", style: { color: ink(number) } },
    counts.map((count, place) => count > 0 && svg("rect", { x: place * 6, y: height - 1 - Math.max(1.5, (count / most) * (height - 2)), width: 5, height: Math.max(1.5, (count / most) * (height - 2)) })),
    line(0, height - 0.5, width, height - 0.5, "axis"),
  );
}
