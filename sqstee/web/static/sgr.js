// A line with its colours (SGR) as spans. Every other escape sequence is left out, every other control made visible.

import { element, neutral } from "./common.js";

const ESCAPES = /\x1b\[([0-9;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]/g;
const FLAGS = { 1: "b", 2: "d", 3: "i", 4: "u", 9: "s" };
const OFF = { 22: ["b", "d"], 23: ["i"], 24: ["u"], 29: ["s"] };
const MOST_SPANS = 500; // of one line; the rest is plain

/** Append a line to an element. */
export function appendLine(parent, text) {
  if (!text.includes("\x1b")) {
    parent.append(neutral(text));
    return;
  }
  const style = { flags: new Set(), fore: null, back: null };
  let place = 0;
  let spans = 0;
  for (const found of text.matchAll(ESCAPES)) {
    if (found.index > place) spans += appendStyled(parent, text.slice(place, found.index), spans < MOST_SPANS && style);
    place = found.index + found[0].length;
    if (found[1] !== undefined) apply(style, found[1]);
  }
  if (place < text.length) appendStyled(parent, text.slice(place), spans < MOST_SPANS && style);
}

function appendStyled(parent, text, style) {
  if (!style || !(style.flags.size || style.fore || style.back)) {
    parent.append(neutral(text));
    return 0;
  }
  const span = element("span", { class: [...style.flags].join(" ") }, neutral(text));
  if (typeof style.fore === "number") span.classList.add(`f${style.fore}`);
  else if (style.fore) {
    // its lightness is kept to what can be read on our background
    span.style.color = `oklch(from rgb(${style.fore.join(",")}) clamp(var(--darkest), l, var(--lightest)) c h)`;
  }
  if (typeof style.back === "number") span.classList.add(`g${style.back}`);
  else if (style.back) {
    const [red, green, blue] = style.back;
    span.style.backgroundColor = `rgb(${style.back.join(",")})`;
    span.style.color = 299 * red + 587 * green + 114 * blue > 128_000 ? "#000" : "#fff";
  }
  parent.append(span);
  return 1;
}

function apply(style, text) {
  const codes = text.split(/[;:]/, 32).map((part) => Number.parseInt(part || "0", 10));
  for (let at = 0; at < codes.length; at += 1) {
    const code = codes[at];
    if (code === 0) Object.assign(style, { flags: new Set(), fore: null, back: null });
    else if (FLAGS[code]) style.flags.add(FLAGS[code]);
    else if (OFF[code]) OFF[code].forEach((flag) => style.flags.delete(flag));
    else if (code >= 30 && code <= 37) style.fore = code - 30;
    else if (code >= 90 && code <= 97) style.fore = code - 90;
    else if (code >= 40 && code <= 47) style.back = code - 40;
    else if (code >= 100 && code <= 107) style.back = code - 100;
    else if (code === 39) style.fore = null;
    else if (code === 49) style.back = null;
    else if (code === 38 || code === 48) {
      const length = codes[at + 1] === 2 ? 5 : 3;
      const colour = codes[at + 1] === 2 ? codes.slice(at + 2, at + 5) : ofPalette(codes[at + 2]);
      if (colour !== null && (typeof colour === "number" || colour.every((part) => part >= 0 && part <= 255))) {
        style[code === 38 ? "fore" : "back"] = colour;
      }
      at += length - 1;
    }
  }
}

/** A colour of xterm's 256. */
function ofPalette(code) {
  if (!(code >= 0 && code <= 255)) return null;
  if (code < 16) return code % 8;
  if (code >= 232) return [0, 1, 2].map(() => 8 + 10 * (code - 232));
  const level = (part) => (part ? 55 + 40 * part : 0);
  return [Math.floor((code - 16) / 36), Math.floor((code - 16) / 6) % 6, (code - 16) % 6].map(level);
}
