// Dragging: files into the page, pictures from drawer to drawer.

const DRAG_TYPE = "application/x-wardrobe";

/** Take pictures of the wardrobe along. */
export function startDrag(event, ids) {
  event.dataTransfer.setData(DRAG_TYPE, JSON.stringify(ids));
  event.dataTransfer.effectAllowed = "move";
}

/** Pictures of the wardrobe can be dropped here; by keyboard the same is done with "Move to". */
export function droppable(node, onDrop) {
  const fits = (event) => event.dataTransfer.types.includes(DRAG_TYPE);
  node.addEventListener("dragover", (event) => {
    if (!fits(event)) return;
    event.preventDefault();
    node.classList.add("target");
  });
  node.addEventListener("dragleave", (event) => node.contains(event.relatedTarget) || node.classList.remove("target"));
  node.addEventListener("drop", (event) => {
    node.classList.remove("target");
    if (!fits(event)) return;
    event.preventDefault();
    onDrop(JSON.parse(event.dataTransfer.getData(DRAG_TYPE)));
  });
  return node;
}

/** Files can be dropped anywhere; `cover` lies over the page while they are above it. */
export function listenForFiles(cover, onFiles) {
  const isFiles = (event) => event.dataTransfer?.types.includes("Files");
  let depth = 0; // entering an inner element comes before leaving the outer one
  const show = (by) => {
    depth = Math.max(0, depth + by);
    cover.hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => isFiles(event) && show(1));
  addEventListener("dragleave", (event) => isFiles(event) && show(-1));
  addEventListener("dragover", (event) => isFiles(event) && event.preventDefault());
  addEventListener("drop", async (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    depth = 0;
    show(0);
    onFiles(await droppedFiles(event.dataTransfer));
  });
}

/** The files of a drop, also those in folders. */
async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const files = [];
  for (const entry of entries) await collect(entry, files);
  return files;
}

async function collect(entry, files) {
  if (entry.name.startsWith(".")) return; // folders hold hidden files of the system
  if (entry.isFile) {
    files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A call answers with a hundred at most; an empty one is the end.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return;
    for (const inner of some) await collect(inner, files);
  }
}
