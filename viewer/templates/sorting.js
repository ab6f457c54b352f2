// The order of images, and of the expressions of a mask.

// What a run may have of each expression; those that it lacks are not offered.
const SCORES = ["confidence", "rank", "distinctiveness", "uniqueness", "correctness", "listener", "caption_score", "truth", "grounding_share", "count", "weight", "words"];
const ORDERS = { highest: 1, lowest: -1 };
const sorting = { score: null, order: "highest" };

// Best first. A mask alone in its image has no distinctiveness: correctness ranks it. Few runs have a confidence.
const rank = (e) => {
  if (sorting.score === null) return e.confidence ?? e.distinctiveness ?? e.correctness ?? -1;
  const value = e[sorting.score] ?? null;
  return value === null ? -1e6 : ORDERS[sorting.order] * value;
};

function sortExpressions() {
  for (const image of images) for (const mask of image.entries) mask.expressions.sort((a, b) => rank(b) - rank(a));
}

// By what each card shows first; images without a mask last, since their cards are small.
function sortImages() {
  const value = (image) => {
    if (!image.entries.length) return -Infinity;
    if (sorting.score === null) return 0;
    return Math.max(-1e9, ...image.entries.flatMap((mask) => bestOf(mask, 1)).map(rank));
  };
  const values = new Map(images.map((image) => [image, value(image)]));
  const before = [...images];
  images.sort((a, b) => {
    const [left, right] = [values.get(a), values.get(b)];
    return left === right ? a.number - b.number : right - left;
  });
  if (images.some((image, at) => image !== before[at])) document.querySelector(".cards").append(...images.map((image) => image.card));
}

// "highest confidence"; "" is the run's order.
function setSort(text) {
  const [order, score] = text.split(" ");
  Object.assign(sorting, Object.hasOwn(ORDERS, order) && SCORES.includes(score) ? { order, score } : { order: "highest", score: null });
  byId("sort").value = sorting.score === null ? "" : text;
  sortExpressions();
}

// The values of an expression that the page has, where there are several.
function offerChoices(name) {
  const found = [...new Set(expressions.map((e) => e[name]))].sort();
  byId(name).closest("label").hidden = found.length < 2;
  for (const value of found) {
    const option = document.createElement("option");
    option.value = option.textContent = value;
    byId(name).append(option);
  }
}

function offerSorts() {
  const offered = SCORES.filter((score) => expressions.some((e) => (e[score] ?? null) !== null));
  for (const score of offered) {
    for (const order of Object.keys(ORDERS)) {
      const option = document.createElement("option");
      option.value = `${order} ${score}`;
      option.textContent = `${score.replace("_", " ")}, ${order} first`;
      byId("sort").append(option);
    }
  }
}
