// The page: what lies where, and everything a person can do with it.

import { arrivalsNode, drawArrivals } from "./arrivals.js";
import { Detail, rememberTiming } from "./detail.js";
import { askForKey, askWhere, askWhetherToDelete } from "./dialogs.js";
import { listenForFiles, startDrag } from "./dragging.js";
import { ORDER, drawNavigation, sectionOf } from "./drawers.js";
import { count, drawerTitle, element, icon, reconcile } from "./elements.js";
import { clearFilters, filters, isFiltered, nameLabels } from "./find.js";
import { focusedPlace, moveFocus, restoreFocus } from "./focus.js";
import { KeptWardrobe } from "./kept.js";
import { knownLabels } from "./naming.js";
import { PassingWardrobe } from "./passing.js";
import { onKeyWanted } from "./service.js";
import { comeIn } from "./tiles.js";
import { hideToast, onToast, report, toast } from "./toast.js";
import { twinsSection } from "./twins.js";
import { forgetChange, forgetPictures, lastChange, rememberChange } from "./undo.js";
import { Uploads } from "./uploads.js";

const OVERVIEW_ITEMS = 12; // of each drawer, where all are shown; chosen to fill whole rows of 2, 3, 4 and 6
const PAGE_ITEMS = 60;
const SEARCH_PAUSE_MILLISECONDS = 250;

const $ = (id) => document.getElementById(id);

let wardrobe = new KeptWardrobe();
let drawer = null; // the open one; null: all
let counts = {}; // drawer -> number of its items, whatever the filters
const sections = new Map(); // drawer -> {ids, next, total}
const items = new Map(); // id -> item
let twins = []; // [id, id of the item that it looks like]
const selected = new Set(); // ids
let selecting = false;
let isUndoing = false;
let loadProblem = null; // why what should be in view is not
let loads = 0;
let lastTicked = null; // for a range with Shift

const uploads = new Uploads({
  send: (file, options) => wardrobe.add(file, options),
  onChange: (changed) => drawArrivals(uploads, { changed, isShort: drawer !== null }),
  onDismissed: render,
  onArrived: arrived,
  onFinished: finished,
});

const detail = new Detail(
  {
    showPicture: (...args) => wardrobe.showPicture(...args),
    heatMap: (...args) => wardrobe.heatMap(...args),
    inputPicture: (...args) => wardrobe.inputPicture(...args),
    file: (...args) => wardrobe.file(...args),
    similar: (...args) => wardrobe.similar(...args),
    showThumbnail: (...args) => wardrobe.showThumbnail(...args),
  },
  {
    change: (item, what) => change([item], what),
    move: (item) => moveTo([item]),
    remove: (item) => remove([item]),
    step: (by) => step(by),
    open: (item) => go(drawer, item.id),
    closed: () => {
      document.body.append($("toast"));
      if (location.hash.includes("/")) go(drawer);
    },
  },
);

const tileActions = {
  open: (item) => go(drawer, item.id),
  tick: (item, on, isRange) => setTicked(item.id, on, isRange),
  drag: (event, item) => startDrag(event, selected.has(item.id) ? [...selected] : [item.id]),
  change: (item, what) => change([item], what),
  move: (item) => moveTo([item]),
  showThumbnail: (image, item) => wardrobe.showThumbnail(image, item),
};

const twinActions = {
  open: (item) => go(drawer, item.id),
  keepBoth: (item) => answered(item, () => keepBoth(item)),
  removeOne: (item) => answered(item, () => removeOne(item)),
  showThumbnail: (image, item) => wardrobe.showThumbnail(image, item),
};

// ---- what is shown ----

/** Ask anew for everything that is in view. */
async function load() {
  const mine = ++loads;
  loadProblem = null;
  try {
    const first = await wardrobe.list({ ...filters(), limit: 1 });
    if (mine !== loads) return;
    counts = first.drawers;
    const names = drawer ? [drawer] : ORDER.filter((name) => counts[name]);
    const limit = drawer ? PAGE_ITEMS : OVERVIEW_ITEMS;
    const [pairs, ...pages] = await Promise.all([
      wardrobe.twins(),
      ...names.map((name) => wardrobe.list({ ...filters(name), drawer: name, limit })),
    ]);
    if (mine !== loads) return;
    sections.clear();
    names.forEach((name, index) => sections.set(name, remember(pages[index])));
    for (const item of pairs.flat()) items.set(item.id, item);
    twins = pairs.map((pair) => pair.map(({ id }) => id));
    nameLabels(items.values());
  } catch (problem) {
    if (mine !== loads) return;
    if (wardrobe.isKept && (problem.kind === "storage-off" || problem.status === 404)) {
      keepNothing(problem);
      return;
    }
    if (!problem.document) throw problem; // a mistake in this page, for the console
    loadProblem = problem;
  }
  render();
}

