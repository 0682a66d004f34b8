// Who is logged in: the menu with log-out, and the dialog to change one's password.

import { changePassword, logout } from "./api.js";

const byId = (id) => document.getElementById(id);
const leave = () => location.replace("/login");

// `me`: { name, role }; without a name there is no log-in and no menu.
export function showAccount(me) {
  byId("account-menu").hidden = me.name === null;
  byId("account").textContent = me.name ?? "";
  byId("role").textContent = me.role;
}

export function attachAccount() {
  const dialog = byId("password-dialog");
  byId("logout").addEventListener("click", () => logout().then(leave, leave));
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
