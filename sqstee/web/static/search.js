// Search over all runs: hits as they are found, grouped by run.

import { byId, counted, eachLine, element, fillForm, localTime, marked, neutral, onClick, onKeys, parametersOf, request, runAddress } from "./common.js";

const form = byId("query");
const ENDS = {
  all: "All lines are searched.",
  limit: "There are more hits than are shown: narrow the search.",
  pattern: "The pattern takes too long: use a simpler one.",
  time: "The search took too long.",
  killed: "The search needed too much time or memory.",
};
let controller = null;

function addHit(groups, hit) {
  if (!groups.has(hit.run)) {
    const title = `${neutral(hit.job || hit.run)} on ${neutral(hit.host)}`;
    const heading = element("h2", {}, element("a", { href: runAddress(hit.run), title: neutral(hit.run) }, title));
    const list = element("ol");
    byId("hits").append(element("section", {}, heading, list));
    groups.set(hit.run, list);
  }
  const link = element("a", { href: runAddress(hit.run, hit.seq) }, localTime(hit.timestamp));
  const kind = hit.stream === "stderr" ? " stderr " : " ";
  groups.get(hit.run).append(element("li", {}, link, kind, ...marked(hit)));
}

async function search() {
  controller?.abort();
  const mine = new AbortController();
  controller = mine;
  const asked = parametersOf(form);
  byId("hits").replaceChildren();
  byId("summary").textContent = "";
  if (![...asked.keys()].some((name) => name === "q" || name === "errors")) return;
  const groups = new Map();
  let hits = 0;
  const say = (text) => (byId("summary").textContent = `${counted(hits, "hit")} in ${counted(groups.size, "run")}. ${text}`);
  byId("stop").hidden = false;
  say("Searching …");
  try {
    await eachLine(await request(`search?${asked}`, "", mine.signal), (found) => {
      if (found.run !== undefined) {
        hits += 1;
        addHit(groups, found);
      } else if (found.end) say(ENDS[found.end] ?? "");
      else if (found.searched !== undefined) say(`Searching … ${Math.round(100 * found.searched)} %`);
    });
  } catch (error) {
    if (mine === controller) say(error.name === "AbortError" ? "Stopped." : error.message);
  }
  if (mine === controller) byId("stop").hidden = true;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  history.replaceState(null, "", `?${parametersOf(form)}`);
  search();
});
onClick("stop", () => controller?.abort());
onKeys({ "/": () => form.elements.q.focus() });
fillForm(form, new URLSearchParams(location.search));
search();
