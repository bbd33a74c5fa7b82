// The lines of a run, fetched in chunks where they are looked at; those looked at last are kept, of bounded size.

import { request } from "./common.js";

const CHUNK = 250; // seqs
const MOST_CHARACTERS = 16_000_000; // kept

export class Lines {
  /** `loaded` is called when lines have come. */
  constructor(run, loaded) {
    this.address = `runs/${encodeURIComponent(run)}/lines`;
    this.loaded = loaded;
    this.chunks = new Map(); // the one used last stands last
    this.pending = new Set();
    this.size = 0;
    this.holes = []; // ranges of more than one seq, which take one row each
    this.first = 0;
    this.last = -1;
    this.parts = [];
    this.count = 0; // rows
  }

  /** The run has changed: chunks that may have more now are fetched again. */
  update(run) {
    if (run.last !== this.last || JSON.stringify(run.holes) !== this.holesText) {
      for (const [key, chunk] of this.chunks) if (!chunk.whole) chunk.stale = true;
    }
    this.holesText = JSON.stringify(run.holes);
    this.holes = run.holes.filter(([first, last]) => last > first);
    [this.first, this.last] = [run.first, run.last];
    this.parts = [];
    this.count = 0;
    let start = run.first;
    for (const [first, last] of this.holes) {
      this.add(start, first - 1, first - start);
      this.add(first, last, 1);
      start = last + 1;
    }
    this.add(start, run.last, run.last - start + 1);
  }

  /** Seqs that take so many rows: a row each, or one for a hole. */
  add(first, last, size) {
    if (size <= 0) return;
    this.parts.push({ row: this.count, first, last, size });
    this.count += size;
  }

  /** The seq of a row. */
  seqOf(index) {
    const part = this.parts.findLast((one) => one.row <= index);
    return part ? part.first + index - part.row : this.first;
  }

  /** The row of a seq. */
  indexOf(seq) {
    const part = this.parts.find((one) => seq <= one.last) ?? this.parts.at(-1);
    return part ? part.row + Math.min(part.size - 1, Math.max(0, seq - part.first)) : 0;
  }

  /** The entry at a seq; undefined while it is fetched. */
  at(seq) {
    const key = Math.floor(seq / CHUNK);
    const chunk = this.chunks.get(key);
    if (chunk) {
      this.chunks.delete(key);
      this.chunks.set(key, chunk);
    }
    if (!chunk || chunk.stale) this.fetch(key);
    return chunk?.entries.get(seq);
  }

  async fetch(key) {
    if (this.pending.has(key)) return;
    this.pending.add(key);
    const end = (key + 1) * CHUNK;
    const chunk = { entries: new Map(), size: 0, whole: true, stale: false };
    try {
      let after = key * CHUNK - 1;
      for (let more = true; more && after < end - 1; ) {
        const text = await (await request(`${this.address}?after=${after}&limit=${Math.min(CHUNK, end - 1 - after)}`)).text();
        const found = JSON.parse(text);
        for (const entry of found.lines) this.put(chunk, entry, key * CHUNK, end);
        chunk.size += text.length;
        more = found.more && found.next > after;
        after = found.next;
      }
      if (after < end - 1) chunk.whole = false;
      this.keep(key, chunk);
    } catch {
      await new Promise((done) => setTimeout(done, 1000)); // the page's poll says what is wrong
    }
    this.pending.delete(key);
    this.loaded();
  }

  put(chunk, entry, begin, end) {
    const isHole = entry.event === "gap" || entry.event === "missing";
    if (isHole) chunk.whole = false;
    const last = isHole ? Math.min(entry.to, end - 1) : entry.seq;
    const first = Math.max(entry.seq, begin);
    // bounded: above 2^53, where numbers are no longer exact, adding 1 changes nothing
    for (let at = 0; at < CHUNK && first + at <= last; at += 1) chunk.entries.set(first + at, entry);
  }

  keep(key, chunk) {
    for (const [seq, old] of this.chunks.get(key)?.entries ?? []) {
      const entry = chunk.entries.get(seq);
      const isSame = entry && ["event", "from", "to"].every((name) => entry[name] === old[name]);
      if (isSame) chunk.entries.set(seq, old); // by which its row is known
    }
    this.size += chunk.size - (this.chunks.get(key)?.size ?? 0);
    this.chunks.delete(key);
    this.chunks.set(key, chunk);
    for (const [other, one] of this.chunks) {
      if (this.size <= MOST_CHARACTERS || other === key) break;
      this.chunks.delete(other);
      this.size -= one.size;
    }
  }
}
