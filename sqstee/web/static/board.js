// The board: the runs, newest first, with filters that stand in the address.

import { Poll, byId, counted, element, fillForm, globOf, historyLink, neutral, number, onClick, onKeys, parametersOf, sum } from "./common.js";
import { RunRows } from "./run_rows.js";

const PAGE = 100;
const MOST = 1000;
const STATES = ["failed", "missing", "gone", "silent", "running"]; // for which there are filters
const COLUMNS = ["state", "job", "host", "age", "took", "exit", "lines", "rate", "missing", "last"];
const form = byId("filters");
const rows = new RunRows(byId("runs"), COLUMNS);
let limit = PAGE;

/** What the address says: the filters, and whether the totals are shown. */
function view() {
  const found = parametersOf(form);
  if (byId("totals").open) found.set("totals", "1");
  return found;
}

function asked() {
  const found = view();
  found.set("limit", limit);
  return `runs?${found}`;
}

/** A link to the present view with one more filter, and a state in the place of its states. */
function filtered(name, value, state, text) {
  const found = view();
  found.set(name, globOf(value));
  if (state) STATES.forEach((one) => found.delete(one));
  if (state) found.set(state, "1");
  return element("a", { href: `./?${found}` }, text);
}

function groupRow(name, title, states) {
  const texts = Object.entries(states).flatMap(([state, times]) => {
    const text = `${number(times)} ${state}`;
    return [", ", title && STATES.includes(state) ? filtered(name, title, state, text) : text];
  });
  const heading = title ? filtered(name, title, "", neutral(title)) : "-";
  const more = name === "job" ? historyLink(title) : null;
  return element("tr", {}, element("td", {}, heading, more), element("td", {}, ...texts.slice(1)));
}

function showTotals(totals) {
  const tables = [["job", totals.jobs], ["host", totals.hosts]].map(([name, groups]) => {
    const found = Object.entries(groups)
      .sort((one, other) => (other[1].failed ?? 0) - (one[1].failed ?? 0) || sum(other[1]) - sum(one[1]))
      .map(([title, states]) => groupRow(name, title, states));
    return element("table", {}, element("caption", {}, `By ${name}`), element("tbody", {}, ...found));
  });
  byId("groups").replaceChildren(...tables);
}

const poll = new Poll(asked(), (found) => {
  rows.update(found?.runs);
  if (!found) return;
  byId("summary").textContent = found.matched ? counted(found.matched, "run") : "No runs.";
  byId("more").hidden = !found.next || limit >= MOST;
  if (found.totals) showTotals(found.totals);
});

function changed() {
  const text = view().toString();
  history.replaceState(null, "", text ? `?${text}` : "./");
  poll.now(asked());
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  changed();
});
form.addEventListener("change", (event) => event.target.type === "checkbox" && changed());
byId("totals").addEventListener("toggle", changed);
onClick("more", () => {
  limit = Math.min(MOST, limit + PAGE);
  poll.now(asked());
});
onKeys({ ...rows.keys, f: () => form.elements.failed.click(), "/": () => form.elements.job.focus() });
for (const state of STATES) {
  byId("states").append(element("label", {}, element("input", { type: "checkbox", name: state, value: "1" }), state));
}
const parameters = new URLSearchParams(location.search);
fillForm(form, parameters);
byId("totals").open = parameters.get("totals") === "1";
poll.now(asked());
