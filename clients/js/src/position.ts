import type { Envelope, Position } from "./protocol.js";

/** What to do with a message, given where the room stands. */
export type Verdict = "next" | "old" | "gap";

/** Contiguity decides: the next one is delivered, an older one was already, anything else means that some are missing. */
export function judge(at: Position, { epoch, seq }: Pick<Envelope, "epoch" | "seq">): Verdict {
  // The first publication of all names the epoch of the room.
  const same = !epoch || epoch === at.epoch || !at.epoch;
  if (same && seq <= at.seq) return "old";
  return same && seq === at.seq + 1 ? "next" : "gap";
}
