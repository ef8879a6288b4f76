/** A node's line each second: one that does not come for so long, in milliseconds, means that the connection is dead. */
const SILENCE = 5000;
/** First and longest wait before another attempt. */
const [SOON, LATE] = [1000, 15_000];

/** Follows the stream of the status, and comes back to it whenever it is lost. */
export class Status {
  #url;
  #headers;
  #on;
  #controller;
  #timer;
  #tries = 0;

  /** `on`: `line(status)`, `lost(why)`, `refused(why)`; after the last nothing comes until `start`. */
  constructor(url, headers, on) {
    this.#url = url;
    this.#headers = headers;
    this.#on = on;
  }

  start() {
    this.stop();
    this.#attempt();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#controller?.abort();
  }

  async #attempt() {
    const controller = (this.#controller = new AbortController());
    let why = "connection lost";
    try {
      const response = await fetch(this.#url, { headers: this.#headers(), signal: controller.signal, cache: "no-store" });
      if (!response.ok) {
        const { payload } = await response.json();
        if (response.status === 401) return this.#on.refused(payload.error);
        why = payload.error;
      } else {
        await this.#read(response.body, controller);
      }
    } catch {
      // A loss like any other, unless we wanted it.
    }
    // Another attempt has taken its place, or none is wanted.
    if (controller !== this.#controller || controller.signal.aborted) return;
    const most = Math.min(SOON * 2 ** this.#tries++, LATE);
    const wait = most / 2 + (Math.random() * most) / 2;
    this.#on.lost(`${why}: tries again in ${Math.ceil(wait / 1000)} s`);
    this.#timer = setTimeout(() => this.#attempt(), wait);
  }

  async #read(body, controller) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      let silence;
      const dead = new Promise((_, reject) => (silence = setTimeout(reject, SILENCE)));
      const { done, value } = await Promise.race([reader.read(), dead]).finally(() => clearTimeout(silence));
      // Stopped meanwhile: what still comes is nobody's.
      if (done || controller !== this.#controller || controller.signal.aborted) return;
      const lines = (text + value).split("\n");
      text = lines.pop();
      for (const line of lines) {
        this.#tries = 0;
        this.#on.line(JSON.parse(line));
      }
    }
  }
}