function remember(page) {
  for (const item of page.items) items.set(item.id, item);
  return { ids: page.items.map(({ id }) => id), next: page.next, total: page.total };
}

async function loadMore(name) {
  const section = sections.get(name);
  try {
    const page = await wardrobe.list({ ...filters(name), drawer: name, limit: PAGE_ITEMS, cursor: section.next });
    const { ids, next, total } = remember(page);
    Object.assign(section, { ids: [...new Set([...section.ids, ...ids])], next, total });
  } catch (problem) {
    report(problem);
  }
  render();
}

/** The service has no storage, or the person does not want to wait for it: sort all the same, and say so. */
function keepNothing(problem) {
  wardrobe = new PassingWardrobe();
  items.clear();
  const reason = problem.status === 404 ? "This service has no storage." : problem.message;
  $("notices").replaceChildren(
    element(
      "p",
      { class: "notice" },
      icon("review"),
      element(
        "span",
        {},
        element("strong", {}, "Nothing is kept. "),
        reason,
        " Pictures are sorted all the same, and gone when you close this page.",
      ),
    ),
  );
  load();
}

function go(name, id = null) {
  const hash = id ? `#${name ?? "all"}/${id}` : name ? `#${name}` : "#";
  if (id)
    location.hash = hash; // so that a phone's back button closes it
  else history.replaceState(null, "", hash);
  if (!id) route();
}

async function route() {
  const [name, id] = location.hash.slice(1).split("/");
  const wanted = ORDER.includes(name) ? name : null;
  if (wanted !== drawer) {
    drawer = wanted;
    await load();
    scrollTo({ top: 0 });
    $("drawers").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  }
  if (!id) detail.close();
  else if (id !== detail.itemId) {
    try {
      if (!items.has(id)) items.set(id, await wardrobe.get(id));
      showDetail(items.get(id));
    } catch (problem) {
      report(problem);
      go(drawer);
    }
  }
}

function idsInView() {
  return ORDER.filter((name) => sections.has(name)).flatMap((name) => visibleIds(name));
}

function showDetail(item) {
  const ids = idsInView();
  const index = ids.indexOf(item.id);
  detail.show(item, { hasPrevious: index > 0, hasNext: index >= 0 && index < ids.length - 1 });
}

function step(by) {
  const ids = idsInView();
  const next = ids[ids.indexOf(detail.itemId) + by];
  if (next === undefined || !ids.includes(detail.itemId)) return;
  history.replaceState(null, "", `#${drawer ?? "all"}/${next}`);
  showDetail(items.get(next));
}

// ---- changes ----

/** Make one change to items, take it over, and say what happened. */
async function change(some, what) {
  let outcome;
  try {
    outcome = await wardrobe.change(some, what);
  } catch (problem) {
    report(problem);
    return;
  }
  for (const item of outcome.items) place(item);
  showProblems(outcome.problems);
  if (what.undo) forgetChange(some.map(({ id }) => id));
  const ids = outcome.items.map(({ id }) => id);
  if (ids.length > 0) {
    if (!what.undo) rememberChange(ids);
    if (outcome.problems.length === 0) toast(saidOf(outcome.items, what), what.undo ? null : undo);
  }
  selected.clear();
  render();
}

function saidOf(changed, what) {
  const [first] = changed;
  const who = changed.length === 1 ? (first.label ?? "The picture") : count(changed.length, "picture");
  if (what.undo) return changed.length === 1 ? `${who} is back: ${drawerTitle(first.drawer)}.` : `${who} are back.`;
  return `${who} → ${drawerTitle(first.drawer)}`;
}

async function undo() {
  const ids = lastChange();
  if (!ids || isUndoing) return;
  isUndoing = true;
  await change(
    ids.map((id) => items.get(id)),
    { undo: true },
  );
  isUndoing = false;
}

async function moveTo(some) {
  const one = some.length === 1 ? some[0] : null;
  const what = await askWhere(
    one ? "What is it, or where does it go?" : `What are these ${some.length.toLocaleString("en")}, or where do they go?`,
    knownLabels(some, items.values()),
    one?.drawer,
  );
  if (what)
    await change(
      some.map(({ id }) => items.get(id)),
      what,
    );
}

