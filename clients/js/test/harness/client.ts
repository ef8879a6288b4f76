import { WebSocket } from "ws";
import { Client, type ClientOptions, type Message, type Room, type Status } from "../../src/index.js";
import { eventually } from "./eventually.js";
import { token } from "./token.js";

/** A client in Node 20, with `ws`. */
export function client(url: string, options: ClientOptions & { user?: string } = {}): Client {
  const { user = "7", ...rest } = options;
  const fresh = rest.token || rest.getToken ? {} : { getToken: () => token(user) };
  return new Client(url, { WebSocket, ...fresh, ...rest });
}

/** All that a room delivers. */
export class Listener<T = unknown> {
  readonly messages: Message<T>[] = [];
  readonly events: string[] = [];

  constructor(readonly room: Room<T>) {
    room.on("message", (message) => this.messages.push(message));
    for (const event of ["joined", "lost", "left"] as const) room.on(event, () => this.events.push(event));
    room.on("error", ({ code }) => this.events.push(code));
  }

  get seqs(): number[] {
    return this.messages.map(({ seq }) => seq);
  }

  get bodies(): T[] {
    return this.messages.map(({ body }) => body);
  }

  /** Until it has so many. */
  async has(count: number): Promise<void> {
    try {
      await eventually(`${count} messages in ${this.room.name}`, () => this.messages.length >= count);
    } catch (error) {
      const { name, state, position } = this.room;
      throw new Error(`${error}: ${this.messages.length} in ${name}, ${state} at ${position?.seq}; ${this.events}`);
    }
  }
}

export function history(client: Client): Status[] {
  const seen: Status[] = [];
  client.on("state", (status) => seen.push(status));
  return seen;
}

export function state(client: Client, wanted: string): Promise<true> {
  return eventually(`${wanted}, not ${client.state}`, () => client.state === wanted);
}

/** 1, 2, … n. */
export function upTo(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i + 1);
}
