import { describe, expect, it } from "vitest";
import type { EspigonError } from "../../src/error.js";
import type { Message } from "../../src/message.js";
import { outcome, pass, record, settle } from "./fake.js";
import { connect, make, reconnected, useFakes } from "./start.js";

useFakes();

describe("joining", () => {
  it("waits for the connection, and tells when it is done", async () => {
    const client = make();
    const room = client.room("r").join();
    const ready = outcome(room.ready().then(() => "ready"));
    const joined = record(room, "joined");
    await settle();
    const socket = (await import("./fake.js")).FakeSocket.last;
    socket.welcome();
    expect(room.state).toBe("joining");
    socket.joined("r", 17);
    await settle();
    expect(ready.value).toBe("ready");
    expect(joined).toEqual([{ epoch: "e1", seq: 17, recovered: false, publish: true }]);
    expect(room.position).toEqual({ epoch: "e1", seq: 17 });
    expect(client.room("r")).toBe(room);
    expect(room.join()).toBe(room);
    expect(socket.requests("join").length).toBe(1);
  });

  it("takes the answer to its newest join only", async () => {
    const [client, socket] = await connect();
    const room = client.room("r").join();
    const { id } = socket.request("join");
    room.leave();
    room.join();
    const old = { room: "r", epoch: "e1", seq: 5, recovered: false, publish: true };
    socket.says({ type: "joined", id, payload: old });
    expect(room.state).toBe("joining");
    socket.error(id, "cancelled");
    expect(room.state).toBe("joining");
    socket.joined("r", 9);
    expect(room.position?.seq).toBe(9);
  });

  it("begins where the application wants", async () => {
    const [client, socket] = await connect();
    client.room("r").join({ epoch: "e0", seq: 4 });
    expect(socket.request("join").payload.since).toEqual({ epoch: "e0", seq: 4 });
  });

  it("ends with a final error", async () => {
    const [client, socket] = await connect();
    const room = client.room("r").join();
    const ready = outcome(room.ready());
    const seen = record<EspigonError>(room, "error", "left");
    const all = record<EspigonError>(client, "error");
    socket.error(socket.request("join").id, "not_authorized");
    await settle();
    expect(room.state).toBe("left");
    expect(ready.error).toMatchObject({ code: "not_authorized", room: "r", final: true });
    expect(seen).toMatchObject([{ code: "not_authorized" }, { reason: "not_authorized", error: { final: true } }]);
    expect(all).toMatchObject([{ code: "not_authorized" }]);
    socket.ends();
    expect((await reconnected()).requests("join")).toEqual([]);
  });

  it("is tried again after a passing one, and later each time", async () => {
    const [client, socket] = await connect();
    const room = client.room("r").join();
    const seen = record<EspigonError>(room, "error");
    socket.error(socket.request("join").id, "authorization_unavailable", { retry_ms: 1500 });
    expect(seen).toMatchObject([{ code: "authorization_unavailable", final: false, retryIn: 1500 }]);
    await pass(1749);
    expect(socket.requests("join").length).toBe(1);
    await pass(1);
    expect(socket.requests("join").length).toBe(2);
    socket.error(socket.request("join").id, "unavailable", { retry_ms: 1500 });
    await pass(1999);
    expect(socket.requests("join").length).toBe(2);
    await pass(1);
    socket.joined("r", 1);
    expect(room.state).toBe("joined");
  });
});