async function remove(some) {
  if (!(await askWhetherToDelete(some.length === 1 ? "this picture" : count(some.length, "picture")))) return;
  try {
    const outcome = await wardrobe.remove(some);
    for (const item of outcome.items) {
      take(item.id);
      detail.forget(item);
    }
    forgetPictures(outcome.items.map(({ id }) => id));
    showProblems(outcome.problems);
    if (outcome.problems.length === 0) toast(`${count(outcome.items.length, "picture")} deleted.`);
  } catch (problem) {
    report(problem);
  }
  selected.clear();
  detail.close();
  render();
}

/** Do what was answered to the question whether two show one garment, and keep the focus at these questions. */
async function answered(item, act) {
  try {
    await act();
  } catch (problem) {
    report(problem);
    return;
  }
  render();
  (document.querySelector(".twins .picture") ?? $("main")).focus({ preventScroll: true });
}

async function keepBoth(item) {
  items.set(item.id, await wardrobe.keepBoth(item));
  twins = twins.filter(([id]) => id !== item.id);
  toast("Both are kept.");
}

/** At one tap, since the other one stays; the bytes are held until this page forgets how to bring them back. */
async function removeOne(item) {
  const file = await wardrobe.file(item);
  const { problems } = await wardrobe.remove([item]);
  if (problems.length > 0) {
    showProblems(problems);
    return;
  }
  take(item.id);
  detail.forget(item);
  forgetPictures([item.id]);
  toast("One of the two is removed.", () => bringBack(item, file));
}

/** The same bytes are the same item; what was said of it last is said again. */
async function bringBack(item, file) {
  try {
    const { item: added } = await wardrobe.add(new File([file], item.filename ?? "picture"));
    const { label, drawer: its, corrected } = item;
    if (corrected) await wardrobe.change([added], label ? { label, drawer: its } : { drawer: its });
    hideToast();
    await load();
  } catch (problem) {
    report(problem);
  }
}

/** Problems of single items. One that was changed in another tab is shown as it is now. */
function showProblems(problems) {
  const meanwhile = problems.filter(({ item }) => item);
  for (const { item } of meanwhile) place(item);
  if (meanwhile.length > 0) {
    toast(
      meanwhile.length === 1
        ? "This picture was changed elsewhere meanwhile. Here is how it is now; change it again if you like."
        : `${count(meanwhile.length, "picture")} were changed elsewhere meanwhile. Here is how they are now.`,
    );
  } else if (problems.length > 0) toast(problems[0].detail);
}

/** Put an item where it belongs now. */
function place(item) {
  const before = items.get(item.id);
  if (before && before.drawer !== item.drawer) {
    take(item.id);
    items.set(item.id, item);
    put(item);
  } else items.set(item.id, item);
}

/** First, where it is seen, or `last`, where it moves no other. */
function put(item, { last = false } = {}) {
  counts[item.drawer] = (counts[item.drawer] ?? 0) + 1;
  if (drawer && drawer !== item.drawer) return;
  const section = sections.get(item.drawer) ?? { ids: [], next: null, total: 0 };
  const ids = last ? [...section.ids, item.id] : [item.id, ...section.ids];
  sections.set(item.drawer, { ...section, ids, total: section.total + 1 });
  fresh.add(item.id);
}

function take(id) {
  const item = items.get(id);
  if (!item) return;
  counts[item.drawer] -= 1;
  const section = sections.get(item.drawer);
  if (section?.ids.includes(id)) {
    section.ids = section.ids.filter((other) => other !== id);
    section.total -= 1;
  }
  items.delete(id);
  selected.delete(id);
}

// ---- adding ----

async function addFiles(files) {
  if (files.length === 0) return;
  if (wardrobe.isKept && files.length === 1 && files[0].name.toLowerCase().endsWith(".zip")) {
    await importZip(files[0]);
    return;
  }
  const wasFiltered = clearFilters();
  if (drawer) history.replaceState(null, "", "#");
  if (wasFiltered || drawer) {
    drawer = null;
    await load(); // before anything arrives: what it answers does not know of that
  }
  uploads.add(files);
  render();
}

function arrived(entry, { item, duplicate, timing }) {
  rememberTiming(item, timing);
  if (items.has(item.id)) place(item);
  else if (!duplicate) {
    items.set(item.id, item);
    put(item, { last: filters(item.drawer).sort === "added" });
  }
  render();
}

