import { backoff, ceiling, type Random } from "./backoff.js";
import { isFinalClose, TOKEN_EXPIRED } from "./protocol.js";

export type State = "connecting" | "connected" | "waiting" | "closed";

/** Why a connection ended, or an attempt failed. */
export interface Cause {
  readonly reason: string;
  /** The WebSocket's close code, if there was one. */
  readonly code?: number;
}

export interface Status extends Partial<Cause> {
  readonly state: State;
  /** While waiting: until the next attempt, in milliseconds. */
  readonly retryIn?: number;
}

/** What the machine wants done. */
export type Effect =
  /** Get a token and open a socket; answered by `welcomed` or `failed`. */
  | "attempt"
  /** The new socket takes over from the old one, if there is any. */
  | "promote"
  /** Give up all sockets and attempts; they are not heard of again. */
  | "drop"
  /** See whether the socket still works. */
  | "probe"
  /** Call `due` in so many milliseconds, and forget the call asked for before; never, if undefined. */
  | { readonly due: number | undefined };

/** A connection that lasted so long was a good one: attempts are counted from the beginning. */
const STABLE = 5_000;

/** The new socket is opened a little before the old one is closed; as a share, so that moments stay spread as they were. */
const EARLY = 0.9;

/**
 * The life of a client, without sockets, timers or clocks: what happens goes in, what is to be done comes out.
 *
 * - `connecting`: a token is fetched, a socket opened, its `welcome` awaited.
 * - `connected`: it is there. Another one may be on its way, if the server said that this one is about to close.
 * - `waiting`: until the next attempt.
 * - `closed`: for good.
 */
export class Machine {
  status: Status = { state: "connecting" };
  private _attempts = 0;
  private _underWay = false;
  private _announced = false;
  /** Over which the server wants lost clients to come back. */
  private _spread = 0;
  private _since = 0;

  constructor(
    /** Whether there is a way to get another token. */
    private readonly _renewable: boolean,
    private readonly _random: Random,
  ) {}

  start(): Effect[] {
    return this._connect();
  }

  /** The attempt succeeded. */
  welcomed(spread: number, now: number): Effect[] {
    this._underWay = this._announced = false;
    this._spread = spread;
    this._since = now;
    // A socket that took over changed nothing for anybody.
    if (this.status.state !== "connected") this.status = { state: "connected" };
    return ["promote", { due: undefined }];
  }

  /** The attempt failed. */
  failed(cause: Cause): Effect[] {
    this._underWay = false;
    if (this._isFinal(cause)) return this.close(cause);
    // The old socket works until its slot.
    if (this.status.state === "connected") return [];
    return this._wait(cause, backoff(this._attempts++, this._random));
  }

  /** The socket that was connected is gone. */
  lost(cause: Cause, now: number): Effect[] {
    if (this._isFinal(cause)) return this.close(cause);
    if (now - this._since >= STABLE) this._attempts = 0;
    if (this._underWay) {
      this.status = { state: "connecting", ...cause };
      return [];
    }
    // Announced, it is our slot; and tokens do not all expire together.
    const atOnce = this._announced || cause.code === TOKEN_EXPIRED;
    if (atOnce && !this._attempts) {
      this._attempts++;
      return this._connect(cause);
    }
    return this._spreadOut(cause);
  }

  /** The server will close this socket by then. */
  announced(afterMs: number): Effect[] {
    this._announced = true;
    return [{ due: afterMs * EARLY }];
  }

  /** The time asked for is over. */
  due(): Effect[] {
    if (this.status.state !== "connected") return this._connect(this.status);
    this._underWay = true;
    return ["attempt"];
  }

  /** The network came back, or somebody looks at the page again. */
  awake(): Effect[] {
    if (this.status.state === "connected") return ["probe"];
    if (this.status.state !== "waiting") return [];
    this._attempts = 0;
    return [{ due: undefined }, ...this._connect(this.status)];
  }

  /** The network is gone, as far as the browser can tell: tried again all the same, it may be wrong. */
  offline(): Effect[] {
    if (this.status.state !== "connected" && this.status.state !== "connecting") return [];
    this._underWay = false;
    return ["drop", ...this._spreadOut({ reason: "offline" })];
  }

  close({ reason, code }: Cause): Effect[] {
    this._underWay = false;
    this.status = { state: "closed", reason, ...(code && { code }) };
    return ["drop", { due: undefined }];
  }

  private _isFinal({ code, reason }: Cause): boolean {
    return isFinalClose(code) || reason === "token_missing" || (code === TOKEN_EXPIRED && !this._renewable);
  }

  private _connect({ reason, code }: Partial<Cause> = {}): Effect[] {
    this._underWay = true;
    this.status = { state: "connecting", ...(reason && { reason }), ...(code && { code }) };
    return ["attempt"];
  }

  /** A random moment of the time over which the server wants lost clients to come back, or of the backoff if longer. */
  private _spreadOut(cause: Cause): Effect[] {
    return this._wait(cause, this._random() * Math.max(this._spread, ceiling(this._attempts++)));
  }

  private _wait(cause: Cause, ms: number): Effect[] {
    this.status = { state: "waiting", ...cause, retryIn: Math.round(ms) };
    return [{ due: ms }];
  }
}
