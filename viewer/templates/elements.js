// Elements are made, never parsed: text of strangers only ever becomes text.

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null));
  return element;
}

const colour = (mask) => (mask.isNothing ? "of-nothing" : `c${mask.order % settings.colours}`);
const named = (mask) => (mask.isNothing ? "without a mask" : `mask ${mask.index}`);
const chip = (mask) => make("span", `chip ${colour(mask)}`, String(mask.index));

// Cuts `text` where a word begins and ends, and hands the pieces inside to `wrap`.
function pieces(text, ranges, wrap) {
  const nodes = [];
  let at = 0;
  for (const [start, end] of ranges) {
    if (start < at) continue;
    nodes.push(text.slice(at, start), wrap(text.slice(start, end)));
    at = end;
  }
  nodes.push(text.slice(at));
  return nodes.filter((node) => node !== "");
}

function marked(text) {
  // Lower case may be longer than the text; marks would then slip, and are left out.
  const lower = text.toLowerCase();
  if (!filters.terms.length || lower.length !== text.length) return [text];
  const found = [];
  for (const term of filters.terms) {
    for (let at = lower.indexOf(term); at >= 0; at = lower.indexOf(term, at + term.length)) found.push([at, at + term.length]);
  }
  found.sort((a, b) => a[0] - b[0]);
  return pieces(text, found, (piece) => make("mark", "", piece));
}

function headRange(e) {
  if (!e.head) return [];
  const isLetter = (letter) => letter !== undefined && /[\p{L}\p{N}_]/u.test(letter);
  for (let at = e.text.indexOf(e.head); at >= 0; at = e.text.indexOf(e.head, at + 1)) {
    const end = at + e.head.length;
    if (!isLetter(e.text[at - 1]) && !isLetter(e.text[end])) return [[at, end]];
  }
  return [];
}

// The expression with its head noun underlined, and what is searched for marked.
function spoken(e) {
  const text = make("span", "text");
  text.dir = "auto";
  let at = 0;
  for (const [start, end] of headRange(e)) {
    text.append(...marked(e.text.slice(at, start)), make("u", "", ...marked(e.text.slice(start, end))));
    at = end;
  }
  text.append(...marked(e.text.slice(at)));
  return text;
}

function meter(e) {
  const bar = make("i");
  // The bound stands in the middle; a confidence ends at 1.
  const [value, at] = [scoreOf(e), (settings.score === bound.column ? level : tau) || 1];
  const above = settings.score === "confidence" ? 50 + (50 * (value - at)) / (1 - at || 1) : (50 * value) / at;
  bar.style.width = `${value > at ? Math.min(100, above) : (50 * value) / at}%`;
  const element = make("span", "meter", bar);
  element.setAttribute("aria-hidden", "true");
  return element;
}

// Spotlights masks of a picture, with their rival in dashes; none: all masks as they are.
function light(picture, orders, rival = null) {
  for (const lit of picture.querySelectorAll(".is-active, .is-rival")) lit.classList.remove("is-active", "is-rival");
  const paths = orders.map((order) => picture.querySelector(`.mask[data-mask="${order}"]`)).filter(Boolean);
  picture.classList.toggle("is-lit", paths.length > 0);
  if (!paths.length) return;
  for (const path of paths) path.classList.add("is-active");
  if (rival !== null) picture.querySelector(`.mask[data-mask="${rival}"]`)?.classList.add("is-rival");
  const veil = picture.querySelector(".veil");
  veil.setAttribute("d", veil.dataset.frame + paths.map((path) => path.getAttribute("d")).join(""));
}
