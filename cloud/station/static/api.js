// Every request the station makes. Paths are built from numbers and fixed words only.

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function failure(response) {
  let message = `${response.status} ${response.statusText}`;
  if (response.headers.get("content-type")?.startsWith("application/json")) {
    const body = await response.json();
    if (typeof body.detail === "string") message = body.detail;
    else if (Array.isArray(body.detail)) message = body.detail.map((item) => item.msg).join("; ");
  }
  return new ApiError(response.status, message);
}

async function getJson(path) {
  const response = await fetch(path, { headers: { accept: "application/json" } });
  if (!response.ok) throw await failure(response);
  return response.json();
}

async function postJson(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw await failure(response);
  return response.json();
}

export const getStation = () => getJson("/api/station");
export const getSummary = () => getJson("/api/summary");
export const getReview = (id) => getJson(`/api/reviews/${id}`);
export const postVerdict = (id, verdict) => postJson(`/api/reviews/${id}/verdicts`, verdict);
export const retryReview = (id, reviewer) => postJson(`/api/reviews/${id}/retry`, { reviewer });
export const undoLast = (reviewer) => postJson("/api/undo", { reviewer });
export const undoVerdict = (id, reviewer) => postJson(`/api/verdicts/${id}/undo`, { reviewer });

export function getReviews(filter, limit, offset = 0) {
  return getJson(`/api/reviews?${new URLSearchParams({ filter, limit, offset })}`);
}

export function getHistory(limit, before = null) {
  const query = new URLSearchParams({ limit });
  if (before !== null) query.set("before", before);
  return getJson(`/api/history?${query}`);
}

// The picture's bytes and the sha256 the server computed over exactly these bytes.
export async function getImage(id, version) {
  const response = await fetch(`/api/reviews/${id}/images/${version}`);
  if (!response.ok) throw await failure(response);
  return { blob: await response.blob(), sha256: response.headers.get("x-content-sha256") };
}
