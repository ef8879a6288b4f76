import { describe, expect, it } from "vitest";
import { FakeSocket, outcome, pass, record, settle } from "./fake.js";
import { connect, make, reconnected, useFakes } from "./start.js";

useFakes();

async function inRoom(options = {}) {
  const [client, socket] = await connect(options);
  const room = client.room("r").join();
  socket.joined("r", 0);
  return { client, socket, room };
}

describe("publishing", () => {
  it("resolves with the position that the message got", async () => {
    const { socket, room } = await inRoom();
    const done = outcome(room.publish({ text: "hi" }, { key: "k1" }));
    const { id, payload } = socket.request("broadcast");
    expect(payload).toEqual({ room: "r", key: "k1", body: { text: "hi" } });
    socket.ack(id, 18);
    await settle();
    expect(done.value).toEqual({ room: "r", epoch: "e1", seq: 18, duplicate: false });
  });

  it("makes up keys, each another", async () => {
    const { socket, room } = await inRoom();
    for (let i = 0; i < 5; i++) outcome(room.publish(i));
    const keys = socket.requests("broadcast").map(({ payload }) => payload.key);
    expect(new Set(keys).size).toBe(5);
    for (const key of keys) expect(key).toMatch(/^\w{8,40}-\d+$/);
  });

  it("rejects with the server's word, and what can be known here without asking", async () => {
    const { client, socket, room } = await inRoom();
    const denied = outcome(room.publish(1));
    socket.error(socket.request("broadcast").id, "not_authorized");
    const nothing = outcome(room.publish(undefined));
    const large = outcome(room.publish("ä".repeat(4100)));
    const elsewhere = outcome(client.room("other").publish(1));
    await settle();
    expect(denied.error).toMatchObject({ code: "not_authorized", final: true, room: "r" });
    expect(nothing.error?.code).toBe("bad_message");
    expect(large.error?.code).toBe("message_too_large");
    expect(elsewhere.error?.code).toBe("not_joined");
    expect(socket.requests("broadcast").length).toBe(1);
    client.close();
    const closed = outcome(room.publish(1));
    await settle();
    expect(closed.error?.code).toBe("closed");
  });

  it("waits in order until the room is joined", async () => {
    const client = make();
    const room = client.room("r").join();
    for (const n of [1, 2, 3]) outcome(room.publish(n));
    await settle();
    const socket = FakeSocket.last;
    socket.welcome();
    expect(socket.requests("broadcast")).toEqual([]);
    socket.joined("r", 0);
    expect(socket.requests("broadcast").map(({ payload }) => payload.body)).toEqual([1, 2, 3]);
  });

  it("queues up to a limit while it cannot send, or not at all", async () => {
    const client = make({ queue: 2 });
    const room = client.room("r").join();
    const all = [1, 2, 3].map((n) => outcome(room.publish(n)));
    await settle();
    expect(all.map(({ error }) => error?.code)).toEqual([undefined, undefined, "queue_full"]);
    const none = make({ queue: 0 });
    const rejected = outcome(none.room("r").join().publish(1));
    await settle();
    expect(rejected.error?.code).toBe("queue_full");
    const { socket, room: connected } = await inRoom({ queue: 0 });
    outcome(connected.publish(1));
    expect(socket.requests("broadcast").length).toBe(1);
  });

  it("has at most 32 under way", async () => {
    const { socket, room } = await inRoom();
    for (let n = 1; n <= 40; n++) outcome(room.publish(n));
    expect(socket.requests("broadcast").length).toBe(32);
    socket.ack(socket.requests("broadcast")[0]!.id, 1);
    expect(socket.requests("broadcast").length).toBe(33);
  });

  it("has fewer under way after the server said that it was too much, and more again with each answer", async () => {
    const { socket, room } = await inRoom();
    for (let n = 1; n <= 80; n++) outcome(room.publish(n));
    const first = socket.requests("broadcast");
    for (const { id } of first) socket.error(id, "rate_limited", { retry_ms: 100 });
    await pass(600);
    const second = socket.requests("broadcast").slice(32);
    expect(second.length).toBe(16);
    for (const { id } of second) socket.ack(id, 1);
    expect(socket.requests("broadcast").length).toBe(32 + 16 + 17);
  });

  it("is given up by a signal", async () => {
    const client = make();
    const stop = new AbortController();
    const room = client.room("r").join();
    const done = outcome(room.publish(1, { signal: stop.signal }));
    stop.abort(new Error("enough"));
    const late = outcome(room.publish(2, { signal: stop.signal }));
    await settle();
    expect(done.error).toMatchObject({ message: "enough" });
    expect(late.error).toMatchObject({ message: "enough" });
    FakeSocket.last.welcome();
    FakeSocket.last.joined("r", 0);
    expect(FakeSocket.last.requests("broadcast")).toEqual([]);
  });
});

