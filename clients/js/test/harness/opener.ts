import { afterEach } from "vitest";
import type { Client } from "../../src/index.js";
import { client } from "./client.js";
import type { Stage } from "./stage.js";

/** Opens clients of a stage for the tests of one file; they close after each test. */
export function opener(stage: () => Stage): (options?: Parameters<typeof client>[1]) => Client {
  const clients: Client[] = [];
  afterEach(() => {
    for (const opened of clients.splice(0)) opened.close();
  });
  return (options) => {
    const opened = client(stage().url, options);
    clients.push(opened);
    return opened;
  };
}
