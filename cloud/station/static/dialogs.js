// The three dialogs: reviewer name, class picker, help. Each returns a promise or simply shows itself.

import { element } from "./panels.js";

const byId = (id) => document.getElementById(id);
const NAME_KEY = "secondlook.reviewer";
const NAME = /^[^\x00-\x1f\x7f]{1,64}$/;
const LABEL = /^[a-z0-9][a-z0-9 _-]{0,63}$/;

export const storedReviewer = () => {
  const name = (localStorage.getItem(NAME_KEY) ?? "").trim();
  return NAME.test(name) ? name : "";
};

// -> the name. Without one there is no way past the dialog.
export function askReviewer(current) {
  const dialog = byId("name-dialog");
  const input = byId("name-input");
  input.value = current;
  return new Promise((resolve) => {
    const refuse = (event) => {
      if (!current) event.preventDefault();
    };
    const close = () => {
      const name = input.value.trim();
      if (dialog.returnValue === "ok" && NAME.test(name)) {
        localStorage.setItem(NAME_KEY, name);
        finish(name);
      } else if (current) finish(current);
      else dialog.showModal();
    };
    const finish = (name) => {
      dialog.removeEventListener("close", close);
      dialog.removeEventListener("cancel", refuse);
      resolve(name);
    };
    dialog.returnValue = "";
    dialog.addEventListener("close", close);
    dialog.addEventListener("cancel", refuse);
    dialog.showModal();
    input.select();
  });
}

// -> the class, or null when the reviewer backs out. A class that is not listed may be typed in full.
export function pickLabel(heading, labels) {
  const dialog = byId("label-dialog");
  const input = byId("label-input");
  const list = byId("label-options");
  let options = [];
  let at = 0;

  const mark = () => {
    [...list.children].forEach((node, index) => {
      node.setAttribute("aria-selected", String(index === at));
      if (index === at) {
        input.setAttribute("aria-activedescendant", node.id);
        node.scrollIntoView({ block: "nearest" });
      }
    });
  };
  const render = () => {
    const typed = input.value.trim().toLowerCase();
    const starts = labels.filter((label) => label.startsWith(typed));
    const holds = labels.filter((label) => !label.startsWith(typed) && label.includes(typed));
    options = [...starts, ...holds];
    if (LABEL.test(typed) && !labels.includes(typed)) options.push(typed);
    at = 0;
    list.replaceChildren(
      ...options.map((label, index) => {
        const text = labels.includes(label) ? label : `${label} (new class)`;
        const node = element("li", { text, role: "option", id: `label-option-${index}` });
        node.addEventListener("click", () => dialog.close(label));
        return node;
      }),
    );
    mark();
  };
  const keydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && options.length) {
      at = (at + step + options.length) % options.length;
      mark();
    } else if (event.key === "Enter") {
      if (options.length) dialog.close(options[at]);
    } else return;
    event.preventDefault();
  };

  byId("label-heading").textContent = heading;
  input.value = "";
  dialog.returnValue = "";
  render();
  input.addEventListener("input", render);
  input.addEventListener("keydown", keydown);
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        input.removeEventListener("input", render);
        input.removeEventListener("keydown", keydown);
        resolve(dialog.returnValue || null);
      },
      { once: true },
    );
  });
}

export const showHelp = () => byId("help-dialog").showModal();
