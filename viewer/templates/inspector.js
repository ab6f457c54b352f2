// One image in full beside the grid: its masks, and of the chosen mask every expression that matches.

const inspector = byId("inspector");
const stage = byId("stage");
const selection = { image: null, order: null, expression: null };

const chosenMask = () => (selection.image && selection.order !== null ? selection.image.entries[selection.order] : null);

function firstOrder(image) {
  let best = null;
  for (const mask of image.entries) {
    const [e] = bestOf(mask, 1);
    const value = e === undefined ? -2 : isKept[e.id] * 1000 + rank(e);
    if (best === null || value > best.value) best = { order: mask.order, value };
  }
  return best === null ? null : best.order;
}

function select(image, order = null, { expression = null, isOpening = false, isScrolling = false } = {}) {
  const isNew = selection.image !== image;
  if (isNew) {
    selection.image?.card.classList.remove("is-selected");
    if (selection.image) light(selection.image.card.querySelector(".picture"), []);
  }
  Object.assign(selection, { image, order: order ?? firstOrder(image), expression });
  image.card.classList.add("is-selected");
  if (isOpening) inspector.classList.add("is-open");
  if (isScrolling) image.card.scrollIntoView({ block: "nearest" });
  if (isNew) renderStage();
  writeAddressSoon();
  renderInspector();
  // As a sheet it lies over what had the focus.
  if (isOpening && getComputedStyle(inspector).position === "fixed") inspector.focus({ preventScroll: true });
}

function renderStage() {
  const { card, name, pixels, masks } = selection.image;
  inspector.hidden = false;
  byId("inspector-title").textContent = name;
  byId("inspector-title").title = name;
  byId("inspector-facts").textContent = `${pixels} · ${plural(masks.length, "mask")}`;
  const picture = card.querySelector("img, .absent").cloneNode(true);
  picture.removeAttribute("loading");
  stage.replaceChildren(picture, card.querySelector(".overlay").cloneNode(true));
  stage.classList.remove("is-lit");
  inspector.scrollTop = 0;
}

function renderInspector() {
  const mask = chosenMask();
  byId("tabs").replaceChildren(...selection.image.entries.map(tab));
  byId("mask-facts").textContent = mask === null ? "This image has no mask." : facts(mask);
  for (const path of stage.querySelectorAll(".mask")) {
    path.classList.toggle("is-selected", mask !== null && path.dataset.mask === String(mask.order));
  }
  renderExpressions();
  lightSelection(selection.image);
}

function tab(mask) {
  const kept = numKept(mask);
  const button = make("button", `tab ${colour(mask)}`, chip(mask), `${kept}/${mask.expressions.length}`);
  button.type = "button";
  button.dataset.mask = mask.order;
  button.setAttribute("aria-pressed", String(mask.order === selection.order));
  button.setAttribute("aria-label", `${named(mask)}, ${kept} of ${mask.expressions.length} kept`);
  return button;
}

function facts(mask) {
  if (mask.isNothing) return "These expressions refer to nothing in this image.";
  const parts = [`${(100 * mask.area).toFixed(1)} % of the image`];
  if (mask.iou !== null) parts.push(`predicted IoU ${fixed(mask.iou)}`);
  if (mask.stability !== null) parts.push(`stability ${fixed(mask.stability)}`);
  if (mask.prior !== "none") parts.push(`prior ${mask.prior}`);
  if (mask.damaged) parts.push("its mask data is damaged");
  return parts.join(" · ");
}

function renderExpressions() {
  const mask = chosenMask();
  const list = byId("expressions");
  const matching = mask === null ? [] : mask.expressions.filter((e) => isMatch[e.id]);
  // Kept before rejected, each best first.
  const ordered = [...matching.filter((e) => isKept[e.id]), ...matching.filter((e) => !isKept[e.id])];
  const focused = list.contains(document.activeElement) ? document.activeElement.closest("li")?.dataset.id : null;
  list.className = mask === null ? "" : colour(mask);
  list.replaceChildren(...ordered.map(item));
  if (mask !== null && !ordered.length) {
    const words = mask.expressions.length ? "No expression of this mask matches." : "This mask has no expression.";
    list.append(make("li", "no-expression", words));
  }
  if (focused) lineOf(focused)?.focus({ preventScroll: true });
}

const lineOf = (id) => byId("expressions").querySelector(`li[data-id="${id}"] .line`);

// Scrolls the inspector alone: the grid stays where it was.
function reveal(id) {
  const part = lineOf(id).closest("li").getBoundingClientRect();
  const whole = inspector.getBoundingClientRect();
  if (part.bottom > whole.bottom) inspector.scrollTop += Math.min(part.bottom - whole.bottom, part.top - whole.top);
  else if (part.top < whole.top) inspector.scrollTop += part.top - whole.top;
}

function item(e) {
  const isOpen = selection.expression === e.id;
  const [short] = reason(e);
  const count = e.count > 1 ? make("span", "count", ` ×${e.count}`) : null;
  const line = make(
    "button", "line",
    make("span", "", isMarked(e) ? make("span", "star", "★ ") : null, spoken(e), count, short ? make("span", "reason", short) : null),
    make("span", "", make("span", "value", fixed(scoreOf(e))), scoreOf(e) === null ? null : meter(e)),
  );
  line.type = "button";
  line.setAttribute("aria-expanded", String(isOpen));
  const element = make("li", `expression ${isKept[e.id] ? "kept" : "rejected"}${isOpen ? " is-open" : ""}`, line);
  element.dataset.id = e.id;
  if (isOpen) element.append(markTools(e), detail(e));
  return element;
}

