// The records of the page as plain objects; what the rules decide of each expression stands in typed arrays beside them.

const byId = (id) => document.getElementById(id);
const settings = JSON.parse(byId("settings").textContent);

// By pair, then rater; only where an audit was given.
const verdicts = settings.verdicts ?? {};

const images = [];
const expressions = [];

for (const card of document.querySelectorAll(".card")) {
  const record = JSON.parse(card.querySelector("script").textContent);
  const heading = card.querySelector("h2");
  const image = { number: images.length, id: card.dataset.image, card, name: heading.textContent, lower: heading.textContent.toLowerCase() };
  image.pixels = card.querySelector(".caption p").textContent;
  image.masks = record.masks.map((mask, order) => ({ ...mask, order, image, expressions: [] }));
  image.expressions = record.expressions;
  for (const e of record.expressions) {
    e.id = expressions.length;
    e.image = image;
    e.lower = e.text.toLowerCase();
    e.kind ??= "attribute";
    e.source = e.human ? "human" : e.composed ? "composer" : "model";
    e.pair = `${image.id}-${e.targets.map((order) => String(image.masks[order].index).padStart(4, "0")).join("+")}-${e.hash}`;
    e.verdicts = Object.hasOwn(verdicts, e.pair) ? Object.entries(verdicts[e.pair]) : [];
    e.words = e.text.split(/\s+/).length;
    expressions.push(e);
    for (const order of e.targets) image.masks[order].expressions.push(e);
  }
  // What refers to nothing in the image stands with it as with a mask after the last.
  const silent = record.expressions.filter((e) => e.nothing);
  const nothing = { index: "∅", order: image.masks.length, image, expressions: silent, isNothing: true };
  image.entries = silent.length ? [...image.masks, nothing] : image.masks;
  images.push(image);
}

const numMasks = images.reduce((sum, image) => sum + image.masks.length, 0);
const isKept = new Uint8Array(expressions.length);
const isMatch = new Uint8Array(expressions.length);
