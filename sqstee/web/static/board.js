// The board: the runs, newest first, with filters that stand in the address.

import {
  Poll, age, byId, counted, duration, element, exitText, fillForm, lacking, localTime, neutral, number, onKeys,
  parametersOf, runAddress, stateElement, sum, titleOf,
} from "./common.js";

const PAGE = 100;
const MOST = 1000;
const form = byId("filters");
const body = document.querySelector("#runs tbody");
let limit = PAGE;
let shown = [];

function asked() {
  const found = parametersOf(form);
  found.set("limit", limit);
  if (byId("totals").open) found.set("totals", "1");
  return `runs?${found}`;
}

function row(run) {
  const lost = lacking(run);
  const last = neutral(run.last_stderr || (run.state === "failed" ? run.last_line : ""));
  const link = element("a", { href: runAddress(run.run), title: neutral(run.run) }, titleOf(run));
  return element(
    "tr",
    { "data-run": run.run },
    element("td", {}, stateElement(run.state)),
    element("td", {}, link),
    element("td", {}, neutral(run.host)),
    element("td", { class: "age", title: localTime(run.started), "data-started": run.started }, age(run.started)),
    element("td", { class: "number", "data-name": "took" }, duration(run.duration_s)),
    element("td", { class: "number", "data-name": "exit" }, exitText(run)),
    element("td", { class: "number", "data-name": "lines" }, number(sum(run.lines))),
    element("td", { class: "number lost", "data-name": "missing" }, lost ? number(lost) : ""),
    element("td", { class: "last", title: last }, last),
  );
}

/** Put changed rows in their places; rows that stay as they are keep the focus. */
function showRuns(runs) {
  const old = new Map(shown.map((one) => [one.run.run, one]));
  shown = runs.map((run) => {
    const text = JSON.stringify(run);
    const known = old.get(run.run);
    if (known?.text === text) return known;
    const made = { run, text, row: row(run) };
    const focused = known?.row.contains(document.activeElement);
    known?.row.replaceWith(made.row);
    if (focused) made.row.querySelector("a").focus();
    return made;
  });
  shown.forEach((one, at) => body.children[at] === one.row || body.insertBefore(one.row, body.children[at] ?? null));
  while (body.children.length > shown.length) body.lastChild.remove();
}

function showTotals(totals) {
  const tables = [["job", totals.jobs], ["host", totals.hosts]].map(([name, groups]) => {
    const rows = Object.entries(groups)
      .sort((one, other) => (other[1].failed ?? 0) - (one[1].failed ?? 0) || sum(other[1]) - sum(one[1]))
      .map(([title, states]) => {
        const glob = title.replace(/[[*?]/g, "[$&]");
        const address = title ? `./?${new URLSearchParams({ [name]: glob })}` : null;
        const link = element(address ? "a" : "span", { href: address }, neutral(title) || "-");
        const text = Object.entries(states).map(([state, times]) => `${number(times)} ${state}`).join(", ");
        return element("tr", {}, element("td", {}, link), element("td", {}, text));
      });
    return element("table", {}, element("caption", {}, `By ${name}`), element("tbody", {}, ...rows));
  });
  byId("groups").replaceChildren(...tables);
}

const poll = new Poll(asked(), (found) => {
  if (found) {
    showRuns(found.runs);
    byId("summary").textContent = found.matched ? counted(found.matched, "run") : "No runs.";
    byId("more").hidden = !found.next || limit >= MOST;
    if (found.totals) showTotals(found.totals);
  }
  for (const cell of body.querySelectorAll(".age")) {
    const text = age(cell.dataset.started);
    if (cell.textContent !== text) cell.textContent = text;
  }
});

function changed() {
  const text = parametersOf(form).toString();
  history.replaceState(null, "", text ? `?${text}` : "./");
  poll.now(asked());
}

function move(to) {
  const links = [...body.querySelectorAll("a")];
  const at = links.indexOf(document.activeElement);
  links.at(to === "last" ? -1 : to === "first" ? 0 : Math.max(0, Math.min(links.length - 1, at + to)))?.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  changed();
});
form.addEventListener("change", (event) => event.target.type === "checkbox" && changed());
byId("totals").addEventListener("toggle", () => poll.now(asked()));
byId("more").addEventListener("click", () => {
  limit = Math.min(MOST, limit + PAGE);
  poll.now(asked());
});
onKeys({
  j: () => move(1),
  k: () => move(-1),
  g: () => move("first"),
  G: () => move("last"),
  f: () => form.elements.failed.click(),
  "/": () => form.elements.job.focus(),
});
fillForm(form, new URLSearchParams(location.search));
poll.now(asked());
