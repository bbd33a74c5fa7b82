// A list of any number of rows of one height, of which only those in sight exist.

const MOST_PIXELS = 15_000_000; // browsers make no element higher than some 17 million

export class RowList {
  /**
   * `view` scrolls, `rows` holds the rows in sight, `spacer` gives the height. `content(index)` is what a row shows,
   * `make(index)` makes it, `decorate(row, index)` sets what may change without a change of the content.
   */
  constructor(view, rows, spacer, height, { content, make, decorate }) {
    Object.assign(this, { view, rows, spacer, height, content, make, decorate });
    this.made = new Map(); // by index
    this.count = 0;
    this.follow = false;
    this.onFollow = () => {};
    this.frame = 0;
    view.addEventListener("scroll", () => {
      if (view.scrollTop === this.placed) return this.draw();
      this.placed = view.scrollTop;
      this.setFollow(this.isAtEnd());
      return this.draw();
    });
    new ResizeObserver(() => this.setCount(this.count)).observe(view);
  }

  setFollow(follow) {
    if (follow === this.follow) return;
    this.follow = follow;
    this.onFollow(follow);
  }

  get visible() {
    return Math.max(1, Math.floor(this.view.clientHeight / this.height));
  }

  /** The pixels that can be scrolled. */
  get range() {
    return Math.min(MOST_PIXELS, Math.max(0, this.count * this.height - this.view.clientHeight));
  }

  isAtEnd() {
    return this.view.scrollTop >= this.range - this.height / 2;
  }

  /** The first row in sight, and how much of it is out of sight. */
  top() {
    const last = Math.max(0, this.count - this.visible);
    const place = Math.min(this.view.scrollTop, this.range);
    if (this.range < MOST_PIXELS) return [Math.floor(place / this.height), place % this.height];
    return place >= this.range - 1 ? [last, 0] : [Math.round((place / this.range) * last), 0];
  }

  setCount(count) {
    this.count = count;
    this.rows.style.height = `${this.view.clientHeight}px`;
    this.spacer.style.height = `${this.range}px`;
    if (this.follow) this.toEnd();
    this.draw();
  }

  scrollTo(pixels) {
    this.view.scrollTop = pixels;
    this.placed = this.view.scrollTop;
    this.draw();
  }

  toEnd() {
    this.scrollTo(this.range);
  }

  /** Bring a row into sight, unless it is: to the middle, or just so far (`nearest`). */
  show(index, nearest = false) {
    const [top] = this.top();
    if (index > top && index < top + this.visible - 1) return this.draw();
    this.setFollow(false);
    let first = index - Math.floor(this.visible / 2);
    if (nearest) first = index <= top ? index : index - this.visible + 1;
    const last = Math.max(1, this.count - this.visible);
    const place = Math.max(0, Math.min(last, first));
    return this.scrollTo(this.range < MOST_PIXELS ? place * this.height : (place / last) * this.range);
  }

  /** Make all rows anew: they show something else. */
  reset() {
    this.made.clear();
    this.rows.replaceChildren();
  }

  /** Make the rows in sight. Those whose content is the same stay: text in them may be marked, or be clicked on. */
  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => {
      const [top, hidden] = this.top();
      const end = Math.min(this.count, top + this.visible + 2);
      for (const [index, one] of this.made) {
        if (index >= top && index < end && one.content === this.content(index)) continue;
        one.row.remove();
        this.made.delete(index);
      }
      for (let index = top; index < end; index += 1) {
        if (!this.made.has(index)) {
          const one = { content: this.content(index), row: this.make(index) };
          this.made.set(index, one);
          this.rows.insertBefore(one.row, this.rows.children[index - top] ?? null);
        }
        const { row } = this.made.get(index);
        row.style.marginTop = index === top ? `${-hidden}px` : "";
        this.decorate(row, index);
      }
    });
  }
}
