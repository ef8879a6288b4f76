import { vi } from "vitest";
import type { Client } from "../../src/client.js";
import type { ServerMessage, Welcome } from "../../src/protocol.js";

/** What a test looks at of what was sent. */
interface Sent {
  type: string;
  id: string;
  payload: any;
}

export const WELCOME: Welcome = {
  connection: "c1",
  user: "7",
  expires: 4_000_000_000,
  ping_ms: 25_000,
  dedup_ms: 300_000,
  reconnect_ms: 5_000,
  max_message_bytes: 8192,
  rooms: [],
};

/** A WebSocket whose other end is the test. */
export class FakeSocket {
  static all: FakeSocket[] = [];
  static get last(): FakeSocket {
    return FakeSocket.all.at(-1)!;
  }

  onopen: unknown = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onerror: unknown = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  readyState = 1;
  closedWith: number | undefined;
  readonly sent: Sent[] = [];

  constructor(
    readonly url: string,
    readonly protocols: string[],
  ) {
    FakeSocket.all.push(this);
  }

  send(text: string): void {
    this.sent.push(JSON.parse(text));
  }

  close(code?: number): void {
    this.readyState = 3;
    this.closedWith = code;
  }

  /** The token it was opened with. */
  get token(): string {
    return this.protocols[1]!.replace("bearer.", "");
  }

  says(message: ServerMessage): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }

  welcome(more: Partial<Welcome> = {}): void {
    this.says({ type: "welcome", payload: { ...WELCOME, ...more } });
  }

  joined(room: string, seq: number, more: object = {}): void {
    const join = this.request("join", room);
    this.says({
      type: "joined",
      id: join.id,
      payload: { room, epoch: "e1", seq, recovered: false, publish: true, ...more },
    });
  }

  message(room: string, seq: number, more: object = {}): void {
    this.says({ type: "message", room, seq, from: "8", ts: "2026-11-24T02:07:04.123Z", body: seq, ...more });
  }

  ack(id: string, seq: number): void {
    this.says({ type: "ack", id, payload: { room: "r", epoch: "e1", seq, duplicate: false } });
  }

  error(id: string | undefined, code: string, more: object = {}): void {
    this.says({ type: "error", ...(id !== undefined && { id }), payload: { code, error: code, room: "r", ...more } });
  }

  ends(code = 1006, reason = ""): void {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  /** What was sent of this kind. */
  requests(type: string, room?: string): Sent[] {
    return this.sent.filter((sent) => sent.type === type && (!room || sent.payload.room === room));
  }

  /** The newest request of this kind. */
  request(type: string, room?: string): Sent {
    const found = this.requests(type, room).at(-1);
    if (!found) throw new Error(`no ${type} was sent: ${JSON.stringify(this.sent)}`);
    return found;
  }
}

/** Lets what was promised happen; no time passes. */
export async function settle(): Promise<void> {
  await vi.advanceTimersByTimeAsync(0);
}

/** Time passes. */
export async function pass(ms: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(ms);
}

/** All that happens to a client or a room, in order. */
export function record<E>(
  source: { on(event: never, listener: (value: never) => void): unknown },
  ...events: string[]
) {
  const seen: E[] = [];
  for (const event of events) source.on(event as never, (value: never) => seen.push(value));
  return seen;
}

export function states(client: Client): string[] {
  const seen: string[] = [];
  client.on("state", ({ state, reason }) => seen.push(reason ? `${state} ${reason}` : state));
  return seen;
}

/** What became of a promise, without waiting for it. */
export function outcome(promise: Promise<unknown>): { value?: unknown; error?: { code: string } } {
  const result: { value?: unknown; error?: { code: string } } = {};
  promise.then(
    (value) => {
      result.value = value;
    },
    (error) => {
      result.error = error;
    },
  );
  return result;
}