const fresh = new Set(); // ids of items that came to lie where they are since the last drawing

function finished({ numAdded, numDuplicates, numFailed, numLeftOut }) {
  const said = [];
  if (numAdded) said.push(`${count(numAdded, "picture")} sorted.`);
  if (numDuplicates)
    said.push(`${count(numDuplicates, "picture")} ${numDuplicates === 1 ? "was" : "were"} here already.`);
  if (numFailed) said.push(`${count(numFailed, "file")} could not be sorted.`);
  if (numLeftOut) said.push(`${count(numLeftOut, "file is no picture", "files are no pictures")}, and left out.`);
  if (said.length > 0) toast(said.join(" "));
  load(); // what was asked for meanwhile knows of some arrivals only
}

async function importZip(file) {
  toast("Bringing it in …", null, true);
  try {
    const { added, merged, unchanged, failed } = await wardrobe.import(file);
    const said = added || !unchanged ? [`${count(added, "picture")} brought in.`] : [];
    if (merged) said.push(`${count(merged, "correction")} added.`);
    if (unchanged) said.push(`${count(unchanged, "picture")} ${unchanged === 1 ? "was" : "were"} here already.`);
    if (failed.length) said.push(`${count(failed.length, "file")} could not be read: ${failed[0].error.detail}`);
    toast(said.join(" "));
    await load();
  } catch (problem) {
    report(problem);
  }
}

// ---- drawing ----

function render() {
  const focus = focusedPlace();
  const total = Object.values(counts).reduce((sum, number) => sum + number, 0);
  const busy = uploads.entries.length > 0;
  const isEmpty = total === 0 && !busy && !isFiltered() && !loadProblem;
  document.body.classList.toggle("is-empty", isEmpty);
  document.body.classList.toggle("is-passing", !wardrobe.isKept);
  document.body.classList.toggle("is-selecting", selecting);
  $("empty").hidden = !isEmpty;
  for (const id of ["find", "undo", "select", "add", "take-more", "floating"]) $(id).hidden = isEmpty;
  $("drawers").hidden = isEmpty;
  $("undo").disabled = lastChange() === null;
  $("select").setAttribute("aria-pressed", String(selecting));
  $("filter-button").classList.toggle("active", isFiltered());
  for (const button of document.querySelectorAll(".menu .kept")) button.disabled = !wardrobe.isKept || total === 0;
  $("import").disabled = !wardrobe.isKept;
  drawNavigation({ counts, drawer, total }, { dropped });
  renderSections(total);
  drawArrivals(uploads, { isShort: drawer !== null });
  renderSelection();
  if (detail.itemId && items.has(detail.itemId)) showDetail(items.get(detail.itemId));
  comeIn(fresh);
  fresh.clear();
  restoreFocus(focus);
}

function renderSections(total) {
  const parts = [arrivalsNode];
  if (loadProblem) {
    parts.push(
      element(
        "div",
        { class: "notice bad", role: "alert" },
        icon("review"),
        element("span", {}, loadProblem.message),
        element("button", { class: "quiet", onclick: load }, icon("retry"), "Try again"),
        loadProblem.kind === "storage-unavailable" &&
          items.size === 0 &&
          element("button", { class: "quiet", onclick: () => keepNothing(loadProblem) }, "Sort without keeping"),
      ),
    );
  }
  if (!drawer && !isFiltered()) {
    const pairs = twins.map((pair) => pair.map((id) => items.get(id)));
    parts.push(twinsSection(pairs.filter((pair) => pair.every(Boolean)), twinActions));
  }
  for (const name of ORDER) {
    const section = sections.get(name);
    if (section && (section.ids.length > 0 || drawer === name)) parts.push(drawn(name, section));
  }
  if (isFiltered() && parts.length === 1 && !drawer && total > 0) {
    parts.push(element("p", { class: "nothing" }, "Nothing here fits what you are looking for."));
  }
  reconcile($("sections"), parts.filter(Boolean));
}

function visibleIds(name) {
  const { ids } = sections.get(name);
  return drawer ? ids : ids.slice(0, OVERVIEW_ITEMS);
}

function drawn(name, { total }) {
  const shown = visibleIds(name).map((id) => items.get(id));
  const state = { shown, total, isOpen: drawer !== null, isFiltered: isFiltered(), selecting, selected };
  return sectionOf(name, state, { ...tileActions, dropped, loadMore, selectAll });
}

function selectAll(ids, on) {
  for (const id of ids)
    if (on) selected.add(id);
    else selected.delete(id);
  render();
}

