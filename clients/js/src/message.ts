import type { EspigonError } from "./error.js";
import type { Position } from "./protocol.js";

/** One message of a room, as all its members see it. */
export interface Message<T = unknown> extends Position {
  readonly room: string;
  /** The sender's user id, or `@name` of a backend. */
  readonly from: string;
  /** When it was accepted: RFC 3339, UTC. */
  readonly ts: string;
  /** What its sender gave to `publish`. */
  readonly key?: string;
  readonly body: T;
}

/** The room is joined, or joined again after a loss. */
export interface JoinedEvent extends Position {
  /** What was missed follows; nothing is lost. */
  readonly recovered: boolean;
  /** Whether this user may publish here. */
  readonly publish: boolean;
}

/** Some messages are gone for good: what the application shows should be loaded again. Delivery goes on after this position. */
export interface LostEvent extends Position {
  /** `history`: more was missed than is kept. `failover`: the store went back in time. */
  readonly reason: string;
  /** This client's own slot to load again, from now, so that not all do so together. */
  readonly after_ms: number;
}

/** The room is left, and not joined again by itself. */
export interface LeftEvent {
  /** `undefined` after `leave()`. */
  readonly reason?: string;
  /** Set if that was nobody's wish here. */
  readonly error?: EspigonError;
}

export interface RoomEvents<T> {
  message: Message<T>;
  joined: JoinedEvent;
  lost: LostEvent;
  left: LeftEvent;
  error: EspigonError;
}
