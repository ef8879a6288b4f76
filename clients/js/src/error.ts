import type { Failure } from "./protocol.js";

/** Whatever is refused, given up or lost. `code` is a word of the protocol, or one of this client's own (see README). */
export class EspigonError extends Error {
  override readonly name = "EspigonError";

  constructor(
    readonly code: string,
    message: string,
    readonly room?: string,
    /** When this client tries again by itself, in milliseconds. Without it the error is final. */
    readonly retryIn?: number,
  ) {
    super(message);
  }

  /** Nothing is tried again: repeating the same unchanged would fail the same way. */
  get final(): boolean {
    return this.retryIn === undefined;
  }
}

/** As the server tells it. */
export function failure({ code, error, room, retry_ms }: Failure): EspigonError {
  return new EspigonError(code, error, room, retry_ms);
}
