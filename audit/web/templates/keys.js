// Keys: 1 to 5, u, c, z, o, ?, arrows, Space, Enter. (t, and whether keys of one character count, is the theme's own.)

const STEP_PX = 24;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function focusAnswer(by) {
  const buttons = [...byId("answers").children];
  const at = buttons.indexOf(document.activeElement);
  buttons[at < 0 ? (by > 0 ? 0 : buttons.length - 1) : (at + by + buttons.length) % buttons.length].focus();
}

function onArrow([x, y], isFine) {
  const step = isFine ? 4 : STEP_PX;
  if (marks.isAsked) moveCursor(x * step, y * step);
  else if (view.zoom > 1) moveView(3 * x * step, 3 * y * step);
  else focusAnswer(x + y);
}

function onTyping(event) {
  const isEnd = event.key === "Escape" || (event.key === "Enter" && !event.shiftKey);
  if (event.target.id !== "comment" || !isEnd || event.isComposing) return;
  event.preventDefault();
  event.target.blur();
}

function actionOf(event) {
  const isOnButton = event.target.closest?.("button, summary, a") !== null;
  if (event.key in ARROWS) return () => onArrow(ARROWS[event.key], event.shiftKey);
  if (event.key === "Enter" && !isOnButton && marks.isAsked) return giveMissed;
  if (event.key === " " && !isOnButton && marks.isAsked) return () => setMark({ x: cursor.x, y: cursor.y });
  if (event.key.length > 1 || document.documentElement.dataset.keys === "off") return null;
  const verdict = Object.keys(plan.verdicts)[Number(event.key) - 1];
  if (verdict !== undefined) return () => giveVerdict(verdict);
  const letters = {
    u: undo, c: openComment, z: toggleZoom, o: toggleOutlines, "?": () => byId("help").showModal(),
    "+": () => zoomAt({ x: view.x, y: view.y }, 1.5), "-": () => zoomAt({ x: view.x, y: view.y }, 1 / 1.5),
  };
  return Object.hasOwn(letters, event.key) ? letters[event.key] : null;
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.target.closest?.("input, textarea, dialog")) return onTyping(event);
  const isArrow = event.key in ARROWS;
  // A key held down is one answer, not many.
  if (current === null && event.key !== "u" && event.key !== "?") return;
  if (event.repeat && !isArrow) return;
  const action = actionOf(event);
  if (action === null) return;
  event.preventDefault();
  action();
}
