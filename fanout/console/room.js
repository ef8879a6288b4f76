/** Publications shown of a room's history. */
const LAST = 50;

const part = (id) => document.getElementById(id);

/** The room that is looked into. `headers()`: what shows the key; `refused(why)`: it is none. */
export function room(headers, refused) {
  let name;

  async function ask(path, options = {}) {
    const url = `v1/rooms/${encodeURIComponent(name)}${path}`;
    const response = await fetch(url, { ...options, headers: headers(), cache: "no-store" });
    const answer = exact(await response.text());
    if (response.status === 401) refused(answer.payload.error);
    if (!response.ok) throw new Error(answer.payload.error);
    return answer;
  }

  async function refresh() {
    const asked = name;
    try {
      const [{ epoch, seq, members }, { publications }] = await Promise.all([ask(""), ask(`/publications?last=${LAST}`)]);
      if (asked !== name) return;
      const who = members === null ? "" : `, ${members} members`;
      part("position").textContent = seq ? `${name} is at ${seq} of epoch ${epoch}${who}` : `${name}: nothing published yet${who}`;
      part("history").hidden = !publications.length;
      part("history").replaceChildren(...publications.map(item));
      part("history").scrollTop = part("history").scrollHeight;
      part("publish").hidden = false;
    } catch (error) {
      if (asked !== name) return;
      part("history").hidden = part("publish").hidden = true;
      part("position").textContent = `not shown: ${error.message}`;
    }
  }

  part("look").addEventListener("submit", (event) => {
    event.preventDefault();
    show(part("name").value);
  });

  part("publish").addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = part("body").value;
    try {
      JSON.parse(body);
    } catch {
      part("result").textContent = "not published: this is no JSON";
      return;
    }
    try {
      // The bytes as they were typed.
      const { seq } = await ask("/publications", { method: "POST", body: `{"body":${body}}` });
      part("result").textContent = `stored as ${seq}`;
      part("body").value = "";
      await refresh();
    } catch (error) {
      part("result").textContent = `not published: ${error.message}`;
    }
  });

  function show(chosen) {
    name = part("name").value = chosen;
    part("result").textContent = "";
    part("room").scrollIntoView({ block: "nearest" });
    return refresh();
  }

  return { show };
}

/** JSON whose numbers stay as they were written, where the browser can do that. */
function exact(text) {
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && JSON.rawJSON && context?.source && String(value) !== context.source
      ? JSON.rawJSON(context.source)
      : value,
  );
}

function item({ seq, from, ts, body }) {
  const line = document.createElement("li");
  const number = Object.assign(document.createElement("span"), { className: "seq", textContent: seq });
  const words = document.createElement("span");
  words.append(Object.assign(document.createElement("b"), { textContent: from }), JSON.stringify(body));
  const when = Object.assign(document.createElement("time"), { dateTime: ts, textContent: ts.slice(11, 19), title: ts });
  line.append(number, words, when);
  return line;
}
