import { afterEach, beforeEach, vi } from "vitest";
import { Client, type ClientOptions } from "../../src/client.js";
import { FakeSocket, settle } from "./fake.js";

const clients: Client[] = [];

/** Fake sockets and a fake clock in each test of the file; no jitter: every random number is a half. */
export function useFakes(): void {
  beforeEach(() => {
    vi.useFakeTimers();
    vi.setSystemTime(new Date("2026-11-24T00:00:00Z"));
    vi.spyOn(Math, "random").mockReturnValue(0.5);
    FakeSocket.all = [];
  });
  afterEach(() => {
    for (const client of clients.splice(0)) client.close();
    vi.useRealTimers();
    vi.restoreAllMocks();
    vi.unstubAllGlobals();
  });
}

export function make(options: ClientOptions = {}): Client {
  const token = options.getToken ? {} : { token: "t" };
  const client = new Client("ws://edge/ws", { WebSocket: FakeSocket, ...token, ...options });
  clients.push(client);
  return client;
}

/** A client that is connected, and its socket. */
export async function connect(options: ClientOptions = {}, welcome = {}): Promise<[Client, FakeSocket]> {
  const client = make(options);
  await settle();
  FakeSocket.last.welcome(welcome);
  return [client, FakeSocket.last];
}

/** The next socket, after the one before was lost and the time to come back is over. */
export async function reconnected(welcome = {}): Promise<FakeSocket> {
  const before = FakeSocket.last;
  for (let ms = 0; FakeSocket.last === before && ms < 20_000; ms += 100) await vi.advanceTimersByTimeAsync(100);
  if (FakeSocket.last === before) throw new Error("it did not come back");
  FakeSocket.last.welcome(welcome);
  return FakeSocket.last;
}