describe("messages", () => {
  it("come once, in order, whatever the server repeats", async () => {
    const [client, first] = await connect();
    const room = client.room<number>("r").join();
    const seen = record<Message<number>>(room, "message");
    const all = record<Message>(client, "message");
    first.joined("r", 5);
    first.message("r", 6, { key: "k" });
    first.message("r", 6);
    first.message("r", 5);
    first.message("elsewhere", 1);
    first.ends();
    const second = await reconnected();
    second.message("r", 9);
    second.joined("r", 6, { recovered: true });
    for (const seq of [6, 7, 8, 8]) second.message("r", seq);
    expect(seen.map(({ seq }) => seq)).toEqual([6, 7, 8]);
    expect(all).toEqual(seen);
    expect(seen[0]).toEqual({
      room: "r",
      epoch: "e1",
      seq: 6,
      from: "8",
      ts: "2026-11-24T02:07:04.123Z",
      key: "k",
      body: 6,
    });
  });

  it("of a room that was empty name its epoch", async () => {
    const [client, first] = await connect();
    const room = client.room("r").join();
    first.joined("r", 0, { epoch: "" });
    first.message("r", 1, { epoch: "e7" });
    first.message("r", 2);
    expect(room.position).toEqual({ epoch: "e7", seq: 2 });
  });

  it("of a room that was empty are judged by its epoch once a resume names it", async () => {
    const [client, first] = await connect();
    const room = client.room("r").join();
    first.joined("r", 0, { epoch: "" });
    first.ends();
    const second = await reconnected();
    second.joined("r", 0, { epoch: "e7", recovered: true });
    expect(room.position).toEqual({ epoch: "e7", seq: 0 });
    second.message("r", 1, { epoch: "e8" });
    expect(room.position).toEqual({ epoch: "e7", seq: 0 });
  });

  it("that skip make it ask again from where it stands", async () => {
    const [client, socket] = await connect();
    const room = client.room("r").join();
    const seen = record<Message>(room, "message");
    socket.joined("r", 5, { grant: "v1.g" });
    socket.message("r", 8);
    socket.message("r", 9);
    expect(socket.requests("join").length).toBe(2);
    expect(socket.request("join").payload).toEqual({ room: "r", since: { epoch: "e1", seq: 5 }, grant: "v1.g" });
    socket.joined("r", 5, { recovered: true });
    for (const seq of [6, 7, 8, 9]) socket.message("r", seq);
    expect(seen.map(({ seq }) => seq)).toEqual([6, 7, 8, 9]);
  });

  it("stop at once when the room is left, and begin anew when it is joined again", async () => {
    const [client, socket] = await connect();
    const room = client.room("r").join();
    const seen = record<Message>(room, "message", "left", "lost");
    socket.joined("r", 5);
    room.leave();
    room.leave();
    expect(socket.requests("leave").length).toBe(1);
    socket.message("r", 6);
    socket.says({ type: "lost", payload: { room: "r", epoch: "e1", seq: 9, reason: "history", after_ms: 1 } });
    room.join();
    expect(socket.request("join").payload).toEqual({ room: "r" });
    socket.message("r", 7);
    socket.says({ type: "left", id: socket.request("leave").id, payload: { room: "r" } });
    socket.joined("r", 7);
    socket.message("r", 8);
    expect(seen).toMatchObject([{}, { seq: 8 }]);
  });
});

describe("losses", () => {
  it("are told with the slot to reload in, and delivery goes on after them", async () => {
    const [client, socket] = await connect();
    const room = client.room("r").join();
    const seen = record<Message>(room, "lost", "message");
    socket.joined("r", 5);
    socket.says({ type: "lost", payload: { room: "r", epoch: "e2", seq: 90, reason: "failover", after_ms: 800 } });
    socket.message("r", 91, { epoch: "e2" });
    expect(seen).toMatchObject([
      { epoch: "e2", seq: 90, reason: "failover", after_ms: 800 },
      { epoch: "e2", seq: 91 },
    ]);
  });

  it("are told when a room cannot be resumed", async () => {
    const [client, first] = await connect();
    const room = client.room("r").join();
    const seen = record(room, "joined", "lost");
    first.joined("r", 5);
    first.ends();
    const second = await reconnected();
    second.joined("r", 2000);
    second.message("r", 2001);
    expect(seen).toEqual([
      { epoch: "e1", seq: 5, recovered: false, publish: true },
      { epoch: "e1", seq: 2000, recovered: false, publish: true },
      { epoch: "e1", seq: 2000, reason: "history", after_ms: 2500 },
    ]);
    expect(room.position?.seq).toBe(2001);
  });
});

describe("the server", () => {
  it("ends a membership", async () => {
    const [client, socket] = await connect();
    const room = client.room("r").join();
    const left = record(room, "left");
    socket.joined("r", 5);
    socket.says({ type: "left", payload: { room: "r", reason: "removed" } });
    expect(left).toMatchObject([{ reason: "removed", error: { code: "removed", final: true } }]);
    socket.ends();
    expect((await reconnected()).requests("join")).toEqual([]);
  });

  it("ends all of them with the client", async () => {
    const [client, socket] = await connect();
    const left = record(client.room("r").join(), "left");
    socket.joined("r", 5);
    socket.ends(4003, "removed");
    expect(client.state).toBe("closed");
    expect(left).toMatchObject([{ reason: "removed", error: { code: "removed" } }]);
  });

  it("is told again that a room was left, if that was over the rate", async () => {
    const [client, socket] = await connect();
    const room = client.room("r").join();
    socket.joined("r", 5);
    room.leave();
    socket.error(socket.request("leave").id, "rate_limited", { retry_ms: 200 });
    await pass(200);
    expect(socket.requests("leave").length).toBe(2);
  });
});

