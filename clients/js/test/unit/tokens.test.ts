import { describe, expect, it, vi } from "vitest";
import type { EspigonError } from "../../src/error.js";
import { FakeSocket, pass, record, settle, states } from "./fake.js";
import { connect, make, reconnected, useFakes } from "./start.js";

useFakes();

/** In an hour. */
const expires = () => Math.floor(Date.now() / 1000) + 3600;
const quiet = { ping_ms: 1e8 };

/** Tokens t1, t2, …, and how many were asked for. */
function counter() {
  let n = 0;
  return vi.fn(async () => `t${++n}`);
}

describe("a token", () => {
  it("is renewed before it ends, without a new connection", async () => {
    const getToken = counter();
    const [client, socket] = await connect({ getToken }, { ...quiet, expires: expires() });
    const seen = states(client);
    expect(socket.token).toBe("t1");
    await pass(0.85 * 3_600_000 - 1);
    expect(socket.requests("auth")).toEqual([]);
    await pass(1);
    expect(socket.request("auth").payload).toEqual({ token: "t2" });
    socket.says({ type: "authenticated", id: socket.request("auth").id, payload: { expires: expires() } });
    await pass(0.85 * 3_600_000);
    expect(socket.request("auth").payload).toEqual({ token: "t3" });
    expect(seen).toEqual([]);
  });

  it("is kept for the next connection while it is good", async () => {
    const getToken = counter();
    const [, socket] = await connect({ getToken }, { ...quiet, expires: expires() });
    socket.ends();
    const next = await reconnected({ ...quiet, expires: expires() });
    expect(next.token).toBe("t1");
    next.ends();
    await pass(1);
    vi.setSystemTime(Date.now() + 3_100_000);
    expect((await reconnected()).token).toBe("t2");
  });

  it("is fetched anew at once when the server says that it ended", async () => {
    const getToken = counter();
    const [client, socket] = await connect({ getToken }, quiet);
    const seen = states(client);
    await pass(6_000);
    socket.ends(4001, "token_expired");
    await settle();
    expect(FakeSocket.last.token).toBe("t2");
    FakeSocket.last.welcome();
    expect(seen).toEqual(["connecting token_expired", "connected"]);
  });

  it("that had ended before it was shown is fetched anew as well, but not in a rush", async () => {
    const getToken = counter();
    make({ getToken });
    await settle();
    for (let i = 1; i <= 3; i++) {
      expect(FakeSocket.last.token).toBe(`t${i}`);
      FakeSocket.last.error(undefined, "token_expired");
      FakeSocket.last.ends(4001, "token_expired");
      await pass(249 * 2 ** (i - 1));
      expect(getToken).toHaveBeenCalledTimes(i);
      await pass(250 * 2 ** (i - 1));
    }
  });

  it("that cannot be renewed ends the client with it", async () => {
    const [client, socket] = await connect({ token: "once" });
    const seen = states(client);
    socket.ends(4001, "token_expired");
    expect(seen).toEqual(["closed token_expired"]);
  });

  it("that is not there means that nobody is logged in", async () => {
    const client = make({ getToken: () => null });
    const seen = states(client);
    const errors = record<EspigonError>(client, "error");
    await settle();
    expect(seen).toEqual(["connecting", "closed token_missing"]);
    expect(errors).toMatchObject([{ code: "token_missing", final: true }]);
    const [later] = await connect(
      { getToken: vi.fn().mockReturnValueOnce("t1").mockReturnValue(undefined) },
      { ...quiet, expires: expires() },
    );
    await pass(3_600_000);
    expect(later.state).toBe("closed");
  });

  it("that cannot be had now is asked for again", async () => {
    const getToken = vi.fn().mockRejectedValueOnce(new Error("503")).mockResolvedValue("t1");
    const client = make({ getToken });
    const seen = states(client);
    const errors = record<EspigonError>(client, "error");
    await settle();
    expect(errors).toMatchObject([{ code: "token_failed", message: "getToken failed: Error: 503", retryIn: 250 }]);
    await pass(250);
    FakeSocket.last.welcome();
    expect(seen).toEqual(["connecting", "waiting token_failed", "connecting token_failed", "connected"]);
  });

  it("is not waited for longer than half a minute", async () => {
    const getToken = vi
      .fn()
      .mockReturnValueOnce(new Promise(() => {}))
      .mockReturnValue("t2");
    const client = make({ getToken });
    await pass(30_000);
    expect(client.state).toBe("waiting");
    await pass(250);
    expect(FakeSocket.last.token).toBe("t2");
  });

  it("that comes after close() opens nothing", async () => {
    let give = (_: string) => {};
    const client = make({ getToken: () => new Promise((resolve) => (give = resolve)) });
    await settle();
    client.close();
    give("late");
    await settle();
    expect(FakeSocket.all).toEqual([]);
  });

  it("whose renewal fails is renewed again, and the connection goes on", async () => {
    const getToken = vi.fn().mockResolvedValueOnce("t1").mockRejectedValueOnce("503").mockResolvedValue("t3");
    const [client, socket] = await connect({ getToken }, { ...quiet, expires: expires() });
    const errors = record<EspigonError>(client, "error");
    await pass(0.85 * 3_600_000);
    expect(errors).toMatchObject([{ code: "token_failed", final: false }]);
    await pass(750);
    expect(socket.request("auth").payload.token).toBe("t3");
    socket.error("auth", "token_expired");
    expect(errors[1]).toMatchObject({ code: "token_expired" });
    await pass(2_000);
    expect(socket.requests("auth").length).toBe(2);
    expect(client.state).toBe("connected");
  });
});
