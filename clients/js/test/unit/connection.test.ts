import { describe, expect, it, vi } from "vitest";
import { Client } from "../../src/client.js";
import { FakeSocket, pass, record, settle, states } from "./fake.js";
import { connect, make, reconnected, useFakes } from "./start.js";

useFakes();

describe("connecting", () => {
  it("offers the protocol and the token, and joins nothing by itself", async () => {
    const client = make({ token: "a.b.c" });
    const seen = states(client);
    expect(client.state).toBe("connecting");
    await settle();
    expect(FakeSocket.last.url).toBe("ws://edge/ws?auto_join=false");
    expect(FakeSocket.last.protocols).toEqual(["realtime.v1", "bearer.a.b.c"]);
    client.on("state", ({ state }) => state === "connected" && seen.push(`as ${client.user} on ${client.connection}`));
    FakeSocket.last.welcome();
    expect(seen).toEqual(["connecting", "connected", "as 7 on c1"]);
  });

  it("takes addresses as pages write them", async () => {
    vi.stubGlobal("location", { href: "https://shop.example/orders/42" });
    for (const url of ["/ws", new URL("https://shop.example/ws")]) {
      const client = new Client(url, { token: "t", WebSocket: FakeSocket });
      await settle();
      expect(FakeSocket.last.url).toBe("wss://shop.example/ws?auto_join=false");
      client.close();
    }
  });

  it("says what is missing where there is no WebSocket", () => {
    vi.stubGlobal("WebSocket", undefined);
    expect(() => new Client("ws://edge/ws", { token: "t" })).toThrow("pass { WebSocket }");
  });

  it("gives an attempt up that comes to nothing", async () => {
    const client = make();
    const seen = states(client);
    await settle();
    await pass(15_000);
    expect(seen).toEqual(["connecting", "waiting timeout"]);
    expect(FakeSocket.last.closedWith).toBe(1000);
  });

  it("tells a refusal by its word", async () => {
    const client = make();
    await settle();
    FakeSocket.last.error(undefined, "token_missing");
    FakeSocket.last.ends(4002, "");
    expect(client.state).toBe("closed");
    const other = make();
    const seen = record<{ reason: string; code: number }>(other, "state");
    await settle();
    FakeSocket.last.error(undefined, "too_many_connections");
    FakeSocket.last.ends(4013, "too_many_connections");
    expect(seen.at(-1)).toMatchObject({ state: "waiting", reason: "too_many_connections", code: 4013 });
  });

  it("closes when the token has characters that no token has", async () => {
    class Strict extends FakeSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        if (protocols[1]!.includes(" ")) throw new SyntaxError("bad subprotocol");
      }
    }
    const client = make({ token: "not a token", WebSocket: Strict });
    const seen = states(client);
    await settle();
    expect(seen).toEqual(["connecting", "closed token_invalid"]);
  });

  it("takes what is no JSON for a broken connection", async () => {
    const [client, socket] = await connect();
    socket.onmessage?.({ data: "<html>" });
    expect(client.state).toBe("waiting");
  });

  it("is over after close()", async () => {
    const [client, socket] = await connect();
    const seen = states(client);
    client.close();
    client.close();
    expect(seen).toEqual(["closed closed"]);
    expect(socket.closedWith).toBe(1000);
    await pass(100_000);
    expect(FakeSocket.all.length).toBe(1);
    expect(vi.getTimerCount()).toBe(0);
    expect(() => client.room("r").join()).toThrow("closed");
  });

  it("does not begin when it is closed at once", async () => {
    make().close();
    await pass(1000);
    expect(FakeSocket.all).toEqual([]);
  });
});

describe("liveness", () => {
  it("pings a silent connection, and goes on when anything comes", async () => {
    const [client, socket] = await connect();
    await pass(24_999);
    expect(socket.requests("ping").length).toBe(0);
    await pass(1);
    expect(socket.requests("ping").length).toBe(1);
    await pass(9_000);
    socket.says({ type: "pong" });
    await pass(24_999);
    expect(socket.requests("ping").length).toBe(1);
    expect(client.state).toBe("connected");
  });

  it("gives up a connection that does not answer", async () => {
    const [client, socket] = await connect();
    const seen = states(client);
    await pass(35_000);
    expect(seen).toEqual(["waiting ping_timeout"]);
    expect(socket.closedWith).toBe(1000);
  });

  it("asks again rather than giving up when the machine slept meanwhile", async () => {
    const [client, socket] = await connect();
    await pass(25_000);
    vi.setSystemTime(Date.now() + 3_600_000);
    await pass(10_000);
    expect(socket.requests("ping").length).toBe(2);
    expect(client.state).toBe("connected");
    await pass(10_000);
    expect(client.state).toBe("waiting");
  });
});

