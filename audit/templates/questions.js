// Asks: which question is next, what it shows, and the way of an answer to the storage. Pairs come by position; after a
// verdict that is not right the other texts of that mask, until one is; then the images.

const ASKS_ON = new Set(["several", "untrue", "cannot_say"]);
const roots = plan.pairs.filter((pair) => pair.follows === undefined);
const followUps = new Map();
for (const pair of plan.pairs) {
  if (pair.follows === undefined) continue;
  if (!followUps.has(pair.follows)) followUps.set(pair.follows, []);
  followUps.get(pair.follows).push(pair);
}
const pairOf = new Map(plan.pairs.map((pair) => [pair.id, pair]));

function nextFollowUp(root, { verdicts, skipped }) {
  if (!ASKS_ON.has(verdicts.get(root.id))) return null;
  for (const pair of followUps.get(root.id) ?? []) {
    if (verdicts.get(pair.id) === "right") return null;
    if (!verdicts.has(pair.id) && !skipped.has(pair.id)) return pair;
  }
  return null;
}

// The next question as { pair } or { image }; null at the end. `state`: verdicts, missed, skipped.
function nextQuestion(state) {
  const isOpen = (id) => !state.skipped.has(id);
  for (const root of roots) {
    const pair = state.verdicts.has(root.id) ? nextFollowUp(root, state) : isOpen(root.id) ? root : null;
    if (pair !== null) return { pair };
  }
  const image = plan.missed.find((each) => !state.missed.has(each) && isOpen(each));
  return image === undefined ? null : { image };
}

// What this rater has answered, what is asked now, and the way of an answer to the storage.

let storage = null;
let current = null;
// Until the picture stands, and while an answer is on its way, nothing can be answered.
let isBusy = true;
// False where a question could not be fetched whole: nobody must judge without its outline.
let isAsked = false;
let shownAt = 0;
const state = { verdicts: new Map(), missed: new Set(), skipped: new Set(), history: [] };

async function begin(rater) {
  storage = openStorage(rater);
  // A page of an earlier version may have asked more.
  for (const line of storage.standing()) if (line.image !== undefined || pairOf.has(line.pair)) keep(line);
  await ask(nextQuestion(state));
}

function keep(line) {
  if (line.line === "verdict") state.verdicts.set(line.pair, line.verdict);
  else state.missed.add(line.image);
  state.history.push(line.line === "verdict" ? { pair: pairOf.get(line.pair) } : { image: line.image });
}

// Runs one action at a time; what fails is told, and the question stays.
async function alone(action) {
  if (isBusy) return;
  setBusy(true);
  // Before the action: what it tells stays until the next one.
  tell("");
  try {
    await action();
  } catch (error) {
    tell(error.message);
    setBusy(!isAsked || !byId("absent").hidden);
  }
}

const stamps = () => ({
  comment: byId("comment").value.trim(),
  seconds: Math.round((performance.now() - shownAt) / 100) / 10,
  utc: new Date().toISOString(),
});

async function record(line) {
  storage.append(line);
  keep(line);
  await ask(nextQuestion(state));
}

function giveVerdict(verdict) {
  if (current.pair === undefined) return;
  alone(() => record({ line: "verdict", pair: current.pair.id, verdict, ...stamps() }));
}

function giveMissed() {
  alone(() => {
    const clicks = marks.points.map((point) => pixelsOf(point, current.image));
    return record({ line: "missed", image: current.image, clicks, ...stamps() });
  });
}

function undo() {
  if (isBusy || takeMarkBack()) return;
  const last = state.history.at(-1);
  if (last === undefined) return;
  alone(async () => {
    const about = last.pair ? { pair: last.pair.id } : { image: last.image };
    storage.append({ line: "undo", ...about, utc: new Date().toISOString() });
    state.history.pop();
    if (last.pair) state.verdicts.delete(last.pair.id);
    else state.missed.delete(last.image);
    await ask(last);
  });
}

function skip() {
  state.skipped.add(current.pair?.id ?? current.image);
  ask(nextQuestion(state)).catch((error) => tell(error.message));
}

// Shows a question: its picture, what is asked, and what can be answered.

const NAMES = { right: "Right", several: "True of several", untrue: "Untrue", not_an_object: "Not an object", cannot_say: "Cannot say" };
const HINT = "One click an object. Click it too if less than half of it is outlined. A part of an outlined object is not missed.";

function setBusy(value) {
  isBusy = value;
  byId("judge").setAttribute("aria-busy", String(value));
  for (const button of document.querySelectorAll("#answers button")) button.disabled = value;
  byId("undo").disabled = value || (!state.history.length && !marks.points.length);
  byId("undo-last").disabled = value;
  showPointing();
}

async function ask(question) {
  setBusy(true);
  isAsked = false;
  current = question;
  showProgress();
  if (question === null) return finish();
  show("judge");
  byId("absent").hidden = true;
  const isMissed = question.pair === undefined;
  const image = question.pair?.image ?? question.image;
  // The outlines of the question before do not belong to this picture.
  showOutlines([]);
  showWords(question);
  const paths = plan.outlines[question.pair?.id ?? image];
  const isShown = await showPicture(image);
  askMarks(isMissed);
  byId("absent").hidden = isShown;
  showOutlines(isShown ? paths : [], { isMany: isMissed });
  if (paths.some((path) => !path)) tell("An outline of this picture is damaged and cannot be shown.");
  shownAt = performance.now();
  isAsked = true;
  setBusy(!isShown);
}

