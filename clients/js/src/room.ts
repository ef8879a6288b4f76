import { backoff } from "./backoff.js";
import type { Client, PublishOptions } from "./client.js";
import { Emitter } from "./emitter.js";
import { EspigonError } from "./error.js";
import { lifetime } from "./grant.js";
import type { LostEvent, Message, RoomEvents } from "./message.js";
import { judge } from "./position.js";
import type { Ack, Envelope, Joined, Position, Since } from "./protocol.js";
import { stream } from "./stream.js";

const MINUTE = 60_000;

export type RoomState = "joining" | "joined" | "left";

/**
 * One room. Once joined it stays so until `leave()`, or until the server says no: after every loss of the connection it
 * is joined again where it was, and what was missed comes in order, each message once.
 */
export class Room<T = unknown> extends Emitter<RoomEvents<T>> {
  private _state: RoomState = "left";
  private _start: Since | undefined;
  private _position: Position | undefined;
  private _grant: string | undefined;
  /** When the grant is to be replaced. */
  private _refreshAt = 0;
  /** The join that is not answered yet. */
  private _join: { id: string; grant: string | undefined } | undefined;
  private _tries = 0;
  private _timer: ReturnType<typeof setTimeout> | undefined;
  /** Keys of messages of our own that are not to be shown. */
  private readonly _hidden = new Set<string>();

  /** @internal */
  constructor(
    readonly name: string,
    private readonly _client: Client,
  ) {
    super();
  }

  get state(): RoomState {
    return this._state;
  }

  /** The last message seen, to be kept and given to `join` by who wants to go on from there another time. */
  get position(): Position | undefined {
    return this._position;
  }

  /**
   * Joins, now or as soon as there is a connection. `last`: begin with up to so many latest messages; a position: with
   * what follows it. Without, with what is published from now on. Listen before the next `await`, or miss messages.
   */
  join(from?: Since): this {
    if (this._state === "left") {
      this._client._enter(this);
      this._start = from;
      this._position = from && "seq" in from ? from : undefined;
      this._state = "joining";
      this._sendJoin(undefined);
    }
    return this;
  }

  /** Resolves once the room is joined; rejects if it cannot be. */
  ready(): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this._state === "joined") return resolve();
      const notJoined = () => new EspigonError("not_joined", `join ${this.name} first`, this.name);
      if (this._state === "left") return reject(notJoined());
      const both = new AbortController();
      const { signal } = both;
      const settle = (error?: EspigonError) => {
        both.abort();
        if (error) reject(error);
        else resolve();
      };
      this.on("joined", () => settle(), { signal });
      this.on("left", ({ error }) => settle(error ?? notJoined()), { signal });
    });
  }

  /** Publishes any JSON value. Resolves once the server has stored it; rejects with an `EspigonError` if it has not. */
  publish(body: T, options?: PublishOptions): Promise<Ack> {
    return this._client._publish(this, body, options);
  }

  /** Leaves. Nothing is delivered any more from this call on. */
  leave(): void {
    if (this._state === "left") return;
    this._client._leave(this);
    this._end({});
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<Message<T>> {
    return stream(this);
  }

  /** @internal There is a connection, or a new one. */
  _welcome(): void {
    if (this._state !== "left") this._sendJoin(this._grant);
  }

  /** @internal The connection is gone. */
  _disconnected(): void {
    this._join = undefined;
    if (this._state === "joined") this._state = "joining";
  }

  /** @internal */
  _joined(id: string | undefined, { epoch, seq, recovered, publish, grant }: Joined): void {
    const join = this._join;
    if (!join || join.id !== id) return;
    this._join = undefined;
    this._tries = 0;
    this._state = "joined";
    const before = this._position;
    // What was asked is where we stood then; meanwhile more may have come.
    if (!before || !recovered) this._position = { epoch, seq };
    else if (!before.epoch) this._position = { ...before, epoch };
    if (grant) this._grant = grant;
    if (grant && !join.grant) this._refreshLater(grant);
    this._emit("joined", { epoch, seq, recovered, publish });
    if (before && !recovered && this._position)
      this._lost({ epoch, seq, reason: "history", after_ms: this._client._slot() });
  }

  /** @internal */
  _message(envelope: Envelope): Message<T> | undefined {
    if (this._state !== "joined" || !this._position) return undefined;
    const verdict = judge(this._position, envelope);
    // Not to be: the server never skips. Asked again from where we stand rather than shown out of order.
    if (verdict === "gap" && !this._join) this._sendJoin(this._grant);
    if (verdict !== "next") return undefined;
    const epoch = envelope.epoch ?? this._position.epoch;
    this._position = { epoch, seq: envelope.seq };
    const { room, seq, from, ts, key, body } = envelope;
    if (key !== undefined && from === this._client.user && this._hidden.delete(key)) return undefined;
    const message = { room, epoch, seq, from, ts, ...(key !== undefined && { key }), body: body as T };
    this._emit("message", message);
    return message;
  }

  /** @internal Delivery goes on elsewhere. */
  _lost({ epoch, seq, reason, after_ms }: LostEvent): void {
    if (this._state !== "joined") return;
    this._position = { epoch, seq };
    for (const key of this._hidden) if (!this._client._isPending(key)) this._hidden.delete(key);
    this._emit("lost", { epoch, seq, reason, after_ms });
  }

  /** @internal The answer to a join is no, or not now. True if it was one of ours. */
  _failed(id: string | undefined, error: EspigonError): boolean {
    const join = this._join;
    if (!join || join.id !== id) return false;
    this._join = undefined;
    this._emit("error", error);
    if (error.retryIn === undefined) this._end({ reason: error.code, error });
    else this._later(error.retryIn + backoff(this._tries++, Math.random), join.grant);
    return true;
  }

  /** @internal The server says that we are no member any more. */
  _removed(reason: string): void {
    if (this._state !== "joined") return;
    this._end({ reason, error: new EspigonError(reason, `no longer in ${this.name}`, this.name) });
  }

  /** @internal Out of the room, whoever's wish it was. */
  _end(left: RoomEvents<T>["left"]): void {
    if (this._state === "left") return;
    clearTimeout(this._timer);
    this._state = "left";
    this._position = this._grant = this._join = undefined;
    this._hidden.clear();
    this._emit("left", left);
    this._client._exit(this);
  }

  /** @internal */
  _hide(key: string): void {
    this._hidden.add(key);
  }

  /** @internal An answer came: its message may have been here already, or will never come. */
  _answered(key: string, ack?: Ack): void {
    if (!ack || (this._position && judge(this._position, ack) === "old")) this._hidden.delete(key);
  }

  private _sendJoin(grant: string | undefined): void {
    clearTimeout(this._timer);
    const since = this._position ?? this._start;
    const id = this._client._request("join", {
      room: this.name,
      ...(since && { since }),
      ...(grant && { grant }),
    });
    this._join = id === undefined ? undefined : { id, grant };
    if (grant) this._later(Math.max(this._refreshAt - Date.now(), MINUTE * Math.random()));
  }

  /** Joins again at a random moment of the grant's second half, so that a membership is asked about now and then. */
  private _refreshLater(grant: string): void {
    const life = lifetime(grant);
    if (!life) return;
    const ms = (life * (1 + Math.random())) / 2;
    this._refreshAt = Date.now() + ms;
    this._later(ms);
  }

  /** Joins, or joins again, in so many milliseconds. */
  private _later(ms: number, grant?: string): void {
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this._sendJoin(grant), ms);
  }
}
