import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { client, history, state } from "../harness/client.js";
import { Stage } from "../harness/stage.js";

let stage: Stage;
let quiet: Stage;
let aging: Stage;

beforeAll(async () => {
  stage = await Stage.start();
  quiet = await Stage.start();
  aging = await Stage.start({ edge: { MAX_CONNECTION_AGE: "2s" } });
});
afterAll(async () => {
  await stage.end();
  await quiet.end();
  await aging.end();
});

// Each waits for real time to pass.
describe.concurrent("a connection", () => {
  it("that died without a word is noticed by its silence", { timeout: 90_000 }, async () => {
    const seven = client(stage.url);
    const states = history(seven);
    await state(seven, "connected");
    stage.balancer.freeze();
    await expect.poll(() => states.at(-1)?.reason, { timeout: 60_000 }).toBe("ping_timeout");
    stage.balancer.thaw();
    await state(seven, "connected");
    seven.close();
  });

  it("that is silent but alive stays", { timeout: 90_000 }, async () => {
    const seven = client(quiet.url);
    const states = history(seven);
    await state(seven, "connected");
    const first = seven.connection;
    await new Promise((resolve) => setTimeout(resolve, 37_000));
    expect(seven.connection).toBe(first);
    expect(states.map(({ state }) => state)).toEqual(["connecting", "connected"]);
    seven.close();
  });

  it("that has become old is replaced before it closes", { timeout: 90_000 }, async () => {
    const seven = client(aging.url);
    const states = history(seven);
    const connections = new Set<string>();
    await expect.poll(() => connections.add(seven.connection ?? "").size, { timeout: 60_000 }).toBeGreaterThan(3);
    const seen = states.map(({ state }) => state);
    expect(seen).not.toContain("waiting");
    // A slot may be so soon that the old one closes first, on a busy machine; not each time.
    expect(seen.filter((state) => state === "connecting").length).toBeLessThan(connections.size);
    seven.close();
  });
});
