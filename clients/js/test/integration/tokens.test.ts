import { afterAll, beforeAll, expect, it } from "vitest";
import { history, Listener, state } from "../harness/client.js";
import { eventually } from "../harness/eventually.js";
import { opener } from "../harness/opener.js";
import { Stage } from "../harness/stage.js";
import { inSeconds, token } from "../harness/token.js";

let stage: Stage;
const open = opener(() => stage);

beforeAll(async () => {
  stage = await Stage.start();
});
afterAll(() => stage.end());

it("renews its token before that ends, without a new connection", async () => {
  let given = 0;
  const seven = open({ getToken: () => token("7", { exp: inSeconds(4), given: ++given }) });
  const states = history(seven);
  const room = new Listener(seven.room("renewed").join());
  await room.room.ready();
  const first = seven.connection;
  await eventually("a third token", () => given >= 3);
  expect(seven.connection).toBe(first);
  expect(states.map(({ state }) => state)).toEqual(["connecting", "connected"]);
  expect(await room.room.publish("still here")).toMatchObject({ seq: 1 });
});

it("comes back with a new token when the server ended the old one", async () => {
  const tokens = [token("7", { exp: inSeconds(2) }), new Error("busy"), new Error("busy"), token("7")];
  const seven = open({
    getToken: async () => {
      const next = tokens.length > 1 ? tokens.shift()! : tokens[0]!;
      // The renewals fail until the token has ended.
      if (typeof next !== "string") await new Promise((_, reject) => setTimeout(reject, 900, next));
      return next as string;
    },
  });
  const states = history(seven);
  const room = new Listener(seven.room<number>("expired").join());
  await room.room.ready();
  await eventually("4001", () => states.some(({ code }) => code === 4001));
  await stage.publish("expired", 1);
  await room.has(1);
  expect(seven.state).toBe("connected");
  expect(room.events).toEqual(["joined", "joined"]);
});

it("closes when its token has ended and there is no other", async () => {
  const seven = open({ token: token("7", { exp: inSeconds(2) }) });
  const states = history(seven);
  const left: unknown[] = [];
  seven
    .room("end")
    .join()
    .on("left", ({ reason }) => left.push(reason));
  await state(seven, "closed");
  expect(states.at(-1)).toEqual({ state: "closed", reason: "token_expired", code: 4001 });
  expect(left).toEqual(["token_expired"]);
});

it.each([
  ["is signed by somebody else", token("7", {}, "another secret, as long as it must be"), "token_invalid"],
  ["is no token", "nonsense", "token_invalid"],
])("closes when its token %s", async (_, bad, reason) => {
  const seven = open({ token: bad });
  const states = history(seven);
  await state(seven, "closed");
  expect(states.at(-1)).toEqual({ state: "closed", reason, code: 4002 });
});

it("asks for another token when the first had ended already", async () => {
  const tokens = [token("7", { exp: inSeconds(-10) }), token("7")];
  const seven = open({ getToken: () => tokens.shift() });
  const states = history(seven);
  await state(seven, "connected");
  expect(states[1]).toMatchObject({ state: "waiting", reason: "token_expired", code: 4001 });
});

it("leaves what a newer token does not cover", async () => {
  const tokens = [token("7", { exp: inSeconds(3), rooms: ["a", "b"] }), token("7", { rooms: ["b"] })];
  const seven = open({ getToken: () => tokens.shift() });
  const [a, b] = ["a", "b"].map((name) => new Listener(seven.room(name).join()));
  await Promise.all([a!.room.ready(), b!.room.ready()]);
  await eventually("left", () => a!.room.state === "left");
  expect(a!.events).toEqual(["joined", "left"]);
  expect(b!.room.state).toBe("joined");
  expect(await b!.room.publish(1)).toMatchObject({ seq: 1 });
});
