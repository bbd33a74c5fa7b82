// A table of runs: rows that stay as they are keep the focus.

import {
  age, duration, element, exitText, historyLink, isLive, lacking, localTime, neutral, number, runAddress, stateElement,
  sum, titleOf,
} from "./common.js";
import { Rates, sparkline } from "./rates.js";

const link = (run, text) => element("a", { class: "to-run", href: runAddress(run.run), title: neutral(run.run) }, text);
const lastLine = (run) => neutral(run.last_stderr || (run.state === "failed" ? run.last_line : ""));

// by name: the heading, what a cell shows, and its title
const COLUMNS = {
  state: ["State", (run) => stateElement(run.state)],
  job: ["Job", (run) => [link(run, titleOf(run)), historyLink(run.job || run.name)]],
  started: ["Started", (run) => link(run, localTime(run.started))],
  host: ["Host", (run) => neutral(run.host), (run) => neutral(run.host)],
  age: ["Age", (run) => age(run.started), (run) => localTime(run.started)],
  took: ["Took", (run) => duration(run.duration_s)],
  exit: ["Exit", exitText],
  lines: ["Lines", (run) => number(sum(run.lines))],
  rate: ["Lines/s", (run, rates) => [sparkline(run), element("span", {}, rates.text(run))]],
  missing: ["Missing", (run) => (lacking(run) ? number(lacking(run)) : "")],
  last: ["Last stderr line", lastLine, lastLine],
};
const FIGURES = ["took", "exit", "lines", "rate", "missing"];

function cell(name, run, rates) {
  const [heading, content, title] = COLUMNS[name];
  const isFigure = FIGURES.includes(name);
  const attributes = { class: isFigure ? `number is-${name}` : `is-${name}`, title: title?.(run) };
  if (isFigure) attributes["data-name"] = heading.toLowerCase();
  return element("td", attributes, ...[content(run, rates)].flat());
}

export class RunRows {
  /** `table` is empty, `columns` are names of COLUMNS. */
  constructor(table, columns) {
    Object.assign(this, { columns, shown: [], rates: new Rates(), body: element("tbody") });
    const heads = columns.map((name) => {
      return element("th", { scope: "col", class: FIGURES.includes(name) ? "number" : null }, COLUMNS[name][0]);
    });
    table.append(element("thead", {}, element("tr", {}, ...heads)), this.body);
  }

  /** An answer has come: other runs, or nothing for the same once more. */
  update(runs) {
    if (runs) this.place(runs);
    this.rates.add(this.shown.map((one) => one.run));
    for (const { run, row } of this.shown) {
      for (const name of isLive(run) ? ["age", "rate"] : ["age"]) {
        const old = row.querySelector(`.is-${name}`);
        const made = old && cell(name, run, this.rates);
        if (made && !made.isEqualNode(old)) old.replaceWith(made);
      }
    }
  }

  place(runs) {
    const old = new Map(this.shown.map((one) => [one.run.run, one]));
    this.shown = runs.map((run) => {
      const text = JSON.stringify(run);
      const known = old.get(run.run);
      if (known?.text === text) return known;
      const cells = this.columns.map((name) => cell(name, run, this.rates));
      const made = { run, text, row: element("tr", { "data-run": run.run }, ...cells) };
      const focused = known?.row.contains(document.activeElement);
      known?.row.replaceWith(made.row);
      if (focused) made.row.querySelector(".to-run").focus();
      return made;
    });
    const { children } = this.body;
    this.shown.forEach((one, at) => children[at] === one.row || this.body.insertBefore(one.row, children[at] ?? null));
    while (children.length > this.shown.length) this.body.lastChild.remove();
  }

  /** The keys that move the focus from run to run. */
  get keys() {
    const move = (to) => {
      const links = [...this.body.querySelectorAll(".to-run")];
      links.at(Math.min(links.length - 1, to(links.indexOf(document.activeElement))))?.focus();
    };
    return { j: () => move((at) => at + 1), k: () => move((at) => Math.max(0, at - 1)), g: () => move(() => 0), G: () => move(() => -1) };
  }
}
