import { describe, expect, it } from "vitest";
import { Machine } from "../../src/machine.js";

const HALF = () => 0.5;
const GONE = { reason: "connection_lost", code: 1006 };
/** Long enough for a connection to count as a good one. */
const LATER = 10_000;

function connected(renewable = true): Machine {
  const machine = new Machine(renewable, HALF);
  machine.start();
  machine.welcomed(6000, 0);
  return machine;
}

describe("the machine", () => {
  it("connects", () => {
    const machine = new Machine(true, HALF);
    expect(machine.start()).toEqual(["attempt"]);
    expect(machine.status).toEqual({ state: "connecting" });
    expect(machine.welcomed(5000, 0)).toEqual(["promote", { due: undefined }]);
    expect(machine.status).toEqual({ state: "connected" });
  });

  it("tries again with a backoff when that fails", () => {
    const machine = new Machine(true, HALF);
    machine.start();
    const delays = [];
    for (let i = 0; i < 8; i++) {
      const [effect] = machine.failed({ reason: "unreachable", code: 1006 });
      expect(machine.status).toMatchObject({ state: "waiting", reason: "unreachable", code: 1006 });
      delays.push((effect as { due: number }).due);
      expect(machine.due()).toEqual(["attempt"]);
      expect(machine.status).toEqual({ state: "connecting", reason: "unreachable", code: 1006 });
    }
    expect(delays).toEqual([250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
  });

  it("comes back within the server's time after an unannounced loss, later with the backoff", () => {
    const machine = connected();
    expect(machine.lost(GONE, LATER)).toEqual([{ due: 3000 }]);
    expect(machine.status).toEqual({ state: "waiting", ...GONE, retryIn: 3000 });
    machine.due();
    expect(machine.failed(GONE)).toEqual([{ due: 500 }]);
    machine.due();
    machine.welcomed(6000, LATER);
    expect(machine.lost(GONE, 2 * LATER)).toEqual([{ due: 3000 }]);
  });

  it("slows down when connections do not last", () => {
    const machine = connected();
    const delays = [];
    for (let i = 0; i < 7; i++) {
      delays.push((machine.lost({ reason: "slow_consumer", code: 4008 }, 100) as [{ due: number }])[0].due);
      machine.due();
      machine.welcomed(6000, 0);
    }
    expect(delays).toEqual([3000, 3000, 3000, 3000, 4000, 8000, 10_000]);
  });

  it("counts from the beginning again after a connection that lasted", () => {
    const machine = connected();
    for (let i = 0; i < 6; i++) {
      machine.lost(GONE, 100);
      machine.due();
      machine.welcomed(6000, 0);
    }
    expect(machine.lost(GONE, 100)).toEqual([{ due: 10_000 }]);
    machine.due();
    machine.welcomed(6000, 0);
    expect(machine.lost(GONE, LATER)).toEqual([{ due: 3000 }]);
  });

  it("counts from the beginning again when somebody is there", () => {
    const machine = new Machine(true, HALF);
    machine.start();
    for (let i = 0; i < 6; i++) {
      machine.failed(GONE);
      machine.due();
    }
    machine.failed(GONE);
    machine.awake();
    expect(machine.failed(GONE)).toEqual([{ due: 250 }]);
  });

  it("opens the next socket before the announced end of this one, and lets it take over", () => {
    const machine = connected();
    expect(machine.announced(2000)).toEqual([{ due: 1800 }]);
    expect(machine.due()).toEqual(["attempt"]);
    expect(machine.status.state).toBe("connected");
    expect(machine.welcomed(6000, LATER)).toEqual(["promote", { due: undefined }]);
    expect(machine.status.state).toBe("connected");
  });

  it("goes on with the old socket when the next one cannot be had, and comes back at once when it closes", () => {
    const machine = connected();
    machine.announced(2000);
    machine.due();
    expect(machine.failed({ reason: "unreachable" })).toEqual([]);
    expect(machine.status.state).toBe("connected");
    expect(machine.lost({ reason: "restarting", code: 1012 }, LATER)).toEqual(["attempt"]);
    expect(machine.status).toEqual({ state: "connecting", reason: "restarting", code: 1012 });
  });

  it("waits for the next socket when the old one closes first", () => {
    const machine = connected();
    machine.announced(2000);
    machine.due();
    expect(machine.lost({ reason: "restarting", code: 1012 }, LATER)).toEqual([]);
    expect(machine.status.state).toBe("connecting");
    expect(machine.welcomed(6000, LATER)[0]).toBe("promote");
  });

  it("is not hurried by a server that announces over and over", () => {
    const machine = connected();
    machine.announced(0);
    expect(machine.lost({ reason: "restarting", code: 1012 }, 1)).toEqual(["attempt"]);
    machine.welcomed(6000, 2);
    machine.announced(0);
    expect(machine.lost({ reason: "restarting", code: 1012 }, 3)).toEqual([{ due: 3000 }]);
  });

  it("comes back at once with a new token when the old one ended", () => {
    const expired = { reason: "token_expired", code: 4001 };
    expect(connected().lost(expired, LATER)).toEqual(["attempt"]);
    const machine = connected(false);
    expect(machine.lost(expired, LATER)).toEqual(["drop", { due: undefined }]);
    expect(machine.status).toEqual({ state: "closed", ...expired });
  });

  it.each([
    [1003, "binary"],
    [1008, "too_many_errors"],
    [4002, "token_invalid"],
    [4003, "removed"],
  ])("does not come back after %d %s", (code, reason) => {
    const machine = connected();
    expect(machine.lost({ reason, code }, LATER)).toEqual(["drop", { due: undefined }]);
    expect(machine.status).toEqual({ state: "closed", reason, code });
    const refused = new Machine(true, HALF);
    refused.start();
    refused.failed({ reason, code });
    expect(refused.status.state).toBe("closed");
  });

  it.each([1000, 1001, 1002, 1006, 1007, 1009, 1011, 1012, 4008, 4009, 4013, 4029])("comes back after %d", (code) => {
    const machine = connected();
    machine.lost({ reason: "x", code }, LATER);
    expect(machine.status.state).toBe("waiting");
  });

  it("closes when there is no token to be had", () => {
    const machine = new Machine(true, HALF);
    machine.start();
    machine.failed({ reason: "token_missing" });
    expect(machine.status).toEqual({ state: "closed", reason: "token_missing" });
  });

  it("drops the socket when the network is gone, and tries at once when it is back", () => {
    const machine = connected();
    expect(machine.offline()).toEqual(["drop", { due: 3000 }]);
    expect(machine.status).toEqual({ state: "waiting", reason: "offline", retryIn: 3000 });
    expect(machine.offline()).toEqual([]);
    expect(machine.awake()).toEqual([{ due: undefined }, "attempt"]);
    expect(machine.awake()).toEqual([]);
  });

  it("tries all the same while the browser thinks that the network is gone", () => {
    const machine = new Machine(true, HALF);
    machine.start();
    expect(machine.offline()).toEqual(["drop", { due: 250 }]);
    expect(machine.due()).toEqual(["attempt"]);
  });

  it("looks whether the socket still works when somebody comes back to the page", () => {
    expect(connected().awake()).toEqual(["probe"]);
  });

  it("closes for good", () => {
    const machine = connected();
    expect(machine.close({ reason: "closed" })).toEqual(["drop", { due: undefined }]);
    expect(machine.status).toEqual({ state: "closed", reason: "closed" });
    expect(machine.awake()).toEqual([]);
    expect(machine.offline()).toEqual([]);
  });
});
