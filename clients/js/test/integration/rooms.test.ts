import { afterAll, beforeAll, expect, it } from "vitest";
import { Listener, state, upTo } from "../harness/client.js";
import { opener } from "../harness/opener.js";
import { Stage } from "../harness/stage.js";
import { token } from "../harness/token.js";

let stage: Stage;
const open = opener(() => stage);

beforeAll(async () => {
  stage = await Stage.start();
});
afterAll(() => stage.end());

it("joins, publishes, and is told what the backend publishes", async () => {
  const seven = open();
  const eight = open({ user: "8" });
  const room = seven.room<{ text: string }>("order-42").join();
  const heard = new Listener(eight.room<{ text: string }>("order-42").join());
  const own = new Listener(room);
  await Promise.all([room.ready(), heard.room.ready()]);
  expect(seven.user).toBe("7");
  const ack = await room.publish({ text: "hi" }, { key: "k1" });
  expect(ack).toMatchObject({ room: "order-42", seq: 1, duplicate: false });
  expect(await stage.publish("order-42", { text: "shipped" })).toBe(2);
  await Promise.all([own.has(2), heard.has(2)]);
  expect(own.messages).toEqual(heard.messages);
  expect(own.messages).toMatchObject([
    { room: "order-42", seq: 1, epoch: ack.epoch, from: "7", key: "k1", body: { text: "hi" } },
    { room: "order-42", seq: 2, epoch: ack.epoch, from: expect.stringMatching(/^@/), body: { text: "shipped" } },
  ]);
});

it("begins with the latest messages, when asked", async () => {
  for (const n of upTo(5)) await stage.publish("latest", n);
  const room = new Listener(open().room("latest").join({ last: 3 }));
  await room.has(3);
  expect(room.seqs).toEqual([3, 4, 5]);
  const later = new Listener(
    open()
      .room("latest")
      .join({ ...room.room.position!, seq: 4 }),
  );
  await later.has(1);
  expect(later.seqs).toEqual([5]);
});

it("gives messages to a loop, until the room is left", async () => {
  const room = open().room<number>("loop").join();
  const seen: number[] = [];
  const loop = (async () => {
    for await (const { body } of room) {
      seen.push(body);
      if (body === 3) room.leave();
    }
  })();
  // A message may come before its ack.
  await Promise.all([loop, ...upTo(3).map((n) => room.publish(n))]);
  expect(seen).toEqual([1, 2, 3]);
});

it("hides its own messages on request, and only those", async () => {
  const seven = open();
  const room = new Listener(seven.room("echo").join());
  const others = new Listener(open({ user: "8" }).room("echo").join());
  await Promise.all([room.room.ready(), others.room.ready()]);
  await room.room.publish("hidden", { echo: false });
  await room.room.publish("shown");
  await others.room.publish("theirs");
  await Promise.all([room.has(2), others.has(3)]);
  expect(room.bodies).toEqual(["shown", "theirs"]);
  expect(others.bodies).toEqual(["hidden", "shown", "theirs"]);
});

it("hears nothing of a room that it left, and everything of one that it joins again", async () => {
  const room = open().room("again").join();
  const heard = new Listener(room);
  const others = new Listener(open({ user: "8" }).room("again").join());
  await Promise.all([room.ready(), others.room.ready()]);
  await room.publish(1);
  // Its ack may come before the message itself.
  await heard.has(1);
  room.leave();
  await stage.publish("again", 2);
  // So that the edge is past it, and a new member begins after it.
  await others.has(2);
  room.join();
  await room.ready();
  await room.publish(3);
  await heard.has(2);
  expect(heard.bodies).toEqual([1, 3]);
});

it("is in its user's own room from the start", async () => {
  const nine = open({ user: "9" });
  const seen: unknown[] = [];
  nine.on("message", ({ room, body }) => seen.push([room, body]));
  await state(nine, "connected");
  await nine.room("user:9").ready();
  await stage.publish("user:9", "for you");
  await new Listener(nine.room("user:9")).has(0);
  await expect.poll(() => seen).toEqual([["user:9", "for you"]]);
  await expect(nine.room("user:9").publish("no")).rejects.toMatchObject({ code: "not_authorized", final: true });
});

it("tells final errors, and does not try again", async () => {
  const some = open({ token: token("7", { rooms: ["order-*"] }) });
  const denied = new Listener(some.room("secret").join());
  await expect(denied.room.ready()).rejects.toMatchObject({ code: "not_authorized", room: "secret", final: true });
  expect(denied.events).toEqual(["not_authorized", "left"]);
  await expect(some.room(" bad ").join().ready()).rejects.toMatchObject({ code: "bad_room", final: true });
  await expect(some.room("elsewhere").publish(1)).rejects.toMatchObject({ code: "not_joined" });
  const room = some.room("order-1").join();
  await expect(room.publish("x".repeat(9000))).rejects.toMatchObject({ code: "message_too_large" });
  expect(await room.publish("small")).toMatchObject({ seq: 1 });
  expect(some.state).toBe("connected");
});

it("publishes once under one key", async () => {
  const room = new Listener(open().room("keys").join());
  const one = await room.room.publish("first", { key: "same" });
  const two = await room.room.publish("first", { key: "same" });
  await room.room.publish("last");
  await room.has(2);
  expect([one.duplicate, two.duplicate, two.seq]).toEqual([false, true, one.seq]);
  expect(room.bodies).toEqual(["first", "last"]);
});
