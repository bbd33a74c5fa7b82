// The page of one run: its head and verdict, its lines as they come, a search within.

import {
  Poll, byId, counted, duration, eachLine, element, exitText, historyLink, isLive, localTime, marked, neutral,
  number, onClick, onKeys, request, runAddress, stateElement, titleOf, trouble,
} from "./common.js";
import { Lines } from "./lines.js";
import { Rates, sparkline } from "./rates.js";
import { RowList } from "./rows.js";
import { appendLine } from "./sgr.js";

const SHOWN = 4000; // characters of a row; the whole line is shown below once it is selected
const MOST_HITS = 10000;
const name = new URLSearchParams(location.search).get("id") ?? "";
const address = `runs/${encodeURIComponent(name)}`;
const lines = new Lines(name, () => {
  list.draw();
  if (wantsDetail) showDetail();
});
const list = new RowList(byId("view"), byId("rows"), byId("spacer"), 20, {
  content: contentOf,
  make: makeRow,
  decorate: (row) => row.classList.toggle("selected", Number(row.dataset.seq) === selected),
});
const rates = new Rates();
const note = (text) => (byId("found").textContent = text);
const press = (id, on) => byId(id).setAttribute("aria-pressed", String(on));
let run = null;
let selected = seqOfAddress();
let hits = []; // of the latest search within
let filter = null; // the search whose hits are shown in the place of all lines
let searching = 0;
let wantsDetail = false; // once the selected line has come

function seqOfAddress() {
  const found = /^#L(\d+)$/.exec(location.hash);
  return found ? Number(found[1]) : -1;
}

function contentOf(index) {
  return filter ? hits[index] : lines.at(lines.seqOf(index));
}

function makeRow(index) {
  const entry = contentOf(index);
  const seq = filter ? entry?.seq : lines.seqOf(index);
  const row = element("div", { class: "row", "data-seq": seq });
  if (!entry) {
    row.classList.add("waiting");
    row.append("…");
    return row;
  }
  const kind = element("span", { class: "kind" });
  const message = element("span", { class: "message" });
  row.append(element("span", { class: "seq" }, String(seq)), kind);
  row.append(element("span", { class: "time" }, entry.timestamp ? localTime(entry.timestamp, false) : ""), message);
  if (filter) message.append(...marked(entry));
  else if (entry.event === "gap" || entry.event === "missing") {
    row.classList.add("lost");
    message.append(holeText(entry, ...(lines.holes.find(([first]) => first === seq) ?? [seq, seq])));
  } else if (entry.event !== undefined) {
    row.classList.add("event");
    message.append(`${neutral(entry.event)}: ${neutral(String(entry.message ?? "").slice(0, SHOWN))}`);
  } else {
    appendLine(message, entry.message.slice(0, SHOWN));
    if (entry.message.length > SHOWN) message.append(` … (${counted(entry.message.length, "character")})`);
    if (entry.eol === false) message.append(element("span", { class: "lost", title: "The line goes on" }, "↩"));
  }
  if (entry.stream === "stderr") {
    row.classList.add("stderr");
    kind.append("E");
    kind.title = "stderr";
  }
  return row;
}

function holeText(entry, first, last) {
  const size = counted(last - first + 1, "line");
  if (entry.event === "missing") return `${size} missing: ${first} to ${last}`;
  if (entry.reason === "fallback") return `${size} elsewhere: ${neutral(entry.at)}`;
  return `${size} dropped (${neutral(entry.reason)})`;
}

function showHead() {
  document.title = `${run.state}: ${titleOf(run)} - sqstee`;
  byId("state").replaceChildren(stateElement(run.state));
  byId("title").replaceChildren(element("span", {}, titleOf(run), historyLink(run.job || run.name)));
  const parts = [neutral(run.result) || (run.state === "ok" ? "ended" : "has not ended")];
  const kinds = ["missing", "dropped", "elsewhere"].filter((kind) => run[kind]);
  parts.push(kinds.map((kind) => `${counted(run[kind], "line")} ${kind}`).join(", ") || "no line is missing");
  byId("verdict").textContent = parts.join("; ");
  const facts = {
    Run: neutral(run.run),
    Host: neutral(run.host),
    Started: run.started && localTime(run.started),
    Ended: run.ended && localTime(run.ended),
    Took: duration(run.duration_s),
    Exit: exitText(run),
    Lines: Object.entries(run.lines).map(([stream, value]) => `${number(value)} ${neutral(stream)}`).join(", "),
    "Lines/s": run.lines_by_time && element("span", { class: "is-rate" }, sparkline(run), ` ${rates.text(run)}`),
    Bytes: run.bytes === null ? "" : number(run.bytes),
    Labels: Object.entries(run.labels).map(([key, value]) => `${neutral(key)}=${neutral(value)}`).join(" "),
    Command: (run.command ?? []).map(neutral).join(" "),
  };
  const shown = Object.entries(facts).filter(([, found]) => found);
  const made = shown.map(([key, found]) => element("div", {}, element("dt", {}, key), element("dd", {}, found)));
  const list = element("dl", { id: "facts" }, ...made);
  if (!list.isEqualNode(byId("facts"))) byId("facts").replaceWith(list);
}

new Poll(address, (found) => {
  const before = run;
  run = found ?? run;
  rates.add([run]);
  if (found || isLive(run)) showHead();
  if (!found) return;
  lines.update(run);
  byId("gap").disabled = !run.holes.length;
  if (filter && !filter.done && run.last !== before?.last) filterBy(filter);
  if (!filter) list.setCount(lines.count);
  if (before) return;
  if (selected >= 0) select(selected);
  else if (isLive(run)) follow(true);
}).now();

