// Who is logged in: the menu with log-out, and the dialog to change one's password.

import { changePassword, getMe, login, logout } from "./api.js";
import { BASE } from "./base.js";

const byId = (id) => document.getElementById(id);
const leave = () => location.replace(`${BASE}login`);

// `me`: { name, role }; without a name there is no log-in and no menu.
export function showAccount(me) {
  byId("account-menu").hidden = me.name === null;
  byId("account").textContent = me.name ?? "";
  byId("role").textContent = me.role;
}

// The session ended: log in over the page, which stays as it is. `back(me)` is called once somebody is logged in.
export function askLogin(user, back) {
  const dialog = byId("login-dialog");
  if (dialog.open) return;
  byId("login-form").reset();
  byId("login-problem").textContent = "";
  byId("login-name").value = user ?? "";
  byId("login-name").readOnly = user !== null;
  dialog.loggedIn = back;
  dialog.showModal();
  byId(user === null ? "login-name" : "login-password").focus();
}

// Whether somebody logged in in another window meanwhile: their cookie is this page's too.
export async function foundLogin() {
  const dialog = byId("login-dialog");
  if (!dialog.open) return;
  const me = await getMe();
  dialog.close();
  dialog.loggedIn(me);
}

function attachLogin() {
  const dialog = byId("login-dialog");
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  byId("login-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const me = await login(byId("login-name").value, byId("login-password").value);
      dialog.close();
      dialog.loggedIn(me);
    } catch (error) {
      byId("login-problem").textContent = error.status ? error.message : "The station is not reached.";
      byId("login-password").select();
    }
  });
}

// `unsaved()`: how many verdicts wait; who logs out all the same finds them at the next log-in here.
export function attachAccount(unsaved) {
  attachLogin();
  const dialog = byId("password-dialog");
  const sure = () => unsaved() === 0 || confirm(`${unsaved()} verdicts are not saved yet. They wait in this browser until you log in again.`);
  byId("logout").addEventListener("click", () => sure() && logout().then(leave, leave));
  byId("change-password").addEventListener("click", () => {
    byId("account-menu").open = false;
    byId("password-form").reset();
    byId("password-problem").textContent = "";
    dialog.showModal();
  });
  byId("password-cancel").addEventListener("click", () => dialog.close());
  byId("password-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await changePassword(byId("password-present").value, byId("password-new").value);
      leave();
    } catch (error) {
      byId("password-problem").textContent = error.message;
    }
  });
}
