// The rows below the pictures. Only cards near the window have them: a page holds tens of thousands of expressions.

const MAX_ROWS = 4;
const near = new Set();

function bestOf(mask) {
  const matching = mask.expressions.filter((e) => isMatch[e.id]);
  return matching.find((e) => isKept[e.id]) ?? matching[0] ?? null;
}

function row(mask, e) {
  const kept = mask.expressions.reduce((sum, each) => sum + isKept[each.id], 0);
  const tally = make("span", "tally", make("b", "", String(kept)), `/${mask.expressions.length}`);
  const isSilent = e === null || !isKept[e.id];
  const text = e === null ? make("span", "text", "no expression") : spoken(e);
  const button = make("button", `row ${colour(mask)}${isSilent ? " is-silent" : ""}`, chip(mask), text, tally);
  button.type = "button";
  button.dataset.mask = mask.order;
  const verdict = e === null ? "" : isSilent ? `, rejected: ${reason(e)[0]}` : "";
  button.setAttribute("aria-label", `mask ${mask.index}: ${text.textContent}${verdict}; ${kept} of ${mask.expressions.length} kept`);
  return button;
}

function renderCard(image) {
  image.isDirty = false;
  const rows = image.card.querySelector(".rows");
  if (rows === null) return;
  const isOpen = isNarrowed() || filters.terms.length > 0;
  const best = image.masks.map((mask) => [mask, bestOf(mask)]).filter(([mask, e]) => e !== null || (!isOpen && !mask.expressions.length));
  // Stable: what is kept comes first, then by score, so that the best of an image is what is seen of it.
  best.sort(([, a], [, b]) => (b ? isKept[b.id] : 0) - (a ? isKept[a.id] : 0) || (b ? rank(b) : -1) - (a ? rank(a) : -1));
  // A row instead of a line that says that one is left out.
  const shown = best.slice(0, best.length === MAX_ROWS + 1 ? MAX_ROWS + 1 : MAX_ROWS);
  const focused = rows.contains(document.activeElement) ? document.activeElement.dataset.mask : null;
  const elements = shown.map(([mask, e]) => row(mask, e));
  const numLeft = best.length - shown.length;
  if (numLeft > 0) {
    const others = make("button", "others", `${plural(numLeft, "more mask")}`);
    others.type = "button";
    elements.push(others);
  }
  rows.replaceChildren(...elements);
  if (focused !== null) rows.querySelector(`[data-mask="${focused}"]`)?.focus({ preventScroll: true });
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
    return element && image ? image.masks[element.dataset.mask] : null;
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
    const isByKey = event.detail === 0;
    select(image, mask ? mask.order : image === selection.image ? selection.order : null, { isOpening: true });
    if (isByKey && mask) enterExpressions();
  });
  for (const image of images) watcher.observe(image.card);
}
