/** Limits of the delay between attempts, in milliseconds. */
const FIRST = 500;
const LAST = 20_000;

/** A fraction, as `Math.random` gives it. */
export type Random = () => number;

/** The longest delay before the attempt of this number, counted from 0. */
export function ceiling(attempt: number): number {
  return Math.min(LAST, FIRST * 2 ** attempt);
}

/** Full jitter: any moment up to the ceiling, so that clients that fail together do not come back together. */
export function backoff(attempt: number, random: Random): number {
  return random() * ceiling(attempt);
}
