// Every request the station makes. Paths are built from numbers and fixed words only.

import { BASE } from "./base.js";

const ANSWER_MS = 8000; // a station that takes longer is given up, and asked again
const PICTURE_MS = 60000;

export class ApiError extends Error {
  constructor(status, message, body = null) {
    super(message);
    this.status = status;
    this.body = body; // of a JSON answer
  }
}

async function failure(response) {
  let message = `${response.status} ${response.statusText}`;
  let body = null;
  if (response.headers.get("content-type")?.startsWith("application/json")) {
    body = await response.json();
    if (typeof body.detail === "string") message = body.detail;
    else if (Array.isArray(body.detail)) message = body.detail.map((item) => item.msg).join("; ");
  }
  return new ApiError(response.status, message, body);
}

let csrf = ""; // of this session; every write carries it
let loggedOut = () => {};

// `action` is called whenever the station says that nobody is logged in.
export const onLoggedOut = (action) => (loggedOut = action);
let usedAt = 0; // when a person last did something here
let toldAt = 0;

for (const kind of ["pointerdown", "keydown", "wheel"]) {
  addEventListener(kind, () => (usedAt = performance.now()), { capture: true, passive: true });
}

// The page asks by itself all the time; the server wants to know whether anybody is there.
function headers(more = {}) {
  const active = usedAt > toldAt;
  if (active) toldAt = performance.now();
  return { accept: "application/json", ...(active ? { "x-user-active": "1" } : {}), ...more };
}

async function request(path, options, most = ANSWER_MS) {
  const signals = [AbortSignal.timeout(most), ...(options.signal ? [options.signal] : [])];
  const response = await fetch(BASE + path, { ...options, signal: AbortSignal.any(signals) });
  if (response.status === 401) loggedOut();
  if (!response.ok) throw await failure(response);
  return response;
}

const getJson = async (path) => (await request(path, { headers: headers() })).json();

async function postJson(path, body, options = {}) {
  const response = await request(path, {
    ...options,
    method: "POST",
    headers: headers({ "content-type": "application/json", "x-csrf-token": csrf }),
    body: JSON.stringify(body),
  });
  return response.status === 204 ? null : response.json();
}

// Who is behind this page: { name, role, csrf }, the name null where there is no log-in.
export async function getMe() {
  const me = await getJson("api/me");
  csrf = me.csrf;
  return me;
}

export async function login(name, password) {
  const me = await postJson("api/login", { name, password });
  csrf = me.csrf;
  return me;
}

export const logout = () => postJson("api/logout", {});
export const changePassword = (present, next) => postJson("api/password", { present, new: next });

let viewer = ""; // under which name this page looks, where there is no log-in

export const lookAs = (name) => (viewer = name);
const asViewer = (query = {}) => new URLSearchParams({ ...query, ...(viewer ? { reviewer: viewer } : {}) });

export const getStation = () => getJson("api/station");
export const getSummary = () => getJson(`api/summary?${asViewer()}`);
export const getReview = (id) => getJson(`api/reviews/${id}?${asViewer()}`);
export const postVerdict = (id, verdict) => postJson(`api/reviews/${id}/verdicts`, verdict);
export const retryReview = (id, reviewer) => postJson(`api/reviews/${id}/retry`, { reviewer });
export const wantWholeFrame = (id, reviewer) => postJson(`api/reviews/${id}/whole`, { reviewer });
export const undoLast = (reviewer) => postJson("api/undo", { reviewer });
export const undoVerdict = (id, reviewer) => postJson(`api/verdicts/${id}/undo`, { reviewer });

// `choice`: { filter, order, ... }, what the list is made of.
export function getReviews(choice, limit, offset = 0) {
  return getJson(`api/reviews?${asViewer({ ...choice, limit, offset })}`);
}

