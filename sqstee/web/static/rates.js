// How fast lines come: over a run's whole life as a small plot, and of late as a number.

import { isLive, number, shape, sum } from "./common.js";

const WIDTH = 96;
const HEIGHT = 18;
const LEAST = 12; // a short run does not fill the plot
const MOST = 96;
const LATE = 10; // seconds

const perSecond = (value) => (value >= 10 ? number(Math.round(value)) : String(Number(value.toPrecision(2))));

/** Lines per second in each stretch of time; up to the present where the run goes on. */
function ratesOf(run) {
  const { from, seconds, lines } = run.lines_by_time;
  const found = lines.map((count) => count / seconds);
  if (!isLive(run)) return found;
  const over = Math.floor((Date.now() - Date.parse(from)) / 1000 / seconds);
  while (found.length < Math.min(over, MOST)) found.push(0);
  if (found.length > 1 && found.length > over) found.pop(); // it has just begun
  return found;
}

/** A plot of a run's lines by time; null where nothing is known. */
export function sparkline(run) {
  if (!run.lines_by_time) return null;
  const rates = ratesOf(run);
  const most = Math.max(...rates);
  const step = WIDTH / Math.max(LEAST, rates.length);
  const top = (rate) => HEIGHT - (rate && Math.max(1, ((HEIGHT - 1) * rate) / most));
  const steps = rates.map((rate, at) => `V${top(rate).toFixed(1)}H${((at + 1) * step).toFixed(1)}`);
  return shape(
    "svg",
    { class: "rates", role: "img", width: WIDTH, height: HEIGHT },
    shape("title", {}, `at most ${perSecond(most)} lines per second`),
    shape("path", { d: `M0 ${HEIGHT}${steps.join("")}V${HEIGHT}Z` }),
  );
}

/** Lines per second of late, from the answers of the last seconds. */
export class Rates {
  seen = new Map(); // by run: when there were how many lines

  /** Runs as they are in an answer that has just come. */
  add(runs) {
    const now = performance.now() / 1000;
    const old = this.seen;
    this.seen = new Map();
    for (const run of runs.filter(isLive)) {
      const known = (old.get(run.run) ?? []).filter(([at]) => now - at <= LATE);
      this.seen.set(run.run, [...known, [now, sum(run.lines)]]);
    }
  }

  /** The number for a run; on average where it has ended. */
  text(run) {
    if (!isLive(run)) return run.duration_s ? perSecond(sum(run.lines) / run.duration_s) : "";
    const known = this.seen.get(run.run) ?? [[0, 0]];
    const [[began, before], [now, lines]] = [known[0], known.at(-1)];
    return now - began > 1.5 ? perSecond((lines - before) / (now - began)) : "";
  }
}
