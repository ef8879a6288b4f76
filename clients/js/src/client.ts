import { Driver } from "./driver.js";
import { Emitter } from "./emitter.js";
import { EspigonError, failure } from "./error.js";
import type { State, Status } from "./machine.js";
import type { Message } from "./message.js";
import type { Ack, ServerMessage, Welcome } from "./protocol.js";
import { type Publish, Publishes } from "./publishes.js";
import { Room } from "./room.js";
import type { WebSocketClass } from "./socket.js";
import { type GetToken, Tokens } from "./tokens.js";

export interface ClientOptions {
  /** A token that is good for as long as this client lives. */
  token?: string;
  /** Called for the first token, and before one ends. */
  getToken?: GetToken;
  /** Where there is none built in (Node before 22): that of the package `ws`. */
  WebSocket?: unknown;
  /** Publications that may wait to be sent, while offline above all; more are rejected with `queue_full`. 0: none waits. */
  queue?: number;
}

export interface PublishOptions {
  /** Publishing again with the same key within minutes publishes once. Made up when not given. */
  key?: string;
  /** Whether this client, too, gets the message; default true. */
  echo?: boolean;
  /** Stops waiting. What was sent already may be published all the same. */
  signal?: AbortSignal;
}

export interface ClientEvents {
  state: Status;
  /** Of all rooms, the automatic ones included. */
  message: Message;
  error: EspigonError;
}

/** One user's connection to the rooms. Connects by itself, and again whenever that is lost, until `close()`. */
export class Client extends Emitter<ClientEvents> {
  private readonly _rooms = new Map<string, Room>();
  /** Automatic rooms that were left on purpose. */
  private readonly _declined = new Set<string>();
  private readonly _publishes = new Publishes();
  private readonly _driver: Driver;
  private readonly _queue: number;
  private _welcome: Welcome | undefined;
  private _timer: ReturnType<typeof setTimeout> | undefined;
  private _lastId = 0;
  private readonly _keys = Array.from(crypto.getRandomValues(new Uint32Array(3)), (n) => n.toString(36)).join("");
  private _lastKey = 0;

  constructor(url: string | URL, { token, getToken, WebSocket, queue = 100 }: ClientOptions) {
    super();
    const socket = WebSocket ?? globalThis.WebSocket;
    if (!socket) throw new TypeError("there is no WebSocket here: pass { WebSocket }, for instance of the package ws");
    this._queue = queue;
    this._driver = new Driver(address(url), socket as WebSocketClass, new Tokens(token, getToken), {
      status: (status) => this._changed(status),
      welcome: (welcome) => this._welcomed(welcome),
      lost: () => this._disconnected(),
      message: (message) => this._received(message),
      error: (error) => this._emit("error", error),
    });
  }

  get state(): State {
    return this._driver.status.state;
  }

  /** Who the server says we are; known once connected. */
  get user(): string | undefined {
    return this._welcome?.user;
  }

  /** The id of the connection, as in the server's log. */
  get connection(): string | undefined {
    return this._welcome?.connection;
  }

  /** The room of this name, the same object each time; to be joined, unless it is an automatic one. */
  room<T = unknown>(name: string): Room<T> {
    let room = this._rooms.get(name);
    if (!room) this._rooms.set(name, (room = new Room(name, this)));
    return room as Room<T>;
  }

  /** Leaves all rooms and closes the connection, for good. */
  close(): void {
    this._driver.close({ reason: "closed" });
  }

  private _changed(status: Status): void {
    if (status.state === "closed") this._closed(status.reason as string);
    this._emit("state", status);
  }

  private _closed(reason: string): void {
    clearTimeout(this._timer);
    this._publishes.end("closed", "the client is closed");
    const error = reason === "closed" ? undefined : new EspigonError(reason, `the client closed: ${reason}`);
    for (const room of [...this._rooms.values()]) room._end({ reason, ...(error && { error }) });
  }

  private _welcomed(welcome: Welcome): void {
    this._welcome = welcome;
    this._publishes.dedup = welcome.dedup_ms;
    for (const room of [...this._rooms.values()]) room._welcome();
    for (const name of welcome.rooms) if (!this._declined.has(name)) this.room(name).join();
  }

  private _disconnected(): void {
    this._publishes.lost();
    for (const room of [...this._rooms.values()]) room._disconnected();
    this._flush();
  }

  private _received(message: ServerMessage): void {
    switch (message.type) {
      case "message": {
        const seen = this._rooms.get(message.room)?._message(message);
        if (seen) this._emit("message", seen);
        break;
      }
      case "joined":
        this._rooms.get(message.payload.room)?._joined(message.id, message.payload);
        this._flush();
        break;
      case "lost":
        this._rooms.get(message.payload.room)?._lost(message.payload);
        break;
      case "left":
        // With an id it is the answer to `leave`.
        if (message.id === undefined) {
          this._rooms.get(message.payload.room)?._removed(message.payload.reason ?? "removed");
        }
        break;
      case "ack":
        this._publishes.stored(message.id, message.payload);
        this._flush();
        break;
      case "error":
        this._failed(message.id, failure(message.payload));
    }
  }

