// What the page knows, in one place. Views read it and are told when it changes; only main.js writes it.

export const DECIDABLE = new Set(["ready", "expired"]);
export const PENDING = new Set(["due", "leased"]);

export const FILTERS = [
  ["open", "Open"],
  ["ready", "Ready"],
  ["pending", "Pending"],
  ["expired", "Expired"],
  ["settled", "Settled"],
  ["skipped", "Skipped"],
  ["decided", "Decided"],
];

export const STATE_WORDS = {
  due: "waiting for full quality",
  leased: "fetching full quality",
  ready: "ready",
  expired: "full quality lost",
  settled: "settled by a second look",
  skipped: "skipped: too many others were open",
  decided: "decided",
};

export function createStore(initial) {
  let state = initial;
  let batches = 0;
  const listeners = new Set();
  const tell = (before) => {
    for (const listener of listeners) listener(state, before);
  };
  return {
    get: () => state,
    set(patch) {
      const before = state;
      state = { ...state, ...patch };
      if (!batches) tell(before);
    },
    // What `work` changes, at once, is told once.
    batch(work) {
      const before = state;
      batches += 1;
      try {
        return work();
      } finally {
        batches -= 1;
        if (!batches && state !== before) tell(before);
      }
    },
    subscribe(listener) {
      listeners.add(listener);
      listener(state, state);
    },
  };
}

export const initialState = () => ({
  title: "Secondlook",
  labels: [],
  common: [], // the classes met most, for Shift and a digit
  reviewer: "", // what verdicts are signed with
  user: null, // who is logged in; null where there is no log-in
  mayJudge: true,
  role: null,
  page: "review",
  filter: "open",
  rows: [], // the queue as listed, in the server's order
  total: 0,
  holder: null, // who else has the open frame, and is not to be disturbed
  missing: null, // why there is no frame at the address that was opened
  lost: false, // the open frame was ours and is not any more
  loaded: false, // the first list has come
  currentId: null,
  review: null, // detail of currentId, or null while it loads
  selectedBox: null, // index into `boxesOf(review)`: detections, then what was drawn
  draft: null, // where the chosen box is being moved to, in frame pixels, before that is kept
  minScore: 0, // boxes below are not shown
  version: "refined", // what the reviewer asked for
  holding: false, // base is held on screen
  comparing: false,
  differing: false, // where the picture differs from base
  learned: true, // pictures are shown as the learned filter made them
  neighbour: null, // { bitmap, text } of another frame that is on the stage instead
  showBoxes: true,
  drawing: false, // a missed object is being drawn
  summary: null,
  unsaved: 0, // verdicts that the station has not answered
  connection: "", // "" while it answers, else "slow" or "lost"
});

export const indexOf = (state, id) => state.rows.findIndex((row) => row.id === id);

// Who else has a frame open, as far as the page has heard.
export function holderOf(state, id) {
  const claim = state.summary?.claims.find((one) => one.review_id === id);
  return claim && claim.holder !== state.reviewer ? claim.holder : null;
}

// Whether a frame, as a row or in detail, waits for one person by name, and for whom.
export const isMine = (state, row) => row?.handed?.colleague === state.reviewer;
export const isElsewhere = (state, row) => Boolean(row?.handed) && !isMine(state, row);

const isFree = (state, row) => DECIDABLE.has(row.state) && holderOf(state, row.id) === null && !isElsewhere(state, row);

// The row to show after `id`, of those that can be decided and are free: one that was handed to this reviewer, else the
// next one, searching forward, then from the start.
export function nextDecidable(state, id) {
  const at = indexOf(state, id);
  const ring = [...state.rows.slice(at + 1), ...state.rows.slice(0, Math.max(at, 0))].filter((row) => isFree(state, row) && row.id !== id);
  return ring.find((row) => isMine(state, row)) ?? ring[0] ?? null;
}

export const firstDecidable = (state) => state.rows.find((row) => isFree(state, row)) ?? null;

// Rows to prefetch: those after `id` that can be decided.
export function upcoming(state, id, count) {
  const at = indexOf(state, id);
  return state.rows
    .slice(at + 1)
    .filter((row) => isFree(state, row))
    .slice(0, count);
}

// Asked for, or the best that exists below it, or above it.
export function bestVersion(review, asked, learned = true) {
  if (!review) return null;
  const wanted = asked === "refined" && !learned ? "enhanced" : asked;
  const order = { refined: ["refined", "enhanced", "base"], enhanced: ["enhanced", "base", "refined"], base: ["base"] };
  const there = order[wanted].filter((version) => review.images[version]);
  return there.find((version) => learned || version !== "refined") ?? null;
}

// The last verdict that still stands on a box, or null.
export function boxVerdict(review, index) {
  const standing = review.verdicts.filter((verdict) => !verdict.undone && verdict.box_index === index);
  return standing.length ? standing[standing.length - 1] : null;
}

export const missedObjects = (review) =>
  review.verdicts.filter((verdict) => !verdict.undone && verdict.verdict === "missed_object");

const WHOLE_FRAME = new Set(["confirm", "reject", "unsure", "no_object", "incomplete"]);

export const VERDICT_WORDS = {
  confirm: "confirmed",
  reject: "rejected",
  wrong_class: "wrong class",
  missed_object: "missed object",
  unsure: "unsure",
  no_object: "nothing here",
  incomplete: "something is missing",
  corrected: "corrected",
};

// A frame without any box is judged in other words: [verdict, words on its button].
const NOTHING_FOUND = { confirm: ["no_object", "Nothing here"], reject: ["incomplete", "Something is missing"] };
const ALL_DRAWN = { confirm: ["confirm", "That is all"], reject: ["incomplete", "More is missing"] };

export function frameVerdict(review, verdict) {
  if (!review || review.detections.length) return null;
  return (missedObjects(review).length ? ALL_DRAWN : NOTHING_FOUND)[verdict] ?? null;
}

// The server's rule (catalogue/verdicts.py), so that the page can move on before the answer is here.
export function isDecided(review) {
  const standing = review.verdicts.filter((verdict) => !verdict.undone);
  if (standing.some((verdict) => verdict.box_index === null && WHOLE_FRAME.has(verdict.verdict))) return true;
  return review.detections.length > 0 && review.detections.every((_, index) => boxVerdict(review, index));
}

// Whether a verdict says what its giver's last one on this frame says already; on a contested frame saying it
// again settles it.
export function isRepeated(review, body) {
  const last = review.verdicts.findLast((verdict) => !verdict.undone && verdict.reviewer === body.reviewer);
  const same = (name) => JSON.stringify(last[name] ?? null) === JSON.stringify(body[name] ?? null);
  return Boolean(last) && !review.contested && ["verdict", "box_index", "label", "box", "note"].every(same);
}