describe("after a loss", () => {
  it("what has no answer is sent again, with its key, before anything newer", async () => {
    const { socket, room } = await inRoom();
    const [one, two] = [outcome(room.publish(1, { key: "k1" })), outcome(room.publish(2, { key: "k2" }))];
    socket.ack(socket.requests("broadcast")[0]!.id, 1);
    socket.ends();
    const three = outcome(room.publish(3, { key: "k3" }));
    const next = await reconnected();
    next.joined("r", 0, { recovered: true });
    const again = next.requests("broadcast");
    expect(again.map(({ payload }) => [payload.key, payload.body])).toEqual([
      ["k2", 2],
      ["k3", 3],
    ]);
    next.ack(again[0]!.id, 2);
    next.ack(again[1]!.id, 3);
    await settle();
    expect([one, two, three].map(({ value }) => (value as { seq: number }).seq)).toEqual([1, 2, 3]);
  });

  it("is unknown once the server may have forgotten the key", async () => {
    const { socket, room } = await inRoom();
    const sent = outcome(room.publish(1));
    socket.ends();
    const unsent = outcome(room.publish(2));
    await pass(269_999);
    expect(sent.error).toBeUndefined();
    await pass(1);
    expect(sent.error).toMatchObject({ code: "unknown", final: true });
    expect(unsent.error).toBeUndefined();
    FakeSocket.last.welcome();
    FakeSocket.last.joined("r", 0, { recovered: true });
    expect(FakeSocket.last.requests("broadcast").map(({ payload }) => payload.body)).toEqual([2]);
  });

  it("is unknown when the room is left, or the client closed, before it can be sent again", async () => {
    const { client, socket, room } = await inRoom();
    const other = client.room("other").join();
    socket.joined("other", 0);
    const sent = outcome(room.publish(1));
    const sentElsewhere = outcome(other.publish(1));
    socket.ends();
    const unsent = outcome(room.publish(2));
    room.leave();
    await settle();
    expect([sent.error?.code, unsent.error?.code]).toEqual(["unknown", "not_joined"]);
    const unsentElsewhere = outcome(other.publish(2));
    client.close();
    await settle();
    expect([sentElsewhere.error?.code, unsentElsewhere.error?.code]).toEqual(["unknown", "closed"]);
  });

  it("an answer may come after the room was left, and is taken", async () => {
    const { socket, room } = await inRoom();
    const sent = outcome(room.publish(1));
    room.leave();
    socket.ack(socket.request("broadcast").id, 1);
    await settle();
    expect(sent.value).toMatchObject({ seq: 1 });
  });
});

