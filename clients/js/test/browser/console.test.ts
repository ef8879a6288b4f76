import { setTimeout } from "node:timers/promises";
import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { Chromium } from "../harness/browser.js";
import { opener } from "../harness/opener.js";
import { TAKES_SCREENSHOTS, screenshot } from "../harness/screenshot.js";
import { Stage } from "../harness/stage.js";

const [FULL, READ] = ["s3cret", "look"];

let stage: Stage;
let chromium: Chromium;
const open = opener(() => stage);

beforeAll(async () => {
  stage = await Stage.start({ fanout: { API_KEYS: `shop:${FULL},audit:${READ}:read` } });
  chromium = await Chromium.start();
});
afterEach(() => chromium.closeAll());
afterAll(async () => {
  await chromium?.end();
  await stage?.end();
});

async function opened(key?: string, options: Parameters<Chromium["open"]>[1] = {}): Promise<Page> {
  const page = await chromium.open(`${stage.api}/console`, options);
  if (key) {
    await page.getByLabel("API key").fill(key);
    await page.getByLabel("API key").press("Enter");
    await state(page, "live");
  }
  return page;
}

async function state(page: Page, text: string | RegExp): Promise<void> {
  const says = expect.poll(() => page.locator("#state").textContent());
  await (typeof text === "string" ? says.toBe(text) : says.toMatch(text));
}

/** What a tile shows. */
function tile(page: Page, title: string) {
  return page
    .locator(".tile", { has: page.getByRole("heading", { name: title, exact: true }) })
    .locator(".value")
    .textContent();
}

const rows = (page: Page, id: string) => page.locator(`#${id} tbody tr`).allTextContents();

const history = (page: Page) =>
  page.locator("#history li").evaluateAll((items) =>
    items.map((item) =>
      [...item.children]
        .map((child) => child.textContent)
        .slice(0, 2)
        .join(" "),
    ),
  );

it("wants a key for its data, and keeps it in its tab alone", async () => {
  const page = await opened();
  await state(page, "a key is needed");
  expect(await page.getByRole("main").isVisible()).toBe(false);
  await page.getByLabel("API key").fill("wrong");
  await page.getByRole("button", { name: "Use it" }).click();
  await state(page, /^no valid API key/);
  const asked = page.waitForRequest((request) => request.url().endsWith("/stream"));
  await page.getByLabel("API key").fill(READ);
  await page.getByRole("button", { name: "Use it" }).click();
  await state(page, "live");
  expect((await (await asked).allHeaders()).authorization).toBe(`Bearer ${READ}`);
  expect(await page.getByLabel("API key").inputValue()).toBe("");
  expect(await page.getByLabel("API key").isVisible()).toBe(false);
  await page.reload();
  await state(page, "live");
  expect(page.url()).not.toContain(READ);
  expect(await page.evaluate(() => [localStorage.length, document.cookie])).toEqual([0, ""]);
  const other = await chromium.open(`${stage.api}/console`);
  await state(other, "a key is needed");
  await page.getByRole("button", { name: "Forget the key" }).click();
  await state(page, "a key is needed");
  expect(chromium.complaints).toEqual([]);
});

it("shows what goes on, and is back after the node stood still", async () => {
  const page = await opened(READ);
  const client = open({ user: "7" });
  const [busy, quiet] = [client.room("busy").join(), client.room("quiet").join()];
  await Promise.all([busy.ready(), quiet.ready()]);
  const other = open({ user: "8" }).room("quiet").join();
  await other.ready();
  // Edges report every 5 s.
  await expect.poll(() => tile(page, "Connections")).toBe("2");
  await expect
    .poll(() => rows(page, "largest"))
    .toEqual(["quiet2", expect.stringMatching(/1$/), expect.anything(), expect.anything()]);
  const publishing = (async () => {
    for (let n = 0; n < 60; n++) {
      await stage.publish("busy", n, FULL);
      await setTimeout(100);
    }
  })();
  await expect.poll(async () => Number(await tile(page, "Published here /s"))).toBeGreaterThan(2);
  await expect.poll(async () => (await rows(page, "busiest"))[0]).toMatch(/^busy\d/);
  await expect.poll(async () => Number(await tile(page, "To members /s"))).toBeGreaterThan(0);
  await expect.poll(() => tile(page, "Latency, under ms")).toMatch(/^\d+ half\d+ 99 %$/);
  expect(await rows(page, "links")).toHaveLength(1);
  expect(await tile(page, "Broker")).toBe("memory");
  expect(await tile(page, "Slow consumers")).toBe("0");
  await publishing;
  const label = page.getByRole("img", { name: /^Connections: the last \d+ seconds, at most 2$/ });
  expect(await label.locator(".line").getAttribute("d")).toMatch(/^M\d+ [\d.]+L/);

  stage.fanout.signal("SIGSTOP");
  try {
    await state(page, /^connection lost: tries again in \d+ s$/);
  } finally {
    stage.fanout.signal("SIGCONT");
  }
  await state(page, "live");
  expect(chromium.complaints).toEqual([]);
});

