/** What client and edge say to each other (`PROTOCOL.md`, sections 2 and 3). */

/** Where a room's numbering stands. An empty epoch: nothing was ever published there. */
export interface Position {
  readonly epoch: string;
  readonly seq: number;
}

export interface Welcome {
  readonly connection: string;
  readonly user: string;
  /** Unix time in seconds. */
  readonly expires: number;
  readonly ping_ms: number;
  readonly dedup_ms: number;
  readonly reconnect_ms: number;
  readonly max_message_bytes: number;
  readonly rooms: readonly string[];
}

export interface Joined extends Position {
  readonly room: string;
  readonly recovered: boolean;
  readonly publish: boolean;
  readonly grant?: string;
}

export interface Envelope {
  readonly room: string;
  readonly seq: number;
  readonly from: string;
  readonly ts: string;
  readonly key?: string;
  readonly epoch?: string;
  readonly body: unknown;
}

export interface Ack extends Position {
  readonly room: string;
  readonly duplicate: boolean;
}

export interface Lost extends Position {
  readonly room: string;
  readonly reason: string;
  readonly after_ms: number;
}

export interface Failure {
  readonly code: string;
  readonly error: string;
  readonly room?: string;
  readonly retry_ms?: number;
}

export type ServerMessage =
  | { readonly type: "welcome"; readonly payload: Welcome }
  | { readonly type: "joined"; readonly id?: string; readonly payload: Joined }
  | { readonly type: "left"; readonly id?: string; readonly payload: { room: string; reason?: string } }
  | ({ readonly type: "message" } & Envelope)
  | { readonly type: "ack"; readonly id: string; readonly payload: Ack }
  | { readonly type: "lost"; readonly payload: Lost }
  | { readonly type: "reconnect"; readonly payload: { after_ms: number; reason: string } }
  | { readonly type: "authenticated"; readonly id?: string; readonly payload: { expires: number } }
  | { readonly type: "pong"; readonly id?: string }
  | { readonly type: "error"; readonly id?: string; readonly payload: Failure };

export type Since = Position | { readonly last: number };

export const TOKEN_EXPIRED = 4001;

/** After these a client does not come back by itself. */
const FINAL_CLOSES = [1003, 1008, 4002, 4003];

export function isFinalClose(code: number | undefined): boolean {
  return FINAL_CLOSES.includes(code as number);
}
