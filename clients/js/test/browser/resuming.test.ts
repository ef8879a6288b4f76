import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import type * as espigon from "../../src/index.js";
import { Chromium } from "../harness/browser.js";
import { upTo } from "../harness/client.js";
import { eventually } from "../harness/eventually.js";
import { Stage } from "../harness/stage.js";
import { token } from "../harness/token.js";

declare global {
  interface Window {
    espigon: typeof espigon;
    client: espigon.Client;
    /** What happened in the page, in order. */
    seen: { bodies: unknown[]; seqs: number[]; states: string[]; events: string[] };
  }
}

let stage: Stage;
let chromium: Chromium;

beforeAll(async () => {
  stage = await Stage.start({ edges: 2, redis: true });
  chromium = await Chromium.start();
});
afterEach(() => chromium.closeAll());
afterAll(async () => {
  await chromium?.end();
  await stage?.end();
});

/** A page whose client is in the room, and in its user's own: nothing more is on its way to it. */
async function join(room: string): Promise<Page> {
  const page = await chromium.open();
  await page.evaluate(
    async ({ url, token, room }) => {
      const seen: Window["seen"] = { bodies: [], seqs: [], states: [], events: [] };
      window.seen = seen;
      window.client = new window.espigon.Client(url, { getToken: () => token });
      window.client.on("state", ({ state, reason }) => seen.states.push(reason ? `${state} ${reason}` : state));
      const joined = window.client.room(room).join();
      for (const event of ["joined", "lost", "left"] as const) joined.on(event, () => seen.events.push(event));
      joined.on("message", ({ body, seq }) => {
        seen.bodies.push(body);
        seen.seqs.push(seq);
      });
      await joined.ready();
      await window.client.room("user:7").ready();
    },
    { url: stage.url, token: token("7"), room },
  );
  return page;
}

function seen(page: Page): Promise<Window["seen"]> {
  return page.evaluate("window.seen");
}

async function has(page: Page, count: number): Promise<void> {
  await eventually(`${count} messages`, async () => (await seen(page)).bodies.length >= count);
}

function isConnected(page: Page): Promise<boolean> {
  return page.evaluate("client.state === 'connected'");
}

it("survives the end of its edge: nothing lost, in order, on another edge", async () => {
  const page = await join("kill");
  expect(await page.evaluate(() => window.client.room("kill").publish(1))).toMatchObject({ seq: 1 });
  for (const n of [2, 3]) await stage.publish("kill", n);
  await has(page, 3);
  await stage.edges[0]!.end("SIGKILL");
  for (let n = 4; n <= 50; n++) await stage.publish("kill", n);
  // Sent while there is no connection: queued.
  expect(await page.evaluate(() => window.client.room("kill").publish(51))).toMatchObject({ seq: 51 });
  await has(page, 51);
  const { bodies, seqs, events, states } = await seen(page);
  expect(bodies).toEqual(upTo(51));
  expect(seqs).toEqual(upTo(51));
  expect(events).toEqual(["joined", "joined"]);
  expect(states).toEqual([
    "connecting",
    "connected",
    "waiting connection_lost",
    "connecting connection_lost",
    "connected",
  ]);
  stage.balancer.targets = [await stage.startEdge(), ...stage.balancer.targets.slice(1)];
});

it("follows the network when it goes and comes back", async () => {
  const page = await join("offline");
  await stage.publish("offline", 1);
  await has(page, 1);
  await page.context().setOffline(true);
  await eventually("offline", async () => (await seen(page)).states.includes("waiting offline"));
  for (const n of [2, 3]) await stage.publish("offline", n);
  const sent = page.evaluate(() => window.client.room("offline").publish(4));
  expect(await isConnected(page)).toBe(false);
  await page.context().setOffline(false);
  expect(await sent).toMatchObject({ seq: 4 });
  await has(page, 4);
  expect((await seen(page)).bodies).toEqual(upTo(4));
});

it("notices at once, when a frozen page wakes up, that its connection is gone", async () => {
  const page = await join("frozen");
  await stage.publish("frozen", 1);
  await has(page, 1);
  const devtools = await page.context().newCDPSession(page);
  await devtools.send("Page.setWebLifecycleState", { state: "frozen" });
  stage.balancer.cut();
  for (const n of [2, 3]) await stage.publish("frozen", n);
  await devtools.send("Page.setWebLifecycleState", { state: "active" });
  await has(page, 3);
  expect((await seen(page)).bodies).toEqual(upTo(3));
});

it("asks for a sign of life when somebody comes back to the page", async () => {
  const page = await join("wake");
  // A network that died without a word, as after a night in a bag.
  stage.balancer.freeze();
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await eventually("the silence is noticed", async () => (await seen(page)).states.at(-1)?.includes("ping_timeout"));
  stage.balancer.thaw();
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await eventually("connected", () => isConnected(page));
  await stage.publish("wake", 1);
  await has(page, 1);
});

it("closes with the page, and throws nothing", async () => {
  const page = await join("close");
  const before = stage.balancer.connections;
  await page.close();
  await eventually("the connection ends", () => stage.balancer.connections < before);
  expect(chromium.complaints).toEqual([]);
});
