/** A minute. */
const LENGTH = 60;
const HEIGHT = 32;

const svg = (name, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

/**
 * A tile with a number, or several that have names, and lines of what they were in the last minute, from nothing up
 * to the most there was.
 */
export function chart(title, names = [""]) {
  const element = Object.assign(document.createElement("div"), { className: "tile" });
  const label = Object.assign(document.createElement("h3"), { textContent: title });
  const value = Object.assign(document.createElement("p"), { className: "value" });
  const more = Object.assign(document.createElement("p"), { className: "more" });
  const drawing = svg("svg", { viewBox: `0 0 ${LENGTH - 1} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  const lines = names.map((_, index) => svg("path", { class: `line line-${index}` }));
  const area = svg("path", { class: "area" });
  drawing.append(area, ...lines);
  element.append(label, value, drawing, more);
  const samples = names.map(() => []);

  return {
    element,
    add(values, texts) {
      for (const [index, value] of values.entries()) {
        samples[index].push(value);
        if (samples[index].length > LENGTH) samples[index].shift();
      }
      const most = Math.max(...samples.flat());
      value.replaceChildren(...texts.flatMap((text, index) => worded(text, names[index])));
      more.textContent = most > 0 ? `at most ${most.toLocaleString("en")}` : "";
      drawing.setAttribute("aria-label", `${title}: the last ${samples[0].length} seconds, at most ${most}`);
      for (const [index, line] of lines.entries()) line.setAttribute("d", path(samples[index], most));
      area.setAttribute("d", names.length > 1 ? "" : filled(samples[0], most));
    },
    warn: (warns) => element.classList.toggle("warns", warns),
  };
}

function worded(text, name) {
  if (!name) return [text];
  const span = Object.assign(document.createElement("span"), { className: "named", textContent: `${text} ` });
  span.append(Object.assign(document.createElement("small"), { textContent: name }));
  return [span];
}

/** The newest on the right; interrupted where nothing is known. */
function path(samples, most) {
  const first = LENGTH - samples.length;
  let pen = "M";
  return samples
    .map((value, index) => {
      if (value === null) {
        pen = "M";
        return "";
      }
      const point = `${pen}${first + index} ${y(value, most)}`;
      pen = "L";
      return point;
    })
    .join("");
}

function filled(samples, most) {
  const known = samples.map((value) => value ?? 0);
  return `${path(known, most)}L${LENGTH - 1} ${HEIGHT}L${LENGTH - known.length} ${HEIGHT}Z`;
}

function y(value, most) {
  return (HEIGHT - 1 - (most > 0 ? (value / most) * (HEIGHT - 3) : 0)).toFixed(1);
}
