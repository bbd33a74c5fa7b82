// Shared by the pages: requests, polling, and text from other hosts, which is hostile: it becomes text nodes alone.

const HIDDEN = /(?!\t)[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\u115f\u1160\u17b4\u17b5\u3164]/gu;

const STACKED = /(\p{M}{4})\p{M}+/gu;

/**
 * Text with each control and invisible character in a visible form: U+202E would turn what follows around. Of many
 * accents on one character, which would cover the lines above, four are left.
 */
export function neutral(text) {
  return String(text ?? "").replace(STACKED, "$1…").replace(HIDDEN, (char) => {
    const code = char.codePointAt(0);
    return code < 0x20 ? String.fromCharCode(0x2400 + code) : `<U+${code.toString(16).toUpperCase().padStart(4, "0")}>`;
  });
}

function filled(found, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value != null) found.setAttribute(key, value);
  }
  found.append(...children.filter((child) => child !== null));
  return found;
}

/** An element with attributes and children; strings become text. */
export const element = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);

/** The same as a part of a drawing. */
export const shape = (name, attributes = {}, ...children) =>
  filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

export const byId = (id) => document.getElementById(id);
export const onClick = (id, handle) => byId(id).addEventListener("click", handle);

export const MARKS = { failed: "✗", missing: "◌", gone: "⊘", silent: "…", running: "▶", ok: "✓" };

/** A state as a mark and a word. */
export function stateElement(state) {
  const known = state in MARKS ? state : "";
  return element("span", { class: `state state-${known}` }, `${MARKS[known] ?? "?"} ${neutral(state)}`);
}

export const number = (value) => Number(value).toLocaleString("en-US");
export const counted = (value, noun) => `${number(value)} ${noun}${value === 1 ? "" : "s"}`;
export const sum = (object) => Object.values(object ?? {}).reduce((total, value) => total + value, 0);

/** A duration in its two largest units. */
export function duration(seconds) {
  if (seconds == null) return "";
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** How long ago something was, in its largest unit. */
export function age(timestamp) {
  const seconds = Math.max(0, (Date.now() - Date.parse(timestamp)) / 1000);
  if (Number.isNaN(seconds)) return "";
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.floor(seconds)} s`;
}

/** A timestamp in local time. */
export function localTime(timestamp, withDate = true) {
  const found = new Date(timestamp);
  if (Number.isNaN(found.getTime())) return neutral(timestamp).slice(0, 40);
  const two = (value) => String(value).padStart(2, "0");
  const time = `${two(found.getHours())}:${two(found.getMinutes())}:${two(found.getSeconds())}`;
  if (!withDate) return `${time}.${String(found.getMilliseconds()).padStart(3, "0")}`;
  return `${found.getFullYear()}-${two(found.getMonth() + 1)}-${two(found.getDate())} ${time}`;
}

/** How a run ended, in a few words. */
export function exitText(run) {
  if (run.signal != null) return `signal ${run.signal}`;
  return run.exit_code == null ? "" : String(run.exit_code);
}

export const titleOf = (run) => neutral(run.job || run.name || run.run);
export const lacking = (run) => run.missing + run.dropped + run.elsewhere;
export const isLive = (run) => !run.ended && run.state !== "gone";

/** The filter for exactly this name. */
export const globOf = (name) => name.replace(/[[*?]/g, "[$&]");

/** A link to the history of a job; null where there is none. Half a character, as JSON allows, is no address. */
export function historyLink(job) {
  if (!job) return null;
  const text = `History of ${neutral(job)}`;
  const icon = shape("svg", { viewBox: "0 0 12 12" }, shape("path", { d: "M1 11V6h2v5zM5 11V1h2v10zM9 11V4h2v7z" }));
  return element("a", { class: "history", href: `job?job=${encodeURIComponent(job.toWellFormed())}`, title: text, "aria-label": text }, icon);
}

export const runAddress = (run, seq) => `run?id=${encodeURIComponent(run.toWellFormed())}${seq === undefined ? "" : `#L${seq}`}`;

/** A request that failed: its status (0: no answer) and the reason that the server gave. */
const failure = (status, reason) => Object.assign(new Error(reason), { status });

/** An answer of the API, or null if it is the one with this tag. */
export async function request(path, tag = "", signal) {
  const headers = tag ? { "If-None-Match": tag } : {};
  let answer;
  try {
    answer = await fetch(`api/${path}`, { headers, cache: "no-store", signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw failure(0, "the server does not answer");
  }
  if (answer.status === 304) return null;
  if (!answer.ok) throw failure(answer.status, (await answer.text()).trim().slice(0, 300));
  return answer;
}

/** Say what is wrong, at the top of the page; an empty text when nothing is. */
export function trouble(text) {
  if (byId("trouble").textContent !== text) byId("trouble").textContent = text;
}

/** Ask again each second while the page is seen; less often while the server does not answer. */
export class Poll {
  constructor(path, show) {
    Object.assign(this, { path, show, tag: "", failures: 0, timer: 0, turn: 0 });
    document.addEventListener("visibilitychange", () => document.hidden || this.now());
  }

  /** Ask at once, perhaps for something else. */
  now(path = this.path) {
    if (path !== this.path) this.tag = "";
    this.path = path;
    clearTimeout(this.timer);
    this.ask(++this.turn);
  }

  async ask(turn) {
    try {
      const answer = await request(this.path, this.tag);
      const found = answer && (await answer.json());
      if (turn !== this.turn) return;
      this.failures = 0;
      trouble("");
      if (answer) this.tag = answer.headers.get("ETag") ?? "";
      this.show(found);
    } catch (error) {
      if (turn !== this.turn) return;
      this.failures += 1;
      if (error.status === 401) trouble("You are logged out: load this page again.");
      else trouble(error.status ? error.message : "The server does not answer; trying again.");
    }
    const wait = Math.min(10, 2 ** Math.min(this.failures, 4));
    if (turn === this.turn && !document.hidden) this.timer = setTimeout(() => this.ask(turn), wait * 1000);
  }
}

/** Each object of an answer in NDJSON, as it comes. */
export async function eachLine(answer, handle) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) handle(JSON.parse(line));
  }
}

/** An excerpt with its match marked. Python counts characters, JavaScript halves of some. */
export function marked(hit) {
  const characters = Array.from(hit.message);
  const part = (from, to) => neutral(characters.slice(from, to).join(""));
  return [
    document.createTextNode(part(0, hit.at[0])),
    element("mark", {}, part(hit.at[0], hit.at[1])),
    document.createTextNode(part(hit.at[1]) + (hit.cut ? " …" : "")),
  ];
}

/** What a form says, as parameters without the empty ones. */
export function parametersOf(form) {
  const found = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (String(value).trim()) found.append(name, String(value).trim());
  return found;
}

/** Fill a form from parameters. */
export function fillForm(form, parameters) {
  for (const field of form.elements) {
    if (!field.name) continue;
    if (field.type === "checkbox") field.checked = parameters.get(field.name) === "1";
    else field.value = parameters.get(field.name) ?? "";
  }
}

/** Call what belongs to a key, unless somebody types text. */
export function onKeys(keys) {
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches?.("input:not([type=checkbox]), textarea, select");
    if (event.key === "Escape" && typing) event.target.blur();
    if (event.key === "Enter" && event.target.matches?.("a, button, summary")) return; // that is theirs
    if (typing || event.ctrlKey || event.altKey || event.metaKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
}