export const getBurst = (id) => getJson(`api/reviews/${id}/burst?${asViewer()}`);
export const setKnown = (id, known, reviewer) => postJson(`api/reviews/${id}/known`, { known, reviewer });
export const claimReview = (body, choice) => postJson(`api/claims?${new URLSearchParams(choice ?? {})}`, body);
export const renewClaim = (id, body) => postJson(`api/claims/${id}/renew`, body);
export const releaseClaim = (id, body, keepalive) => postJson(`api/claims/${id}/release`, body, { keepalive });
export const freeClaim = (id, reviewer) => postJson(`api/claims/${id}/free`, { reviewer });

export const getColleagues = () => getJson("api/colleagues");
export const giveComment = (id, reviewer, text) => postJson(`api/reviews/${id}/comments`, { reviewer, text });
export const deleteComment = (id, reviewer) => postJson(`api/comments/${id}/delete`, { reviewer });
export const handOver = (id, reviewer, to, comment) => postJson(`api/reviews/${id}/handover`, { reviewer, to, comment });

export function getHistory(limit, before = null, choice = {}) {
  const query = asViewer({ ...choice, limit });
  if (before !== null) query.set("before", before);
  return getJson(`api/history?${query}`);
}

export const getFrames = (search) => getJson(`api/frames?${asViewer(search)}`);
export const getFrame = (id) => getJson(`api/frames/${id}?${asViewer()}`);
export const getNeighbours = (id) => getJson(`api/frames/${id}/neighbours`);
export const askForReview = (id, reviewer) => postJson(`api/frames/${id}/review`, { reviewer });
export const getCameras = () => getJson("api/cameras");
export const getTimeline = (edgeId) => getJson(`api/cameras/${encodeURIComponent(edgeId)}/timeline?${asViewer()}`);

// The newest frame of a camera: at once where it is not `after`, else when it comes, at most so many seconds later.
export async function getNewest(edgeId, after, seconds, signal) {
  const path = `api/cameras/${encodeURIComponent(edgeId)}/newest?${new URLSearchParams({ after, seconds })}`;
  return (await request(path, { headers: headers(), signal }, ANSWER_MS + seconds * 1000)).json();
}

export async function getLivePicture(frameId, signal) {
  const response = await request(`api/frames/${frameId}/base`, { headers: headers({ accept: "image/*" }), signal }, PICTURE_MS);
  const blob = await response.blob();
  return { bitmap: await createImageBitmap(blob), bytes: blob.size };
}

export const getPreferences = (reviewer) => getJson(`api/preferences?${new URLSearchParams({ reviewer })}`);
export const setPreferences = (reviewer, chosen) => postJson("api/preferences", { reviewer, ...chosen });

export const getDay = (since) => getJson(`api/figures/day?${asViewer({ since })}`);
export const getAgreement = (since) => getJson(`api/figures/agreement?${new URLSearchParams({ since })}`);
export const getDetectorReport = (since) => getJson(`api/figures/detector?${new URLSearchParams({ since })}`);

export const getUsers = () => getJson("api/users");
export const addUser = (name, role, password) => postJson("api/users", { name, role, password });
export const setRole = (name, role) => postJson(`api/users/${name}/role`, { role });
export const setUserPassword = (name, password) => postJson(`api/users/${name}/password`, { password });
export const removeUser = (name) => postJson(`api/users/${name}/remove`, {});

async function decoded(path) {
  const response = await request(path, { headers: headers({ accept: "image/*" }) }, PICTURE_MS);
  return { bitmap: await createImageBitmap(await response.blob()), sha256: response.headers.get("x-content-sha256") };
}

export const getThumb = (frameId) => decoded(`api/frames/${frameId}/thumb`);
export const getFrameImage = async (frameId) => (await decoded(`api/frames/${frameId}/base`)).bitmap;

// The picture's bytes and the sha256 the server computed over exactly these bytes.
export async function getImage(id, version) {
  const response = await request(`api/reviews/${id}/images/${version}`, { headers: headers({ accept: "image/*" }) }, PICTURE_MS);
  return { blob: await response.blob(), sha256: response.headers.get("x-content-sha256") };
}
