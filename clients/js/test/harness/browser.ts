import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";

/** Debian's. */
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";

/** A Chromium, and a web server with a page that has the client, as built. */
export class Chromium {
  /** What went wrong in pages, for a test to expect nothing of. */
  readonly complaints: string[] = [];

  private constructor(
    readonly browser: Browser,
    private readonly server: Server,
  ) {}

  static async start(): Promise<Chromium> {
    const bundle = readFileSync("dist/espigon.min.js");
    const page = `<!doctype html><title>test</title><script type="module">
      import * as espigon from "./espigon.js"; window.espigon = espigon; window.ready = true;</script>`;
    const server = createServer((request, response) => {
      const isScript = request.url === "/espigon.js";
      response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
      response.end(isScript ? bundle : page);
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    // Root has no sandbox; a container's /dev/shm is small.
    const args = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"];
    return new Chromium(await chromium.launch({ executablePath: CHROMIUM, args }), server);
  }

  /** A page in a window of its own. */
  async open(url?: string, options: BrowserContextOptions = {}): Promise<Page> {
    const context = await this.browser.newContext(options);
    const page = await context.newPage();
    page.on("pageerror", (error) => this.complaints.push(String(error)));
    const { port } = this.server.address() as { port: number };
    await page.goto(url ?? `http://127.0.0.1:${port}/`);
    if (!url) await page.waitForFunction("window.ready");
    return page;
  }

  /** Closes all that is open. */
  async closeAll(): Promise<void> {
    for (const context of this.browser.contexts()) await context.close();
  }

  async end(): Promise<void> {
    await this.browser.close();
    this.server.closeAllConnections();
    this.server.close();
  }
}
