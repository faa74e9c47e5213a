// Small questions: where to, which key, really delete? Each answers with a promise, null if it was closed.

import { DRAWERS, drawerTitle, element, icon } from "./elements.js";

/** Open a modal dialog with this content; `answer(value)` inside it closes it and gives the value. */
function ask(title, properties, content) {
  return new Promise((resolve) => {
    let given = null;
    const heading = element("h2", { id: "question" }, title);
    const dialog = element("dialog", { "aria-labelledby": "question", ...properties });
    const answer = (value) => {
      given = value;
      dialog.close();
    };
    dialog.append(
      element(
        "header",
        {},
        heading,
        element("button", { class: "quiet", "aria-label": "Close", onclick: () => dialog.close() }, icon("close")),
      ),
      ...content(answer),
    );
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(given);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Where should it go? Answers with a change as PATCH /items takes it. `labels` are those to choose from: label -> drawer. */
export function askWhere(title, labels, drawer = null) {
  return ask(title, { class: "sheet" }, (answer) => {
    const row = (name) =>
      element(
        "li",
        {},
        element(
          "button",
          {
            class: "drawer-choice",
            "aria-current": name === drawer && "true",
            onclick: () => answer({ drawer: name }),
          },
          icon(name),
          drawerTitle(name),
        ),
        element(
          "div",
          { class: "choices" },
          [...labels.keys()]
            .filter((label) => labels.get(label) === name)
            .map((label) =>
              // With the drawer: of many pictures, some may be of a model that does not know the label.
              element("button", { class: "choice", onclick: () => answer({ label, drawer: name }) }, label),
            ),
        ),
      );
    return [
      element("ul", { class: "where labelled" }, DRAWERS.map(row)),
      element("ul", { class: "where aside" }, ["review", "not_a_garment"].map(row)),
      ownName(answer, drawer),
    ];
  });
}

function ownName(answer, drawer) {
  const selected = DRAWERS.includes(drawer) ? drawer : "tops";
  const name = element("input", { required: true, maxlength: 64, placeholder: "hoodie", autocomplete: "off" });
  const select = element(
    "select",
    {},
    DRAWERS.map((other) => element("option", { value: other, selected: other === selected }, drawerTitle(other))),
  );
  const submit = (event) => {
    event.preventDefault();
    if (name.value.trim()) answer({ label: name.value.trim(), drawer: select.value });
  };
  const opened = ({ target }) => {
    if (!target.open) return;
    target.scrollIntoView({ block: "end" });
    name.focus({ preventScroll: true });
  };
  return element(
    "details",
    { ontoggle: opened },
    element("summary", {}, "Another name"),
    element(
      "form",
      { class: "own", onsubmit: submit },
      element("label", {}, "Name", name),
      element("label", {}, "Drawer", select),
      element("button", { class: "primary" }, "Save"),
    ),
  );
}

export async function askWhetherToDelete(what) {
  const answered = await ask(`Delete ${what}?`, { class: "small" }, (answer) => [
    element("p", {}, "The pictures and all that is known of them are gone then. This cannot be undone."),
    element(
      "div",
      { class: "actions" },
      element("button", { class: "quiet", autofocus: true, onclick: () => answer(false) }, "Keep"),
      element("button", { class: "danger", onclick: () => answer(true) }, "Delete"),
    ),
  ]);
  return answered === true;
}

/** The key of the service; `wasWrong` if one was given before. */
export function askForKey(wasWrong) {
  return ask("This wardrobe has a key", { class: "small" }, (answer) => {
    const input = element("input", {
      type: "password",
      required: true,
      autocomplete: "current-password",
      autofocus: true,
    });
    const submit = (event) => {
      event.preventDefault();
      answer(input.value.trim());
    };
    return [
      element(
        "p",
        {},
        wasWrong ? "That was not the key. " : "",
        "Ask whoever runs this service for it. It is kept in this tab until you close it.",
      ),
      element(
        "form",
        { class: "own", onsubmit: submit },
        element("label", {}, "Key", input),
        element("button", { class: "primary" }, "Open"),
      ),
    ];
  });
}
