// The log-in page. Who is logged in already goes straight on: a link from elsewhere comes without the cookie.

import { getMe, login } from "./api.js";

const byId = (id) => document.getElementById(id);
const enter = () => location.replace("/");

byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = byId("login").querySelector("button");
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

getMe().then(enter, () => byId("name").focus());
