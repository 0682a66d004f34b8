// Times as they are shown: in the viewer's zone, each with its instant in UTC on hover.

const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

// "2026-03-01T11:59:58Z"; a fraction of a second stays where there is one.
export const utc = (iso) => new Date(iso).toISOString().replace(".000Z", "Z");

// In texts that cannot hold an element; `utc` then belongs into the title of what shows them.
export const when = (iso) => (iso ? full.format(new Date(iso)) : "–");

function timed(iso, text, className = "") {
  const node = document.createElement("time");
  node.dateTime = iso;
  node.title = utc(iso);
  node.className = className;
  node.textContent = text;
  return node;
}

// Date and time.
export const timeNode = (iso, className) => (iso ? timed(iso, when(iso), className) : document.createTextNode("–"));

// The time alone.
export const clockNode = (iso) => timed(iso, clock.format(new Date(iso)));

// The time alone where it is of today.
export const recentNode = (iso) => (new Date(iso).toDateString() === new Date().toDateString() ? clockNode(iso) : timeNode(iso));

// How long ago it was.
export const ageNode = (iso) => timed(iso, age(iso));

export function age(iso, now = Date.now()) {
  const seconds = Math.max(0, Math.round((now - Date.parse(iso)) / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} days`;
}
