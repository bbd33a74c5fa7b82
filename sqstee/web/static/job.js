// The history of a job: how long its last runs took and how each ended, as a plot and as a table.

import { MARKS, Poll, byId, counted, duration, globOf, localTime, neutral, onClick, onKeys, runAddress, shape } from "./common.js";
import { RunRows } from "./run_rows.js";

const MOST = 50;
const [LEFT, TOP, BASE, HEIGHT, LEAST, WIDEST] = [60, 22, 150, 186, 14, 40]; // pixels
const TICKS = [0.1, 1, 60, 3600, 86400].flatMap((unit) => [1, 2, 5, 10, 20, 30].map((one) => unit * one));
const job = new URLSearchParams(location.search).get("job") ?? "";
const rows = new RunRows(byId("runs"), ["state", "started", "host", "took", "exit", "lines", "missing", "last"]);
let runs = []; // newest first

/** Seconds that a run took, or takes so far; 0 where that is not known. */
const took = (run) => (run.state === "running" ? Math.max(0, (Date.now() - Date.parse(run.started)) / 1000) : run.duration_s) || 0;

function median() {
  const times = runs.filter((run) => run.state === "ok").map(took).sort((one, other) => one - other);
  return (times[(times.length - 1) >> 1] + times[times.length >> 1]) / 2 || 0;
}

const text = (x, y, anchor, words) => shape("text", { x, y, "text-anchor": anchor }, words);

function bar(run, x, width, top) {
  const height = Math.max(2, BASE - top);
  const mark = run.state === "ok" ? "" : (MARKS[run.state] ?? "?");
  return shape(
    "g",
    { class: `bar state-${run.state}`, "data-run": run.run },
    shape("title", {}, `${neutral(run.state)}, ${localTime(run.started)}, ${duration(took(run))}`),
    shape("rect", { class: "whole", x, y: TOP, width, height: BASE + 18 - TOP }),
    shape("rect", { x: x + width / 10, y: BASE - height, width: width * 0.8, height }),
    text(x + width / 2, BASE + 14, "middle", mark),
  );
}

function draw() {
  const width = byId("plot").clientWidth;
  const shown = runs.slice(0, Math.max(1, Math.floor((width - LEFT) / LEAST))).reverse();
  if (!shown.length || !width) return;
  const longest = Math.max(0.1, ...shown.map(took));
  const tick = TICKS.find((one) => longest <= 4 * one) ?? longest / 4;
  const high = Math.ceil(longest / tick) * tick;
  const place = (seconds) => BASE - ((BASE - TOP) * seconds) / high;
  const line = (seconds, name) => shape("path", { class: name, d: `M${LEFT} ${place(seconds)}H${width}` });
  const parts = [];
  for (let at = 0; at < high + tick / 2; at += tick) {
    const label = at ? duration(at).replace(/\.0| 0 (s|min)$/, "") : "0";
    parts.push(line(at), text(LEFT - 6, place(at) + 4, "end", label));
  }
  const slot = Math.min(WIDEST, (width - LEFT) / shown.length);
  parts.push(...shown.map((run, at) => bar(run, LEFT + at * slot, slot, place(took(run)))));
  if (median()) parts.push(line(median(), "median"), text(width, 12, "end", `┄ median ${duration(median())}`));
  parts.push(text(LEFT, HEIGHT - 4, "start", `since ${localTime(shown[0].started)}`));
  const label = `Durations and outcomes of the last ${counted(shown.length, "run")}, as in the table below`;
  byId("plot").replaceChildren(shape("svg", { role: "img", "aria-label": label, width, height: HEIGHT }, ...parts));
}

function showSummary(matched) {
  const states = Object.entries(Object.groupBy(runs, (run) => run.state));
  const texts = states.map(([state, found]) => `${found.length} ${state}`);
  const which = matched > runs.length ? `The last ${runs.length} of ${counted(matched, "run")}` : counted(matched, "run");
  byId("summary").textContent = `${which}${texts.length ? `: ${texts.join(", ")}` : ""}`;
}

byId("title").textContent = neutral(job);
document.title = `${neutral(job)} - sqstee`;
const filter = `job=${encodeURIComponent(globOf(job))}`;
byId("all").href = `./?${filter}`;
new Poll(`runs?${filter}&limit=${MOST}`, (found) => {
  rows.update(found?.runs);
  if (found) {
    runs = found.runs;
    showSummary(found.matched);
  }
  if (found || runs.some((run) => run.state === "running")) draw();
}).now();
new ResizeObserver(draw).observe(byId("plot"));
onClick("plot", (event) => {
  const found = event.target.closest("[data-run]");
  if (found) location.href = runAddress(found.dataset.run);
});
onKeys(rows.keys);