describe("passing errors", () => {
  it("make it send again when the server says, in order", async () => {
    const { socket, room } = await inRoom();
    const done = outcome(room.publish(1, { key: "k1" }));
    socket.error(socket.request("broadcast").id, "unavailable", { retry_ms: 1500 });
    outcome(room.publish(2, { key: "k2" }));
    await pass(1499);
    expect(socket.requests("broadcast").length).toBe(1);
    await pass(1);
    expect(socket.requests("broadcast").map(({ payload }) => payload.key)).toEqual(["k1", "k1", "k2"]);
    socket.ack(socket.requests("broadcast")[1]!.id, 1);
    await settle();
    expect(done.value).toMatchObject({ seq: 1 });
  });

  it("of one room do not hold up another; a rate does", async () => {
    const { client, socket, room } = await inRoom();
    const other = client.room("other").join();
    socket.joined("other", 0);
    outcome(room.publish(1));
    socket.error(socket.request("broadcast").id, "unavailable", { retry_ms: 1500 });
    outcome(other.publish(2));
    expect(socket.requests("broadcast", "other").length).toBe(1);
    socket.error(socket.request("broadcast", "other").id, "rate_limited", { retry_ms: 400, room: "other" });
    void client.room("third").join();
    socket.joined("third", 0);
    outcome(client.room("third").publish(3));
    expect(socket.requests("broadcast", "third").length).toBe(0);
    await pass(899);
    expect(socket.requests("broadcast", "third").length).toBe(0);
    await pass(1);
    expect(socket.requests("broadcast", "third").length).toBe(1);
  });

  it.each([
    ["unavailable", "unavailable"],
    ["unknown", "unknown"],
  ])("that do not pass in time end as %s", async (code, end) => {
    const { socket, room } = await inRoom();
    const done = outcome(room.publish(1));
    let answered = 0;
    for (let s = 0; s < 270; s++) {
      const sent = socket.requests("broadcast");
      if (sent.length > answered) socket.error(sent.at(-1)!.id, code, { retry_ms: 1000 });
      answered = sent.length;
      if (s % 20 === 0) socket.says({ type: "pong" });
      await pass(1000);
    }
    expect(answered).toBeGreaterThan(20);
    expect(done.error?.code).toBe(end);
  });
});

describe("without echo", () => {
  it("one's own message is hidden, others are not", async () => {
    const { client, socket, room } = await inRoom();
    const seen = record<{ seq: number }>(room, "message");
    outcome(room.publish("mine", { key: "k1", echo: false }));
    outcome(room.publish("mine, shown", { key: "k2" }));
    socket.message("r", 1, { key: "k1", from: "8" });
    socket.message("r", 2, { key: "k1", from: client.user });
    socket.message("r", 3, { key: "k2", from: client.user });
    socket.message("r", 4, { key: "k1", from: client.user });
    expect(seen.map(({ seq }) => seq)).toEqual([1, 3, 4]);
    expect(room.position?.seq).toBe(4);
  });

  it("a message that comes after a loss is hidden, too", async () => {
    const { client, socket, room } = await inRoom();
    const seen = record<{ seq: number }>(room, "message");
    outcome(room.publish("mine", { key: "k1", echo: false }));
    socket.ends();
    const next = await reconnected();
    next.joined("r", 0, { recovered: true });
    next.message("r", 1, { key: "k1", from: client.user });
    next.ack(next.request("broadcast").id, 1);
    next.message("r", 2);
    expect(seen.map(({ seq }) => seq)).toEqual([2]);
  });

  it("nothing is hidden any more after the room was left", async () => {
    const { client, socket, room } = await inRoom();
    const seen = record<{ seq: number }>(room, "message");
    outcome(room.publish("mine", { key: "k1", echo: false }));
    room.leave();
    room.join();
    socket.joined("r", 4);
    socket.message("r", 5, { key: "k1", from: client.user });
    expect(seen.map(({ seq }) => seq)).toEqual([5]);
  });

  it("keys of messages that were lost are forgotten, those of others are not", async () => {
    const { client, socket, room } = await inRoom();
    const seen = record<{ seq: number }>(room, "message");
    outcome(room.publish("stored", { key: "k1", echo: false }));
    outcome(room.publish("under way", { key: "k2", echo: false }));
    socket.ack(socket.requests("broadcast")[0]!.id, 50);
    await settle();
    socket.says({ type: "lost", payload: { room: "r", epoch: "e1", seq: 90, reason: "history", after_ms: 1 } });
    socket.message("r", 91, { key: "k1", from: client.user });
    socket.message("r", 92, { key: "k2", from: client.user });
    expect(seen.map(({ seq }) => seq)).toEqual([91]);
  });

  it("what was not published is not waited for", async () => {
    const { client, socket, room } = await inRoom();
    const seen = record<{ seq: number }>(room, "message");
    const failed = outcome(room.publish("mine", { key: "k1", echo: false }));
    socket.error(socket.request("broadcast").id, "message_too_large");
    await settle();
    expect(failed.error?.code).toBe("message_too_large");
    // The same key from another tab of the same user.
    socket.message("r", 1, { key: "k1", from: client.user });
    expect(seen.length).toBe(1);
  });
});
