import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Balancer } from "./balancer.js";
import { eventually } from "./eventually.js";
import { Process } from "./process.js";
import { SECRET } from "./token.js";

/** Where `cargo build` puts the binaries. */
const BINARIES = resolve(process.env.ESPIGON_BIN ?? "../../target/debug");

export function binary(name: string): string {
  return join(BINARIES, name);
}

export interface Plan {
  edges?: number;
  /** History in a Redis of the stage's own; else in the fanout node's memory. */
  redis?: boolean;
  /** Settings of the edges. */
  edge?: Record<string, string>;
  /** Settings of the fanout node. */
  fanout?: Record<string, string>;
}

/** Real processes: perhaps Redis, a fanout node, edges, and a balancer before them. */
export class Stage {
  readonly edges: Process[] = [];
  balancer!: Balancer;
  fanout!: Process;
  redis: Process | undefined;
  private apiAddress = "";
  private link = "";
  private plan: Plan = {};
  private readonly directory = mkdtempSync(join(tmpdir(), "espigon-js-"));

  static async start(plan: Plan = {}): Promise<Stage> {
    const stage = new Stage();
    stage.plan = plan;
    try {
      if (plan.redis) await stage.startRedis();
      await stage.startFanout();
      const targets = [];
      for (let n = 0; n < (plan.edges ?? 1); n++) targets.push(await stage.startEdge());
      stage.balancer = await Balancer.start(targets);
    } catch (error) {
      await stage.end();
      throw error;
    }
    return stage;
  }

  get url(): string {
    return this.balancer.url;
  }

  /** Where backends publish. */
  get api(): string {
    return `http://${this.apiAddress}`;
  }

  /** Publishes as a backend does; returns the `seq`. */
  async publish(room: string, body: unknown, key = "none"): Promise<number> {
    const response = await fetch(`${this.api}/v1/rooms/${encodeURIComponent(room)}/publications`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${key}` },
      body: JSON.stringify({ body }),
    });
    if (!response.ok) throw new Error(`publish: ${response.status} ${await response.text()}`);
    return ((await response.json()) as { seq: number }).seq;
  }

  /** One more edge; the balancer has to be told of it. */
  async startEdge(): Promise<string> {
    const edge = new Process("edge", binary("edge"), [], {
      LISTEN: ":0",
      OPS_LISTEN: ":0",
      LOG_FORMAT: "json",
      JWT_SECRET: SECRET,
      FANOUT_ADDR: `http://${this.link}`,
      WS_ORIGINS: "*",
      ...this.plan.edge,
    });
    this.edges.push(edge);
    const { ws, ops } = await edge.listening("ws");
    await ready(ops!);
    return ws!;
  }

  async end(): Promise<void> {
    await this.balancer?.end();
    for (const process of [...this.edges, this.fanout, this.redis]) await process?.end();
    rmSync(this.directory, { recursive: true, force: true });
  }

  private async startFanout(): Promise<void> {
    const redis: Record<string, string> = this.plan.redis ? { REDIS_ADDR: `127.0.0.1:${this.redisPort}` } : {};
    this.fanout = new Process("fanout", binary("fanout"), [], {
      LINK_LISTEN: ":0",
      API_LISTEN: ":0",
      OPS_LISTEN: ":0",
      LOG_FORMAT: "json",
      ...redis,
      ...this.plan.fanout,
    });
    const { link, api, ops } = await this.fanout.listening("link");
    [this.link, this.apiAddress] = [link!, api!];
    await ready(ops!);
  }

  private redisPort = 0;

  private async startRedis(): Promise<void> {
    this.redisPort = await freePort();
    const options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", this.directory];
    this.redis = new Process("redis", "redis-server", ["--port", String(this.redisPort), ...options], {});
    await this.redis.wait("that it is up", (line) => line.includes("Ready to accept connections") || undefined);
  }
}

async function ready(ops: string): Promise<void> {
  await eventually(`${ops} is ready`, async () => (await fetch(`http://${ops}/readyz`)).ok);
}

/** Free a moment ago, for what cannot be told to choose one. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}
