import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";

/**
 * What stands in front of edges: one address, and each connection goes to the first that takes it. A browser has only
 * one address for all edges, and so has this client.
 */
export class Balancer {
  private readonly server: Server;
  private readonly pairs = new Set<[Socket, Socket]>();
  private passes: (pair: [Socket, Socket], from: Socket) => boolean = () => true;
  /** Connections taken so far. */
  taken = 0;
  /** In the order of preference: `host:port`. */
  targets: string[];
  /** Whether connections are taken at all. */
  open = true;

  private constructor(targets: string[]) {
    this.targets = targets;
    this.server = createServer((client) => void this.take(client));
  }

  static async start(targets: string[]): Promise<Balancer> {
    const balancer = new Balancer(targets);
    balancer.server.listen(0, "127.0.0.1");
    await once(balancer.server, "listening");
    return balancer;
  }

  get port(): number {
    return (this.server.address() as { port: number }).port;
  }

  get url(): string {
    return `ws://127.0.0.1:${this.port}/ws`;
  }

  get connections(): number {
    return this.pairs.size;
  }

  /** Breaks all connections without a word. */
  cut(): void {
    for (const pair of this.pairs) for (const socket of pair) socket.destroy();
  }

  /** Nothing passes any more, and nobody is told: a dead network. Until `thaw`. */
  freeze(): void {
    this.pass(() => false);
  }

  /** Clients are heard, and hear nothing. */
  deafen(): void {
    this.pass((pair, from) => from === pair[0]);
  }

  thaw(): void {
    this.pass(() => true);
  }

  private pass(which: (pair: [Socket, Socket], from: Socket) => boolean): void {
    this.passes = which;
    for (const pair of this.pairs) this.apply(pair);
  }

  private apply(pair: [Socket, Socket]): void {
    for (const socket of pair) {
      if (this.passes(pair, socket)) socket.resume();
      else socket.pause();
    }
  }

  async end(): Promise<void> {
    this.cut();
    this.server.close();
    await once(this.server, "close");
  }

  private async take(client: Socket): Promise<void> {
    client.on("error", () => {});
    this.taken++;
    if (!this.open) return void client.destroy();
    for (const target of this.targets) {
      const edge = await reach(target);
      if (!edge) continue;
      const pair: [Socket, Socket] = [client, edge];
      this.pairs.add(pair);
      for (const [from, to] of [pair, [edge, client]] as [Socket, Socket][]) {
        from.on("data", (data) => to.write(data));
        from.on("close", () => {
          to.destroy();
          this.pairs.delete(pair);
        });
      }
      this.apply(pair);
      return;
    }
    client.destroy();
  }
}

/** A connection to it; nothing if it takes none. */
async function reach(target: string): Promise<Socket | undefined> {
  const [host, port] = target.split(":");
  const socket = connect(Number(port), host);
  try {
    await once(socket, "connect");
  } catch {
    return undefined;
  }
  socket.on("error", () => {});
  return socket;
}
