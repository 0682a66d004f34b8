// Notes that are being written: each belongs to its frame until the verdict that takes it along is stored. Comments
// that are being written are kept likewise, until they are sent.
// They live as long as the tab, a reload included.

import { BASE } from "./base.js";

export class Notes {
  constructor(kind = "notes") {
    this.key = `secondlook.${kind}${BASE}`;
    this.texts = new Map();
    try {
      this.texts = new Map(JSON.parse(sessionStorage.getItem(this.key) ?? "[]"));
    } catch {
      // nothing that was kept can be read
    }
  }

  of(reviewId) {
    return this.texts.get(reviewId) ?? "";
  }

  write(reviewId, text) {
    if (text) this.texts.set(reviewId, text);
    else this.texts.delete(reviewId);
    try {
      sessionStorage.setItem(this.key, JSON.stringify([...this.texts]));
    } catch {
      // no room: the page has it all the same
    }
  }

  // The note of a verdict that was not stored: back to its frame, before what was written there since.
  giveBack(reviewId, text) {
    if (!text) return;
    const since = this.of(reviewId);
    this.write(reviewId, since && since !== text ? `${text}\n${since}` : text);
  }
}
