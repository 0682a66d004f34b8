// What pages of lists share: frames as tiles, and the choice that stands in the address.

import { BASE } from "./base.js";
import { element } from "./panels.js";
import { STATE_WORDS, VERDICT_WORDS } from "./state.js";
import { timeNode, utc } from "./times.js";

export const thumbOf = (frameId) => `${BASE}api/frames/${frameId}/thumb`;

// A picture that cannot be made leaves a grey field with a word.
export function thumbnail(frameId, className = "thumb") {
  const box = element("span", { className });
  const picture = element("img", { src: thumbOf(frameId), alt: "", loading: "lazy", decoding: "async" });
  picture.addEventListener("error", () => box.replaceChildren(element("span", { className: "no-picture", text: "no picture" })));
  box.append(picture);
  return box;
}

export const whatIsIn = (row) => (row.labels.length ? row.labels.join(", ") : row.unseen ? "not looked at" : "no box");

export const whatBecame = (row) =>
  row.verdict ? VERDICT_WORDS[row.verdict] : row.state ? STATE_WORDS[row.state] : "not reviewed";

export function frameTile(row) {
  const link = element("a", { className: "tile", href: `${BASE}frames/${row.id}`, "data-link": "" });
  link.append(
    thumbnail(row.id),
    element("b", { text: whatIsIn(row) }),
    element("span", { text: row.camera || row.edge_id }),
    timeNode(row.captured_at),
    element("span", { className: "tile-state", text: whatBecame(row) }),
  );
  return element("li", {}, link);
}

// A form whose fields make up the choice: it is filled from an address, and tells what belongs into one.
export class Choice {
  constructor(form, changed) {
    this.form = form;
    form.addEventListener("change", () => {
      this.#tellZone();
      changed(this.search);
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      changed(this.search);
    });
  }

  get values() {
    const entries = [...new FormData(this.form)].filter(([, value]) => value !== "");
    return Object.fromEntries(
      entries.map(([name, value]) => [name, ["since", "until"].includes(name) ? new Date(value).toISOString() : value]),
    );
  }

  get search() {
    const text = new URLSearchParams([...new FormData(this.form)].filter(([, value]) => value !== "")).toString();
    return text ? `?${text}` : "";
  }

  fill(search) {
    const given = new URLSearchParams(search);
    for (const field of this.form.elements) if (field.name) field.value = given.get(field.name) ?? "";
    this.#tellZone();
  }

  #tellZone() {
    for (const field of this.form.querySelectorAll("input[type=datetime-local]")) field.title = field.value ? utc(field.value) : "";
  }

  offer(name, values) {
    const select = this.form.elements[name];
    const [any] = select.options;
    select.replaceChildren(any, ...values.map(([value, text]) => element("option", { value, text })));
  }
}