it("looks into a room and publishes there, with a key that may", async () => {
  const body = { text: '<b onclick="x">hi</b>', number: 1 };
  await stage.publish("order/42 é", body, FULL);
  await fetch(`${stage.api}/v1/rooms/${encodeURIComponent("order/42 é")}/publications`, {
    method: "POST",
    headers: { authorization: `Bearer ${FULL}` },
    body: '{"body":12345678901234567890}',
  });
  const page = await opened(READ);
  await page.getByLabel("Room", { exact: true }).fill("order/42 é");
  await page.getByRole("button", { name: "Show" }).click();
  const both = [`1 @shop${JSON.stringify(body)}`, "2 @shop12345678901234567890"];
  await expect.poll(() => history(page)).toEqual(both);
  expect(await page.locator("#position").textContent()).toMatch(/^order\/42 é is at 2 of epoch \S+/);

  const publish = async (text: string) => {
    await page.getByLabel("Body, as JSON").fill(text);
    await page.getByRole("button", { name: "Publish" }).click();
  };
  const result = expect.poll(() => page.locator("#result").textContent());
  await publish('{"text":"hello"}');
  await result.toBe("not published: this key may only read");
  await page.evaluate((key) => sessionStorage.setItem("espigon-key", key), FULL);
  await publish('1,"key":"k"');
  await expect.poll(() => page.locator("#result").textContent()).toBe("not published: this is no JSON");
  await publish('{"text": "hello", "n": 1.0}');
  await expect.poll(() => page.locator("#result").textContent()).toBe("stored as 3");
  await expect.poll(() => history(page)).toEqual([...both, '3 @shop{"text":"hello","n":1.0}']);
  await page.getByLabel("Room", { exact: true }).fill(" bad ");
  await page.getByLabel("Room", { exact: true }).press("Enter");
  await expect.poll(() => page.locator("#position").textContent()).toMatch(/^not shown: a room's name/);
  expect(chromium.complaints).toEqual([]);
});

it("is used by keyboard alone, and says what it is", async () => {
  const room = open().room("by-keyboard").join();
  await room.ready();
  await stage.publish("by-keyboard", "hi", FULL);
  const page = await opened();
  await state(page, "a key is needed");
  const focused = () => page.evaluate(() => document.activeElement?.id || document.activeElement?.textContent);
  expect(await focused()).toBe("key");
  await page.keyboard.type(READ);
  await page.keyboard.press("Enter");
  await state(page, "live");
  await expect.poll(() => page.getByRole("button", { name: "by-keyboard" }).first().isVisible()).toBe(true);
  for (let n = 0; n < 50 && (await focused()) !== "by-keyboard"; n++) await page.keyboard.press("Tab");
  // It stays where it is while the rows are filled each second.
  await setTimeout(2500);
  expect(await focused()).toBe("by-keyboard");
  await page.keyboard.press("Enter");
  await expect.poll(() => history(page)).toEqual(['1 @shop"hi"']);
  expect(await page.getByRole("list", { name: "History of the room" }).isVisible()).toBe(true);
  for (const table of await page.getByRole("table").all()) {
    expect(await table.getByRole("columnheader").count()).toBeGreaterThan(1);
  }
});

it.each([
  { name: "desktop-light", colorScheme: "light", width: 1180, height: 860 },
  { name: "desktop-dark", colorScheme: "dark", width: 1180, height: 860 },
  { name: "phone-light", colorScheme: "light", width: 390, height: 844 },
  { name: "phone-dark", colorScheme: "dark", width: 390, height: 844 },
  { name: "phone-small", colorScheme: "light", width: 320, height: 640 },
] as const)("fits: $name", { timeout: 180_000 }, async ({ name, colorScheme, width, height }) => {
  const page = await opened(FULL, { viewport: { width, height }, colorScheme });
  const clients = [open({ user: "7" }), open({ user: "8" }), open({ user: "9" })];
  const rooms = ["order-42", "order-43", "news", name === "phone-small" ? "x".repeat(200) : "lobby"];
  await Promise.all(
    clients.flatMap((client, n) => rooms.slice(0, 4 - n).map((room) => client.room(room).join().ready())),
  );
  // A picture shows more when more has happened.
  for (let n = 0; n < (TAKES_SCREENSHOTS && name !== "phone-small" ? 700 : 10); n++) {
    const burst = 1 + Math.round(4 * (1 + Math.sin(n / 25)) * Math.random());
    await Promise.all(
      Array.from({ length: burst }, (_, i) => stage.publish(rooms[i % 3]!, { status: "shipped", n }, FULL)),
    );
    await setTimeout(60);
  }
  await expect.poll(() => rows(page, "largest")).toContainEqual(expect.stringMatching(/^order-423$/));
  await page.getByRole("button", { name: "order-42" }).first().click();
  await expect.poll(() => history(page)).not.toEqual([]);
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
  if (name !== "phone-small") await screenshot(page, `console-${name}`, { fullPage: width > 600 });
  expect(chromium.complaints).toEqual([]);
});
