import { once } from "node:events";
import { createServer, type Server } from "node:http";

/** A backend that edges ask who may join. Says yes, unless told otherwise. */
export class Backend {
  /** Rooms asked about, in order. */
  readonly asked: string[] = [];
  /** What it says to all that is asked from now on: allowed or not, or nothing that is an answer. */
  says: "yes" | "no" | "listen" | "nonsense" = "yes";
  private server!: Server;

  static async start(): Promise<Backend> {
    const backend = new Backend();
    backend.server = createServer((request, response) => {
      const room = new URL(request.url!, "http://backend").searchParams.get("room");
      if (room) backend.asked.push(room);
      if (backend.says === "nonsense") response.statusCode = 503;
      response.setHeader("content-type", "application/json");
      const yes = backend.says === "yes" || backend.says === "listen";
      response.end(JSON.stringify({ allowed: yes, publish: backend.says === "yes" }));
    });
    backend.server.listen(0, "127.0.0.1");
    await once(backend.server, "listening");
    return backend;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.server.address() as { port: number }).port}`;
  }

  async end(): Promise<void> {
    this.server.closeAllConnections();
    this.server.close();
    await once(this.server, "close");
  }
}