function follow(on) {
  if (on) showAll();
  list.setFollow(on);
  if (on) list.toEnd();
}

list.onFollow = (on) => press("follow", on);

/** Select a line, bring it into sight and show it whole. */
function select(seq, nearest = false) {
  if (!run) return;
  selected = Math.max(run.first, Math.min(run.last, seq));
  history.replaceState(null, "", runAddress(name, selected));
  if (!filter) list.show(lines.indexOf(selected), nearest);
  else list.draw();
}

function showDetail() {
  const entry = lines.at(selected);
  wantsDetail = !entry;
  if (!entry) return;
  byId("detail").hidden = false;
  const stamp = entry.timestamp ? ` · ${localTime(entry.timestamp)} · ${neutral(entry.timestamp)}` : "";
  byId("about").textContent = `${selected} · ${neutral(entry.stream ?? entry.event)}${entry.level ? ` · ${neutral(entry.level)}` : ""}${stamp}`;
  byId("whole").replaceChildren();
  appendLine(byId("whole"), String(entry.message ?? "").slice(0, 1_000_000));
}

function step(by) {
  if (filter) {
    const at = hits.findIndex((hit) => hit.seq === selected);
    const next = hits[Math.max(0, Math.min(hits.length - 1, at + by))];
    if (next) {
      selected = next.seq;
      list.show(hits.indexOf(next), true);
    }
    return;
  }
  const [top] = list.top();
  const index = selected < 0 ? top : lines.indexOf(selected) + by;
  select(lines.seqOf(Math.max(0, Math.min(lines.count - 1, index))), true);
  if (!byId("detail").hidden) showDetail();
}

/** Leave the list of hits for all lines. */
function showAll() {
  if (!filter) return;
  filter = null;
  list.reset();
  press("stderr", false);
  list.setCount(lines.count);
}

/** Show only the lines that a search finds. */
async function filterBy(wanted) {
  const turn = ++searching;
  if (filter !== wanted) {
    filter = wanted;
    hits = [];
    list.reset();
    list.setFollow(false);
    list.setCount(0);
  }
  const after = hits.length ? hits.at(-1).seq : -1;
  const asked = new URLSearchParams({ run: name, limit: MOST_HITS, after, ...wanted.parameters });
  const say = (text) => note(`${counted(hits.length, wanted.noun)}${text}`);
  wanted.done = true;
  try {
    await eachLine(await request(`search?${asked}`), (found) => {
      if (turn !== searching || filter !== wanted) return;
      if (found.run !== undefined && found.seq > after) hits.push(found);
      if (found.end) say(found.end === "all" ? "" : found.end === "limit" ? "; there are more" : "; the search took too long");
    });
    list.setCount(filter === wanted ? hits.length : lines.count);
  } catch (error) {
    note(error.message);
  }
  wanted.done = wanted.once;
}

async function firstOf(parameters, nothing) {
  note("");
  try {
    let seq = -1;
    const asked = new URLSearchParams({ run: name, limit: 1, ...parameters });
    await eachLine(await request(`search?${asked}`), (found) => {
      if (found.run !== undefined) seq = found.seq;
    });
    if (seq < 0) note(nothing);
    else {
      showAll();
      select(seq);
    }
  } catch (error) {
    trouble(error.message);
  }
}

/** The next hit from the selected line on, or the one before. */
function nextHit(by) {
  if (!hits.length) return;
  const ordered = by > 0 ? hits : [...hits].reverse();
  const next = ordered.find((hit) => by * (hit.seq - selected) > 0) ?? ordered[0];
  showAll();
  select(next.seq);
}

function firstGap() {
  const hole = run?.holes.find(([first]) => first > selected) ?? run?.holes[0];
  if (!hole) return;
  showAll();
  select(hole[0]);
}

function toStart() {
  list.setFollow(false);
  list.scrollTo(0);
  if (!filter && run) select(run.first, true);
}

function toggleTimes() {
  const on = byId("view").classList.toggle("with-times");
  press("times", on);
}

onClick("rows", (event) => {
  const row = event.target.closest(".row");
  if (!row || String(getSelection())) return; // somebody marks text
  const wasFiltered = filter;
  select(Number(row.dataset.seq));
  if (wasFiltered) {
    showAll();
    select(Number(row.dataset.seq));
  }
  showDetail();
});
onClick("close", () => (byId("detail").hidden = true));
const firstError = () => firstOf({ errors: 1 }, "No line of stderr, and none of level ERROR.");
onClick("error", firstError);
onClick("gap", firstGap);
const toEnd = () => {
  showAll();
  list.toEnd();
};
onClick("end", toEnd);
onClick("follow", () => follow(!list.follow));
onClick("times", toggleTimes);
onClick("stderr", () => {
  if (byId("stderr").getAttribute("aria-pressed") === "true") return showAll();
  press("stderr", true);
  return filterBy({ parameters: { stream: "stderr" }, noun: "line", once: false });
});
byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  showAll();
  note("");
  const q = byId("text").value;
  if (q) filterBy({ parameters: { q, regex: byId("regex").checked ? 1 : 0 }, noun: "hit", once: true });
});
byId("as-text").href = `api/${address}/download?form=text`;
byId("as-ndjson").href = `api/${address}/download?form=ndjson`;
onKeys({
  j: () => step(1),
  k: () => step(-1),
  g: toStart,
  G: toEnd,
  f: () => follow(!list.follow),
  e: firstError,
  m: firstGap,
  t: toggleTimes,
  n: () => nextHit(1),
  N: () => nextHit(-1),
  Enter: showDetail,
  Escape: () => (byId("detail").hidden ? showAll() : (byId("detail").hidden = true)),
  "/": () => byId("text").focus(),
});