function renderSelection() {
  const box = $("bar");
  box.hidden = !selecting;
  document.body.classList.toggle("has-bar", selecting);
  if (!selecting) return;
  const some = () => [...selected].map((id) => items.get(id));
  box.replaceChildren(
    element("p", { role: "status" }, selected.size === 0 ? "Tap pictures to select them" : `${selected.size} selected`),
    element(
      "button",
      { class: "primary", "data-role": "move", disabled: selected.size === 0, onclick: () => moveTo(some()) },
      icon("move"),
      "Move to …",
    ),
    element(
      "button",
      {
        class: "quiet danger-text",
        "data-role": "delete",
        disabled: selected.size === 0,
        onclick: () => remove(some()),
      },
      icon("trash"),
      element("span", {}, "Delete"),
    ),
    element("button", { class: "quiet", "data-role": "done", onclick: () => setSelecting(false) }, "Done"),
  );
}

// ---- selecting and dragging ----

function setSelecting(on) {
  selecting = on;
  selected.clear();
  render();
  if (!on) $("select").focus({ preventScroll: true });
}

function setTicked(id, on, isRange) {
  selecting = true;
  const ids = idsInView();
  const range =
    isRange && lastTicked ? [ids.indexOf(lastTicked), ids.indexOf(id)].sort((a, b) => a - b) : [ids.indexOf(id)];
  for (const each of ids.slice(range[0], range.at(-1) + 1))
    if (on) selected.add(each);
    else selected.delete(each);
  lastTicked = id;
  render();
}

function dropped(ids, name) {
  const some = ids.map((id) => items.get(id)).filter((item) => item && item.drawer !== name);
  if (some.length > 0) change(some, { drawer: name });
}

// ---- listening ----

function listen() {
  addEventListener("hashchange", route);
  for (const id of ["add", "add-floating", "choose"]) $(id).addEventListener("click", () => $("files").click());
  for (const id of ["take", "take-more", "take-floating"]) $(id).addEventListener("click", () => $("camera").click());
  for (const id of ["files", "camera"]) {
    $(id).addEventListener("change", (event) => {
      addFiles([...event.target.files]);
      event.target.value = ""; // so that the same file can be chosen again
    });
  }
  $("zip").addEventListener("change", (event) => {
    importZip(event.target.files[0]);
    event.target.value = "";
  });
  $("undo").addEventListener("click", undo);
  $("select").addEventListener("click", () => setSelecting(!selecting));
  arrivalsNode.addEventListener(
    "click",
    (event) => event.target.closest("[data-role=cancel-all]") && uploads.cancelAll(),
  );
  $("import").addEventListener("click", () => $("zip").click());
  for (const format of ["zip", "csv"]) {
    $(`export-${format}`).addEventListener("click", () => wardrobe.export(format).catch(report));
  }
  $("menu").addEventListener("click", () => $("menu").hidePopover());

  let pause = 0;
  $("search").addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(load, SEARCH_PAUSE_MILLISECONDS);
  });
  for (const id of ["filter-label", "filter-corrected", "sort"]) $(id).addEventListener("change", load);
  $("filter-button").addEventListener("click", () => {
    $("filters").hidden = !$("filters").hidden;
    $("filter-button").setAttribute("aria-expanded", String(!$("filters").hidden));
    if (!$("filters").hidden) scrollTo({ top: 0 }); // the button stays in sight, what it opens does not
  });
  $("filter-clear").addEventListener("click", () => clearFilters() && load());

  addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea") && event.target.type !== "checkbox") return;
    if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      undo();
    } else if (event.key === "Escape" && selecting && !document.querySelector("dialog[open]")) setSelecting(false);
    else if (event.key.startsWith("Arrow")) moveFocus(event);
  });
  addEventListener("paste", (event) => addFiles([...event.clipboardData.files]));
  listenForFiles($("drop"), addFiles);
  // Another tab, or another person, may have changed something.
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible" && uploads.numUnderway === 0 && wardrobe.isKept) load();
  });
  addEventListener("beforeunload", (event) => {
    if (uploads.numUnderway > 0 || (!wardrobe.isKept && items.size > 0)) event.preventDefault();
  });
}

onKeyWanted(askForKey);
onToast((node) => detail.host(node)); // a modal dialog covers the rest
listen();
drawer = ORDER.includes(location.hash.slice(1).split("/")[0]) ? location.hash.slice(1).split("/")[0] : null;
await load();
await route();