function showWords({ pair }) {
  const isMissed = pair === undefined;
  if (isMissed) byId("task").textContent = "Click each object that has no outline";
  else if (pair.absence !== undefined) byId("task").textContent = "Look at the whole picture: no outline belongs to this question";
  else byId("task").textContent = pair.follows === undefined ? "Does the text fit what is outlined?" : "Another text for the same outline: does it fit?";
  byId("hint").textContent = isMissed ? HINT : "";
  byId("hint").hidden = !isMissed;
  byId("text").textContent = pair?.absence ?? pair?.text ?? "";
  showAnswers(answersTo(pair));
  byId("text").hidden = isMissed;
  byId("text").scrollTop = 0;
  byId("answers").hidden = isMissed;
  byId("confirm").hidden = !isMissed;
  stage.classList.remove("is-bare");
  byId("outline-button").setAttribute("aria-pressed", "true");
  closeComment();
}

function showPointing() {
  const number = marks.points.length;
  byId("confirm").lastElementChild.textContent = number ? `Done: ${number} missed` : "Nothing is missed";
  byId("confirm").disabled = isBusy;
  if (number) byId("undo").disabled = isBusy;
}

function showProgress() {
  const pairs = roots.filter((root) => state.verdicts.has(root.id)).length;
  const images = plan.missed.filter((image) => state.missed.has(image)).length;
  byId("progress").max = Math.max(1, roots.length + plan.missed.length);
  byId("progress").value = pairs + images;
  const isPair = current?.pair !== undefined || current === null;
  byId("count").textContent = isPair ? `${pairs} of ${roots.length} texts` : `${images} of ${plan.missed.length} pictures`;
}

function finish() {
  const number = [...state.verdicts.keys()].length;
  byId("done").textContent = `You gave ${number} verdicts and searched ${state.missed.size} pictures.`;
  show("finished");
  isAsked = true;
  byId("absent").hidden = true;
  setBusy(false);
  byId("undo-last").disabled = !state.history.length;
}

function openComment() {
  byId("comment").hidden = false;
  byId("comment-button").setAttribute("aria-expanded", "true");
  byId("comment").focus();
}

function closeComment() {
  byId("comment").value = "";
  byId("comment").hidden = true;
  byId("comment-button").setAttribute("aria-expanded", "false");
}

// Verdict, name and meaning of each answer.
const ANSWERS = Object.entries(plan.verdicts).map(([verdict, meaning]) => [verdict, NAMES[verdict], meaning]);
const ABSENCE_ANSWERS = Object.entries(plan.absenceVerdicts).map(([verdict, words]) => [verdict, ...words]);
const answersTo = (pair) => (pair?.absence === undefined ? ANSWERS : ABSENCE_ANSWERS);

let shownAnswers = null;

function showAnswers(answers) {
  // A button that has the focus keeps it.
  if (answers === shownAnswers) return;
  shownAnswers = answers;
  byId("answers").replaceChildren(...answers.map(([verdict, name, meaning], number) => {
    const button = make("button", "answer", make("kbd", "", String(number + 1)), make("b", "", name), make("small", "", meaning));
    button.type = "button";
    button.disabled = isBusy;
    button.addEventListener("click", () => giveVerdict(verdict));
    return button;
  }));
}

function listenToPanel() {
  byId("meanings").replaceChildren(...ANSWERS.map(([, name, meaning]) => make("div", "", make("dt", "", name), make("dd", "", meaning))));
  byId("confirm").addEventListener("click", giveMissed);
  byId("undo").addEventListener("click", undo);
  byId("undo-last").addEventListener("click", undo);
  byId("skip").addEventListener("click", skip);
  byId("comment").maxLength = plan.maxComment;
  byId("comment-button").addEventListener("click", () => (byId("comment").hidden ? openComment() : closeComment()));
}

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
  const [verdict] = answersTo(current?.pair)[Number(event.key) - 1] ?? [];
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

// Begins: the rater's name from the address or from the form, then the first question.

const RATER = new RegExp(`^(?:${plan.rater})$`);

function start(name) {
  if (!RATER.test(name)) {
    tell("A name has 1 to 32 of the letters a-z, digits, dots, _ and -. The first is a letter or a digit.");
    show("start");
    return;
  }
  // A reload goes on as the same rater.
  const address = new URL(location.href);
  address.searchParams.set("rater", name);
  history.replaceState(null, "", address);
  byId("rater").textContent = name;
  tell("");
  begin(name).then(() => {
    for (const button of document.querySelectorAll(".download")) {
      button.hidden = false;
      button.addEventListener("click", storage.download);
    }
  }).catch((error) => {
    tell(error.message);
    show("start");
  });
}

byId("help-button").addEventListener("click", () => byId("help").showModal());
byId("single-keys").checked = document.documentElement.dataset.keys !== "off";
document.addEventListener("keydown", onKey);
byId("start").addEventListener("submit", (event) => {
  event.preventDefault();
  start(byId("name").value.trim().toLowerCase().replace(/\s+/g, "-"));
});
listenToPanel();
listenToStage();
const given = new URLSearchParams(location.search).get("rater");
if (given === null) {
  show("start");
  byId("name").focus();
} else start(given);
