// The rows below the pictures. Only cards near the window have them: a page holds tens of thousands of expressions.

const MAX_ROWS = 4;
const near = new Set();

// The best of a mask that match, kept ones first.
function bestOf(mask, count) {
  const matching = mask.expressions.filter((e) => isMatch[e.id]);
  const kept = matching.filter((e) => isKept[e.id]);
  return (kept.length ? kept : matching).slice(0, count);
}

const numKept = (mask) => mask.expressions.reduce((sum, e) => sum + isKept[e.id], 0);

function row(mask, e, isNext) {
  const tally = make("span", "tally", make("b", "", String(numKept(mask))), `/${mask.expressions.length}`);
  const isSilent = e === undefined || !isKept[e.id];
  const text = e === undefined ? make("span", "text", "no expression") : spoken(e);
  const className = `row ${colour(mask)}${isSilent ? " is-silent" : ""}${isNext ? " is-next" : ""}`;
  const button = make("button", className, chip(mask), text, isNext ? null : tally);
  button.type = "button";
  button.dataset.mask = mask.order;
  if (e !== undefined) button.dataset.id = e.id;
  const verdict = e !== undefined && isSilent ? `, rejected: ${reason(e)[0]}` : "";
  button.setAttribute("aria-label", `${named(mask)}: ${text.textContent}${verdict}; ${numKept(mask)} of ${mask.expressions.length} kept`);
  return button;
}

function renderCard(image) {
  image.isDirty = false;
  const rows = image.card.querySelector(".rows");
  if (rows === null) return;
  const isOpen = isNarrowed() || filters.terms.length > 0;
  // A few masks have room for more than their best.
  const perMask = Math.max(1, Math.floor(MAX_ROWS / image.entries.length));
  const best = image.entries
    .map((mask) => [mask, bestOf(mask, perMask)])
    .filter(([mask, some]) => some.length || (!isOpen && !mask.expressions.length));
  // What is kept comes first, then by score, so that the best of an image is what is seen of it.
  const value = ([, [e]]) => (e === undefined ? -2 : isKept[e.id] * 1000 + rank(e));
  best.sort((a, b) => value(b) - value(a));
  // A row instead of a line that says that one is left out.
  const shown = best.length === MAX_ROWS + 1 ? best : best.slice(0, MAX_ROWS);
  const focused = rows.contains(document.activeElement) ? document.activeElement.dataset.mask : undefined;
  const elements = shown.flatMap(([mask, some]) => (some.length ? some : [undefined]).map((e, at) => row(mask, e, at > 0)));
  const numLeft = best.length - shown.length;
  if (numLeft > 0) {
    const others = make("button", "others", plural(numLeft, "more mask"));
    others.type = "button";
    elements.push(others);
  }
  rows.replaceChildren(...elements);
  if (focused !== undefined) rows.querySelector(`[data-mask="${focused}"]`)?.focus({ preventScroll: true });
}

function renderCards() {
  for (const image of images) {
    if (image.card.hidden === image.isShown) image.card.hidden = !image.isShown;
    image.isDirty = true;
    if (image.isShown && near.has(image)) renderCard(image);
  }
}

const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const image = imageOf.get(target);
    if (!isIntersecting) near.delete(image);
    else {
      near.add(image);
      if (image.isDirty !== false) renderCard(image);
    }
  }
}, { rootMargin: "60% 0px" });

const imageOf = new Map(images.map((image) => [image.card, image]));

function listenToCards() {
  const cards = document.querySelector(".cards");
  const maskAt = (target) => {
    const element = target.closest?.("[data-mask]");
    const image = imageOf.get(target.closest?.(".card"));
    return element && image ? image.entries[element.dataset.mask] : null;
  };
  let lit = null;
  const unlight = () => {
    if (lit !== null) lightSelection(lit);
    for (const active of document.querySelectorAll(".row.is-active")) active.classList.remove("is-active");
    lit = null;
    hidePeek();
  };
  cards.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return;
    unlight();
    const mask = maskAt(event.target);
    if (mask === null) return;
    lit = mask.image;
    light(lit.card.querySelector(".picture"), [mask.order]);
    lit.card.querySelector(`.row[data-mask="${mask.order}"]`)?.classList.add("is-active");
    if (event.target.closest(".mask")) showPeek(mask, event);
  });
  cards.addEventListener("pointermove", (event) => { if (!peekBox.hidden) movePeek(event); });
  cards.addEventListener("pointerleave", unlight);
  addEventListener("scroll", unlight, { passive: true });
  cards.addEventListener("click", (event) => {
    const image = imageOf.get(event.target.closest(".card"));
    if (image === undefined) return;
    const mask = maskAt(event.target);
    const id = event.target.closest(".row")?.dataset.id;
    const expression = id === undefined ? null : Number(id);
    const order = mask?.order ?? (image === selection.image ? selection.order : null);
    select(image, order, { expression, isOpening: true });
    // Pressed with a key, the way leads into the expressions.
    if (event.detail === 0 && mask) enterExpressions();
    else if (expression !== null) reveal(expression);
  });
  for (const image of images) watcher.observe(image.card);
}
