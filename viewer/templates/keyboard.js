// Keys: arrows between images, masks and expressions; / ? m x and Esc. (t, and whether keys of one character count, is the
// theme's own.)

function focusCard() {
  const { image, order } = selection;
  renderCard(image);
  const row = image.card.querySelector(`.row[data-mask="${order}"]`) ?? image.card.querySelector(".row, .others");
  row?.focus({ preventScroll: true });
}

function stepImage(by) {
  const shown = images.filter((image) => image.isShown);
  if (!shown.length) return;
  const at = shown.indexOf(selection.image);
  const next = shown[Math.min(shown.length - 1, Math.max(0, at + by))];
  const isInside = inspector.contains(document.activeElement);
  select(next, null, { isScrolling: true });
  if (!isInside) focusCard();
}

function stepMask(by) {
  const masks = selection.image.entries;
  if (!masks.length) return;
  const at = Math.min(masks.length - 1, Math.max(0, (selection.order ?? 0) + by));
  const isInside = inspector.contains(document.activeElement);
  select(selection.image, at, { isScrolling: true });
  if (isInside) byId("tabs").querySelector(`[data-mask="${at}"]`).focus();
  else focusCard();
}

function stepExpression(by) {
  const lines = [...byId("expressions").querySelectorAll(".line")];
  if (!lines.length) return;
  // From a link in an open expression too.
  const at = lines.indexOf(document.activeElement.closest("li")?.querySelector(".line"));
  const next = lines[Math.min(lines.length - 1, Math.max(0, at + by))];
  const id = Number(next.closest("li").dataset.id);
  openExpression(id);
  lineOf(id).focus({ preventScroll: true });
  reveal(id);
}

function enterExpressions() {
  if (selection.image === null) return;
  inspector.classList.add("is-open");
  const lines = byId("expressions").querySelectorAll(".line");
  if (!lines.length) return;
  (lineOf(selection.expression) ?? lines[0]).focus();
  stepExpression(0);
}

function stepBack() {
  if (selection.expression !== null) {
    const id = selection.expression;
    openExpression(null);
    lineOf(id)?.focus({ preventScroll: true });
  } else if (inspector.contains(document.activeElement) || inspector.classList.contains("is-open")) closeInspector();
  else document.activeElement.blur();
}

const isTyping = (target) => target.closest?.("input:not([type=range], [type=checkbox]), select, textarea, dialog[open]");
// What arrows move of itself: the slider, and a table that is wider than its place.
const hasArrows = (target) => target.matches?.("input[type=range], .scroll");

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (isTyping(event.target)) {
    if (event.key === "Escape" && event.target.id === "find" && !event.target.value) event.target.blur();
    return;
  }
  const isAmongExpressions = byId("expressions").contains(document.activeElement);
  const actions = {
    ArrowLeft: () => stepImage(-1),
    ArrowRight: () => stepImage(1),
    ArrowUp: () => (isAmongExpressions ? stepExpression(-1) : stepMask(-1)),
    ArrowDown: () => (isAmongExpressions ? stepExpression(1) : stepMask(1)),
    Escape: stepBack,
    "/": () => byId("find").select(),
    "?": () => byId("help").showModal(),
    m: () => byId("show-masks").click(),
    x: () => { if (selection.expression !== null) toggleMark(expressions[selection.expression]); },
  };
  if (event.key === "Enter" && document.activeElement === document.body) actions.Enter = enterExpressions;
  const isArrow = event.key.startsWith("Arrow");
  const isOff = event.key.length === 1 && document.documentElement.dataset.keys === "off";
  const action = Object.hasOwn(actions, event.key) && !isOff ? actions[event.key] : null;
  if (action === null || (isArrow && (selection.image === null || hasArrows(event.target)))) return;
  event.preventDefault();
  action();
}
