import { chart } from "./chart.js";
import { room } from "./room.js";
import { Status } from "./status.js";

const part = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const shown = (value) => (value === null || value === undefined ? "–" : number.format(value));

/**
 * What is shown of a status, as numbers that are drawn. `null`: not known. Latency is that from a publisher's call to the
 * edges, of half of what came and of 99 %; slow consumers are those that were closed.
 */
const TILES = [
  { title: "Connections", of: (s) => [s.connections] },
  { title: "Members", of: (s) => [s.members] },
  { title: "Rooms here", of: (s) => [s.rooms] },
  { title: "Published here /s", of: (s) => [s.rates.publications] },
  { title: "To links /s", of: (s) => [s.rates.deliveries] },
  { title: "To members /s", of: (s) => [s.rates.member_deliveries] },
  { title: "Latency, under ms", names: ["half", "99 %"], of: ({ latency: l }) => [l?.p50_ms ?? null, l?.p99_ms ?? null] },
  { title: "Slow consumers", of: (s) => [s.slow_consumers], warns: ([now], [before]) => now > before },
];

const tiles = TILES.map(({ title, names, of, warns }) => {
  const drawn = chart(title, names);
  part("tiles").append(drawn.element);
  let last;
  return (status) => {
    const values = of(status);
    drawn.add(values, values.map(shown));
    drawn.warn(Boolean(last && warns?.(values, last)));
    last = values;
  };
});
const broker = fact("Broker");
part("tiles").append(broker.element);

const looked = room(headers, refused);

const status = new Status("v1/status/stream", headers, {
  line(status) {
    part("ask").hidden = true;
    document.querySelector("main").hidden = false;
    say("live", "connected");
    part("node").textContent = `${status.node}, version ${status.version}`;
    for (const show of tiles) show(status);
    const { kind, store, ready, heard_ms_ago: heard } = status.broker;
    broker.show(ready ? kind : `${kind}: not ready`, `heard ${heard} ms ago${store ? `, store ${store}` : ""}`);
    broker.warn(!ready);
    rows(part("largest"), status.top_rooms, ({ room, members }) => [look(room), shown(members)]);
    rows(part("busiest"), status.busiest_rooms, ({ room, publications }) => [look(room), shown(publications)]);
    rows(part("links"), status.links, (l) => [l.edge, shown(l.connections), shown(l.rooms), bytes(l.queued_bytes)]);
  },
  lost: (why) => say(why, "waiting"),
  refused,
});
status.start();

part("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("espigon-key", part("key").value.trim());
  part("key").value = "";
  part("ask").hidden = true;
  part("forget").hidden = false;
  status.start();
});
part("forget").addEventListener("click", () => {
  sessionStorage.removeItem("espigon-key");
  location.reload();
});
part("forget").hidden = !sessionStorage.getItem("espigon-key");

/** The key travels in a header, and nowhere else. */
function headers() {
  const key = sessionStorage.getItem("espigon-key");
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** The node wants a key, or another one. */
function refused(text) {
  status.stop();
  say(sessionStorage.getItem("espigon-key") ? text : "a key is needed", "closed");
  document.querySelector("main").hidden = true;
  part("ask").hidden = false;
  part("key").focus();
}

function say(text, kind) {
  document.querySelector("body > header").className = kind;
  // Said again only when it is something else, or a screen reader would repeat it each second.
  if (part("state").textContent !== text) part("state").textContent = text;
}

/** Fills a table, with as little change as can be: rows stay, and with them the focus. */
function rows(table, items, cells) {
  const body = table.tBodies[0];
  while (body.rows.length > Math.max(items.length, 1)) body.deleteRow(-1);
  if (!items.length) {
    const columns = table.tHead.rows[0].cells.length;
    const cell = Object.assign(document.createElement("td"), { colSpan: columns, textContent: "None yet." });
    body.replaceChildren(document.createElement("tr"));
    body.rows[0].append(cell);
    return;
  }
  for (const [index, item] of items.entries()) {
    const row = body.rows[index] ?? body.insertRow();
    const values = cells(item);
    if (row.cells.length !== values.length) row.replaceChildren(...values.map(() => document.createElement("td")));
    for (const [column, value] of values.entries()) {
      const cell = row.cells[column];
      if (typeof value !== "object") cell.textContent = value;
      else if (cell.textContent !== value.textContent) cell.replaceChildren(value);
    }
  }
}

/** A room's name, that shows the room when pressed. */
function look(name) {
  const button = Object.assign(document.createElement("button"), { type: "button", className: "link", textContent: name });
  button.addEventListener("click", () => looked.show(name));
  return button;
}

function bytes(count) {
  return count < 1024 ? `${count} B` : `${number.format(count / 1024)} KiB`;
}

/** A tile without a chart. */
function fact(title) {
  const element = Object.assign(document.createElement("div"), { className: "tile" });
  const label = Object.assign(document.createElement("h3"), { textContent: title });
  const value = Object.assign(document.createElement("p"), { className: "value" });
  const more = Object.assign(document.createElement("p"), { className: "more" });
  element.append(label, value, more);
  return {
    element,
    show(text, rest) {
      value.textContent = text;
      more.textContent = rest;
    },
    warn: (warns) => element.classList.toggle("warns", warns),
  };
}
