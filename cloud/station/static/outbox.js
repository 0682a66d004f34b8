// Verdicts that the station has not answered yet. Each is kept in this browser (IndexedDB) until it is answered, and
// is sent as often as that takes: its key lets the station store it once. Nothing here may throw past `#pass`.

import { BASE } from "./base.js";

export const MOST_UNSAVED = 5; // judging stops here

const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 4000;
const NAME = `secondlook${BASE}`;

const finished = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

// The entries on disk. Where a browser keeps none (a private window), the page has them alone.
class Shelf {
  constructor() {
    const opening = indexedDB.open(NAME, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("verdicts", { keyPath: "key" });
    this.database = finished(opening).catch(() => null);
  }

  async #in(mode, work) {
    const database = await this.database;
    if (!database) return null;
    const transaction = database.transaction("verdicts", mode);
    const done = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    const result = finished(work(transaction.objectStore("verdicts")));
    await done;
    return result;
  }

  all = () => this.#in("readonly", (store) => store.getAll());
  put = (entry) => this.#in("readwrite", (store) => store.put(entry));
  remove = (key) => this.#in("readwrite", (store) => store.delete(key));
}

// Two small hashes side by side: equal verdicts get equal keys, in whichever window they are given.
function hashOf(text) {
  let one = 0x811c9dc5;
  let two = 0x1b873593;
  for (let at = 0; at < text.length; at += 1) {
    one = Math.imul(one ^ text.charCodeAt(at), 0x01000193);
    two = Math.imul(two ^ text.charCodeAt(at), 0x85ebca6b);
    two = (two << 13) | (two >>> 19);
  }
  return [one, two].map((part) => (part >>> 0).toString(16).padStart(8, "0")).join("");
}

// The same verdict on the same state of a review has one key; after an undo it has another.
export function keyOf(review, body, pendingBefore) {
  const undone = review.verdicts.filter((verdict) => verdict.undone).length;
  const { reviewer, verdict, box_index: index, label, box, note, shown_sha256: shown } = body;
  const content = JSON.stringify([reviewer, verdict, index, label, box, note, shown]);
  return `${review.id}.${body.seen_verdict_id}.${undone}.${pendingBefore}.${hashOf(content)}`;
}

export class Outbox {
  // `post(entry)` -> the review as it then stands. `on`: stored(entry, review), conflict(entry, answer),
  // refused(entry, error), loggedOut(), renew() -> a promise, changed(), holder(reviewId) -> a promise of who else has
  // the frame, or null.
  constructor(post, on) {
    this.post = post;
    this.on = on;
    this.entries = []; // { key, user, reviewId, body, leaves, before }, oldest first
    this.shelf = new Shelf();
    this.wait = FIRST_WAIT_MS;
    this.passing = null;
    this.timer = null;
  }

  get count() {
    return this.entries.length;
  }

  pendingOf(reviewId) {
    return this.entries.filter((entry) => entry.reviewId === reviewId);
  }

  // What an earlier page of this user left. -> who else's verdicts wait in this browser.
  async load(user) {
    const kept = (await this.shelf.all().catch(() => null)) ?? [];
    const own = kept.filter((entry) => entry.user === user).sort((a, b) => a.at - b.at);
    this.entries.push(...own.map((entry) => ({ ...entry, tried: true, saved: Promise.resolve() })));
    this.#tell("changed");
    this.kick();
    return kept.filter((entry) => entry.user !== user).map((entry) => entry.body.reviewer);
  }

  add(entry) {
    const kept = { ...entry, at: Date.now() };
    // Sent only once it is kept: a page that dies in between has then lost nothing.
    const saved = this.shelf.put(kept).catch(() => null);
    this.entries.push({ ...kept, tried: false, saved });
    this.#tell("changed");
    this.kick();
  }

  // The newest verdict, if it was never sent: it is as if it had not been given.
  takeBack() {
    const entry = this.entries.at(-1);
    if (!entry || entry.tried) return null;
    this.#drop(entry);
    return entry;
  }

  // Send now, whatever the wait was.
  kick() {
    clearTimeout(this.timer);
    this.timer = null;
    this.passing ??= this.#pass().finally(() => {
      this.passing = null;
      if (!this.count) this.wait = FIRST_WAIT_MS;
      else if (this.entries.some((entry) => !entry.tried) && !this.stuck) this.kick();
      else {
        this.timer = setTimeout(() => this.kick(), this.wait);
        this.wait = Math.min(this.wait * 2, LONGEST_WAIT_MS);
      }
    });
  }

  // All that can be sent has been tried.
  async settled() {
    while (this.passing) await this.passing;
  }

  // Each entry once, in order; one that the station fails over holds up those of its own frame only.
  async #pass() {
    const held = new Set();
    this.stuck = false;
    for (const entry of [...this.entries]) {
      if (held.has(entry.reviewId) || !this.entries.includes(entry)) continue;
      const outcome = await this.#send(entry).catch(() => "later");
      if (outcome === "later") {
        this.stuck = true;
        return;
      }
      if (outcome === "held") held.add(entry.reviewId);
    }
    this.stuck = held.size > 0;
  }

  async #send(entry) {
    await entry.saved;
    const holder = entry.tried ? null : await this.on.holder(entry.reviewId);
    if (!this.entries.includes(entry)) return "done"; // taken back meanwhile
    if (holder) {
      this.#drop(entry);
      this.#tell("refused", entry, new Error(`${holder} has this frame open`));
      return "done";
    }
    entry.tried = true;
    let error = await this.#attempt(entry);
    if (error?.status === 403) {
      // Another window may have logged in anew, which changes the token that writes carry.
      await this.on.renew();
      error = await this.#attempt(entry);
    }
    if (!error) {
      this.wait = FIRST_WAIT_MS;
      return "done";
    }
    if (error.status === 401) {
      this.#tell("loggedOut");
      return "later";
    }
    if (error.body?.conflict) {
      this.#drop(entry);
      this.#tell("conflict", entry, error.body);
      return "done";
    }
    if (error.status >= 400 && error.status < 500 && ![408, 425, 429].includes(error.status)) {
      this.#drop(entry);
      this.#tell("refused", entry, error);
      return "done";
    }
    return error.status === 500 ? "held" : "later";
  }

  // -> what went wrong, or null.
  async #attempt(entry) {
    try {
      const review = await this.post(entry);
      this.#drop(entry);
      this.#tell("stored", entry, review);
      return null;
    } catch (error) {
      return error;
    }
  }

  #drop(entry) {
    this.entries = this.entries.filter((other) => other !== entry);
    entry.saved.then(() => this.shelf.remove(entry.key)).catch(() => null);
    this.#tell("changed");
  }

  #tell(what, ...given) {
    try {
      this.on[what](...given);
    } catch (error) {
      console.error(error);
    }
  }
}
