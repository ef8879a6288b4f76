import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { client, history, Listener, state, upTo } from "../harness/client.js";
import { eventually } from "../harness/eventually.js";
import { opener } from "../harness/opener.js";
import { Stage } from "../harness/stage.js";

let stage: Stage;
const open = opener(() => stage);

beforeAll(async () => {
  stage = await Stage.start({
    fanout: { DEDUP_WINDOW: "4s" },
    edge: { CLIENT_RATE: "100/s", CLIENT_BURST: "50" },
  });
});
afterEach(() => {
  stage.balancer.open = true;
  stage.balancer.thaw();
});
afterAll(() => stage.end());

it("publishes what was queued while it was offline, in order", async () => {
  const seven = open({ queue: 5 });
  const room = new Listener(seven.room<number>("offline").join());
  await room.room.ready();
  stage.balancer.open = false;
  stage.balancer.cut();
  await state(seven, "waiting");
  const all = upTo(5).map((n) => room.room.publish(n));
  await expect(room.room.publish(6)).rejects.toMatchObject({ code: "queue_full" });
  stage.balancer.open = true;
  expect((await Promise.all(all)).map(({ seq }) => seq)).toEqual(upTo(5));
  await room.has(5);
  expect(room.bodies).toEqual(upTo(5));
});

it("rejects them, if told to", async () => {
  const seven = open({ queue: 0 });
  const room = seven.room("rejects").join();
  await expect(room.publish(1)).rejects.toMatchObject({ code: "queue_full" });
  await room.ready();
  expect(await room.publish(2)).toMatchObject({ seq: 1 });
});

it("repeats what has no answer, with its key: published once", async () => {
  const seven = open();
  const room = new Listener(seven.room<string>("repeat").join());
  const others = new Listener(client(stage.url, { user: "8" }).room<string>("repeat").join());
  await Promise.all([room.room.ready(), others.room.ready()]);
  stage.balancer.deafen();
  const sent = [room.room.publish("one"), room.room.publish("two", { echo: false })];
  // The edge has them, but its answers are on their way.
  await eventually("stored", async () => (await stage.publish("repeat", "marker")) >= 3);
  stage.balancer.thaw();
  stage.balancer.cut();
  const acks = await Promise.all(sent);
  await others.has(3);
  expect(others.bodies.filter((body) => body !== "marker")).toEqual(["one", "two"]);
  const seqs = others.messages.filter(({ body }) => body !== "marker").map(({ seq }) => seq);
  expect(acks.map(({ seq }) => seq)).toEqual(seqs);
  await eventually("one's own", () => room.bodies.includes("one"));
  expect(room.bodies).not.toContain("two");
});

it("does not know what became of a message once it is too late to repeat it", async () => {
  const seven = open();
  const room = seven.room("unknown").join();
  await room.ready();
  stage.balancer.deafen();
  const sent = room.publish("perhaps");
  stage.balancer.open = false;
  await eventually("stored", async () => (await stage.publish("unknown", "marker")) >= 2);
  stage.balancer.cut();
  await expect(sent).rejects.toMatchObject({ code: "unknown", room: "unknown", final: true });
});

it("keeps to the rate of clients, and all is published, once", async () => {
  const seven = open({ queue: 1000 });
  const states = history(seven);
  const room = new Listener(seven.room<number>("many").join());
  const acks = await Promise.all(upTo(250).map((n) => room.room.publish(n)));
  await room.has(250);
  expect(acks.filter(({ duplicate }) => duplicate)).toEqual([]);
  expect(new Set(room.bodies).size).toBe(250);
  expect(states.map(({ state }) => state)).toEqual(["connecting", "connected"]);
});
