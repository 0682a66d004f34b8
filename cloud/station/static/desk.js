// The flow of work: which frame is open, what is fetched ahead, verdicts, undo, keeping up with the server.

import * as api from "./api.js";
import { Claims } from "./claims.js";
import { keyOf, MOST_UNSAVED, Outbox } from "./outbox.js";
import { bestVersion, DECIDABLE, firstDecidable, holderOf, indexOf, isDecided, isElsewhere, isMine, isRepeated, nextDecidable, PENDING, upcoming } from "./state.js";

const LIST_LIMIT = 200;
const PREFETCH = 5;
const QUICK_MS = 400; // a line that takes no longer for a picture has room for more
const POLL_MS = 1000;
const POLL_HIDDEN_MS = 10000;
const SLOW_MS = 1200; // a station that has not answered by then is said not to answer

export class Desk {
  // `on`: tell(text, kind) shows a short message; conflict(entry, answer); loggedOut(); answered() after each summary;
  // busy() -> whether the reviewer is in the middle of something with the open frame.
  constructor(store, images, notes, on) {
    this.store = store;
    this.images = images;
    this.notes = notes;
    this.on = on;
    this.tell = on.tell;
    this.details = new Map(); // id -> review as last received
    this.listed = { rows: [], total: 0 }; // as last received
    this.listing = 0;
    this.handedOut = null; // the open frame, where nobody chose this very one
    this.outbox = new Outbox(({ reviewId, body }) => api.postVerdict(reviewId, body), {
      stored: (entry, review) => store.batch(() => this.#stored(entry, review)),
      conflict: (entry, answer) => this.#conflict(entry, answer),
      refused: (entry, error) => void this.#refused(entry, error),
      loggedOut: () => on.loggedOut(),
      renew: () => api.getMe(),
      changed: () => this.#showPending(),
      holder: (reviewId) => this.claims.holderOf(reviewId),
    });
    this.claims = new Claims(
      () => store.get().reviewer,
      () => [...new Set(this.outbox.entries.map((entry) => entry.reviewId))],
      () => store.set({ lost: true }),
    );
  }

  // --- what is open

  // `automatic`: nobody chose this very frame, so that another one will do where somebody else has it.
  async open(id, { automatic = false } = {}) {
    const { rows } = this.store.get();
    const row = rows.find((candidate) => candidate.id === id);
    const known = this.details.get(id);
    const fresh = known && (!row || known.stamp === row.stamp);
    const review = known ? this.#withPending(known) : null;
    this.handedOut = automatic ? id : null;
    this.store.set({ currentId: id, review, selectedBox: null, draft: null, drawing: false, holder: null, lost: false, missing: null, neighbour: null });
    if (this.claims.current !== id) void this.claim(automatic);
    if (!fresh) await this.refreshCurrent();
    if (this.#isAnothers(this.details.get(id))) return this.#passBy(id);
    this.#prefetch();
  }

  // Whether a frame that was handed out to be judged has been decided by somebody else meanwhile.
  #isAnothers(review) {
    const { currentId, reviewer } = this.store.get();
    const own = (given) => given.reviewer === reviewer && !given.undone;
    return review?.id === currentId && this.handedOut === currentId && review.state === "decided" && !review.verdicts.some(own);
  }

  // Nothing is to be judged any more in what is on the screen, and no list leads away from it.
  #leaveToOthers(review) {
    const last = review.verdicts.findLast((given) => !given.undone);
    this.tell(`${last?.reviewer ?? "Somebody else"} decided this frame meanwhile`);
    return this.#passBy(review.id);
  }

