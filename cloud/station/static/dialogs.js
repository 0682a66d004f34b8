// The three dialogs: reviewer name, class picker, help. Each returns a promise or simply shows itself.

import { element } from "./panels.js";

const byId = (id) => document.getElementById(id);
const NAME_KEY = "secondlook.reviewer";
const NAME = /^[^\x00-\x1f\x7f]{1,64}$/;
const MOST_LABEL = 64;
// No control, format or unassigned characters; the joiners U+200C and U+200D are part of words.
const UNPRINTABLE = /(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/u;

// A class as the station stores it, or "" for what is none.
function className(typed) {
  const name = typed.normalize("NFC").trim().replace(/\s+/gu, " ");
  return [...name].length <= MOST_LABEL && !UNPRINTABLE.test(typed) ? name : "";
}

// Upper and lower case make no difference.
export const sameClass = (one, other) => one.toLowerCase() === other.toLowerCase();

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
// `known`: all classes, where only some of them, `labels`, are offered.
export function pickLabel(heading, labels, known = labels) {
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
    const name = className(input.value);
    const typed = name.toLowerCase();
    const starts = labels.filter((label) => label.toLowerCase().startsWith(typed));
    const holds = labels.filter((label) => !starts.includes(label) && label.toLowerCase().includes(typed));
    options = [...starts, ...holds];
    if (name && !known.some((label) => sameClass(label, name))) options.push(name);
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

// Another person's decisions that came first; `look` opens one of the frames.
export function showConflict(items, look) {
  const dialog = byId("conflict-dialog");
  byId("conflict-list").append(...items);
  if (dialog.open) return;
  dialog.returnValue = "";
  dialog.addEventListener(
    "close",
    () => {
      byId("conflict-list").replaceChildren();
      if (dialog.returnValue === "look") look();
    },
    { once: true },
  );
  dialog.showModal();
}

export function showHelp() {
  const dialog = byId("help-dialog");
  dialog.showModal();
  dialog.scrollTop = 0; // the button below has the focus, and pulled the page down to it
}
