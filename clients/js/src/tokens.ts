import { EspigonError } from "./error.js";

/** Gives a token that is good now; nothing, when nobody is logged in any more: the client then closes. */
export type GetToken = () => string | null | undefined | Promise<string | null | undefined>;

/** A renewal comes at a random moment of this share of the token's remaining life. */
const RENEW_FROM = 0.8;
const RENEW_SPAN = 0.1;

/** Under this there is no time to renew: the server closes the socket, and a new token opens the next. Or our clock is wrong. */
const TOO_SHORT = 1_000;

/** It is awaited no longer than this. */
const FETCH_LIMIT = 30_000;

/** The longest time that a timer takes, about 24 days. */
const MAX_TIMER = 2 ** 31 - 1;

/** The token, fetched when there is none that is good, one fetch at a time. */
export class Tokens {
  private _fetching: Promise<string> | undefined;
  private _staleAt = Infinity;

  constructor(
    private readonly _token: string | undefined,
    private readonly _getToken: GetToken | undefined,
  ) {}

  get renewable(): boolean {
    return !!this._getToken;
  }

  get(): Promise<string> {
    if (Date.now() >= this._staleAt) this.forget();
    this._fetching ??= this._fetch();
    return this._fetching;
  }

  /** The next one is fetched anew. */
  forget(): void {
    this._fetching = undefined;
    this._staleAt = Infinity;
  }

  /** The server said when the token ends (Unix time in seconds). Returns in how many milliseconds to renew it, if at all. */
  expires(at: number): number | undefined {
    const left = at * 1000 - Date.now();
    if (!this._getToken || left < TOO_SHORT) return undefined;
    const renewIn = Math.min(left * (RENEW_FROM + RENEW_SPAN * Math.random()), MAX_TIMER);
    this._staleAt = Date.now() + renewIn;
    return renewIn;
  }

  private async _fetch(): Promise<string> {
    try {
      const token = this._getToken ? await soon(this._getToken()) : this._token;
      if (token) return token;
    } catch (error) {
      this.forget();
      throw new EspigonError("token_failed", `getToken failed: ${error}`, undefined, 0);
    }
    throw new EspigonError("token_missing", "there is no token: nobody is logged in");
  }
}

async function soon<T>(value: T | Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(reject, FETCH_LIMIT, "no answer");
  });
  try {
    return await Promise.race([value, late]);
  } finally {
    clearTimeout(timer);
  }
}