describe("grants", () => {
  /** For half an hour. */
  const grant = (n: number) => {
    const bytes = Buffer.alloc(49, n);
    bytes.writeBigInt64BE(1_795_481_800_000n, 1);
    bytes.writeBigInt64BE(1_795_480_000_000n, 9);
    return `v1.${bytes.toString("base64url")}`;
  };
  const MINUTE = 60_000;
  const quiet = { ping_ms: 1e8 };

  it("are replaced in their second half by a join without one, from where the room stands", async () => {
    const [client, socket] = await connect({}, quiet);
    const room = client.room("r").join();
    const seen = record<Message>(room, "message");
    socket.joined("r", 5, { grant: grant(1) });
    await pass(22.5 * MINUTE - 1);
    expect(socket.requests("join").length).toBe(1);
    await pass(1);
    expect(socket.request("join").payload).toEqual({ room: "r", since: { epoch: "e1", seq: 5 } });
    socket.message("r", 6);
    socket.joined("r", 5, { recovered: true, grant: grant(2) });
    socket.message("r", 6);
    socket.message("r", 7);
    expect(seen.map(({ seq }) => seq)).toEqual([6, 7]);
    await pass(22.5 * MINUTE);
    expect(socket.requests("join").length).toBe(3);
  });

  it("that were shown again are not young again", async () => {
    const [client, first] = await connect({}, quiet);
    client.room("r").join();
    first.joined("r", 5, { grant: grant(1) });
    await pass(20 * MINUTE);
    first.ends();
    const second = await reconnected(quiet);
    expect(second.request("join").payload.grant).toBe(grant(1));
    second.joined("r", 5, { recovered: true, grant: grant(1) });
    await pass(MINUTE);
    expect(second.requests("join").length).toBe(1);
    await pass(1.5 * MINUTE);
    expect(second.requests("join").length).toBe(2);
    expect(second.request("join").payload.grant).toBeUndefined();
  });

  it("that cannot be replaced now leave the membership alone; a no ends it", async () => {
    const [client, socket] = await connect({}, quiet);
    const room = client.room("r").join();
    socket.joined("r", 5, { grant: grant(1) });
    await pass(22.5 * MINUTE);
    socket.error(socket.request("join").id, "authorization_unavailable", { retry_ms: 1500 });
    expect(room.state).toBe("joined");
    await pass(2_000);
    expect(socket.requests("join").length).toBe(3);
    socket.error(socket.request("join").id, "not_authorized");
    expect(room.state).toBe("left");
  });
});

describe("for await", () => {
  it("gives the messages in order, and ends when the room is left", async () => {
    const [client, socket] = await connect();
    const room = client.room<number>("r").join();
    const seen: number[] = [];
    const loop = (async () => {
      for await (const message of room) seen.push(message.body);
      return "ended";
    })();
    socket.joined("r", 0);
    for (const seq of [1, 2, 3]) socket.message("r", seq);
    await settle();
    socket.message("r", 4);
    await settle();
    expect(seen).toEqual([1, 2, 3, 4]);
    room.leave();
    expect(await loop).toBe("ended");
  });

  it("throws when the room is lost to others, or to a loop that is too slow", async () => {
    const [client, socket] = await connect();
    const drain = async (name: string) => {
      for await (const _ of client.room(name)) await new Promise(() => {});
    };
    client.room("a").join();
    const denied = outcome(drain("a"));
    socket.error(socket.request("join").id, "not_authorized", { room: "a" });
    await settle();
    expect(denied.error?.code).toBe("not_authorized");

    const room = client.room("b").join();
    const messages = room[Symbol.asyncIterator]();
    socket.joined("b", 0);
    for (let seq = 1; seq <= 10_001; seq++) socket.message("b", seq);
    for (let seq = 1; seq <= 10_001; seq++) expect((await messages.next()).value.seq).toBe(seq);
    await expect(messages.next()).rejects.toMatchObject({ code: "too_slow" });
    expect((await messages.next()).done).toBe(true);
  });

  it("listens no longer once it is left", async () => {
    const [client, socket] = await connect();
    const room = client.room("r").join();
    const loop = (async () => {
      for await (const _ of room) break;
    })();
    socket.joined("r", 0);
    socket.message("r", 1);
    await loop;
    expect(room._isIdle).toBe(true);
  });

  it("needs a room that is joined", async () => {
    await expect(make().room("r")[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: "not_joined" });
  });
});

describe("room objects", () => {
  it("are forgotten when nobody is in them or listens, and say so when they are stale", async () => {
    const [client] = await connect();
    const idle = client.room("r").join();
    idle.leave();
    expect(client.room("r")).not.toBe(idle);
    expect(() => idle.join()).toThrow("ask for this room anew");
    const kept = client.room("kept").join();
    kept.on("message", () => {});
    kept.leave();
    expect(client.room("kept")).toBe(kept);
  });
});
