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
  }

  /** The run has changed: chunks that may have more now are fetched again. */
  update(run) {
    if (run.last !== this.last || JSON.stringify(run.holes) !== this.holesText) {
      for (const [key, chunk] of this.chunks) if (!chunk.whole) chunk.stale = true;
    }
    this.holesText = JSON.stringify(run.holes);
    this.holes = run.holes.filter(([first, last]) => last > first);
    [this.first, this.last] = [run.first, run.last];
  }

  /** The number of rows: a row for each seq, and one for each hole. */
  get count() {
    return Math.max(0, this.holes.reduce((count, [first, last]) => count - (last - first), this.last - this.first + 1));
  }

  /** The seq of a row. */
  seqOf(index) {
    let seq = this.first + index;
    for (const [first, last] of this.holes) {
      if (seq <= first) break;
      seq += last - first;
    }
    return seq;
  }

  /** The row of a seq. */
  indexOf(seq) {
    let index = seq - this.first;
    for (const [first, last] of this.holes) {
      if (seq < first) break;
      index -= Math.min(seq, last) - first;
    }
    return Math.max(0, Math.min(this.count - 1, index));
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
    for (let seq = Math.max(entry.seq, begin); seq <= last; seq += 1) chunk.entries.set(seq, entry);
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
