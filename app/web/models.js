// The model cards for people: what a model knows, how good it is, what it cannot do.

import { askForKey } from "./dialogs.js";
import { DRAWERS, drawerTitle, element, icon, percent } from "./elements.js";
import { download, key, onKeyWanted, read } from "./service.js";

// The parts of the data by how much they tell about pictures that are new to the model.
const PARTS = {
  test: "pictures it had never seen",
  "cross-validation": "pictures held back in turn, by models trained a little shorter",
  validation: "pictures that also chose its settings",
};

const main = document.getElementById("main");

function draw(models, card) {
  const part = Object.keys(PARTS).find((name) => card.metrics[name]);
  const metrics = part && card.metrics[part];
  document.title = `${card.name} · Wardrobe`;
  main.replaceChildren(
    ...[
      tabs(models, card),
      element(
        "section",
        {},
        element("h1", {}, `${card.name}, version ${card.version}`),
        element("p", { class: "lead" }, card.description),
      ),
      knows(card),
      metrics ? howGood(card, metrics, part) : element("p", {}, "How good it is was not measured."),
      metrics && perClass(metrics),
      metrics && confusion(card, metrics),
      strangers(card),
      cannot(card),
      origin(card),
    ].filter(Boolean),
  );
}

function tabs({ models, refused }, card) {
  const links = models.map(({ name }) =>
    element("a", { href: `#${name}`, "aria-current": name === card.name && "page" }, name),
  );
  return element(
    "nav",
    { class: "tabs", "aria-label": "Models" },
    links,
    refused.map(({ folder, reason }) => element("p", { class: "hint" }, `${folder} is not used: ${reason}`)),
  );
}

function section(title, ...content) {
  return element("section", {}, element("h2", {}, title), ...content);
}

function knows({ classes }) {
  const drawers = DRAWERS.filter((drawer) => classes.some(({ group }) => group === drawer));
  return section(
    "What it knows",
    element(
      "ul",
      { class: "knows" },
      drawers.map((drawer) =>
        element(
          "li",
          {},
          icon(drawer),
          element("strong", {}, drawerTitle(drawer)),
          element(
            "span",
            { class: "hint" },
            classes
              .filter(({ group }) => group === drawer)
              .map(({ label }) => label)
              .join(", "),
          ),
        ),
      ),
    ),
  );
}

function howGood(card, metrics, part) {
  const interval = metrics.grouped?.accuracy_interval ?? metrics.accuracy_interval;
  const sorted = metrics.slices?.["decision: sorted"];
  const review = metrics.slices?.["decision: review"];
  const figures = [
    figure(exact(metrics.accuracy), `of the labels are right; ${between(interval)} for other pictures like them`),
  ];
  if (sorted && review) {
    const share = sorted.num_images / metrics.num_images;
    figures.push(figure(exact(share), "go into their drawer without a question"));
    figures.push(
      figure(exact(sorted.accuracy), `of those are right; of those it asks about, ${exact(review.accuracy)}`),
    );
  }
  if (metrics.prediction_sets) {
    const { coverage, mean_size } = metrics.prediction_sets;
    figures.push(
      figure(exact(coverage), `have the right label among those it offers, ${mean_size.toFixed(2)} on average`),
    );
  }
  return section(
    "How good it is",
    element("p", { class: "hint" }, `Measured on ${metrics.num_images.toLocaleString("en")} ${PARTS[part]}.`),
    element("dl", { class: "figures" }, figures),
  );
}

function figure(value, words) {
  return element("div", {}, element("dt", { class: "hint" }, words), element("dd", {}, value));
}

function perClass({ per_class }) {
  const unmeasured = per_class.filter(({ num_images }) => num_images === 0).map(({ label }) => label);
  const measured = per_class.filter(({ num_images }) => num_images > 0);
  const rows = measured.map(({ label, num_images, precision, recall, recall_interval }) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, label),
      element("td", { class: "wide-cell" }, interval(recall, recall_interval)),
      element("td", {}, percent(recall)),
      element("td", {}, percent(precision)),
      element("td", {}, num_images.toLocaleString("en")),
    ),
  );
  return section(
    "How good for each label",
    element(
      "p",
      { class: "hint" },
      "Found: how many of these garments get this label. Right: how often the label is right where it is given. " +
        "The pale bar is where “found” lies for other pictures, with 95 % certainty: the fewer pictures, the wider.",
    ),
    scrolling(
      "Figures for each label",
      element("table", {}, head(["Label", "", "Found", "Right", "Pictures"]), element("tbody", {}, rows)),
    ),
    unmeasured.length > 0 &&
      element("p", { class: "hint" }, `Not measured, for there were no pictures of them: ${unmeasured.join(", ")}.`),
  );
}

function interval(value, [low, high]) {
  const range = element("span", { class: "range" });
  range.style.left = `${100 * low}%`;
  range.style.width = `${100 * (high - low)}%`;
  const at = element("span", { class: "at" });
  at.style.left = `${100 * value}%`;
  const words = element("span", { class: "unseen" }, between([low, high]));
  return element("span", { class: "interval" }, range, at, words);
}