  private _failed(id: string | undefined, error: EspigonError): void {
    if (id !== undefined && this._publishes.failed(id, error, Date.now())) return this._flush();
    const isOfJoin = [...this._rooms.values()].some((room) => room._failed(id, error));
    if (isOfJoin || id === undefined) this._emit("error", error);
    // What is left is a `leave` over the rate.
    else if (error.retryIn !== undefined && error.room !== undefined) this._leaveAgain(error.room, error.retryIn);
  }

  private _leaveAgain(name: string, ms: number): void {
    setTimeout(() => this._isLeft(name) && this._request("leave", { room: name }), ms);
  }

  private _isLeft(room: string): boolean {
    return (this._rooms.get(room)?.state ?? "left") === "left";
  }

  private _flush(): void {
    const now = Date.now();
    this._publishes.expire(now);
    this._publishes.end("not_joined", "the room was left", (room) => this._isLeft(room));
    this._publishes.flush(
      now,
      (room) => this._rooms.get(room)?.state === "joined",
      (publish) => this._send(publish),
    );
    clearTimeout(this._timer);
    const next = this._publishes.next(now);
    if (next < Infinity) this._timer = setTimeout(() => this._flush(), next - now);
  }

  private _send({ room, key, body }: Publish): string | EspigonError {
    const id = String(++this._lastId);
    const head = JSON.stringify({ type: "broadcast", id, payload: { room, key } });
    const text = `${head.slice(0, -2)},"body":${body}}}`;
    // More would end the connection, and again after each reconnect.
    const limit = this._welcome?.max_message_bytes ?? Infinity;
    if (new TextEncoder().encode(text).length > limit) {
      return new EspigonError("message_too_large", `a message has at most ${limit} bytes`, room);
    }
    this._driver.send(text);
    return id;
  }

  /** @internal Undefined while there is no connection. */
  _request(type: string, payload: unknown): string | undefined {
    if (this.state !== "connected") return undefined;
    const id = String(++this._lastId);
    this._driver.send(JSON.stringify({ type, id, payload }));
    return id;
  }

  /** @internal */
  _publish(room: Room, body: unknown, options: PublishOptions = {}): Promise<Ack> {
    const { key = `${this._keys}-${++this._lastKey}`, echo = true, signal } = options;
    return new Promise((resolve, reject) => {
      const refuse = (code: string, text: string) => reject(new EspigonError(code, text, room.name));
      const json = JSON.stringify(body);
      if (signal?.aborted) return reject(signal.reason);
      if (this.state === "closed") return refuse("closed", "the client is closed");
      if (json === undefined) return refuse("bad_message", "the body is no JSON value");
      if (room.state === "left") return refuse("not_joined", `join ${room.name} first`);
      const abort = () => {
        this._publishes.abort(key);
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", abort);
      const done = (ack?: Ack) => {
        signal?.removeEventListener("abort", abort);
        room._answered(key, ack);
      };
      if (!echo) room._hide(key);
      this._publishes.add({
        room: room.name,
        body: json,
        key,
        resolve: (ack) => {
          done(ack);
          resolve(ack);
        },
        reject: (error) => {
          done();
          reject(error);
        },
      });
      this._flush();
      this._publishes.shed(this._queue);
    });
  }

  /** @internal */
  _isPending(key: string): boolean {
    return this._publishes.has(key);
  }

  /** @internal A moment of our own within the time over which the server spreads its clients. */
  _slot(): number {
    return Math.round(Math.random() * (this._welcome?.reconnect_ms ?? 0));
  }

  /** @internal */
  _enter(room: Room): void {
    if (this.state === "closed") throw new EspigonError("closed", "the client is closed", room.name);
    const known = this._rooms.get(room.name);
    if (known && known !== room) throw new EspigonError("stale_room", "ask for this room anew, by room()", room.name);
    this._rooms.set(room.name, room);
    this._declined.delete(room.name);
  }

  /** @internal */
  _leave(room: Room): void {
    if (this._welcome?.rooms.includes(room.name)) this._declined.add(room.name);
    this._request("leave", { room: room.name });
  }

  /** @internal A room that nobody is in or listens to is forgotten. */
  _exit(room: Room): void {
    if (room._isIdle) this._rooms.delete(room.name);
    this._flush();
  }
}

/** As a WebSocket wants it. Rooms are joined one by one, with positions, so not by the server. */
function address(url: string | URL): string {
  const full = new URL(url, globalThis.location?.href);
  full.protocol = full.protocol.replace("http", "ws");
  full.searchParams.set("auto_join", "false");
  return full.href;
}
