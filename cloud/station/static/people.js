// Who may log in: for admins.

import * as api from "./api.js";
import { element } from "./panels.js";

const ROLES = ["viewer", "reviewer", "admin"];
const byId = (id) => document.getElementById(id);

export class PeoplePage {
  constructor(tell) {
    this.tell = tell;
    byId("person-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const { name, role, password } = Object.fromEntries(new FormData(event.target));
      void this.#change(api.addUser(name.trim().toLowerCase(), role, password), `${name} can log in now`, () => event.target.reset());
    });
  }

  async show() {
    try {
      const people = await api.getUsers();
      byId("people").replaceChildren(...people.map((person) => this.#row(person)));
    } catch (error) {
      byId("people").replaceChildren(element("tr", {}, element("td", { colspan: "4", className: "queue-empty", text: error.message })));
    }
  }

  #row({ name, role, removed }) {
    const row = element("tr", { className: removed ? "is-removed" : "" }, element("th", { scope: "row", text: name }));
    if (removed) {
      row.append(element("td", { text: role }), element("td", { text: "removed" }), element("td"));
      return row;
    }
    const select = element("select", { "aria-label": `Role of ${name}` }, ...ROLES.map((one) => element("option", { value: one, text: one })));
    select.value = role;
    select.addEventListener("change", () => void this.#change(api.setRole(name, select.value), `${name} is ${select.value} now`));
    const password = element("form", { className: "inline" });
    const field = element("input", { type: "password", minlength: "12", maxlength: "256", required: "", autocomplete: "new-password", "aria-label": `New password of ${name}`, placeholder: "New password" });
    password.append(field, element("button", { className: "tool", text: "Set" }));
    password.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#change(api.setUserPassword(name, field.value), `${name} logs in with the new password from now on`);
    });
    const remove = element("button", { className: "tool bad", text: "Remove" });
    remove.addEventListener("click", () => {
      if (confirm(`Remove ${name}? Verdicts stay under that name.`)) void this.#change(api.removeUser(name), `${name} was removed`);
    });
    row.append(element("td", {}, select), element("td", {}, password), element("td", {}, remove));
    return row;
  }

  async #change(made, words, done = () => {}) {
    try {
      await made;
      done();
      this.tell(words);
    } catch (error) {
      this.tell(error.message, "error");
    }
    await this.show();
  }
}
