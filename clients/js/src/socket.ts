import type { Cause } from "./machine.js";
import type { ServerMessage, Welcome } from "./protocol.js";

/** What this client needs of a WebSocket; the browser's and that of `ws` both have it. */
export interface WebSocketLike {
  onopen: unknown;
  onmessage: unknown;
  onerror: unknown;
  onclose: unknown;
  readyState: number;
  send(text: string): void;
  close(code?: number): void;
}

export type WebSocketClass = new (url: string, protocols: string[]) => WebSocketLike;

export interface SocketEvents {
  welcome(welcome: Welcome): void;
  message(message: ServerMessage): void;
  /** It is of no more use. Comes once, last, and not after `drop`. */
  end(cause: Cause): void;
}

/** No welcome for so long: the attempt failed. */
const OPEN_LIMIT = 15_000;

/** Nothing received for so long after a ping: the socket is dead, though nobody said so. */
const PONG_LIMIT = 10_000;

/** A timer so late: the machine slept, or the page was frozen. */
const SLEPT = 2_000;

/** One WebSocket, from its opening to its end, kept alive by pings. */
export class Socket {
  private readonly _socket: WebSocketLike;
  private _welcomed = false;
  private _refusal: string | undefined;
  private _pingMs = 0;
  private _timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    WebSocket: WebSocketClass,
    url: string,
    token: string,
    private readonly _events: SocketEvents,
  ) {
    this._socket = new WebSocket(url, ["realtime.v1", `bearer.${token}`]);
    this._timer = setTimeout(() => this._end({ reason: "timeout" }), OPEN_LIMIT);
    this._socket.onmessage = ({ data }: { data: string }) => this._received(data);
    this._socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
      const said = reason || this._refusal || (this._welcomed ? "connection_lost" : "unreachable");
      this._end({ reason: said, code });
    };
    // What is wrong is told by the close that follows; without a listener `ws` would throw.
    this._socket.onerror = () => {};
  }

  send(text: string): void {
    // A socket that is closing takes nothing, and its end is about to be told.
    if (this._socket.readyState === 1) this._socket.send(text);
  }

  /** Asks for a sign of life. */
  probe(): void {
    this.send('{"type":"ping"}');
    const due = Date.now() + PONG_LIMIT;
    this._after(PONG_LIMIT, () => {
      // After a sleep the answer may be waiting behind this very timer.
      if (Date.now() - due > SLEPT) this.probe();
      else this._end({ reason: "ping_timeout" });
    });
  }

  /** Closes it; nothing is heard of it any more. */
  drop(): void {
    clearTimeout(this._timer);
    this._socket.onmessage = this._socket.onclose = null;
    this._socket.close(1000);
  }

  private _received(data: string): void {
    let message: ServerMessage;
    try {
      message = JSON.parse(data);
    } catch {
      return this._end({ reason: "bad_json" });
    }
    if (message.type === "welcome") {
      this._welcomed = true;
      this._pingMs = message.payload.ping_ms;
    }
    // Whatever comes is a sign of life.
    if (this._welcomed) this._after(this._pingMs, () => this.probe());
    if (message.type === "welcome") this._events.welcome(message.payload);
    else if (this._welcomed) this._events.message(message);
    else if (message.type === "error") this._refusal = message.payload.code;
  }

  private _after(ms: number, then: () => void): void {
    clearTimeout(this._timer);
    this._timer = setTimeout(then, ms);
  }

  private _end(cause: Cause): void {
    this.drop();
    this._events.end(cause);
  }
}
