// Where the station is: "/" as a rule, a folder below it behind some proxies.

export const BASE = new URL("../", import.meta.url).pathname;
