// Which frame this page has for itself. The station hands one out for a while; this keeps it while the page is open.

import * as api from "./api.js";

const ANOTHER = "another reviewer";
const MOST_ASKED = 100; // frames of which the answer is kept: more than there can be verdicts on their way
const newTab = () => [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export class Claims {
  // `reviewer()` -> the name claims are made in; `judged()` -> the frames whose verdict is on its way;
  // `lost()` is called when the open frame is not ours any more.
  constructor(reviewer, judged, lost) {
    this.reviewer = reviewer;
    this.judged = judged;
    this.lost = lost;
    this.tab = newTab();
    this.line = Promise.resolve(); // one request after the other: each frees what the one before took
    this.asked = new Map(); // review id -> promise of what `take` answered
    this.current = null; // the frame that is ours
    this.unheard = null; // the frame that the station was asked for while it was away
    this.timer = null;
    addEventListener("pagehide", () => this.release(true));
    addEventListener("pageshow", (event) => event.persisted && this.lost());
  }

  // Take a frame, or, with a `choice`, the next free one of that list. -> { id, holder, decided, unasked }: which frame
  // is meant (null: none is left), who else has it (null: it is ours), whether nothing is to be judged in it any more,
  // and whether the station has not said so: it is away, or the page passed the frame by.
  take(id, choice = null) {
    this.current = id;
    this.unheard = null;
    this.line = this.line.then(() => this.#take(id, choice));
    this.#note(id, this.line);
    return this.line;
  }

  #note(id, answer) {
    this.asked.delete(id);
    this.asked.set(id, answer);
    if (this.asked.size > MOST_ASKED) this.asked.delete(this.asked.keys().next().value);
  }

  async #take(id, choice) {
    const judged = this.judged();
    if (this.current !== id && !judged.includes(id)) return { id, holder: null, unasked: true };
    if (this.current !== id) choice = null; // judged meanwhile: no other frame will do
    const keep = choice === null && this.current !== null ? [...judged, this.current] : judged;
    try {
      const claim = await api.claimReview({ ...this.#claimant(), review_id: id, or_next: choice !== null, keep }, choice);
      const got = claim?.review_id ?? null;
      if (claim) this.#keep(claim.seconds * 250); // three more may fail on their way
      if (got === id) return { id, holder: null };
      if (this.current === id) {
        this.current = got; // the page goes there
        if (got !== null) this.#note(got, Promise.resolve({ id: got, holder: null }));
      } else if (got !== null && got !== this.current) {
        await this.#letGo(got); // the page is somewhere else by now, and nobody would have it open
      }
      return { id: got, holder: ANOTHER };
    } catch (error) {
      if (error.status === 409) {
        if (this.current === id) this.current = null;
        const holder = error.body?.holder ?? null;
        return { id, holder: holder ?? ANOTHER, decided: holder === null };
      }
      if (this.current === id) this.unheard = id;
      return { id, holder: null, unasked: true };
    }
  }

  // Who else has a frame for which a verdict is about to be sent; null where nobody has, or where the station is away
  // still: a verdict on what was decided meanwhile is marked as contested there.
  async holderOf(id) {
    let answer = await this.asked.get(id);
    if (answer?.unasked) {
      this.line = this.line.then(() => this.#take(id, null));
      answer = await this.line;
      if (answer.decided) return null;
    }
    return answer?.holder ?? null;
  }

  release(leaving = false) {
    const id = this.current;
    this.current = null;
    if (id === null) return;
    if (leaving) void this.#letGo(id, true);
    else this.line = this.line.then(() => this.current !== id && this.#letGo(id)); // unless the page came back
  }

  #letGo = (id, leaving = false) => api.releaseClaim(id, this.#claimant(), leaving).catch(() => null); // else it runs out

  // A frame goes to somebody else, or back to all, and its claim with it. `send()` asks the station for that.
  async handOver(id, send) {
    const sent = this.line.then(send);
    this.line = sent.catch(() => null);
    const answer = await sent;
    if (this.current === id) this.current = null;
    return answer;
  }

  #claimant = () => ({ reviewer: this.reviewer(), tab: this.tab });

  #keep(pause) {
    clearInterval(this.timer);
    this.timer = setInterval(() => void this.#renew(), pause);
  }

  async #renew() {
    const id = this.current;
    if (id === null) return;
    try {
      await api.renewClaim(id, this.#claimant());
    } catch (error) {
      if (error.status !== 409 || this.current !== id) return; // away for now: the next one may come through
      this.current = null;
      this.lost();
    }
  }
}
