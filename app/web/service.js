// Requests to the service: its key, its problem documents, and waiting when it says to.

import { megabytes, sleep } from "./elements.js";

export const BASE = new URL("..", import.meta.url); // the page's own address, also behind a proxy with a path

const KEY_NAME = "wardrobe-api-key"; // sessionStorage: this tab, until it is closed
const DEFAULT_WAIT_SECONDS = 2; // chosen, for an answer without Retry-After
const NUM_STORAGE_WAITS = 2; // chosen: a database that restarts is back by then; a disk that cannot be written is not
const SAVING_MILLISECONDS = 60_000; // chosen: the browser has long begun to save the file

/** What the service, or the way to it, could not do. `message` is a sentence for a person. */
export class Problem extends Error {
  constructor(document) {
    super(document.detail ?? document.title);
    this.document = document;
    this.status = document.status;
    this.kind = (document.type ?? "").replace("urn:wardrobe:", "");
  }
}

let askForKey = async () => null;

/** `ask` shows the form for the key and answers with what was typed. */
export function onKeyWanted(ask) {
  let asking = null; // several requests are refused at once, and one answer serves them all
  askForKey = () => (asking ??= ask(key() !== null).finally(() => (asking = null)));
}

export function key() {
  return sessionStorage.getItem(KEY_NAME);
}

/**
 * One request, repeated while the service is busy or loading, a few times while its storage is away, and after a key
 * was given.
 *
 * `onWait` is told the seconds of each wait. With `onProgress`, which is told the bytes sent, the request goes by
 * XMLHttpRequest: fetch does not tell.
 */
export async function send(path, options = {}) {
  const { signal, onWait } = options;
  let numStorageWaits = 0;
  for (;;) {
    const usedKey = key();
    const request = { method: "GET", ...options, headers: { ...options.headers } };
    if (usedKey !== null) request.headers.Authorization = `Bearer ${usedKey}`;
    const response = await (options.onProgress ? upload(path, request) : ask(path, request));
    if (response.ok) return response;
    const problem = new Problem(await problemOf(response));
    if (problem.status === 401) {
      if (key() === usedKey) {
        const given = await askForKey();
        if (given === null) throw new Problem({ ...problem.document, detail: "This wardrobe opens with its key alone." });
        sessionStorage.setItem(KEY_NAME, given);
      }
    } else if (
      problem.status === 429 ||
      problem.kind === "not-ready" ||
      (problem.kind === "storage-unavailable" && numStorageWaits++ < NUM_STORAGE_WAITS)
    ) {
      const seconds = Number(response.headers.get("Retry-After")) || DEFAULT_WAIT_SECONDS;
      onWait?.(seconds);
      await sleep(1000 * seconds, signal);
      onWait?.(0);
    } else throw problem;
  }
}

/** GET and parse. */
export async function read(path) {
  return (await send(path)).json();
}

/** Send JSON and parse the answer. */
export async function change(path, method, value) {
  const headers = { "Content-Type": "application/json" };
  return (await send(path, { method, body: JSON.stringify(value), headers })).json();
}

const shown = new Map(); // address -> blob URL, where a key is needed

/** Let an <img> show what lies at an address of the service. */
export async function show(image, path) {
  const address = new URL(path, BASE).href;
  if (key() === null) {
    image.src = address;
    return;
  }
  if (!shown.has(address)) {
    const loading = send(address).then(async (response) => URL.createObjectURL(await response.blob()));
    loading.catch(() => shown.delete(address));
    shown.set(address, loading);
  }
  try {
    image.src = await shown.get(address);
  } catch {
    image.dispatchEvent(new Event("error"));
  }
}

/** Free what was kept to show an address, whatever its query. */
export function forget(path) {
  const { href } = new URL(path, BASE);
  for (const [address, loading] of shown) {
    if (address.split("?")[0] !== href) continue;
    shown.delete(address);
    loading.then(URL.revokeObjectURL, () => null);
  }
}

/** Save what lies at an address as a file. Without a key the browser does it by itself, however large it is. */
export async function download(path, filename) {
  const link = document.createElement("a");
  link.download = filename;
  if (key() === null) link.href = new URL(path, BASE).href;
  else {
    link.href = URL.createObjectURL(await (await send(path)).blob());
    setTimeout(() => URL.revokeObjectURL(link.href), SAVING_MILLISECONDS);
  }
  link.click();
}

async function ask(path, { method, headers, body, signal }) {
  try {
    return await fetch(new URL(path, BASE), { method, headers, body, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw noAnswer();
  }
}

function upload(path, { method, headers, body, signal, onProgress, numBytes }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, new URL(path, BASE));
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded / event.total));
    request.addEventListener("load", () => {
      const { status, responseText } = request;
      resolve({
        ok: status >= 200 && status < 300,
        status,
        headers: { get: (name) => request.getResponseHeader(name) },
        json: async () => JSON.parse(responseText),
      });
    });
    request.addEventListener("error", () => reject(noAnswer(numBytes)));
    const cancelled = () => {
      request.abort();
      reject(new DOMException("Cancelled", "AbortError"));
    };
    if (signal?.aborted) return cancelled();
    signal?.addEventListener("abort", cancelled);
    request.send(body);
  });
}

const LARGE_BYTES = 30e6; // the service's usual limit is 32 MiB, and it may hang up on more before it can say so

function noAnswer(numBytes = 0) {
  const size = numBytes > LARGE_BYTES ? ` The file has ${megabytes(numBytes)}; perhaps it takes none so large.` : "";
  return new Problem({
    type: "urn:wardrobe:no-answer",
    title: "No answer",
    status: 0,
    detail: `The service does not answer. Is it still running, and are you connected to it?${size}`,
  });
}

async function problemOf(response) {
  try {
    return await response.json();
  } catch {
    return { title: "No answer", status: response.status, detail: `The service answered with ${response.status}.` };
  }
}
