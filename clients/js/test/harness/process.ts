import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { eventually } from "./eventually.js";

/** A child process and what it printed. */
export class Process {
  readonly lines: string[] = [];
  private readonly child: ChildProcess;

  constructor(
    readonly name: string,
    program: string,
    args: string[],
    environment: Record<string, string>,
  ) {
    const env = { PATH: process.env.PATH, ...environment };
    this.child = spawn(program, args, { env, stdio: ["ignore", "pipe", "pipe"] });
    this.child.on("error", (error) => this.lines.push(String(error)));
    for (const stream of [this.child.stdout, this.child.stderr]) {
      createInterface({ input: stream! }).on("line", (line) => this.lines.push(line));
    }
  }

  /** The first thing that `find` makes of a line. */
  async wait<T>(what: string, find: (line: string) => T | undefined): Promise<T> {
    try {
      return await eventually(`${this.name}: ${what}`, () => first(this.lines, find));
    } catch (error) {
      throw new Error(`${error}\n${this.lines.slice(-30).join("\n")}`);
    }
  }

  /** The addresses of the log line that tells where it listens, and that have this name. */
  listening(name: string): Promise<Record<string, string>> {
    return this.wait("where it listens", (line) => {
      if (!line.startsWith("{")) return undefined;
      const fields = JSON.parse(line);
      return fields.message === "listening" && fields[name] ? fields : undefined;
    });
  }

  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  async end(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, "exit");
    this.child.kill(signal);
    await ended;
  }
}

function first<T>(lines: string[], find: (line: string) => T | undefined): T | undefined {
  for (const line of lines) {
    const found = find(line);
    if (found !== undefined) return found;
  }
  return undefined;
}
