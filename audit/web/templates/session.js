// What this rater has answered, what is asked now, and the way of an answer to the storage.

let storage = null;
let current = null;
// Until the picture stands, and while an answer is on its way, nothing can be answered.
let isBusy = true;
// False where a question could not be fetched whole: nobody must judge without its outline.
let isAsked = false;
let shownAt = 0;
const state = { verdicts: new Map(), missed: new Set(), skipped: new Set(), clicks: new Map(), history: [] };

async function begin(rater) {
  storage = openStorage(rater);
  const found = storage.open();
  for (const line of found.answers) keep(line);
  for (const [pair, click] of Object.entries(found.clicks)) state.clicks.set(pair, click);
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
  storage.record(line);
  if (line.line !== "undo") keep(line);
  await ask(nextQuestion(state));
}

function giveVerdict(verdict) {
  if (phase() !== "verdict") return;
  const { id } = current.pair;
  alone(() => record({ line: "verdict", pair: id, verdict, click: state.clicks.get(id) ?? null, in_mask: null, ...stamps() }));
}

function giveMissed() {
  const clicks = marks.points.map((point) => pixelsOf(point, current.image));
  alone(() => record({ line: "missed", image: current.image, clicks, ...stamps() }));
}

function giveClick(point) {
  const { id, image } = current.pair;
  const click = point === null ? null : pixelsOf(point, image);
  alone(async () => {
    storage.keepClick(id, click);
    state.clicks.set(id, click);
    await ask(current);
  });
}

function undo() {
  if (isBusy || takeMarkBack()) return;
  const last = state.history.at(-1);
  if (last === undefined) return;
  alone(async () => {
    const about = last.pair ? { pair: last.pair.id } : { image: last.image };
    storage.record({ line: "undo", ...about, utc: new Date().toISOString() });
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

// "blind", "verdict" or "missed"; null at the end.
function phase() {
  if (current === null) return null;
  if (current.pair === undefined) return "missed";
  return current.pair.isBlind && !state.clicks.has(current.pair.id) ? "blind" : "verdict";
}
