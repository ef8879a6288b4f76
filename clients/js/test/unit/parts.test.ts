import { describe, expect, it, vi } from "vitest";
import { backoff, ceiling } from "../../src/backoff.js";
import { Emitter } from "../../src/emitter.js";
import { lifetime } from "../../src/grant.js";
import { judge } from "../../src/position.js";

describe("backoff", () => {
  it("doubles from half a second to twenty seconds", () => {
    expect([0, 1, 2, 5, 6, 2000].map(ceiling)).toEqual([500, 1000, 2000, 16_000, 20_000, 20_000]);
  });

  it("is any moment up to that", () => {
    expect(backoff(3, () => 0)).toBe(0);
    expect(backoff(3, () => 0.5)).toBe(2000);
  });
});

describe("a position", () => {
  const at = { epoch: "e1", seq: 5 };

  it.each([
    ["the next one", { seq: 6 }, "next"],
    ["the one seen last", { seq: 5 }, "old"],
    ["an older one", { seq: 1 }, "old"],
    ["one too far", { seq: 7 }, "gap"],
    ["the next one, which names the epoch", { seq: 6, epoch: "e1" }, "next"],
    ["one of another epoch, unannounced", { seq: 6, epoch: "e2" }, "gap"],
    ["an older number of another epoch", { seq: 2, epoch: "e2" }, "gap"],
  ])("judges %s", (_, message, verdict) => {
    expect(judge(at, message)).toBe(verdict);
  });

  it("learns its epoch from the first message of all", () => {
    expect(judge({ epoch: "", seq: 0 }, { epoch: "e9", seq: 1 })).toBe("next");
    expect(judge({ epoch: "", seq: 0 }, { epoch: "e9", seq: 2 })).toBe("gap");
  });
});

describe("a grant's lifetime", () => {
  const grant = (from: bigint, to: bigint) => {
    const bytes = Buffer.alloc(17 + 32, 0xff);
    bytes[0] = 1;
    bytes.writeBigInt64BE(to, 1);
    bytes.writeBigInt64BE(from, 9);
    return `v1.${bytes.toString("base64url")}`;
  };

  it("is read from it", () => {
    expect(lifetime(grant(1_795_480_000_000n, 1_795_481_800_000n))).toBe(1_800_000);
  });

  it("is unknown of what has another form, or ends before it begins", () => {
    expect(lifetime("v2.AAAA")).toBeUndefined();
    expect(lifetime("v1.short")).toBeUndefined();
    expect(lifetime(grant(1_795_480_000_000n, 1_795_470_000_000n))).toBeUndefined();
  });
});

describe("events", () => {
  interface Events {
    a: number;
    b: string;
  }

  it("reach those who listen, until they stop", () => {
    const emitter = new Emitter<Events>();
    const seen: unknown[] = [];
    const off = emitter.on("a", (n) => seen.push(n));
    emitter.once("a", (n) => seen.push(`once ${n}`));
    const stop = new AbortController();
    emitter.on("b", (s) => seen.push(s), { signal: stop.signal });
    emitter._emit("a", 1);
    emitter._emit("a", 2);
    emitter._emit("b", "x");
    off();
    stop.abort();
    emitter._emit("a", 3);
    emitter._emit("b", "y");
    expect(seen).toEqual([1, "once 1", 2, "x"]);
    expect(emitter._isIdle).toBe(true);
    emitter.on("a", () => seen.push("never"), { signal: stop.signal });
    expect(emitter._isIdle).toBe(true);
  });

  it("go on when a listener throws, and what it threw is told", () => {
    const emitter = new Emitter<Events>();
    const told: (() => void)[] = [];
    vi.stubGlobal("queueMicrotask", (task: () => void) => told.push(task));
    const seen: number[] = [];
    emitter.on("a", () => {
      throw new Error("mine");
    });
    emitter.on("a", (n) => seen.push(n));
    emitter._emit("a", 1);
    vi.unstubAllGlobals();
    expect(seen).toEqual([1]);
    expect(told[0]).toThrow("mine");
  });

  it("that end a listener while it is told reach the others", () => {
    const emitter = new Emitter<Events>();
    const seen: string[] = [];
    const off = emitter.on("a", () => {
      seen.push("first");
      off();
    });
    emitter.on("a", () => seen.push("second"));
    emitter._emit("a", 1);
    emitter._emit("a", 2);
    expect(seen).toEqual(["first", "second", "second"]);
  });
});
