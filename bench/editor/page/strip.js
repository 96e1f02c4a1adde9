// The strip of small images at the bottom: one page of the queue at a time, however long the queue is.

export const PER_PAGE = 30;

export class Strip {
  // list, pages: elements; describe(position) gives { name, state }; open(position) shows an image.
  constructor({ list, pages, count, describe, open }) {
    Object.assign(this, { list, pages, count, describe, open, first: -1 });
    const [back, , on] = pages.children;
    back.addEventListener("click", () => this.turn(this.first - PER_PAGE));
    on.addEventListener("click", () => this.turn(this.first + PER_PAGE));
    pages.hidden = count <= PER_PAGE;
  }

  turn(first) {
    this.first = Math.min(Math.max(0, first), PER_PAGE * Math.floor((this.count - 1) / PER_PAGE));
    const end = Math.min(this.count, this.first + PER_PAGE);
    this.list.replaceChildren(...Array.from({ length: end - this.first }, (_, i) => this.make(this.first + i)));
    const [back, text, on] = this.pages.children;
    text.textContent = `${this.first + 1} to ${end} of ${this.count}`;
    back.disabled = this.first === 0;
    on.disabled = end === this.count;
    for (let position = this.first; position < end; position++) this.mark(position);
  }

  make(position) {
    const item = document.createElement("li"), button = document.createElement("button"), image = new Image();
    image.loading = "lazy";
    image.alt = "";
    image.src = `/api/images/${position}/frame.png`;
    button.append(image, document.createElement("i"));
    button.addEventListener("click", (event) => {
      if (event.detail) button.blur();  // a mouse: the arrow keys go through the queue
      this.open(position);
    });
    item.append(button);
    return item;
  }

  button(position) {
    return this.list.children[position - this.first]?.firstElementChild;
  }

  mark(position) {
    const button = this.button(position);
    if (!button) return;
    const { name, state } = this.describe(position);
    button.className = state;
    button.title = name;
    button.setAttribute("aria-label", `Image ${position + 1}, ${name}`);
  }

  show(position) {
    const had = this.list.contains(document.activeElement);
    const first = PER_PAGE * Math.floor(position / PER_PAGE);
    if (first !== this.first) this.turn(first);
    this.list.querySelector("[aria-current]")?.removeAttribute("aria-current");
    const button = this.button(position);
    button.setAttribute("aria-current", "true");
    if (had) button.focus();
    this.list.scrollLeft = button.offsetLeft - this.list.offsetLeft - (this.list.clientWidth - button.offsetWidth) / 2;
  }
}
