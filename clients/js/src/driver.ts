import { backoff } from "./backoff.js";
import { EspigonError, failure } from "./error.js";
import { type Cause, type Effect, Machine, type Status } from "./machine.js";
import { type ServerMessage, TOKEN_EXPIRED, type Welcome } from "./protocol.js";
import { Socket, type WebSocketClass } from "./socket.js";
import type { Tokens } from "./tokens.js";

export interface DriverEvents {
  status(status: Status): void;
  welcome(welcome: Welcome): void;
  /** The socket that was welcomed is no more; what was sent on it may have been lost. */
  lost(): void;
  message(message: ServerMessage): void;
  error(error: EspigonError): void;
}

/** The id of `auth`; requests of rooms have numbers. */
const AUTH = "auth";

/** Carries out what the machine wants: timers, tokens, sockets, and the browser's signals. */
export class Driver {
  private readonly _machine: Machine;
  private _current: Socket | undefined;
  private _next: Socket | undefined;
  /** Distinguishes the attempt under way from those given up. */
  private _attempt = 0;
  private _timer: ReturnType<typeof setTimeout> | undefined;
  private _renewal: ReturnType<typeof setTimeout> | undefined;
  private _renewals = 0;
  private _told: Status | undefined;
  private readonly _unlisten = new AbortController();

  constructor(
    private readonly _url: string,
    private readonly _WebSocket: WebSocketClass,
    private readonly _tokens: Tokens,
    private readonly _events: DriverEvents,
  ) {
    this._machine = new Machine(_tokens.renewable, Math.random);
    // Whoever made the client gets to listen first.
    queueMicrotask(() => {
      if (this.status.state === "closed") return;
      this._listen();
      this._run(this._machine.start());
    });
  }

  get status(): Status {
    return this._machine.status;
  }

  send(text: string): void {
    this._current?.send(text);
  }

  close(cause: Cause): void {
    if (this.status.state !== "closed") this._run(this._machine.close(cause));
  }

  private _run(effects: Effect[]): void {
    this._perform(effects);
    this._tell();
  }

  private _perform(effects: Effect[]): void {
    for (const effect of effects) {
      if (effect === "attempt") void this._open();
      else if (effect === "promote") this._promote();
      else if (effect === "drop") this._drop();
      else if (effect === "probe") this._current?.probe();
      else this._after(effect.due);
    }
  }

  private _tell(): void {
    if (this._told === this.status) return;
    this._told = this.status;
    if (this.status.state === "closed") this._unlisten.abort();
    this._events.status(this.status);
  }

  private _after(ms: number | undefined): void {
    clearTimeout(this._timer);
    if (ms !== undefined) this._timer = setTimeout(() => this._run(this._machine.due()), ms);
  }

  private async _open(): Promise<void> {
    const attempt = ++this._attempt;
    let token: string;
    try {
      token = await this._tokens.get();
    } catch (error) {
      if (attempt === this._attempt) this._tokenFailed(error as EspigonError);
      return;
    }
    if (attempt !== this._attempt) return;
    try {
      const socket = new Socket(this._WebSocket, this._url, token, {
        welcome: (welcome) => this._welcomed(welcome),
        message: (message) => this._received(message),
        end: (cause) => this._ended(socket, cause),
      });
      this._next = socket;
    } catch {
      // The only thing that varies is the token: a subprotocol has no room for such characters.
      this._run(this._machine.failed({ reason: "token_invalid", code: 4002 }));
    }
  }

  private _tokenFailed(error: EspigonError): void {
    this._run(this._machine.failed({ reason: error.code }));
    const { state, retryIn } = this.status;
    const passing = state === "waiting" ? retryIn : undefined;
    this._events.error(new EspigonError(error.code, error.message, undefined, passing));
  }

  private _welcomed(welcome: Welcome): void {
    this._perform(this._machine.welcomed(welcome.reconnect_ms, Date.now()));
    this._renewals = 0;
    this._renewLater(welcome.expires);
    this._events.welcome(welcome);
    this._tell();
  }

  private _promote(): void {
    if (this._current) {
      this._current.drop();
      this._events.lost();
    }
    this._current = this._next;
    this._next = undefined;
  }

  private _drop(): void {
    this._attempt++;
    this._next?.drop();
    this._current?.drop();
    const connected = this._current;
    this._next = this._current = undefined;
    clearTimeout(this._renewal);
    if (connected) this._events.lost();
  }

  private _ended(socket: Socket, cause: Cause): void {
    if (cause.code === TOKEN_EXPIRED) this._tokens.forget();
    if (socket === this._next) {
      this._next = undefined;
      this._run(this._machine.failed(cause));
    } else {
      this._current = undefined;
      clearTimeout(this._renewal);
      this._events.lost();
      this._run(this._machine.lost(cause, Date.now()));
    }
  }

  private _received(message: ServerMessage): void {
    if (message.type === "reconnect") {
      this._run(this._machine.announced(message.payload.after_ms));
    } else if (message.type === "authenticated") {
      this._renewals = 0;
      this._renewLater(message.payload.expires);
    } else if (message.type === "error" && message.id === AUTH) {
      this._events.error(failure(message.payload));
      this._renewAgain();
    } else {
      this._events.message(message);
    }
  }

  private _renewLater(expires: number): void {
    const ms = this._tokens.expires(expires);
    clearTimeout(this._renewal);
    if (ms !== undefined) this._renewal = setTimeout(() => void this._renew(), ms);
  }

  /** Shows a newer token before the old one ends. Should all fail, the server ends the connection with 4001. */
  private async _renew(): Promise<void> {
    this._tokens.forget();
    const socket = this._current;
    try {
      const token = await this._tokens.get();
      if (socket === this._current) {
        socket?.send(`{"type":"auth","id":"${AUTH}","payload":{"token":${JSON.stringify(token)}}}`);
      }
    } catch (error) {
      if (socket !== this._current) return;
      const { code, message } = error as EspigonError;
      if (code === "token_missing") return this.close({ reason: code });
      this._renewAgain();
      this._events.error(new EspigonError(code, message, undefined, 0));
    }
  }

  private _renewAgain(): void {
    clearTimeout(this._renewal);
    this._renewal = setTimeout(() => void this._renew(), 500 + backoff(this._renewals++, Math.random));
  }

  /** What only a browser can tell. */
  private _listen(): void {
    const page: Partial<Pick<typeof globalThis, "addEventListener" | "document">> = globalThis;
    const options = { signal: this._unlisten.signal };
    const awake = () => this._run(this._machine.awake());
    page.addEventListener?.("online", awake, options);
    page.addEventListener?.("pageshow", awake, options);
    page.addEventListener?.("offline", () => this._run(this._machine.offline()), options);
    page.document?.addEventListener("visibilitychange", () => page.document?.hidden || awake(), options);
  }
}