function detail(e) {
  const [, sentence] = reason(e);
  const why = make("p", "why", make("b", "", isKept[e.id] ? "Kept." : "Not kept."), ` ${sentence}`);
  const figures = [
    ["distinctiveness", fixed(e.distinctiveness, 3)], ["uniqueness", fixed(e.uniqueness, 3)], ["correctness", fixed(e.correctness, 3)],
    ...["confidence", "rank", "listener", "truth", "grounding_share", "grounding_choice", "caption_score"].filter((name) => name in e).map((name) => [name, name === "rank" ? e.rank : fixed(e[name], 3)]),
    ["source", e.source], ["kind", e.kind],
    ["rival", e.rival === null ? "none" : maskLink(e.image.masks[e.rival])],
    ["head noun", e.head ?? "none found"], ["drawn", e.human ? "by a human" : e.composed ? "composed" : `${e.count} ×`], ["weight", fixed(e.weight)],
  ];
  const list = make("dl", "scores", ...figures.map(([name, value]) => make("div", "", make("dt", "", name), make("dd", "", value))));
  const judged = e.verdicts.map(([rater, verdict]) => `${verdict.replaceAll("_", " ")} (${rater})`).join(", ");
  return make("div", "detail", why, judged ? make("p", "why", make("b", "", "Judged"), ` ${judged}.`) : null, list, e.draws.length ? drawsTable(e) : null);
}

function maskLink(mask) {
  const button = make("button", "link", chip(mask), `mask ${mask.index}`);
  button.type = "button";
  button.dataset.mask = mask.order;
  return button;
}

const DECODERS = { beam: "beam search", top_k: "top-k", top_p: "top-p" };

function drawsTable(e) {
  const head = ["decoder", "crop", "log-prob", "others"].map((name) => {
    const cell = make("th", "", name);
    cell.scope = "col";
    return cell;
  });
  const rows = e.draws.map(([crop, decoder, setting, logProb, others, numOthers, masks]) => make(
    "tr", "",
    make("td", "", `${DECODERS[decoder] ?? decoder}${setting === null ? "" : ` ${setting}`}`),
    make("td", "", crop.replace("context_", "context ×")),
    make("td", "", fixed(logProb)),
    make("td", "", ...othersOf(e, others, numOthers, masks)),
  ));
  const caption = make("caption", "", plural(e.draws.length, "draw"));
  return make("div", "scroll", make("table", "draws", caption, make("thead", "", make("tr", "", ...head)), make("tbody", "", ...rows)));
}

function othersOf(e, others, numOthers, masks) {
  if (others === "none") return ["none"];
  // Up to version 0.2 it was called `own`.
  if (others === "no_contrast" || others === "own") return ["none: alone, or too many masks"];
  if (others === "all") return [`all ${numOthers}`];
  return [`${others} ${numOthers}: `, ...masks.flatMap((order) => [chip(e.image.masks[order]), " "])];
}

// An open expression keeps its masks lit, here and in the grid.
function lightSelection(image) {
  const e = selection.image === image && selection.expression !== null ? expressions[selection.expression] : null;
  const orders = e === null ? [] : e.targets;
  light(image.card.querySelector(".picture"), orders, e?.rival ?? null);
  if (selection.image === image) light(stage, orders, e?.rival ?? null);
}

function openExpression(id) {
  selection.expression = id;
  writeAddressSoon();
  renderExpressions();
  lightSelection(selection.image);
}

function listenToInspector() {
  byId("tabs").addEventListener("click", (event) => {
    const button = event.target.closest(".tab");
    if (button) select(selection.image, Number(button.dataset.mask));
    if (button) byId("tabs").querySelector(`[data-mask="${selection.order}"]`).focus();
  });
  byId("expressions").addEventListener("click", (event) => {
    const link = event.target.closest(".link");
    if (link) return select(selection.image, Number(link.dataset.mask));
    const line = event.target.closest(".line");
    if (line === null) return;
    const id = Number(line.closest("li").dataset.id);
    openExpression(selection.expression === id ? null : id);
    lineOf(id).focus({ preventScroll: true });
  });
  const point = (event) => {
    const target = event.target.closest?.(".mask, .tab, .link");
    if (target && target.dataset.mask !== undefined) light(stage, [Number(target.dataset.mask)]);
    else lightSelection(selection.image);
    const mask = event.target.closest?.("#stage .mask");
    if (mask && event.pointerType !== "touch") showPeek(selection.image.masks[mask.dataset.mask], event);
    else hidePeek();
  };
  inspector.addEventListener("pointerover", point);
  inspector.addEventListener("pointerleave", point);
  stage.addEventListener("pointermove", (event) => { if (!peekBox.hidden) movePeek(event); });
  stage.addEventListener("click", (event) => {
    const mask = event.target.closest(".mask");
    if (mask) select(selection.image, Number(mask.dataset.mask));
  });
  byId("previous").addEventListener("click", () => stepImage(-1));
  byId("next").addEventListener("click", () => stepImage(1));
  byId("close").addEventListener("click", closeInspector);
}

function closeInspector() {
  inspector.classList.remove("is-open");
  if (selection.image === null) return;
  openExpression(null);
  focusCard();
}