describe("a server that is about to close", () => {
  it("is left for another one before it closes, without a gap", async () => {
    const [client, old] = await connect();
    const seen = states(client);
    const room = client.room("r").join();
    const messages = record<{ seq: number }>(room, "message");
    old.joined("r", 5);
    old.says({ type: "reconnect", payload: { after_ms: 10_000, reason: "draining" } });
    await pass(8_999);
    expect(FakeSocket.all.length).toBe(1);
    await pass(1);
    const next = FakeSocket.last;
    expect(next).not.toBe(old);
    old.message("r", 6);
    next.welcome();
    expect(old.closedWith).toBe(1000);
    expect(next.request("join").payload).toEqual({ room: "r", since: { epoch: "e1", seq: 6 } });
    next.joined("r", 6, { recovered: true });
    next.message("r", 7);
    expect(messages.map(({ seq }) => seq)).toEqual([6, 7]);
    expect(seen).toEqual([]);
  });

  it("is come back from at once when there was no other", async () => {
    const [client, old] = await connect();
    await pass(6_000);
    const seen = states(client);
    old.says({ type: "reconnect", payload: { after_ms: 1_000, reason: "draining" } });
    await pass(900);
    FakeSocket.last.ends(1006);
    old.ends(1012, "restarting");
    await settle();
    expect(FakeSocket.all.length).toBe(3);
    expect(seen).toEqual(["connecting restarting"]);
  });
});

describe("a browser", () => {
  const browser = () => {
    const page = new EventTarget() as EventTarget & { document: EventTarget & { hidden: boolean } };
    page.document = Object.assign(new EventTarget(), { hidden: false });
    vi.stubGlobal("addEventListener", page.addEventListener.bind(page));
    vi.stubGlobal("document", page.document);
    return page;
  };

  it("that goes offline and online again is followed", async () => {
    const page = browser();
    const [client, socket] = await connect();
    const seen = states(client);
    page.dispatchEvent(new Event("offline"));
    expect(seen).toEqual(["waiting offline"]);
    expect(socket.closedWith).toBe(1000);
    page.dispatchEvent(new Event("online"));
    await settle();
    FakeSocket.last.welcome();
    expect(seen).toEqual(["waiting offline", "connecting offline", "connected"]);
  });

  it("that is looked at again connects at once, or sees whether it still is", async () => {
    const page = browser();
    const [client, socket] = await connect();
    page.document.hidden = true;
    page.document.dispatchEvent(new Event("visibilitychange"));
    expect(socket.requests("ping").length).toBe(0);
    page.document.hidden = false;
    page.document.dispatchEvent(new Event("visibilitychange"));
    expect(socket.requests("ping").length).toBe(1);
    await pass(10_000);
    expect(client.state).toBe("waiting");
    page.document.dispatchEvent(new Event("visibilitychange"));
    await settle();
    expect(FakeSocket.all.length).toBe(2);
  });

  it("is not listened to any more after close()", async () => {
    const page = browser();
    const [client] = await connect();
    const seen = states(client);
    client.close();
    page.dispatchEvent(new Event("online"));
    page.dispatchEvent(new Event("offline"));
    await settle();
    expect(seen).toEqual(["closed closed"]);
    expect(FakeSocket.all.length).toBe(1);
  });
});

describe("coming back", () => {
  it("joins all rooms again, automatic ones too, each where it was, with its grant", async () => {
    const [client, first] = await connect({}, { rooms: ["user:7"] });
    client.room("r").join({ last: 20 });
    expect(first.request("join", "r").payload.since).toEqual({ last: 20 });
    first.joined("user:7", 3, { grant: "v1.mine" });
    first.joined("r", 10, { grant: "v1.r" });
    first.message("r", 11);
    first.message("user:7", 4);
    first.ends();
    const second = await reconnected({ rooms: ["user:7"] });
    expect(second.requests("join").map(({ payload }) => payload)).toEqual([
      { room: "user:7", since: { epoch: "e1", seq: 4 }, grant: "v1.mine" },
      { room: "r", since: { epoch: "e1", seq: 11 }, grant: "v1.r" },
    ]);
  });

  it("does not join an automatic room that was left", async () => {
    const [client, first] = await connect({}, { rooms: ["user:7"] });
    first.joined("user:7", 3);
    client.room("user:7").leave();
    first.ends();
    const second = await reconnected({ rooms: ["user:7"] });
    expect(second.requests("join")).toEqual([]);
    client.room("user:7").join();
    expect(client.room("user:7").state).toBe("joining");
    second.joined("user:7", 9);
    second.ends();
    const third = await reconnected({ rooms: ["user:7"] });
    expect(third.requests("join", "user:7").length).toBe(1);
    // Refused once, it is an automatic room again on the next connection.
    third.error(third.request("join", "user:7").id, "not_authorized", { room: "user:7" });
    third.ends();
    const fourth = await reconnected({ rooms: ["user:7"] });
    expect(fourth.requests("join", "user:7").length).toBe(1);
  });
});
