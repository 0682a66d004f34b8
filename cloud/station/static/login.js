// The log-in page. Who is logged in already goes straight on: a link from elsewhere comes without the cookie.

import { getMe, login } from "./api.js";
import { BASE } from "./base.js";

const byId = (id) => document.getElementById(id);
const wanted = new URLSearchParams(location.search).get("next") ?? "";
// A place within the station and nowhere else, with what its address asks for.
const enter = () => location.replace(BASE + (/^[a-z]+(\/[0-9]+)?(\?[^#\\]*)?$/.test(wanted) ? wanted : ""));

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = byId("submit");
  button.disabled = true;
  byId("problem").textContent = "";
  try {
    await login(byId("name").value, byId("password").value);
    enter();
  } catch (error) {
    byId("problem").textContent = error.status ? error.message : "The station is not reached.";
    byId("password").select();
  } finally {
    button.disabled = false;
  }
});

byId("submit").disabled = false;
getMe().then(enter, () => {}); // 401: the form is what there is to do
