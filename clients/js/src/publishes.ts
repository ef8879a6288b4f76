import { EspigonError } from "./error.js";
import type { Ack } from "./protocol.js";

/** A publication on its way. */
export interface Publish {
  readonly room: string;
  /** As it is sent, the same bytes each time. */
  readonly body: string;
  readonly key: string;
  resolve(ack: Ack): void;
  reject(error: EspigonError): void;
}

interface Entry extends Publish {
  /** The request it was sent with, while an answer may come. */
  id: string | undefined;
  /** When it was first sent. */
  first: number;
  /** Not before. */
  at: number;
  tries: number;
  /** The server may have stored it, and nobody knows. */
  maybe: boolean;
}

/** Sent and unanswered at a time: less than a client may send at once, so that a queue that is let go harms nobody. */
const WINDOW = 32;

/** After `retry_ms` a single request is granted. Some more time, in milliseconds, so that more than one is. */
const REFILL = 500;

/** By so much an answer widens the window again, after the server said that it was too much. */
const GROWTH = 0.1;

/** Of the time over which the server knows a key: the rest is for the way there. */
const DEDUP_SHARE = 0.9;

/**
 * What was published and is not acknowledged yet, in the order of the calls; without timers or sockets. Those of one room
 * are sent in order; one that must be repeated holds back the ones behind it.
 */
export class Publishes {
  /** How long the server knows a key. */
  dedup = 0;
  private _entries: Entry[] = [];
  /** The server said that this client sends too much. */
  private _pause = 0;
  private _window = WINDOW;

  /** How many wait to be sent. */
  get waiting(): number {
    return this._entries.length - this._inFlight;
  }

  add(publish: Publish): void {
    this._entries.push({ ...publish, id: undefined, first: 0, at: 0, tries: 0, maybe: false });
  }

  has(key: string): boolean {
    return this._entries.some((entry) => entry.key === key);
  }

  /** Sends what may be sent now. `send` returns the id of the request, or why it cannot be sent at all. */
  flush(now: number, isOpen: (room: string) => boolean, send: (publish: Publish) => string | EspigonError): void {
    const held = new Set<string>();
    let free = Math.floor(this._window) - this._inFlight;
    for (const entry of [...this._entries]) {
      if (now < this._pause || free <= 0) return;
      if (entry.id !== undefined || held.has(entry.room)) continue;
      if (now < entry.at || !isOpen(entry.room)) {
        held.add(entry.room);
        continue;
      }
      const sent = send(entry);
      if (typeof sent === "string") {
        entry.id = sent;
        entry.first ||= now;
        free--;
      } else {
        this._take((other) => other === entry);
        entry.reject(sent);
      }
    }
  }

  /** The server stored it. */
  stored(id: string, ack: Ack): void {
    this._window = Math.min(WINDOW, this._window + GROWTH);
    this._take((entry) => entry.id === id)[0]?.resolve(ack);
  }

  /** The server did not, or does not know. True if the request was one of these. */
  failed(id: string, error: EspigonError, now: number): boolean {
    const entry = this._entries.find((entry) => entry.id === id);
    if (!entry) return false;
    entry.id = undefined;
    entry.maybe ||= error.code === "unknown";
    if (error.retryIn === undefined) {
      this._take((other) => other === entry);
      entry.reject(error);
    } else {
      if (error.code === "rate_limited") {
        // Those under way with it are refused as well: one burst halves the window once.
        if (now >= this._pause) this._window = Math.max(1, this._window / 2);
        this._pause = Math.max(this._pause, now + error.retryIn + REFILL);
      } else {
        entry.at = now + error.retryIn * Math.min(++entry.tries, 8);
      }
    }
    return true;
  }

  /** The connection is gone, and with it the answers. */
  lost(): void {
    for (const entry of this._entries) {
      entry.maybe ||= entry.id !== undefined;
      entry.id = undefined;
    }
  }

  /** Gives up what was first sent so long ago that the server may have forgotten its key, and has no answer to come. */
  expire(now: number): void {
    for (const entry of this._take((entry) => now >= this._expiry(entry))) {
      giveUp(entry, "unavailable", "the server did not store it in time");
    }
  }

  /** When to call `flush` and `expire` again. */
  next(now: number): number {
    const times = this._entries.map((entry) => {
      const again = Math.max(entry.at, this._pause);
      const expiry = this._expiry(entry);
      return entry.id === undefined && again > now ? Math.min(again, expiry) : expiry;
    });
    return Math.min(...times);
  }

  /** Nobody will send these any more: the unsent ones of some rooms, or all. */
  end(code: string, text: string, which?: (room: string) => boolean): void {
    for (const entry of this._take(({ id, room }) => !which || (id === undefined && which(room)))) {
      giveUp(entry, code, text);
    }
  }

  /** Refuses the newest if more than so many wait to be sent. */
  shed(limit: number): void {
    const newest = this._entries.at(-1);
    if (!newest || newest.id !== undefined || this.waiting <= limit) return;
    this._take((entry) => entry === newest);
    newest.reject(new EspigonError("queue_full", `more than ${limit} publications wait to be sent`, newest.room));
  }

  /** Its caller does not wait any more. */
  abort(key: string): void {
    this._take((entry) => entry.key === key);
  }

  private get _inFlight(): number {
    return this._entries.filter(({ id }) => id !== undefined).length;
  }

  private _expiry({ id, first }: Entry): number {
    return first && id === undefined ? first + this.dedup * DEDUP_SHARE : Infinity;
  }

  private _take(which: (entry: Entry) => boolean): Entry[] {
    const taken = this._entries.filter(which);
    this._entries = this._entries.filter((entry) => !taken.includes(entry));
    return taken;
  }
}

function giveUp({ maybe, id, room, reject }: Entry, code: string, text: string): void {
  const unknown = maybe || id !== undefined;
  const what = unknown ? "it may have been published, or not" : text;
  reject(new EspigonError(unknown ? "unknown" : code, what, room));
}
