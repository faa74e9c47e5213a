// Pictures on their way, and files that could not be sorted.

import { bar, count, element, icon, megabytes, reconcile } from "./elements.js";

export const arrivalsNode = element("section", { id: "uploads", "aria-label": "New pictures" });

/** Draw what is on its way; with `changed` that one alone, with `isShort` the progress alone. */
export function drawArrivals(uploads, { changed = null, isShort = false } = {}) {
  if (changed?.node) refresh(changed);
  else {
    const underway = uploads.entries.filter(({ state }) => state !== "failed");
    arrivalsNode.hidden = uploads.entries.length === 0;
    reconcile(
      arrivalsNode,
      [
        underway.length > 0 && progressNode,
        underway.length > 0 && !isShort && arrivingNode,
        failuresNode(uploads),
      ].filter(Boolean),
    );
    reconcile(
      arrivingNode,
      underway.map((entry) => entry.node ?? arriving(uploads, entry)),
    );
    underway.forEach(refresh);
  }
  const [, said, whole] = progressNode.children;
  const waiting = uploads.waitSeconds ? ` Waiting for the service; going on in ${uploads.waitSeconds} s.` : "";
  said.textContent = `${uploads.numDone} of ${uploads.numDone + uploads.numUnderway}.${waiting}`;
  whole.firstElementChild.style.width = `${100 * uploads.progress}%`;
}

const arrivingNode = element("ul", { class: "grid", "aria-label": "On their way" });
const progressNode = element(
  "header",
  {},
  element("h2", {}, "Sorting …"),
  element("p", { class: "hint" }),
  bar(0, { class: "bar whole" }),
  element("button", { class: "quiet", "data-role": "cancel-all" }, "Cancel"),
);

function arriving(uploads, entry) {
  const { name } = entry.file;
  const cancel = () => uploads.cancel(entry);
  const photo = element(
    "div",
    { class: "photo" },
    icon("pictures"),
    bar(0),
    element("button", { class: "cancel", "aria-label": `Cancel ${name}`, onclick: cancel }, icon("close")),
  );
  const label = element("span", { class: "label" }, name);
  entry.node = element("li", { class: "tile arriving" }, photo, element("p", { class: "caption" }, label));
  return entry.node;
}

function refresh({ node, state, progress, thumbnail }) {
  node.classList.toggle("sending", state === "sending");
  node.querySelector(".fill").style.width = `${100 * progress}%`;
  const shown = node.querySelector(".photo").firstElementChild;
  if (thumbnail && shown !== thumbnail) shown.replaceWith(thumbnail);
}

let failuresAreOpen = false;

function failuresNode(uploads) {
  const { failed } = uploads;
  if (failed.length === 0) return null;
  const dismiss = () => uploads.dismiss(failed);
  return element(
    "details",
    { class: "notice bad", open: failuresAreOpen, ontoggle: (event) => (failuresAreOpen = event.target.open) },
    element("summary", {}, icon("review"), `${count(failed.length, "file")} could not be sorted`, icon("unfold")),
    element("ul", { class: "failed" }, failed.map(failedRow)),
    element(
      "div",
      { class: "actions" },
      element("button", { class: "quiet", onclick: () => uploads.retry(failed) }, icon("retry"), "Try again"),
      element("button", { class: "quiet", onclick: dismiss }, icon("close"), "Dismiss"),
    ),
  );
}

/** The service speaks of requests; here each is one file. */
function reason({ file, problem }) {
  if (problem.kind !== "body-too-large") return problem.message;
  return `The file has ${megabytes(file.size)}; at most ${megabytes(problem.document.max_bytes)} are taken.`;
}

function failedRow(entry) {
  return element(
    "li",
    {},
    element("div", { class: "photo" }, entry.thumbnail ?? icon("pictures")),
    element("p", {}, element("strong", {}, entry.file.name), element("span", { class: "hint" }, reason(entry))),
  );
}
