import { Client } from "./espigon.js";

const { ws, publish, console: consoleUrl } = await (await fetch("settings")).json();
const query = new URLSearchParams(location.search);
const room = query.get("room") || "lobby";
const people = (query.get("as") || "Ana,Ben").split(",").slice(0, 4);

document.querySelector("#room").textContent = room;
document.querySelector("#publish").textContent = publish
  .replace("{room}", encodeURIComponent(room))
  .replaceAll(/ (?=-[Hd])/g, " \\\n  ");
document.querySelector("#console").href = consoleUrl;
const guest = `Guest-${1 + Math.floor(Math.random() * 999)}`;
document.querySelector("#another").href = `?${new URLSearchParams({ room, as: guest })}`;
for (const name of people) open(name);

/** A pane in which this person is in the room. */
function open(name) {
  const pane = document.querySelector("#pane").content.cloneNode(true).querySelector("section");
  const part = (selector) => pane.querySelector(selector);
  part("h2").textContent = name;
  pane.setAttribute("aria-label", name);
  part(".log").setAttribute("aria-label", `Messages as ${name} sees them`);
  part("input").setAttribute("aria-label", `What ${name} says`);
  part(".cut").setAttribute("aria-label", `Cut the connection of ${name}`);
  document.querySelector("#panes").append(pane);

  const line = network();
  const client = new Client(ws, {
    getToken: async () => (await fetch(`token?${new URLSearchParams({ user: name })}`)).text(),
    WebSocket: line.WebSocket,
  });
  const log = journal(part(".log"), name);

  client.on("state", (status) => {
    pane.classList.remove("connecting", "connected", "waiting", "closed");
    pane.classList.add(status.state);
    part(".state").textContent = told(status);
  });
  client.on("error", (error) => log.note(`${error.code}: ${error.message}`));

  let lostAt;
  const talk = client.room(room).join({ last: 20 });
  client.on("state", ({ state }) => {
    if (state !== "waiting" || lostAt) return;
    lostAt = new Date().toISOString();
    log.note(talk.position?.seq ? `connection lost after ${talk.position.seq}` : "connection lost");
  });
  talk.on("joined", ({ recovered, seq }) => {
    if (lostAt && recovered) log.note(`back, and goes on after ${seq}`, "good");
    log.missedSince(lostAt);
    lostAt = undefined;
  });
  talk.on("lost", () => log.note("some messages are no longer kept"));
  talk.on("message", (message) => log.message(message));
  for (const event of ["joined", "message", "lost"]) {
    talk.on(event, () => (part(".at").textContent = `at ${talk.position.seq}`));
  }

  part("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = part("input").value.trim();
    if (!text) return;
    part("input").value = "";
    const key = `${name}-${Date.now()}-${Math.random()}`;
    log.pending(key, text);
    try {
      await talk.publish({ text }, { key });
    } catch (error) {
      log.failed(key, error);
    }
  });

  part(".cut").addEventListener("click", () => {
    const isCut = pane.classList.toggle("is-cut");
    part(".cut").textContent = isCut ? "Let it come back" : "Cut the connection";
    part(".cut").setAttribute("aria-label", `${part(".cut").textContent}: ${name}`);
    line.cut(isCut);
  });
}

/** A state in words. */
function told({ state, reason, retryIn }) {
  if (state === "connected") return "connected";
  if (state === "connecting") return "connecting…";
  if (state === "closed") return `closed: ${reason}`;
  return `tries again in ${(retryIn / 1000).toFixed(1)} s`;
}

/** The list of messages, in the room's order; below them what is not sent yet. */
function journal(list, name) {
  const pending = new Map();
  let missed;

  function add(classes, seq, who, text) {
    const item = document.createElement("li");
    item.className = classes;
    const number = document.createElement("span");
    number.className = "seq";
    number.textContent = seq;
    const words = document.createElement("span");
    if (who) words.append(Object.assign(document.createElement("b"), { textContent: who }));
    words.append(text);
    item.append(number, words);
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    const [first] = pending.values();
    list.insertBefore(item, classes.includes("pending") ? null : (first ?? null));
    while (list.children.length > 500) list.firstChild.remove();
    if (atEnd) list.scrollTop = list.scrollHeight;
    return item;
  }

  return {
    message({ seq, from, key, ts, body }) {
      pending.get(key)?.remove();
      pending.delete(key);
      const isMissed = missed && ts >= missed.from && ts <= missed.to;
      const text = typeof body?.text === "string" ? body.text : JSON.stringify(body);
      const item = add(`${from === name ? "own" : ""} ${isMissed ? "missed" : ""}`, seq, from, text);
      if (isMissed) item.append(Object.assign(document.createElement("small"), { textContent: "caught up" }));
    },
    /** What was published from then until now was missed. */
    missedSince(from) {
      missed = from && { from, to: new Date().toISOString() };
    },
    note: (text, kind = "") => add(`note ${kind}`, "", "", text),
    pending: (key, text) => pending.set(key, add("pending", "…", name, text)),
    failed(key, error) {
      pending.get(key)?.remove();
      pending.delete(key);
      this.note(`not sent: ${error.message}`);
    },
  };
}

/** WebSockets over a line that can be cut, as in a tunnel. */
function network() {
  const open = new Set();
  let isCut = false;
  class Line extends WebSocket {
    constructor(url, protocols) {
      if (isCut) return dead();
      super(url, protocols);
      open.add(this);
      this.addEventListener("close", () => open.delete(this));
    }
  }
  return {
    WebSocket: Line,
    cut(cut) {
      isCut = cut;
      for (const socket of open) socket.close();
      // What a browser says when the network is back.
      if (!cut) dispatchEvent(new Event("online"));
    },
  };
}

/** A socket that cannot be opened. */
function dead() {
  const socket = { readyState: 0, send() {}, close() {} };
  setTimeout(() => socket.onclose?.({ code: 1006, reason: "" }), 100);
  return socket;
}
