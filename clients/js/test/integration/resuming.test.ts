import { afterAll, beforeAll, expect, it } from "vitest";
import { Backend } from "../harness/backend.js";
import { history, Listener, state, upTo } from "../harness/client.js";
import { eventually } from "../harness/eventually.js";
import { opener } from "../harness/opener.js";
import { Stage } from "../harness/stage.js";

let backend: Backend;
let stage: Stage;
const open = opener(() => stage);

beforeAll(async () => {
  backend = await Backend.start();
  stage = await Stage.start({
    edges: 2,
    redis: true,
    edge: { BACKEND_URL: backend.url, DRAIN_WINDOW: "2s", BACKEND_CACHE_TTL: "0s" },
    fanout: { HISTORY_SIZE: "500" },
  });
});
afterAll(async () => {
  await stage.end();
  await backend.end();
});

/** Publishes numbers as a backend does, while `what` happens: in the longest wait, less than the history keeps. */
async function publishing(room: string, what: () => Promise<void>): Promise<number> {
  let going = true;
  let count = 0;
  const loop = (async () => {
    while (going) {
      await stage.publish(room, ++count);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  })();
  await what();
  going = false;
  await loop;
  return count;
}

it("survives the end of its edge: resumes on another, nothing lost, in order, the backend not asked", async () => {
  const seven = open({ user: "70" });
  const states = history(seven);
  const rooms = ["kill-a", "kill-b"].map((name) => new Listener(seven.room<number>(name).join()));
  const own = new Listener(seven.room<number>("user:70"));
  await Promise.all(rooms.map(({ room }) => room.ready()));
  await own.room.ready();
  const asked = backend.asked.length;

  const count = await publishing("kill-a", async () => {
    await rooms[0]!.has(20);
    await stage.edges[0]!.end("SIGKILL");
    await stage.publish("kill-b", 1);
    await stage.publish("user:70", 1);
    await eventually("the loss", () => states.some(({ state }) => state === "waiting"));
    await state(seven, "connected");
    const here = rooms[0]!.messages.length;
    await rooms[0]!.has(here + 20);
  });
  await Promise.all([rooms[0]!.has(count), rooms[1]!.has(1), own.has(1)]);
  expect(rooms[0]!.bodies).toEqual(upTo(count));
  expect(rooms[0]!.seqs).toEqual(upTo(count));
  expect(rooms[1]!.bodies).toEqual([1]);
  expect(own.bodies).toEqual([1]);
  for (const listener of [...rooms, own]) expect(listener.events).toEqual(["joined", "joined"]);
  expect(backend.asked.length).toBe(asked);
  expect(states.map(({ state }) => state)).toEqual(["connecting", "connected", "waiting", "connecting", "connected"]);
  const waited = states.find(({ state }) => state === "waiting")!;
  expect(waited.reason).toBe("connection_lost");
  expect(waited.retryIn).toBeLessThanOrEqual(1000);

  stage.balancer.targets = [await stage.startEdge(), ...stage.balancer.targets.slice(1)];
});

it("delivers each message once and in order, however often the connection breaks", async () => {
  const seven = open();
  const states = history(seven);
  const room = new Listener(seven.room<number>("cuts").join());
  await room.room.ready();
  const count = await publishing("cuts", async () => {
    for (let n = 0; n < 4; n++) {
      const here = room.messages.length;
      await room.has(here + 10);
      const before = states.length;
      stage.balancer.cut();
      // It may be back before anybody looks.
      await eventually("the loss is noticed", () => states.length > before);
    }
    await state(seven, "connected");
  });
  await room.has(count);
  expect(room.bodies).toEqual(upTo(count));
  expect(room.events).toEqual(Array(5).fill("joined"));
});

it("goes over to another edge before its own closes, when told to", async () => {
  const seven = open();
  const states = history(seven);
  const room = new Listener(seven.room<number>("drain").join());
  await room.room.ready();
  const taken = stage.balancer.taken;
  const first = seven.connection;
  const count = await publishing("drain", async () => {
    const leaving = stage.edges.at(-1)!;
    // It refuses new sockets from now on, and only the balancer can know.
    stage.balancer.targets.shift();
    leaving.signal("SIGTERM");
    await eventually("another connection", () => seven.connection !== first);
    const here = room.messages.length;
    await room.has(here + 20);
  });
  await room.has(count);
  expect(room.bodies).toEqual(upTo(count));
  expect(states.map(({ state }) => state)).toEqual(["connecting", "connected"]);
  expect(stage.balancer.taken).toBe(taken + 1);
  stage.balancer.targets.unshift(await stage.startEdge());
});

it("tells when more was missed than is kept, and goes on after it", async () => {
  const seven = open();
  const room = new Listener(seven.room<number>("lost").join());
  const lost: unknown[] = [];
  room.room.on("lost", (event) => lost.push(event));
  await room.room.ready();
  await stage.publish("lost", 1);
  await room.has(1);
  stage.balancer.open = false;
  stage.balancer.cut();
  for (let n = 2; n <= 700; n += 50) await Promise.all(upTo(50).map((i) => stage.publish("lost", n + i)));
  stage.balancer.open = true;
  await eventually("lost", () => lost.length > 0);
  const last = await stage.publish("lost", "after");
  await eventually("the last one", () => room.seqs.at(-1) === last);
  expect(lost).toMatchObject([{ reason: "history", after_ms: expect.any(Number) }]);
  const { seq } = lost[0] as { seq: number };
  const after = room.seqs.filter((n) => n > 1);
  expect(after).toEqual(upTo(last).slice(-after.length));
  expect(after[0]).toBeGreaterThan(seq);
});

it("asks again when the backend does not answer, and ends with its no", async () => {
  backend.says = "nonsense";
  const seven = open();
  const room = new Listener(seven.room("asked").join());
  await eventually("a passing error", () => room.events.includes("authorization_unavailable"));
  expect(room.room.state).toBe("joining");
  backend.says = "listen";
  await room.room.ready();
  await expect(room.room.publish(1)).rejects.toMatchObject({ code: "not_authorized" });
  backend.says = "no";
  await expect(seven.room("denied").join().ready()).rejects.toMatchObject({ code: "not_authorized" });
  backend.says = "yes";
});