function confusion({ classes }, { confusion_matrix }) {
  const labels = classes.map(({ label }) => label);
  const rows = confusion_matrix.map((row, index) => {
    const total = row.reduce((sum, number) => sum + number, 0) || 1;
    const cells = row.map((number, column) => {
      const cell = element("td", { class: number === 0 ? "zero" : null }, String(number));
      const colour = column === index ? "var(--green)" : "var(--red)";
      // One mistake in a hundred is still seen, and the number can be read on the strongest.
      const strength = number === 0 ? 0 : 10 + 28 * (number / total);
      cell.style.background = `color-mix(in srgb, ${colour} ${strength}%, var(--surface))`;
      return cell;
    });
    return element("tr", {}, element("th", { scope: "row" }, labels[index]), cells);
  });
  return section(
    "What it mistakes for what",
    element(
      "p",
      { class: "hint" },
      "A row is what it was, a column what the model said. Green is right, red a mistake.",
    ),
    scrolling(
      "Confusion matrix",
      element("table", { class: "matrix" }, head(["", ...labels]), element("tbody", {}, rows)),
    ),
  );
}

function head(titles) {
  return element(
    "thead",
    {},
    element(
      "tr",
      {},
      titles.map((title) => (title ? element("th", { scope: "col" }, title) : element("td", {}))),
    ),
  );
}

/** A table that is wider than a phone can be scrolled, also by keyboard. */
function scrolling(name, table) {
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, table);
}

function strangers({ refusals = [] }) {
  if (refusals.length === 0) return null;
  const rows = [...refusals]
    .sort((a, b) => Number(a.is_garment) - Number(b.is_garment))
    .map(({ pictures, is_garment, num_images, refused }) =>
      element(
        "tr",
        {},
        element("th", { scope: "row" }, pictures.replace("/", ": ")),
        element("td", {}, is_garment ? "yes" : "no"),
        element("td", {}, percent(refused)),
        element("td", {}, num_images.toLocaleString("en")),
      ),
    );
  return section(
    "What it sets aside as no clothes",
    element("p", { class: "hint" }, "High is good where the pictures show no garment, low where they do."),
    scrolling(
      "Pictures set aside",
      element("table", {}, head(["Pictures of", "Garments?", "Set aside", "Pictures"]), element("tbody", {}, rows)),
    ),
  );
}

function cannot({ limits = [] }) {
  if (limits.length === 0) return null;
  return section(
    "What it cannot do",
    element(
      "ul",
      { class: "cannot" },
      limits.map((limit) => element("li", {}, limit)),
    ),
  );
}

function origin(card) {
  const { data, training, input, serving } = card;
  const pairs = {
    "What it looks at": input.description,
    "Learned from": data.name,
    Licence: data.license,
    Pictures: `${data.num_train.toLocaleString("en")} to learn, ${data.num_validation.toLocaleString("en")} to choose, ${data.num_test.toLocaleString("en")} to test; ${data.split_rule}`,
    Made: `${new Date(training.exported_at).toLocaleDateString(undefined, { dateStyle: "long" })}, in ${Math.round(training.seconds / 60)} minutes on ${training.device}`,
    Size: `${(training.num_parameters / 1e6).toFixed(2)} million parameters`,
    "Runs here with": `${serving.engine}, ${Object.entries(serving.milliseconds)
      .map(([engine, milliseconds]) => `${engine} ${milliseconds.toFixed(1)} ms a picture`)
      .join(", ")}`,
    "Made with": element("code", {}, training.command),
    "SHA-256": element("code", {}, card.sha256["model.pt"]),
  };
  return section(
    "Where it comes from",
    element(
      "dl",
      {},
      Object.entries(pairs).map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, value)),
      ),
    ),
    element("p", {}, wholeReport(card)),
  );
}

/** A page of its own; where a key is needed, which a link cannot bring, a file to save. */
function wholeReport({ name, version }) {
  const path = `models/${name}/report`;
  if (key() === null) return element("a", { href: `../${path}` }, "The whole report");
  const save = () => download(path, `${name}-${version}.html`).catch(say);
  return element("button", { class: "more", onclick: save }, "Save the whole report");
}

function exact(share) {
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

function between([low, high]) {
  return `between ${Math.round(100 * low)} and ${Math.round(100 * high)}\u00a0%`;
}

async function route() {
  try {
    const models = await read("models");
    const asked = decodeURIComponent(location.hash.slice(1));
    const name = models.models.some((model) => model.name === asked) ? asked : models.default_model;
    draw(models, await read(`models/${encodeURIComponent(name)}`));
    scrollTo({ top: 0 });
  } catch (problem) {
    say(problem);
  }
}

function say(problem) {
  if (!problem.document) throw problem; // a mistake in this page, for the console
  main.replaceChildren(element("p", { class: "notice bad", role: "alert" }, problem.message));
}

onKeyWanted(askForKey);
addEventListener("hashchange", route);
await route();
