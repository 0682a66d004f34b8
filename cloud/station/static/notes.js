// Notes that are being written: each belongs to its frame until the verdict that takes it along is stored.
// They live as long as the tab, a reload included.

import { BASE } from "./base.js";

const KEY = `secondlook.notes${BASE}`;

export class Notes {
  constructor() {
    this.texts = new Map();
    try {
      this.texts = new Map(JSON.parse(sessionStorage.getItem(KEY) ?? "[]"));
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
      sessionStorage.setItem(KEY, JSON.stringify([...this.texts]));
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
