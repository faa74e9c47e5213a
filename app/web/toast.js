// What just happened, in a sentence, for a while.

import { element } from "./elements.js";

const TOAST_MILLISECONDS = 8000; // what it offers can also be had elsewhere

const node = document.getElementById("toast");
let timer = 0;
let host = () => null;

/** `take(node)` takes it in where something covers the rest of the page. */
export function onToast(take) {
  host = take;
}

/** Say something; `undo` is what its button does. With `stay` it is there until something else is said. */
export function toast(words, undo = null, stay = false) {
  clearTimeout(timer);
  node.replaceChildren(
    element("span", {}, words),
    ...(undo ? [element("button", { class: "quiet", onclick: undo }, "Undo")] : []),
  );
  host(node);
  node.classList.add("shown");
  if (!stay) timer = setTimeout(hideToast, TOAST_MILLISECONDS);
}

export function hideToast() {
  node.classList.remove("shown");
  node.replaceChildren();
}

/** Say what could not be done. */
export function report(problem) {
  if (!problem.document) throw problem; // a mistake in this page, for the console
  toast(problem.message);
}
