// Addresses: each page and each frame has one, so that a link can be sent and a reload keeps the place.

import { BASE } from "./base.js";

const ROUTES = [
  [/^$/, () => ({ page: "review", id: null })],
  [/^reviews$/, () => ({ page: "review", id: null })],
  [/^reviews\/([1-9][0-9]{0,15})$/, (id) => ({ page: "review", id: Number(id) })],
  [/^grid$/, () => ({ page: "grid", id: null })],
  [/^frames$/, () => ({ page: "frames", id: null })],
  [/^frames\/([1-9][0-9]{0,15})$/, (id) => ({ page: "frames", id: Number(id) })],
  [/^cameras$/, () => ({ page: "cameras", id: null })],
  [/^history$/, () => ({ page: "history", id: null })],
  [/^figures$/, () => ({ page: "figures", id: null })],
  [/^people$/, () => ({ page: "people", id: null })],
];

// -> { page, id } of an address, or null where there is no such page.
export function routeOf(pathname = location.pathname) {
  const path = pathname.startsWith(BASE) ? pathname.slice(BASE.length).replace(/\/$/, "") : "";
  for (const [pattern, made] of ROUTES) {
    const match = pattern.exec(path);
    if (match) return made(...match.slice(1));
  }
  return null;
}

export function addressOf({ page, id }) {
  if (page === "review") return id === null ? BASE : `${BASE}reviews/${id}`;
  return id === null ? BASE + page : `${BASE}${page}/${id}`;
}

// Show where the page is. Another page is a step that "back" undoes; the next frame of the same page is none.
export function showRoute(route, search = location.search) {
  const address = addressOf(route) + search;
  if (address === location.pathname + location.search) return;
  const now = routeOf();
  // From a list to one of its frames is a step; from frame to frame of the queue is none.
  const same = now?.page === route.page && (route.page === "review" || now.id === route.id);
  history[same ? "replaceState" : "pushState"](null, "", address);
}

// `go(route, search)` is called when somebody goes back or forward, or follows a link within the station.
export function attachRouter(go) {
  addEventListener("popstate", () => go(routeOf() ?? { page: "review", id: null }, location.search));
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-link]");
    if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const route = routeOf(link.pathname);
    if (!route) return;
    event.preventDefault();
    go(route, link.search);
  });
}
