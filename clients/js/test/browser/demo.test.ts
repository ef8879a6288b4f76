import type { Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { Chromium } from "../harness/browser.js";
import { Process } from "../harness/process.js";
import { screenshot } from "../harness/screenshot.js";
import { binary } from "../harness/stage.js";

let standalone: Process;
let chromium: Chromium;
let url = "";
let curl: { address: string };

beforeAll(async () => {
  const names = ["LISTEN", "DEMO_LISTEN", "API_LISTEN", "LINK_LISTEN", "OPS_LISTEN", "FANOUT_OPS_LISTEN"];
  const settings = Object.fromEntries(names.map((name) => [name, ":0"]));
  standalone = new Process("standalone", binary("standalone"), [], { ...settings, LOG_FORMAT: "json" });
  url = await standalone.wait("the demo's address", (line) => line.trim().match(/^http:\/\/\S+$/)?.[0]);
  const address = await standalone.wait("curl", (line) => line.match(/curl (http:\S+)/)?.[1]);
  curl = { address };
  chromium = await Chromium.start();
});
afterEach(() => chromium.closeAll());
afterAll(async () => {
  await chromium?.end();
  await standalone?.end("SIGTERM");
});

function pane(page: Page, name: string) {
  const section = page.getByRole("region", { name, exact: true });
  return {
    section,
    state: section.getByRole("status"),
    log: section.getByRole("log"),
    input: section.getByRole("textbox"),
    cut: section.locator(".cut"),
    /** What it shows: numbers and text of messages. */
    messages: () =>
      section
        .locator("li:not(.note):not(.pending)")
        .evaluateAll((items) => items.map((item) => [...item.children].map((child) => child.textContent).join(" "))),
    async is(state: string) {
      await expect.poll(() => this.state.textContent()).toBe(state);
    },
  };
}

async function say(page: Page, name: string, text: string): Promise<void> {
  const { input } = pane(page, name);
  await input.fill(text);
  await input.press("Enter");
}

it("shows two people who talk, a connection that is cut, and nothing lost", async () => {
  const page = await chromium.open(`${url}?room=talk`, { viewport: { width: 1180, height: 860 } });
  const [ana, ben] = [pane(page, "Ana"), pane(page, "Ben")];
  await Promise.all([ana.is("connected"), ben.is("connected")]);
  await say(page, "Ana", "Is order 42 on its way?");
  await expect.poll(ben.messages).toEqual(["1 AnaIs order 42 on its way?"]);
  await ana.cut.click();
  await expect.poll(() => ana.state.textContent()).toMatch(/^tries again in|^connecting/);
  await say(page, "Ben", "It left an hour ago.");
  await expect.poll(ben.messages).toHaveLength(2);
  await say(page, "Ana", "Hello? Can you hear me?");
  await say(page, "Ben", "The driver is two streets away.");
  await expect.poll(ben.messages).toHaveLength(3);
  expect(await ana.messages()).toHaveLength(1);
  expect(await ana.log.locator(".pending").count()).toBe(1);
  await ana.cut.click();
  await ana.is("connected");
  const all = [
    "1 AnaIs order 42 on its way?",
    "2 BenIt left an hour ago.",
    "3 BenThe driver is two streets away.",
    "4 AnaHello? Can you hear me?",
  ];
  await expect.poll(ben.messages).toEqual(all);
  await expect
    .poll(ana.messages)
    .toEqual(all.map((text, index) => (index === 1 || index === 2 ? `${text} caught up` : text)));
  expect(await ana.section.locator(".at").textContent()).toBe("at 4");
  expect(await ana.log.locator(".note").allTextContents()).toEqual([
    "connection lost after 1",
    "back, and goes on after 1",
  ]);

  const response = await fetch(curl.address.replace("lobby", "talk"), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: '{"body":{"text":"Order 42: delivered"}}',
  });
  expect(response.status).toBe(200);
  await expect.poll(async () => (await ben.messages()).at(-1)).toMatch(/^5 @\w+Order 42: delivered$/);
  expect(chromium.complaints).toEqual([]);
});

it("is used by keyboard alone, and says what it is", async () => {
  const page = await chromium.open(`${url}?room=keys`);
  await pane(page, "Ana").is("connected");
  const focused = () => page.evaluate(() => document.activeElement?.getAttribute("aria-label") ?? "");
  const order = [];
  for (let n = 0; n < 4; n++) {
    await page.keyboard.press("Tab");
    order.push(await focused());
  }
  expect(order).toEqual(["", "Cut the connection of Ana", "Messages as Ana sees them", "What Ana says"]);
  await page.keyboard.type("by keyboard");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Space");
  await expect.poll(pane(page, "Ben").messages).toEqual(["1 Anaby keyboard"]);
  await page.keyboard.press("Shift+Tab");
  expect(await focused()).toBe("What Ana says");
  expect(await pane(page, "Ana").log.getAttribute("aria-label")).toBe("Messages as Ana sees them");
});

it("lets somebody else in from another tab", async () => {
  const page = await chromium.open(`${url}?room=tabs`);
  const [other] = await Promise.all([
    page.context().waitForEvent("page"),
    page.getByRole("link", { name: "Join from another tab" }).click(),
  ]);
  const name = new URL(other.url()).searchParams.get("as")!;
  await pane(other, name).is("connected");
  await say(other, name, "me too");
  await expect.poll(pane(page, "Ana").messages).toEqual([`1 ${name}me too`]);
});

it.each([
  { name: "desktop-light", room: "order-42", colorScheme: "light", width: 1180, height: 860 },
  { name: "desktop-dark", room: "order-43", colorScheme: "dark", width: 1180, height: 860 },
  { name: "phone-light", room: "order-44", colorScheme: "light", width: 390, height: 844 },
  { name: "phone-dark", room: "order-45", colorScheme: "dark", width: 390, height: 844 },
  { name: "phone-small", room: "order-46", colorScheme: "light", width: 320, height: 640 },
] as const)("fits: $name", async ({ name, room, colorScheme, width, height }) => {
  const viewport = { width, height };
  const page = await chromium.open(`${url}?room=${room}`, { viewport, colorScheme });
  const [ana, ben] = [pane(page, "Ana"), pane(page, "Ben")];
  await Promise.all([ana.is("connected"), ben.is("connected")]);
  await say(page, "Ana", "Is order 42 on its way?");
  await expect.poll(ben.messages).toHaveLength(1);
  await say(page, "Ben", "It left an hour ago.");
  await expect.poll(ana.messages).toHaveLength(2);
  await ana.cut.click();
  await say(page, "Ben", "The driver is two streets away.");
  await expect.poll(ben.messages).toHaveLength(3);
  await ana.cut.click();
  await expect.poll(ana.messages).toHaveLength(3);
  await say(page, "Ana", "Good, I can see the van.");
  await expect.poll(ben.messages).toHaveLength(4);
  await ben.cut.click();
  await say(page, "Ben", "Was it the blue one?");
  await expect.poll(() => ben.log.locator(".pending").count()).toBe(1);
  expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(width);
  if (name !== "phone-small") await screenshot(page, `demo-${name}`);
});
