// Pictures on their way: shown at once, sent a few at a time, cancelled or tried again.

const NUM_AT_A_TIME = 3; // chosen: one is sent while one is worked on; more would only wait in the service's queue
const THUMBNAIL_PIXELS = 320;
const PICTURE_NAME = /^[^.]*$|\.(jpe?g|jfif|a?png|webp|gif|bmp|tiff?|avif|hei[cf]|hif)$/i;

export class Uploads {
  entries = []; // those on their way and those that failed, in the order they came
  numDone = 0; // since the last time that nothing was on its way
  waitSeconds = 0; // the service asked to wait
  #thumbnails = Promise.resolve();
  #running = 0;
  #begun = null;

  /** `send(file, options)` sends one; `onChange` and `onArrived(entry, answer)` say what happened. */
  constructor({ send, onChange, onArrived, onFinished, onDismissed }) {
    Object.assign(this, { send, onChange, onArrived, onFinished, onDismissed });
  }

  get numUnderway() {
    return this.entries.filter(({ state }) => state !== "failed").length;
  }

  get failed() {
    return this.entries.filter(({ state }) => state === "failed");
  }

  /** 0..1 by number of pictures, each counted as far as it was sent. */
  get progress() {
    const sent = this.entries.reduce((sum, { state, progress }) => sum + (state === "sending" ? progress : 0), 0);
    return (this.numDone + sent) / (this.numDone + this.numUnderway || 1);
  }

  /** `files` may be a whole folder of a phone: videos and the like in it are left out. */
  add(files) {
    const pictures = files.filter(mayBePicture);
    this.#begin().numLeftOut += files.length - pictures.length;
    for (const file of pictures) {
      const entry = { file, state: "waiting", progress: 0, thumbnail: null, problem: null, abort: null };
      this.entries.push(entry);
      // One after the other: decoding many large photos at once fills a phone's memory.
      this.#thumbnails = this.#thumbnails.then(() => this.#makeThumbnail(entry));
    }
    this.#fill();
  }

  cancel(entry) {
    entry.abort?.abort();
    this.#drop(entry);
    this.#fill();
  }

  cancelAll() {
    const underway = this.entries.filter(({ state }) => state !== "failed");
    this.entries = this.failed;
    for (const entry of underway) entry.abort?.abort();
    this.#fill();
  }

  retry(entries) {
    for (const entry of entries) Object.assign(entry, { state: "waiting", progress: 0, problem: null });
    this.#begin();
    this.#fill();
  }

  dismiss(entries) {
    for (const entry of entries) this.#drop(entry);
    this.onDismissed();
  }

  #begin() {
    return (this.#begun ??= { numAdded: 0, numDuplicates: 0, numFailed: 0, numLeftOut: 0 });
  }

  #drop(entry) {
    this.entries = this.entries.filter((other) => other !== entry);
  }

  #fill() {
    for (const entry of this.entries) {
      if (this.#running >= NUM_AT_A_TIME) break;
      if (entry.state === "waiting") this.#run(entry);
    }
    this.onChange();
    if (this.numUnderway === 0 && this.#begun) {
      const begun = this.#begun;
      this.#begun = null;
      this.numDone = 0;
      this.onFinished(begun);
    }
  }

  async #run(entry) {
    this.#running += 1;
    entry.state = "sending";
    entry.abort = new AbortController();
    try {
      const answer = await this.send(entry.file, {
        signal: entry.abort.signal,
        onProgress: (progress) => {
          entry.progress = progress;
          this.onChange(entry);
        },
        onWait: (seconds) => {
          this.waitSeconds = seconds;
          this.onChange();
        },
      });
      this.#drop(entry);
      this.numDone += 1;
      if (this.#begun) this.#begun[answer.duplicate ? "numDuplicates" : "numAdded"] += 1;
      this.onArrived(entry, answer);
    } catch (error) {
      if (error.name !== "AbortError") {
        Object.assign(entry, { state: "failed", problem: error });
        this.numDone += 1;
        if (this.#begun) this.#begun.numFailed += 1;
      }
    } finally {
      this.#running -= 1;
      this.#fill();
    }
  }

  /** A small copy to look at; what is sent is the file. What the browser cannot read (HEIC) is shown by its name. */
  async #makeThumbnail(entry) {
    if (!this.entries.includes(entry)) return; // it has arrived, or was cancelled
    try {
      const bitmap = await createImageBitmap(entry.file);
      const scale = Math.min(1, THUMBNAIL_PIXELS / Math.min(bitmap.width, bitmap.height));
      const canvas = document.createElement("canvas");
      canvas.width = Math.max(1, Math.round(bitmap.width * scale));
      canvas.height = Math.max(1, Math.round(bitmap.height * scale));
      canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      bitmap.close();
      entry.thumbnail = canvas;
      this.onChange(entry);
    } catch {
      // shown by its name
    }
  }
}

/** By the type that the browser gives, or by its name: not every browser knows HEIC. The service looks into the file. */
function mayBePicture({ type, name }) {
  return type.startsWith("image/") || PICTURE_NAME.test(name);
}