  #passBy(id) {
    this.#unlist(id);
    return this.openFirst();
  }

  openFirst() {
    const state = this.store.get();
    const row = firstDecidable(state) ?? state.rows[0];
    if (row) return this.open(row.id, { automatic: DECIDABLE.has(row.state) && !isElsewhere(state, row) });
    this.#closeFrame();
    return Promise.resolve();
  }

  // The first frame that a colleague handed to this reviewer.
  openMine() {
    const state = this.store.get();
    const row = state.rows.find((one) => isMine(state, one));
    if (row) return this.open(row.id);
    return state.filter === "open" ? Promise.resolve() : this.setFilter("open");
  }

  step(by) {
    const state = this.store.get();
    const at = indexOf(state, state.currentId);
    const row = state.rows[at === -1 ? 0 : at + by];
    if (row) this.open(row.id);
  }

  // Take the open frame for this page, where it can be judged.
  async claim(automatic = false) {
    const { currentId: id, mayJudge, rows } = this.store.get();
    const known = this.details.get(id) ?? rows.find((row) => row.id === id);
    if (!mayJudge || (known && !DECIDABLE.has(known.state)) || (!automatic && isElsewhere(this.store.get(), known))) {
      this.claims.release();
      this.store.set({ holder: null, lost: false });
      return;
    }
    const { id: got, holder, decided } = await this.claims.take(id, automatic ? this.choice() : null);
    if (this.store.get().currentId !== id) return;
    if (decided) {
      await this.refreshCurrent();
      if (this.#isAnothers(this.details.get(id))) await this.#passBy(id);
    } else if (got === null) await this.#nothingLeft(id, holder);
    else if (holder !== null && automatic) await this.open(got);
    else this.store.set({ holder, lost: false });
  }

  // The open frame was not claimed, for the station was away: others may have moved on to it as well.
  #claimAgain() {
    const { currentId } = this.store.get();
    if (currentId !== null && this.claims.unheard === currentId) void this.claim(this.handedOut === currentId);
  }

  // The station has no frame to hand out: what is open has been decided by now, or somebody else has it.
  async #nothingLeft(id, holder) {
    try {
      await this.refreshList();
    } catch (error) {
      this.#failed(error);
    }
    const { currentId, rows } = this.store.get();
    if (currentId !== id) return;
    if (rows.some((row) => row.id === id && DECIDABLE.has(row.state))) this.store.set({ holder, lost: false });
    else await this.openFirst(); // what is left may be free again by now
  }

  #closeFrame() {
    this.claims.release();
    this.store.set({ currentId: null, review: null, selectedBox: null, draft: null, drawing: false, missing: null });
  }

  async free() {
    const { currentId: id, reviewer } = this.store.get();
    try {
      await api.freeClaim(id, reviewer);
      await this.claim();
    } catch (error) {
      this.#failed(error);
    }
  }

  // Hand the open frame to a colleague, or, without one, back to all; the next one comes up. -> what went wrong, or null.
  async handOver(to, comment) {
    const { currentId: id, reviewer } = this.store.get();
    if (this.outbox.pendingOf(id).length) return "Your verdict on this frame is on its way";
    const after = nextDecidable(this.store.get(), id);
    try {
      this.#keep(await this.claims.handOver(id, () => api.handOver(id, reviewer, to, comment)));
    } catch (error) {
      return error.message;
    }
    await this.refreshList().catch((error) => this.#failed(error));
    if (this.store.get().currentId !== id) return null;
    await (after ? this.open(after.id, { automatic: true }) : this.openFirst());
    return null;
  }

  // Judge a frame oneself that waits for somebody else.
  async takeOver() {
    const { currentId: id, reviewer } = this.store.get();
    try {
      this.#keep(await api.handOver(id, reviewer, null, ""));
      await this.claim();
    } catch (error) {
      this.#failed(error);
    }
  }

  // `change(reviewer)` writes or deletes a comment on a frame and answers the review. -> what went wrong, or null.
  async talk(change) {
    try {
      this.#keep(await change(this.store.get().reviewer));
      return null;
    } catch (error) {
      return error.message;
    }
  }

  // What the list is made of.
  choice() {
    return { filter: this.store.get().filter };
  }

  async refreshCurrent() {
    const id = this.store.get().currentId;
    if (id === null) return;
    try {
      const was = this.details.get(id);
      const review = await api.getReview(id);
      this.#keep(review);
      const { currentId, holder } = this.store.get();
      if (currentId !== id) return;
      // Whoever had it has decided it: there is nothing to wait for any more.
      if (holder !== null && this.#isAnothers(review)) return void this.#passBy(id);
      const freed = isElsewhere(this.store.get(), was) && !isElsewhere(this.store.get(), review);
      if ((was?.state !== review.state || freed) && holder === null && this.claims.current !== id) void this.claim();
    } catch (error) {
      if ([404, 410].includes(error.status) && this.store.get().currentId === id) {
        this.store.set({ currentId: null, review: null, missing: error.message });
      } else this.#failed(error);
    }
  }

  loadImage(review, version) {
    return this.images.load(review.id, version, review.image_stamp);
  }

  // --- verdicts

  // `shown`: { id, sha256 } of the picture on screen; `parts`: box_index, label, box, note. -> whether it was taken.
  decide(verdict, shown, parts = {}) {
    const { review, reviewer, user } = this.store.get();
    if (!review || shown?.id !== review.id) {
      this.tell("The picture is not on screen yet");
      return false;
    }
    if (!DECIDABLE.has(review.state) && review.state !== "decided") {
      this.tell("Full quality is still on its way; a verdict waits for it");
      return false;
    }
    if (this.#isAnothers(review)) {
      void this.#passBy(review.id);
      return false;
    }
    const { holder, lost } = this.store.get();
    if (DECIDABLE.has(review.state) && isElsewhere(this.store.get(), review)) {
      this.tell(`${review.handed.giver} handed this frame to ${review.handed.colleague}`);
      return false;
    }
    if (holder !== null) {
      this.tell(`${holder} has this frame open`);
      return false;
    }
    if (lost) void this.claim(); // the verdict is sent once that is answered
    if (this.outbox.count >= MOST_UNSAVED) {
      this.tell(`${this.outbox.count} verdicts are not saved yet; go on when the station answers`, "error");
      return false;
    }
    const known = this.details.get(review.id) ?? review;
    const seen = Math.max(0, ...known.verdicts.map((given) => given.id));
    const body = {
      ...{ reviewer, verdict, shown_sha256: shown.sha256, box_index: null, label: null, box: null, note: "" },
      ...parts,
      seen_verdict_id: seen,
    };
    if (isRepeated(review, body)) {
      this.tell("That is your verdict already");
      return false;
    }
    const key = keyOf(known, body, this.outbox.pendingOf(review.id).length);
    const expected = { ...review, verdicts: [...review.verdicts, { ...body, undone: false }] };
    const leaves = isDecided(expected) && !isDecided(review);
    const next = leaves ? nextDecidable(this.store.get(), review.id) : null;
    this.outbox.add({ key, user, reviewId: review.id, body: { ...body, idempotency_key: key }, leaves });
    if (leaves) void (next ? this.open(next.id, { automatic: true }) : this.openFirst());
    return true;
  }

  #stored(entry, review) {
    this.#claimAgain();
    this.listing += 1; // a list still on its way may be older than this verdict
    if (isDecided(review) && this.store.get().filter !== "decided") this.#unlist(review.id);
    this.#keep(review);
  }

  #conflict(entry, answer) {
    this.#stored(entry, answer.review);
    this.on.conflict(entry, answer);
  }

  async #refused(entry, error) {
    this.details.delete(entry.reviewId);
    this.notes.giveBack(entry.reviewId, entry.body.note);
    this.tell(`The verdict was not stored: ${error.message}`, "error");
    try {
      await this.refreshList();
      if (error.status === undefined) return void (this.store.get().currentId === null && this.openFirst()); // somebody else has it
      if (entry.leaves || this.store.get().currentId === entry.reviewId) await this.open(entry.reviewId);
    } catch (problem) {
      this.#failed(problem);
    }
  }

  // A review as it will be once all verdicts are stored.
  #withPending(review) {
    const pending = this.outbox.pendingOf(review.id).map(({ body }) => ({ ...body, undone: false }));
    return pending.length ? { ...review, verdicts: [...review.verdicts, ...pending] } : review;
  }

  #showPending() {
    const { currentId } = this.store.get();
    const known = this.details.get(currentId);
    this.store.set({
      unsaved: this.outbox.count,
      ...this.#shownRows(),
      ...(known ? { review: this.#withPending(known) } : {}),
    });
  }

  // The list without the frames whose verdict is on its way.
  #shownRows() {
    const { rows, total } = this.listed;
    if (this.store.get().filter === "decided") return { rows, total };
    const leaving = new Set(this.outbox.entries.filter((entry) => entry.leaves).map((entry) => entry.reviewId));
    const left = rows.filter((row) => !leaving.has(row.id));
    return { rows: left, total: total - (rows.length - left.length) };
  }

  #unlist(id) {
    const rows = this.listed.rows.filter((row) => row.id !== id);
    this.listed = { rows, total: this.listed.total - (this.listed.rows.length - rows.length) };
    this.store.set(this.#shownRows());
  }

  // -> whether it was undone.
  async undo(verdictId = null) {
    const taken = verdictId === null ? this.outbox.takeBack() : null;
    if (taken) {
      this.notes.giveBack(taken.reviewId, taken.body.note);
      await this.open(taken.reviewId);
      this.tell("Taken back before it was sent");
      return true;
    }
    await this.outbox.settled();
    if (this.outbox.count) {
      this.tell("The last verdict is not saved yet; undo waits for the station", "error");
      return false;
    }
    const { reviewer } = this.store.get();
    try {
      const review = verdictId === null ? await api.undoLast(reviewer) : await api.undoVerdict(verdictId, reviewer);
      this.details.set(review.id, review);
      await this.refreshList();
      await this.open(review.id);
      this.tell("Undone");
      return true;
    } catch (error) {
      this.tell(error.status === 409 ? "There is no verdict of yours to undo" : error.message, "error");
      return false;
    }
  }

  async retry() {
    const { review, reviewer } = this.store.get();
    try {
      this.#keep(await api.retryReview(review.id, reviewer));
      this.tell("Asked the camera again");
      await this.refreshList();
    } catch (error) {
      this.#failed(error);
    }
  }

  // Of a frame of which a crop is shown, the rest.
  async fetchWhole() {
    const { review, reviewer, mayJudge } = this.store.get();
    if (!mayJudge || !review?.crop || PENDING.has(review.state)) return;
    try {
      this.#keep(await api.wantWholeFrame(review.id, reviewer));
      this.tell("Asked the camera for the whole frame");
      await this.refreshList();
    } catch (error) {
      this.#failed(error);
    }
  }

  // --- keeping up

  async setFilter(filter) {
    this.listed = { rows: [], total: 0 };
    this.store.set({ filter, rows: [], total: 0, loaded: false });
    await this.outbox.settled();
    try {
      await this.refreshList();
      await this.openFirst();
    } catch (error) {
      this.#failed(error);
    }
  }

  async refreshList() {
    const turn = ++this.listing;
    const list = await api.getReviews(this.choice(), LIST_LIMIT);
    if (turn !== this.listing) return; // a newer request is on its way
    this.listed = { rows: list.reviews, total: list.total };
    this.store.set({ ...this.#shownRows(), loaded: true });
  }

  // Ask for the summary for ever; fetch the list, and the open frame, only when something changed.
  async follow() {
    for (;;) {
      await this.#look();
      await new Promise((resolve) => setTimeout(resolve, document.hidden ? POLL_HIDDEN_MS : POLL_MS));
    }
  }

  async #look() {
    const slow = setTimeout(() => this.#connection("slow"), SLOW_MS);
    const list = this.store.get().summary ? null : this.refreshList(); // the first time it is wanted in any case
    list?.catch(() => null); // whoever waits for it hears of it
    try {
      const summary = await api.getSummary();
      clearTimeout(slow);
      const was = this.store.get().connection;
      this.#connection("");
      if (was && this.outbox.count) this.outbox.kick();
      this.#claimAgain();
      await this.on.answered();
      const { summary: before, currentId, review } = this.store.get();
      const missing = currentId !== null && !review; // it was opened while the station was away
      if (was || missing || before?.revision !== summary.revision) await this.#catchUp(list ?? this.refreshList());
      this.store.set({ summary }); // only now: a list that failed is asked for again
      const now = this.store.get();
      if (now.holder !== null && holderOf(now, now.currentId) === null) void this.claim(); // it is free by now
      else if (this.#isAnothers(now.review) && !this.on.busy()) await this.#leaveToOthers(now.review);
      // Nothing is open, and a frame is free: whoever had it let go, which changes no list.
      else if (now.currentId === null && now.missing === null && firstDecidable(now)) await this.openFirst();
    } catch (error) {
      this.#failed(error);
    } finally {
      clearTimeout(slow);
    }
  }

  #connection(connection) {
    if (this.store.get().connection !== connection) this.store.set({ connection });
  }

  // `list`: a promise that the list is up to date.
  async #catchUp(list) {
    await list;
    const { rows, currentId } = this.store.get();
    if (currentId === null) {
      if (this.store.get().missing === null) await this.openFirst();
      return;
    }
    const row = rows.find((candidate) => candidate.id === currentId);
    if (!row || row.stamp !== this.details.get(currentId)?.stamp) await this.refreshCurrent();
    this.#prefetch();
  }

  #keep(review) {
    this.details.set(review.id, review);
    if (this.store.get().currentId === review.id) this.store.set({ review: this.#withPending(review) });
  }

  #failed(error) {
    if (error.status === 401) return; // the page asks for a log-in
    if (error instanceof api.ApiError && error.status < 500) this.tell(error.message, "error");
    else this.#connection("lost");
  }

  // What the reviewer will want next: the frames that follow, as many as the line has room for, then, where it is quick,
  // their bases, to compare. One request after the other, so that the open frame is never slowed down.
  async #prefetch() {
    const state = this.store.get();
    const open = state.rows.filter((row) => row.id === state.currentId);
    const ahead = [...open, ...upcoming(state, state.currentId, PREFETCH)];
    const fetch = async (row, wanted) => {
      let review = this.details.get(row.id);
      if (review?.stamp !== row.stamp) {
        review = await api.getReview(row.id);
        this.details.set(row.id, review);
      }
      const version = wanted === "base" ? review.images.base && "base" : bestVersion(review, wanted, this.store.get().learned);
      if (version) await this.loadImage(review, version);
      return this.store.get().currentId === state.currentId; // else the reviewer moved on, and a newer prefetch runs
    };
    try {
      for (const [at, row] of ahead.entries()) {
        if (at > this.#room()) break;
        if (!(await fetch(row, this.store.get().version))) return;
      }
      for (const row of ahead) {
        if (this.images.pace > QUICK_MS || navigator.connection?.saveData) break;
        if (!(await fetch(row, "base"))) return;
      }
    } catch {
      return; // only a prefetch: opening the frame will ask again and say what is wrong
    }
    this.#forget(state);
  }

  // How many frames are fetched ahead: on a slow line those that are looked at come first.
  #room() {
    const { pace } = this.images;
    return pace === null || pace > 8 * QUICK_MS ? 1 : pace > 3 * QUICK_MS ? 2 : PREFETCH;
  }

  #forget(state) {
    const listed = new Set(state.rows.map((row) => row.id));
    for (const id of this.details.keys()) {
      if (id !== state.currentId && !listed.has(id) && !this.outbox.pendingOf(id).length) this.details.delete(id);
    }
  }
}
